//! The `nilometer` binary: reads the command line and hands over.

mod allocator;
mod answers;
mod audience;
mod cli;
mod clock;
mod config;
mod demo;
mod descriptors;
mod doctor;
mod front;
mod generate;
mod hooks;
mod http;
mod import;
mod keeper;
mod keyring;
mod keys;
mod legible;
mod lock;
mod logging;
mod memory;
mod metrics;
mod openapi;
mod output;
mod port;
mod progress;
mod scrub;
mod send;
mod sent_today;
mod serve;
mod wiring;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use nilometer_event::clock::HouseClock;
use rustix::fs::Mode;

use crate::cli::{Cli, Command};
use crate::config::Secrets;
use crate::output::ReaderGone;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // What it makes is its user's alone, whatever makes it.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let logging = logging::start(cli.command.serves());
    let _last_words = logging::FlushAtEnd;
    #[cfg(feature = "failpoints")]
    let _armed = nilometer_stream::shell::FailPoints::from_environment();
    match logging.and_then(|()| run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<ReaderGone>() => ExitCode::SUCCESS,
        Err(error) => {
            // So that this finds room, whatever was said before it.
            logging::flush();
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// 0 after `--help`, 2 for wrong usage: in clap's words, in which what was given is legible.
fn usage(error: &clap::Error) -> ExitCode {
    let words = error.render().to_string();
    let legible = legible::legible_lines(&words);
    let said = if legible == words {
        error.print()
    } else {
        std::io::stderr().write_all(legible.as_bytes())
    };
    // Nobody is there to be told.
    drop(said);
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Serve(args) => serve::run(&args.sources),
        Command::Demo(args) => demo::run(args),
        Command::Generate(args) => client(generate::run(args, Arc::new(HouseClock::default()))),
        Command::Import(args) => client(import::run(args)),
        Command::Keys(args) => keys::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Config(args) => print_config(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "nilometer", &mut script);
            output::answer(&String::from_utf8(script).context("write the script")?)
        }
    }
}

/// Runs a command that talks to a server.
fn client<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
        .context("start the runtime")?
        .block_on(work)
}

fn print_config(args: &cli::ConfigArgs) -> Result<()> {
    if args.markdown {
        return output::answer(&config::markdown());
    }
    // What is printed is what a server would start with, or it is refused as the server would.
    let settings = config::load(&args.sources)?;
    wiring::check(&settings, &Secrets::from_environment())?;
    output::answer(&config::effective(&settings)?)
}
