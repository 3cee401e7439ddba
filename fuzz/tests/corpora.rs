//! Every target on its corpus and on mutations of it, the same in every run: `./test fuzz` looks
//! further. `FUZZ_MUTATIONS=100000 FUZZ_SEED=7` draws more, or others.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nilometer_fuzz::{TARGETS, Target};

/// Mutations for each target; about a second's work for the dearest.
const MUTATIONS: u64 = 10_000;
/// Longest input that mutation makes.
const INPUT_BYTES_MAX: usize = 4 << 10;
/// Length of what is made of a short text by repeating it: what grows faster than its input, shows.
const PUMPED_BYTES: usize = 64 << 10;
/// Every so many mutations is repeated as well.
const PUMPED_EVERY: u64 = 100;

/// What does not end within it never does, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What parsers look for: words and numbers at edges.
const WORDS: [&[u8]; 28] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\u0040",
    b",",
    b":",
    b"!",
    b"*",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80",
    b"\x7f\xff\xff\xff",
    b"1e999",
    b"null",
    b"a@b.example",
    b"203.0.113.9",
    b"2001:db8::1",
    b"Mozilla/",
    b"%40",
    b"&#64;",
    b"\xe2\x80\xae",
    b"__other__",
];

fn setting(name: &str, otherwise: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "how much is drawn is asked of the test")]
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap())
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    files.sort();
    files.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// One input made of another: a few small changes.
fn mutated(random: &mut fastrand::Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = random.choice(corpus).unwrap().clone();
    for _ in 0..random.usize(1..=4) {
        let at = random.usize(0..=input.len());
        let end = (at + random.usize(0..=16)).min(input.len());
        match random.u8(0..8) {
            0 if at < input.len() => input[at] ^= 1 << random.u8(0..8),
            1 if at < input.len() => input[at] = random.u8(..),
            2 => drop(input.splice(at..end, std::iter::empty())),
            3 => drop(input.splice(at..end, random.choice(WORDS).unwrap().iter().copied())),
            4 => {
                let part = input[at..end].repeat(random.usize(1..=8));
                drop(input.splice(at..at, part));
            }
            5 => input.truncate(at),
            6 => {
                let other = random.choice(corpus).unwrap();
                let from = random.usize(0..=other.len());
                let part = other[from..other.len().min(from + random.usize(0..=256))].to_vec();
                drop(input.splice(at..end, part));
            }
            _ => drop(input.splice(at..at, random.choice(WORDS).unwrap().iter().copied())),
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

/// Runs a target on a thread of its own; what breaks it is printed, and what never ends ends here.
#[expect(clippy::print_stderr, reason = "what broke it")]
fn run(name: &str, target: Target, input: &[u8]) {
    let told = |what: &str| {
        let shown = &input[..input.len().min(INPUT_BYTES_MAX)];
        eprintln!("{name} {what} on {} bytes: b\"{}\"", input.len(), shown.escape_ascii());
    };
    let (done, ended) = mpsc::channel();
    let taken = input.to_vec();
    let worker = thread::spawn(move || {
        target(&taken);
        done.send(()).unwrap();
    });
    if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
        told("does not end");
        std::process::abort();
    }
    if let Err(broken) = worker.join() {
        told("breaks");
        resume_unwind(broken);
    }
}

fn pumped(input: &[u8]) -> Vec<u8> {
    input.repeat(PUMPED_BYTES.checked_div(input.len()).unwrap_or(0))
}

fn holds(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(other, _)| *other == name).unwrap();
    let corpus = corpus(name);
    assert!(corpus.len() >= 2, "no corpus of {name}");
    for input in &corpus {
        run(name, target, input);
        run(name, target, &pumped(input));
    }
    let mut random = fastrand::Rng::with_seed(setting("FUZZ_SEED", 42));
    for count in 0..setting("FUZZ_MUTATIONS", MUTATIONS) {
        let input = mutated(&mut random, &corpus);
        run(name, target, &input);
        if count % PUMPED_EVERY == 0 {
            run(name, target, &pumped(&input));
        }
    }
}

macro_rules! targets {
    ($($test:ident, $name:literal;)*) => {
        $(#[test] fn $test() { holds($name); })*

        #[test]
        fn each_target_is_tested_and_has_a_binary() {
            let tested = [$($name),*];
            assert_eq!(TARGETS.map(|(name, _)| name), tested);
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            for name in tested {
                assert!(root.join("fuzz_targets").join(name).with_extension("rs").exists(), "{name}");
            }
        }
    };
}

targets! {
    records_read_back_or_are_refused, "avro";
    filters_read_back_or_are_refused, "filter";
    files_of_history_give_no_more_than_they_hold, "import";
    bodies_inflate_within_their_limits, "inflate";
    bodies_of_events_are_answered_for_event_by_event, "ingest";
    books_of_keys_read_back_or_are_refused, "key_book";
    batches_of_the_log_read_back_or_are_refused, "log_batch";
    manifests_read_back_or_are_refused, "manifest";
    no_text_hides_an_address_from_the_masker, "mask";
    messages_of_live_clients_mean_one_thing, "message";
}
