//! `nilometer keys`: make, list, change and revoke keys and tokens of a data directory, and take
//! out again what one sent.

mod purge;

use std::fmt::Write;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nilometer_access::{KeyBook, KeyKind, KeyOptions, KeyRecord, Quota, SourceName};
use nilometer_event::EventTime;
use nilometer_event::clock::{Clock, HouseClock};

use crate::cli::{KeyKindArg, KeysAction, KeysArgs};
use crate::config;
use crate::keyring::Keyring;
use crate::legible::legible;
use crate::output;
use crate::serve::block_on;

/// Works on the folder itself, beside a running server too: the server reads a changed book
/// within seconds.
///
/// # Errors
///
/// When the book cannot be read or written, or there is no such key.
pub(crate) fn run(args: &KeysArgs) -> Result<()> {
    let settings = config::load(&args.sources)?;
    let data_dir = &settings.server.data_dir;
    ensure!(
        data_dir.is_dir(),
        "data directory {} does not exist; start the server once, or name it with --data-dir",
        data_dir.display()
    );
    let keyring = Arc::new(Keyring::open(data_dir)?);
    let now_ms = HouseClock::default().now().ms();
    match &args.action {
        KeysAction::Create { kind, label, origins, event_types, source, quota } => {
            let is_write = matches!(kind, KeyKindArg::Write | KeyKindArg::Server);
            let is_narrow = !(origins.is_empty() && event_types.is_empty());
            ensure!(
                is_write || !(is_narrow || quota.is_some()),
                "--origin, --event-type and --quota narrow write keys only"
            );
            let source = SourceName::named(source).context("--source")?;
            ensure!(is_write || source.is_none(), "--source is of events, which write keys send");
            let options = KeyOptions {
                label: label.clone(),
                origins: origins.clone(),
                event_types: event_types.clone(),
                server: *kind == KeyKindArg::Server,
                source,
                quota: quota.unwrap_or_default(),
                given_by: None,
            };
            let mut edit = keyring.edit()?;
            let (record, token) = edit.book.create(access_kind(*kind), options, now_ms)?;
            // Shown first: a key that nobody sees is never in the book. In time, for others wait.
            block_on(output::show_in_time(format!("{}\n", token.expose())))
                .context("show the key; as nobody saw it, it was not kept")?;
            edit.keep().context("keep the key; it opens nothing")?;
            tracing::info!(id = record.id, "key made; it is shown this once");
        }
        KeysAction::Purge(asked) => purge::run(&settings, &keyring, asked)?,
        KeysAction::List => output::answer(&list(&keyring.book()?))?,
        KeysAction::Set { id, quota } => {
            let mut edit = keyring.edit()?;
            let before = edit.book.set_quota(id, *quota)?;
            edit.keep()?;
            let told = |quota: Quota| {
                if quota.is_empty() { "default".to_owned() } else { quota.to_string() }
            };
            tracing::info!(id, before = told(before), now = told(*quota), "quota changed");
        }
        KeysAction::Revoke { id } => {
            let mut edit = keyring.edit()?;
            edit.book.revoke(id, now_ms)?;
            edit.keep()?;
            tracing::info!(id, "key revoked");
        }
    }
    Ok(())
}

const fn access_kind(kind: KeyKindArg) -> KeyKind {
    match kind {
        KeyKindArg::Write | KeyKindArg::Server => KeyKind::Write,
        KeyKindArg::Read => KeyKind::Read,
        KeyKindArg::Admin => KeyKind::Admin,
    }
}

/// Where a key may be used from and for what, behind its label; nothing where that is anything.
fn narrowed(record: &KeyRecord) -> String {
    let named = |what: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!(" ({what} {})", legible(&names.join(", "))),
    };
    named("from", &record.origins) + &named("for", &record.event_types)
}

fn list(book: &KeyBook) -> String {
    let quotas: Vec<String> = book.records().iter().map(quota_of).collect();
    let wide = quotas.iter().map(String::len).max().unwrap_or_default().max("quota".len());
    let mut list = format!(
        "{:<18} {:<7} {:<24} {:<10} {:<wide$} {:<10} label\n",
        "id", "kind", "created", "state", "quota", "source"
    );
    for (record, quota) in book.records().iter().zip(&quotas) {
        let kind = if record.server { "server" } else { record.kind.name() };
        let state = match record.revoked_ms {
            Some(_) => "revoked",
            None if record.is_in_force() => "in force",
            None => "not given",
        };
        let created = EventTime::from_ms(record.created_ms).to_string();
        let (id, label) = (legible(&record.id), legible(&record.label));
        // A token sends nothing.
        let source = match record.kind {
            KeyKind::Write => SourceName::shown(record.source.as_ref()),
            KeyKind::Read | KeyKind::Admin => "-",
        };
        write!(list, "{id:<18} {kind:<7} {created:<24} {state:<10} {quota:<wide$} ")
            .expect("writing to a string cannot fail");
        let narrowed = narrowed(record);
        writeln!(list, "{source:<10} {label}{narrowed}").expect("writing to a string cannot fail");
    }
    list
}

/// A write key's own quota, or which default it has.
fn quota_of(record: &KeyRecord) -> String {
    match (record.kind, record.is_public()) {
        _ if !record.quota.is_empty() => record.quota.to_string(),
        (KeyKind::Write, true) => "browser".to_owned(),
        (KeyKind::Write, false) => "server".to_owned(),
        (KeyKind::Read | KeyKind::Admin, _) => "-".to_owned(),
    }
}
