//! The full dose: thousands of storms, one number each.

use std::io::{self, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use nilometer_sim::{Calm, Mutant, run};

/// Every so many seeds the storm is run twice, and must leave the same bytes.
const TWICE_EVERY: u64 = 50;
/// So many failing seeds are told before the rest is left alone.
const FAILURES_MAX: usize = 5;

/// Storms over a simulated disk, by seed: what was acknowledged must be there, once.
#[derive(Debug, Parser)]
struct Args {
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// A deliberate bug, which the storms must notice.
    #[arg(long, value_parser = mutant)]
    mutant: Option<Mutant>,
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let known = Mutant::ALL.map(|(name, _)| name).join(", ");
    Mutant::from_name(name).ok_or_else(|| format!("known are {known}"))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (from, seeds) = args.seed.map_or((args.from, args.seeds), |seed| (seed, 1));
    let storms = Storms { from, seeds, mutant: args.mutant, ..Storms::default() };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| storms.work());
        }
    });
    storms.tell()
}

/// All the storms, and what came of them so far.
#[derive(Debug, Default)]
struct Storms {
    from: u64,
    seeds: u64,
    mutant: Option<Mutant>,
    taken: AtomicU64,
    done: AtomicU64,
    sums: Mutex<Calm>,
    failures: Mutex<Vec<(u64, String)>>,
}

impl Storms {
    fn work(&self) {
        loop {
            let number = self.taken.fetch_add(1, Ordering::Relaxed);
            if number >= self.seeds || self.failed() >= FAILURES_MAX {
                return;
            }
            let seed = self.from.saturating_add(number);
            match weathered(seed, self.mutant, seed.is_multiple_of(TWICE_EVERY)) {
                Ok(calm) => self.add(calm),
                Err(reason) => {
                    say(&format!(
                        "\nseed {seed}: {reason}\n  replay: ./test storm --seed {seed}\n"
                    ));
                    if let Ok(mut failures) = self.failures.lock() {
                        failures.push((seed, reason));
                    }
                }
            }
            let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
            if io::stderr().is_terminal() {
                say(&format!("\r{done} of {} storms, {} failed", self.seeds, self.failed()));
            } else if done.is_multiple_of(250) {
                say(&format!("{done} of {} storms, {} failed\n", self.seeds, self.failed()));
            }
        }
    }

    fn failed(&self) -> usize {
        self.failures.lock().map_or(FAILURES_MAX, |failures| failures.len())
    }

    fn add(&self, calm: Calm) {
        let Ok(mut sums) = self.sums.lock() else { return };
        sums.unique += calm.unique;
        sums.starts += calm.starts;
        sums.refusals += calm.refusals;
        sums.purges += calm.purges;
        sums.flips += calm.flips;
        if self.seeds == 1 {
            sums.digest = calm.digest;
        }
    }

    fn tell(&self) -> ExitCode {
        let done = self.done.load(Ordering::Relaxed);
        if let Ok(sums) = self.sums.lock() {
            say(&format!(
                "\n{done} storms: {} events counted once, {} starts, {} refusals of the disk, \
                 {} purges, {} bits flipped\n",
                sums.unique, sums.starts, sums.refusals, sums.purges, sums.flips
            ));
        }
        if self.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// One storm, or the same one twice; a panic is a failure like another.
fn weathered(seed: u64, mutant: Option<Mutant>, twice: bool) -> Result<Calm, String> {
    let storm = || match catch_unwind(AssertUnwindSafe(|| run(seed, mutant))) {
        Ok(Ok(calm)) => Ok(calm),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_told_already) => Err("panicked, see above".to_owned()),
    };
    let first = storm()?;
    if twice {
        let second = storm()?;
        if first != second {
            return Err(format!("the same seed gave {first:?}, then {second:?}"));
        }
    }
    Ok(first)
}

fn say(text: &str) {
    // Where nobody listens there is nobody to tell.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}
