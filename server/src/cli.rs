//! The command line: every command, flag and help text.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use nilometer_access::{Quota, QuotaError};
use nilometer_event::{EventTime, Granularity};

/// Real-time event analytics in one binary.
///
/// Events come in over HTTP, are durable before they are acknowledged, count exactly once in
/// event time, and stand on a live dashboard within two seconds.
#[derive(Debug, Parser)]
#[command(name = "nilometer", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Start here:
  nilometer demo                     a lively synthetic audience on a dashboard, nothing kept to clean up
  nilometer serve                    your own server; prints its keys once
  nilometer import clicks.csv.gz --map ts=timestamp --map who=user_id --event-type click

Exit codes: 0 done, 1 failed, 2 wrong usage. Logs go to stderr, answers to stdout.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server.
    Serve(ServeArgs),
    /// Run a server with a live synthetic audience and a week of history, and print the address.
    Demo(DemoArgs),
    /// Send synthetic load to a running server and print a tally of what was sent.
    Generate(GenerateArgs),
    /// Send files of events (NDJSON, CSV, TSV; plain, .gz, .zst, .zip) to a running server.
    Import(ImportArgs),
    /// Create, list, change or revoke keys and tokens of a data directory, or take out what one sent.
    Keys(KeysArgs),
    /// Check a data directory and a configuration; say what is wrong and how to mend it.
    Doctor(DoctorArgs),
    /// Print the effective configuration, every default with its comment.
    Config(ConfigArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell to complete for.
        shell: Shell,
    },
}

impl Command {
    /// Whether others wait for the process: nothing that it says may hold them up.
    pub(crate) const fn serves(&self) -> bool {
        matches!(self, Self::Serve(_) | Self::Demo(_))
    }
}

/// Where the configuration comes from: defaults, then the file, then NILOMETER_* variables,
/// then these flags.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Sources {
    /// Configuration file (TOML); `nilometer config` prints every key.
    #[arg(long, value_name = "FILE", env = "NILOMETER_CONFIG", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// Data directory [default: ./data]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address to listen on: ADDRESS:PORT, NAME:PORT, or :PORT of the loopback [default:
    /// 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// Rooms to run in this process; the embedded house runs all of them.
    #[arg(long, default_value = "all", value_parser = ["all"])]
    pub(crate) roles: String,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Address to listen on.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) listen: String,
    /// Keep the demo's data here instead of in a temporary folder. Started again, it goes on from
    /// now; history is filled in once, as it was first asked for.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Live events a second, averaged over the day.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub(crate) rate: f64,
    /// People in the audience.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..=5_000_000))]
    pub(crate) users: u32,
    /// Days of history behind it.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(0..=30))]
    pub(crate) days: u32,
    /// The same seed gives the same audience.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// How to reach a running server.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// The server's address.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:8080",
        env = "NILOMETER_URL"
    )]
    pub(crate) url: String,
    /// A write key of that server; needed to send.
    #[arg(long, value_name = "KEY", env = "NILOMETER_WRITE_KEY", hide_env_values = true)]
    write_key: Option<String>,
}

impl Target {
    /// The write key; without one the process ends as wrong usage does.
    pub(crate) fn write_key(&self) -> &str {
        match &self.write_key {
            Some(key) => key,
            None => Cli::command()
                .error(
                    ErrorKind::MissingRequiredArgument,
                    "the write key of the server is needed: --write-key, or NILOMETER_WRITE_KEY",
                )
                .exit(),
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Events a second; 0 sends as fast as the server takes them.
    #[arg(long, default_value_t = 1_000.0, value_parser = not_negative)]
    pub(crate) rate: f64,
    /// Stop after this many events.
    #[arg(long)]
    pub(crate) events: Option<u64>,
    /// Stop after this many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub(crate) seconds: Option<f64>,
    /// People in the audience.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=50_000_000))]
    pub(crate) users: u32,
    /// Share of events that are sent twice.
    #[arg(long, default_value_t = 0.02, value_parser = share)]
    pub(crate) duplicates: f64,
    /// Share of events that come up to 90 minutes late.
    #[arg(long, default_value_t = 0.005, value_parser = share)]
    pub(crate) late: f64,
    /// Share of events that the server must refuse.
    #[arg(long, default_value_t = 0.001, value_parser = share)]
    pub(crate) invalid: f64,
    /// The same seed gives the same audience and the same faults.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Bytes of a request body, about.
    #[arg(long, default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1_024..=1_000_000))]
    pub(crate) body_bytes: u32,
    /// Requests in flight at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) connections: u32,
}

/// How the numbers of a timestamp column count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TimeUnit {
    /// Seconds since 1970, fractions allowed.
    S,
    /// Milliseconds since 1970.
    Ms,
    /// Microseconds since 1970.
    Us,
    /// RFC 3339 text.
    Rfc3339,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ImportArgs {
    /// Files to send; `-` reads NDJSON from standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Take a column as a field: `--map personId=user_id`, `--map note=properties.note`.
    /// Columns named like a field map by themselves; the rest go into `properties`.
    #[arg(long = "map", value_name = "COLUMN=FIELD")]
    pub(crate) maps: Vec<String>,
    /// Leave a column out.
    #[arg(long = "drop", value_name = "COLUMN")]
    pub(crate) drops: Vec<String>,
    /// How timestamps are written.
    #[arg(long, value_enum, default_value_t = TimeUnit::Rfc3339)]
    pub(crate) time_unit: TimeUnit,
    /// The event type of rows that have none.
    #[arg(long, value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// The import's name: part of the ids that are made for rows without one. Sending a file
    /// again under the same name adds only what is new [default: the file's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Read, map and check the first rows, print them as events, and send nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Send from the beginning even where an earlier run of the same import stopped half-way.
    #[arg(long)]
    pub(crate) restart: bool,
    /// Bytes of a row at most: what a quote that is never closed may take.
    #[arg(long, value_name = "BYTES", default_value_t = 1_048_576, value_parser = clap::value_parser!(u32).range(1_024..=268_435_456))]
    pub(crate) row_bytes_max: u32,
    /// Requests in flight at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) connections: u32,
}

#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    #[command(flatten)]
    pub(crate) sources: Sources,
    #[command(subcommand)]
    pub(crate) action: KeysAction,
}

/// What a key or token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyKindArg {
    /// Public, write-only: for web pages and applications.
    Write,
    /// Write-only, larger bodies: for servers.
    Server,
    /// Reads everything.
    Read,
    /// Reads everything and changes things.
    Admin,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysAction {
    /// Make a key or token and print it; it is shown this once.
    Create {
        /// What it is for.
        #[arg(value_enum, default_value_t = KeyKindArg::Write)]
        kind: KeyKindArg,
        /// A name to recognise it by.
        #[arg(long, default_value = "")]
        label: String,
        /// Web origins that may use it (write keys); any where none is given.
        #[arg(long = "origin", value_name = "ORIGIN")]
        origins: Vec<String>,
        /// Event types that it may send (write keys); any where none is given.
        #[arg(long = "event-type", value_name = "TYPE")]
        event_types: Vec<String>,
        /// Whose ids its events share (write keys): an id that a key of another source sent is
        /// another event. All keys that name none are of the source `default`.
        #[arg(long, value_name = "NAME", default_value = "default")]
        source: String,
        /// What it may send (write keys): events and bytes (of bodies, decompressed) of a second
        /// and of a UTC day, such as `events=500/s,bytes=2GiB/day`, and values of a dimension that
        /// are new to the day, in each shard, with twice as many combinations of a cube. Each of events=N/s, bytes=N/s, events=N/day,
        /// bytes=N/day, values=N/day may be there once; N is a whole number, with k, M, G, T
        /// (thousands) or for bytes KiB, MiB, GiB, TiB behind it. What it leaves out goes by
        /// limits.browser_key_quota, or limits.server_key_quota of a server key. What is over it
        /// is answered 429; values that are over it count as `__other__`.
        #[arg(long, value_name = "QUOTA", value_parser = quota)]
        quota: Option<Quota>,
    },
    /// Change a write key's quota; a running server goes by it within 5 seconds.
    Set {
        /// The id that `list` shows.
        id: String,
        /// What it may send from then on, as in `create`: in place of all that its quota said. What
        /// it has sent on this UTC day counts. `default` is what its kind has.
        #[arg(long, value_name = "QUOTA", value_parser = quota)]
        quota: Quota,
    },
    /// List keys and tokens, without their secrets.
    List,
    /// Revoke a key or token; a running server refuses it within 5 seconds.
    Revoke {
        /// The id that `list` shows.
        id: String,
    },
    /// Take what a key sent for a day out of all numbers again; the server is stopped meanwhile.
    #[command(after_help = PURGE_HELP)]
    Purge(PurgeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// The id that `list` shows.
    pub(crate) key: String,
    /// The UTC day on which the events happened, as YYYY-MM-DD.
    #[arg(long, value_name = "DAY", value_parser = day)]
    pub(crate) day: i64,
    /// Tell what would go, and change nothing.
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

const PURGE_HELP: &str = "\
The log is replayed without these events, so it works as far back as the log reaches
(log.retention_h, log.retention_bytes), and takes about as long as counting all that it holds
took. What is counted anew is that day, and the sessions of the users of these events; what was
a repeat of them alone, and came with another key on that day, counts in their place. They are
told as `erased`. A crash at any moment leaves all of it done or nothing: the next start goes on.

Afterwards their ids stay taken: sent again they are repeats, others of that key and day count.
To keep the key from sending more, revoke it first. The log keeps the events until its retention
takes them.";

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// Print the reference page of docs/configuration.md instead.
    #[arg(long)]
    pub(crate) markdown: bool,
}

/// A key's own quota; `default` says nothing, so that all of it goes by the key's kind.
fn quota(text: &str) -> Result<Quota, QuotaError> {
    if text == "default" { Ok(Quota::default()) } else { text.parse() }
}

/// Days since 1970.
fn day(text: &str) -> Result<i64, String> {
    let start = EventTime::parse_rfc3339(&format!("{text}T00:00:00Z"));
    let start = start.filter(|_| text.len() == "2026-11-30".len());
    start
        .map(|start| start.ms().div_euclid(Granularity::Day.ms()))
        .ok_or_else(|| "expected a day, as 2026-11-30".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    number(text, |value| (0.0..=1.0).contains(&value), "a share from 0 to 1")
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |value| value > 0.0, "a number above 0")
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |value| value >= 0.0, "a number from 0")
}

fn number(text: &str, fits: impl Fn(f64) -> bool, wanted: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && fits(value) => Ok(value),
        _ => Err(format!("expected {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_that_help_begins_with_are_commands() {
        let lines = AFTER_HELP.lines().filter_map(|line| line.strip_prefix("  nilometer "));
        let mut tried = 0;
        for line in lines {
            // What follows two spaces is said about it.
            let command = line.split("  ").next().unwrap();
            let words = ["nilometer"].into_iter().chain(command.split(' '));
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{command}: {error}"));
            tried += 1;
        }
        assert!(tried >= 3, "{tried} commands");
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
