//! `nilometer keys purge`: takes a key's events of a day out of all numbers again.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context, Result, bail, ensure};
use nilometer_event::clock::Clock as _;
use nilometer_event::{EventTime, Granularity};
use nilometer_log::Log as _;
use nilometer_rollups::purge::{Purging, purge, range_of};
use nilometer_stream::purges;

use crate::cli::PurgeArgs;
use crate::config::Settings;
use crate::keyring::Keyring;
use crate::legible::legible;
use crate::lock::DataDirLock;
use crate::wiring::at_rest::{AtRest, remove_scratch, scratch};
use crate::{output, progress};

/// What would go, over all shards.
#[derive(Debug, Default)]
struct Survey {
    events: u64,
    users: HashSet<u64>,
    minutes: BTreeSet<EventTime>,
    replayed: u64,
    from: Option<EventTime>,
}

/// Tells what would go, asks, and does it.
///
/// # Errors
///
/// Why nothing was done: a server that runs, no such key, a day that the log no longer has.
pub(super) fn run(settings: &Settings, keyring: &Keyring, args: &PurgeArgs) -> Result<()> {
    let data_dir = &settings.server.data_dir;
    let _lock = DataDirLock::acquire(data_dir)
        .context("a purge needs the data directory for itself: stop the server first")?;
    let label = label_of(keyring, &args.key)?;
    tracing::info!("opening the data directory: what the log holds is counted first");
    let mut house = AtRest::open(settings, keyring)?;
    let survey = survey(&house, args)?;
    output::answer(&told(&survey, args, &label))?;
    if args.dry_run || survey.events == 0 {
        return Ok(());
    }
    if !args.yes {
        confirm()?;
    }
    let scratch = scratch(data_dir)?;
    let bar = progress::count("records replayed", Some(survey.replayed));
    let made = purge(
        &mut Purging {
            shells: &mut house.shells,
            store: &house.store,
            partitions: house.log.partitions(),
            disk: &house.disk,
            scratch: &scratch,
            now: house.clock.now(),
            progress: &|records| bar.inc(records),
        },
        &args.key,
        args.day,
    );
    bar.finish_and_clear();
    drop(scratch);
    if let Err(error) = remove_scratch(data_dir) {
        tracing::warn!("{error:#}; the next start tries again");
    }
    let made = made.context("nothing was purged")?;
    let erased: u64 = made.shards.iter().map(|shard| shard.erased).sum();
    output::tell(&format!("Purged {erased} events. Start the server again.\n"));
    Ok(())
}

fn label_of(keyring: &Keyring, key: &str) -> Result<String> {
    let book = keyring.book()?;
    let record = book.records().iter().find(|record| record.id == key);
    let record = record.with_context(|| {
        format!("there is no key {:?}; `nilometer keys list` shows them", legible(key))
    })?;
    Ok(record.label.clone())
}

fn survey(house: &AtRest, args: &PurgeArgs) -> Result<Survey> {
    let purges = purges::load(house.disk.as_ref())?;
    let mut all = Survey::default();
    let bar = progress::count("records looked at", None);
    for shell in &house.shells {
        let of_shard = shell.survey((&args.key, args.day), &purges, &|seen| bar.inc(seen))?;
        all.events += of_shard.events;
        all.users.extend(of_shard.users);
        all.minutes.extend(of_shard.minutes);
        all.replayed += of_shard.replayed;
        all.from = all.from.max(of_shard.from);
    }
    bar.finish_and_clear();
    Ok(all)
}

fn told(survey: &Survey, args: &PurgeArgs, label: &str) -> String {
    let day = range_of(args.day).start.to_string();
    let day = day.split('T').next().unwrap_or_default().to_owned();
    let hours: BTreeSet<EventTime> =
        survey.minutes.iter().map(|minute| minute.window_start(Granularity::Hour)).collect();
    let mut text = String::new();
    let mut line = |name: &str, what: String| {
        writeln!(text, "{name:<8} {what}").expect("writing to a string cannot fail");
    };
    line("key", format!("{} {}", legible(&args.key), legible(label)));
    line("day", format!("{day}, UTC"));
    line("events", format!("{} of {} users", survey.events, survey.users.len()));
    let (minutes, hours) = (survey.minutes.len(), hours.len());
    line("windows", format!("{minutes} minutes in {hours} hours of the day are told anew"));
    let back = match survey.from.filter(|from| *from != EventTime::MIN) {
        Some(from) => format!("reaches back to {from}"),
        None => "reaches back to the beginning".to_owned(),
    };
    line("log", format!("{back}; {} records are replayed", survey.replayed));
    text
}

fn confirm() -> Result<()> {
    if !io::stdin().is_terminal() {
        bail!("nothing was changed: nobody is there to ask; --yes does it, --dry-run only looks");
    }
    let mut ask = io::stderr().lock();
    write!(ask, "Take these events out for good? [y/N] ").context("ask")?;
    ask.flush().context("ask")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    let is_yes = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    ensure!(is_yes, "nothing was changed");
    Ok(())
}
