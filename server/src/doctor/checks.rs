//! The checks, from the configuration down to the last block of the last file.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use indicatif::{HumanBytes, HumanCount, ProgressBar};
use nilometer_access::{KeyBook, SignedOut};
use nilometer_event::clock::{AHEAD_MS_MAX, BEHIND_MS_MAX, Clock, HouseClock};
use nilometer_event::{Offset, Partition, ReceiveTime, Topic};
use nilometer_log::settings::{RESERVE_BYTES, RESERVE_DISK_SHARE};
use nilometer_log::{Disk, Finding, Inspection, Onlooker, RealDisk, Record};
use nilometer_stream::checkpoint::inspect::{self as checkpoints, Needed};
use nilometer_stream::journal::JournalInspection;

use super::bar;
use super::report::{Report, State};
use crate::cli::Sources;
use crate::clock::{MEND_JUMP, MEND_LOG_AHEAD, spoken};
use crate::config::{self, Secrets, Settings};
use crate::keyring::{self, SECRET_BYTES};
use crate::lock::DataDirLock;
use crate::wiring;

const MEND_CONFIG: &str = "see docs/configuration.md; `nilometer config` prints every key";
const MEND_LOG: &str = "everything else is read, and the loss is counted in /metrics; to have the \
    records back, stop the server and restore this file from a backup";
const MEND_JOURNAL: &str = "their records are folded with the next entry; nothing to do";
const MEND_CHECKPOINT: &str = "the next start falls back to the checkpoint before and replays; \
    where both need the file, restore it from a backup while the server is stopped";
const MEND_PLAN: &str = "restore the file from a backup, or start once with the configuration that \
    it was made from";
const MEND_TABLE: &str = "the version before is used; put the table again: PUT /v1/dimensions/…";
const MEND_ROLLUPS: &str = "a damaged manifest is passed over for the one before; windows of a \
    damaged chunk answer 503 until the file is restored from a backup";
const MEND_GIVEN_UP: &str = "finer or coarser windows may still hold them; a backup from before \
    the damage has them";
const MEND_KEYS: &str = "restore keys/ from a backup: without its secrets no earlier id is \
    recognised";
const MEND_BOOK: &str = "keys/book.good.json is its last good state: copy it there";
const MEND_SESSIONS: &str = "the next start makes another secret, and every browser signs in again";

/// Every check, in the order in which a start would need it.
pub(super) fn all(sources: &Sources, report: &mut Report) {
    let settings = match checked_settings(sources) {
        Ok((settings, said)) => {
            report.ok("configuration", said);
            Some(settings)
        }
        Err(error) => {
            report.found("configuration", State::Wrong, format!("{error:#}"), MEND_CONFIG);
            None
        }
    };
    let named = settings.as_ref().map(|settings| settings.server.data_dir.clone());
    let Some(data_dir) = named.or_else(|| sources.data_dir.clone()) else { return };
    if !check_folder(&data_dir, report) {
        return;
    }
    let disk = match RealDisk::open(&data_dir) {
        Ok(disk) => disk,
        Err(error) => {
            let mend = "give the user who runs the server the right to read it";
            return report.found("data directory", State::Wrong, error.to_string(), mend);
        }
    };
    check_keys(&data_dir, &disk, report);
    check_space(&disk, report);
    let bar = bar(&data_dir);
    check_log((&data_dir, &disk), settings.as_ref(), &bar, report);
    check_checkpoints(&disk, &bar, report);
    check_rollups(&disk, &bar, report);
    bar.finish_and_clear();
}

/// Loads the settings and makes every plan of them that a start would.
fn checked_settings(sources: &Sources) -> Result<(Settings, String)> {
    let settings = config::load(sources)?;
    let plan = wiring::check(&settings, &Secrets::from_environment())?;
    let said = format!(
        "loads and compiles: {} metrics over {} sets of dimensions",
        plan.metrics.len(),
        plan.sets.len()
    );
    Ok((settings, said))
}

/// Whether there is a folder to look into.
fn check_folder(data_dir: &Path, report: &mut Report) -> bool {
    const CHECK: &str = "data directory";
    let shown = data_dir.display();
    if !data_dir.is_dir() {
        let mend = "start the server once, or name another folder with --data-dir";
        report.found(CHECK, State::Wrong, format!("{shown} does not exist"), mend);
        return false;
    }
    let access = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
    if let Err(error) = rustix::fs::access(data_dir, access) {
        let mend = "give the user who runs the server the right to read and write it";
        report.found(CHECK, State::Wrong, format!("{shown} is not writable: {error}"), mend);
        return true;
    }
    let mode = data_dir.metadata().map_or(0, |metadata| metadata.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        let message = format!("{shown} is open to other users (mode {mode:o})");
        report.found(CHECK, State::Warning, message, "the next start closes it, or chmod 700");
    }
    match DataDirLock::holder(data_dir) {
        Some(pid) => report.ok(CHECK, format!("{shown} is writable, in use by process {pid}")),
        None => report.ok(CHECK, format!("{shown} is writable, no server runs on it")),
    }
    true
}

fn check_space(disk: &RealDisk, report: &mut Report) {
    let (free, total) = match (disk.free_bytes(), disk.total_bytes()) {
        (Ok(free), Ok(total)) => (free, total),
        (Err(error), _) | (_, Err(error)) => {
            let mend = "see what the operating system says about the disk";
            return report.found("disk space", State::Wrong, error.to_string(), mend);
        }
    };
    let reserve = RESERVE_BYTES.min(total / RESERVE_DISK_SHARE);
    let said = format!("{} free, {} kept in reserve", HumanBytes(free), HumanBytes(reserve));
    if free < reserve {
        let mend = "make room; events are refused with 503 until then, and taken again by \
                    themselves afterwards";
        report.found("disk space", State::Warning, said, mend);
    } else {
        report.ok("disk space", said);
    }
}

fn check_keys(data_dir: &Path, disk: &RealDisk, report: &mut Report) {
    const CHECK: &str = "keys";
    let folder = data_dir.join(keyring::FOLDER);
    if !folder.is_dir() {
        if data_dir.join("checkpoints").is_dir() {
            report.found(CHECK, State::Wrong, "keys/ is missing beside data", MEND_KEYS);
        } else {
            report.ok(CHECK, "none yet: the first start makes them");
        }
        return;
    }
    let before = report.wrong();
    let count = check_book(disk, report);
    for secret in [keyring::IDENTITY, keyring::MASKING] {
        match disk.read(secret) {
            Ok(bytes) if bytes.len() == SECRET_BYTES => {}
            Ok(bytes) => {
                let reason = format!("{} bytes, expected {SECRET_BYTES}", bytes.len());
                report.corrupt(CHECK, Finding::new(secret, reason), MEND_KEYS);
            }
            Err(error) => {
                report.found(CHECK, State::Wrong, format!("{secret}: {error}"), MEND_KEYS);
            }
        }
    }
    let sessions = check_sessions(disk, report);
    if data_dir.join(keyring::FIRST_KEYS).exists() {
        let file = keyring::FIRST_KEYS;
        let said = format!("{file} holds the keys of the first start in clear: take it away");
        report.ok("first keys", said);
    }
    let files = disk.list(keyring::FOLDER).unwrap_or_default().into_iter();
    let files = files.map(|name| format!("{}/{name}", keyring::FOLDER));
    for path in std::iter::once(keyring::FOLDER.to_owned()).chain(files) {
        let Ok(metadata) = data_dir.join(&path).symlink_metadata() else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let message = format!("{path} is open to other users (mode {mode:o})");
            report.found(CHECK, State::Warning, message, "chmod go-rwx the path");
        }
    }
    if report.wrong() == before {
        let secrets = 2 + sessions;
        let said = format!("{count} keys and tokens, {secrets} secrets, closed to other users");
        report.ok(CHECK, said);
    }
}

/// How many keys the book has.
fn check_book(disk: &RealDisk, report: &mut Report) -> usize {
    const CHECK: &str = "keys";
    let has_copy = keyring::has_good_copy(disk);
    let mend = if has_copy { MEND_BOOK } else { MEND_KEYS };
    match disk.read(keyring::BOOK) {
        Ok(bytes) => match KeyBook::parse(&bytes) {
            Ok(book) => return book.records().len(),
            Err(error) => {
                report.corrupt(CHECK, Finding::new(keyring::BOOK, error.to_string()), mend);
            }
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !has_copy => {
            let mend = "the next start makes and prints them, or use `nilometer keys create`";
            report.found(CHECK, State::Warning, "there are no keys", mend);
        }
        Err(error) => {
            report.found(CHECK, State::Wrong, format!("{}: {error}", keyring::BOOK), mend);
        }
    }
    0
}

/// What browsers' sessions stand on, where there is any; how many secrets that is.
fn check_sessions(disk: &RealDisk, report: &mut Report) -> usize {
    let list = disk.read(keyring::SIGNED_OUT).ok();
    if let Some(Err(error)) = list.map(|bytes| SignedOut::parse(&bytes)) {
        let finding = Finding::new(keyring::SIGNED_OUT, error.to_string());
        report.corrupt("keys", finding, MEND_SESSIONS);
    }
    let Ok(secret) = disk.read(keyring::SESSIONS) else { return 0 };
    if secret.len() != SECRET_BYTES {
        let reason = format!("{} bytes, expected {SECRET_BYTES}", secret.len());
        report.corrupt("keys", Finding::new(keyring::SESSIONS, reason), MEND_SESSIONS);
    }
    1
}

/// Takes the journal's records while the log is checked.
struct Watch<'a> {
    bar: &'a ProgressBar,
    journal: JournalInspection,
    /// The newest receive time of all records, and of the journal's alone.
    newest: Option<ReceiveTime>,
    newest_entry: Option<ReceiveTime>,
}

impl Onlooker for Watch<'_> {
    fn checked(&mut self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn record(&mut self, topic: Topic, partition: Partition, record: &Record<'_>) {
        self.newest = self.newest.max(Some(record.timestamp));
        if topic == Topic::Journal {
            self.newest_entry = self.newest_entry.max(Some(record.timestamp));
            self.journal.take(partition, record);
        }
    }
}

fn check_log(
    (data_dir, disk): (&Path, &RealDisk),
    settings: Option<&Settings>,
    bar: &ProgressBar,
    report: &mut Report,
) {
    const CHECK: &str = "log";
    // A running server goes on meanwhile: what must have been there is asked before, what must
    // still be there afterwards.
    let before = checkpoints::needed(disk);
    let mut watch =
        Watch { bar, journal: JournalInspection::default(), newest: None, newest_entry: None };
    let mut inspection = nilometer_log::inspect(disk, &mut watch);
    let after = checkpoints::needed(disk);
    let short = before.iter().filter_map(|needed| ends_early(&inspection, needed));
    let late = after.iter().filter_map(|needed| begins_late(&inspection, needed));
    let missed: Vec<Finding> = short.chain(late).collect();
    inspection.findings.extend(missed);

    let asked = settings.map(|settings| settings.log.partitions);
    if let (Some(made), Some(asked)) = (inspection.partitions, asked)
        && made != asked
    {
        let message = format!("made with log.partitions = {made}, the configuration says {asked}");
        report.found(CHECK, State::Wrong, message, "set log.partitions to what it was made with");
    } else if inspection.findings.is_empty() {
        let said = format!(
            "{} segments, {}, {} records",
            inspection.segments,
            HumanBytes(inspection.bytes),
            HumanCount(inspection.records)
        );
        report.ok(CHECK, said);
    }
    for finding in inspection.findings {
        report.corrupt(CHECK, finding, MEND_LOG);
    }
    check_clock(data_dir, &watch, report);
    let JournalInspection { entries, findings, .. } = watch.journal;
    if findings.is_empty() {
        report.ok("journal", format!("{} entries", HumanCount(entries)));
    }
    for finding in findings {
        report.corrupt("journal", finding, MEND_JOURNAL);
    }
}

/// Whether the log, and a running server, agree with the wall clock.
fn check_clock(data_dir: &Path, watch: &Watch<'_>, report: &mut Report) {
    const CHECK: &str = "clock";
    let Some(newest) = watch.newest else { return };
    let wall = HouseClock::default().now();
    let ahead_ms = newest.since(wall);
    if ahead_ms > BEHIND_MS_MAX {
        let ahead = spoken(ahead_ms);
        let said = format!("the log goes on to {newest}, {ahead} ahead of the wall clock");
        return report.found(CHECK, State::Wrong, said, MEND_LOG_AHEAD);
    }
    // A server that runs makes entries all the time.
    let behind_ms = watch.newest_entry.map_or(0, |entry| wall.since(entry));
    if behind_ms > AHEAD_MS_MAX && DataDirLock::holder(data_dir).is_some() {
        let behind = spoken(behind_ms);
        let said = format!(
            "the running server is {behind} behind the wall clock: that has jumped, or the \
             server hangs"
        );
        return report.found(CHECK, State::Warning, said, MEND_JUMP);
    }
    report.ok(CHECK, format!("the log goes on to {newest}, not ahead of the wall clock"));
}

fn ends_early(inspection: &Inspection, needed: &Needed) -> Option<Finding> {
    let Needed { topic, partition, to, .. } = *needed;
    let end = inspection
        .places
        .iter()
        .find(|place| place.topic == topic && place.partition == partition)
        .map_or(Offset::ZERO, |place| place.end);
    (end < to).then(|| Finding {
        file: format!("log/{topic}/{partition}"),
        reason: format!("it ends at offset {end}, the newest checkpoint has read up to {to}"),
        lost_records: Some(to.since(end)),
    })
}

fn begins_late(inspection: &Inspection, needed: &Needed) -> Option<Finding> {
    let Needed { topic, partition, from, .. } = *needed;
    let place = inspection
        .places
        .iter()
        .find(|place| place.topic == topic && place.partition == partition)?;
    (from < place.start).then(|| Finding {
        file: format!("log/{topic}/{partition}"),
        reason: format!(
            "it begins at offset {}, the oldest kept checkpoint reads on from {from}",
            place.start
        ),
        lost_records: Some(place.start.since(from)),
    })
}

fn check_checkpoints(disk: &RealDisk, bar: &ProgressBar, report: &mut Report) {
    let inspection = checkpoints::inspect(disk, &mut |bytes| bar.inc(bytes));
    let (plans, rest): (Vec<_>, Vec<_>) =
        inspection.findings.into_iter().partition(|finding| finding.file.starts_with("plans/"));
    let (tables, files): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|finding| finding.file.starts_with("dimensions"));
    if files.is_empty() {
        let said = format!(
            "{} manifests, {} files, {}",
            inspection.manifests,
            inspection.files,
            HumanBytes(inspection.bytes)
        );
        report.ok("checkpoints", said);
    }
    if plans.is_empty() && tables.is_empty() {
        let said = format!("{} plans, {} tables", inspection.plans, inspection.tables);
        report.ok("plans, tables", said);
    }
    for (check, findings, mend) in [
        ("checkpoints", files, MEND_CHECKPOINT),
        ("plans", plans, MEND_PLAN),
        ("tables", tables, MEND_TABLE),
    ] {
        for finding in findings {
            report.corrupt(check, finding, mend);
        }
    }
}

fn check_rollups(disk: &RealDisk, bar: &ProgressBar, report: &mut Report) {
    const CHECK: &str = "rollups";
    let inspection = nilometer_rollups::inspect::inspect(disk, &mut |bytes| bar.inc(bytes));
    if inspection.findings.is_empty() && inspection.given_up.is_empty() {
        let said = format!(
            "{} manifests, {} chunks, {}, {} cells",
            inspection.manifests,
            inspection.chunks,
            HumanBytes(inspection.bytes),
            HumanCount(inspection.cells)
        );
        report.ok(CHECK, said);
    }
    for finding in inspection.findings {
        report.corrupt(CHECK, finding, MEND_ROLLUPS);
    }
    for finding in inspection.given_up {
        report.corrupt(CHECK, finding, MEND_GIVEN_UP);
    }
}
