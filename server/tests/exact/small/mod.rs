//! Small inputs at their edges, through HTTP: whatever a client sends, each of its events is
//! counted, or rejected and named, and every cell equals the naive model's.
//!
//! `SMALL_INPUTS=200000 SMALL_SEED=7` sends more of them, or others.

mod grammar;
mod meaning;

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use serde_json::{Value, json};

use self::grammar::{Encoding, Fault, Input};
use self::meaning::{Meaning, Sent};
use crate::harness::{Server, WRITE_KEY};
use crate::log_reader::{self, Stored};
use crate::model::Model;
use crate::{compare, now_ms, total};

/// Requests of a plain run.
const INPUTS: u32 = 20_000;

/// Clients that send at once.
const CLIENTS: u32 = 8;

/// 1930: what is older has days only.
const KEPT_FROM_MS: i64 = -1_262_304_000_000;

const CLIENT_STACK_BYTES: usize = 64 << 20;

/// A number given for this run.
fn given(name: &str) -> Result<Option<u32>> {
    #[expect(clippy::disallowed_methods, reason = "a test's own options")]
    let text = std::env::var(name).ok();
    text.map(|text| text.parse().with_context(|| format!("{name}={text}"))).transpose()
}

/// What the clients were told is in.
#[derive(Default)]
struct Tally {
    accepted: Vec<Sent>,
    rejected: u64,
    events: u64,
    refused_bodies: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_small_input_is_counted_or_named() -> Result<()> {
    let inputs = given("SMALL_INPUTS")?.unwrap_or(INPUTS);
    let seed = given("SMALL_SEED")?.unwrap_or(9);
    let folder = tempfile::tempdir()?;
    // As long as can be: imports are compared in every granularity.
    let kept: Vec<(String, &str)> = ["1M", "5M", "30M", "1H"]
        .iter()
        .map(|granularity| (format!("NILOMETER_ROLLUPS__RETENTION_{granularity}_DAYS"), "36500"))
        .collect();
    let settings: Vec<(&str, &str)> =
        kept.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let server = Arc::new(Server::start(&folder.path().join("data"), &settings).await?);
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let (server, tally) = (Arc::clone(&server), Arc::clone(&tally));
        let runtime = tokio::runtime::Handle::current();
        // A thread of its own: drawing and shrinking trees takes a deep stack.
        let thread = std::thread::Builder::new().stack_size(CLIENT_STACK_BYTES);
        clients.push(thread.spawn(move || {
            runs(inputs / CLIENTS, seed * CLIENTS + client, &|input| {
                runtime.block_on(sent_and_answered(&server, input, &tally))
            })
        })?);
    }
    let joined = tokio::task::spawn_blocking(|| {
        clients.into_iter().map(|client| client.join()).collect::<Vec<_>>()
    });
    for outcome in joined.await? {
        outcome.map_err(|_panic| anyhow::anyhow!("a client panicked"))??;
    }
    let tally = std::mem::take(&mut *tally.lock());
    eprintln!(
        "{inputs} requests: {} events, {} of them rejected; {} bodies refused",
        tally.events, tally.rejected, tally.refused_bodies
    );
    ensure!(tally.accepted.len() > inputs as usize / 2, "too few events were right");
    ensure!(tally.rejected > u64::from(inputs) / 10, "too few events were wrong");
    compared(&server, tally).await
}

/// Draws requests and gives each to `check`; the smallest that fails is told.
fn runs(cases: u32, seed: u32, check: &dyn Fn(&Input) -> Result<()>) -> Result<()> {
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let outcome = TestRunner::new_with_rng(config, rng).run(&grammar::input(now_ms()), |input| {
        check(&input).map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, input)) => {
            let body = grammar::render(&input);
            bail!("{reason}\nbody: {}\ninput: {input:?}", String::from_utf8_lossy(&body))
        }
        Err(TestError::Abort(reason)) => bail!("aborted: {reason}"),
    }
}

/// Sends one request as often as it says, and compares each answer with what it means.
async fn sent_and_answered(server: &Server, input: &Input, tally: &Mutex<Tally>) -> Result<()> {
    let body = encoded(input)?;
    for _ in 0..input.sendings {
        let meaning = meaning::of(input, now_ms());
        let (status, answer) =
            server.send_raw(&request_path(input), headers(input), body.clone()).await?;
        match meaning {
            Meaning::NoBody => {
                ensure!(status == 400, "a body that is none: {status} {answer}");
                tally.lock().refused_bodies += 1;
            }
            Meaning::Read(events) => {
                ensure!(status == 200, "a body that can be read: {status} {answer}");
                check_answer(&answer, &events)?;
                let mut tally = tally.lock();
                tally.events += events.len() as u64;
                tally.rejected += events.iter().filter(|event| event.is_none()).count() as u64;
                tally.accepted.extend(events.into_iter().flatten());
            }
        }
    }
    Ok(())
}

/// Every event is counted, or rejected at its place.
fn check_answer(answer: &Value, events: &[Option<Sent>]) -> Result<()> {
    let rejected: Vec<usize> = events
        .iter()
        .enumerate()
        .filter(|(_, event)| event.is_none())
        .map(|(index, _)| index)
        .collect();
    let named: Vec<usize> = answer["errors"]
        .as_array()
        .context("errors")?
        .iter()
        .map(|error| error["index"].as_u64().unwrap_or(u64::MAX) as usize)
        .collect();
    ensure!(named == rejected, "rejected should be {rejected:?} of {}: {answer}", events.len());
    let counts = json!([events.len() - rejected.len(), rejected.len()]);
    ensure!(
        json!([answer["accepted"], answer["rejected"]]) == counts,
        "{counts} expected: {answer}"
    );
    Ok(())
}

fn request_path(input: &Input) -> String {
    let path = if input.import { "/v1/imports/small/events" } else { "/v1/events" };
    if input.key_in_query { format!("{path}?write_key={WRITE_KEY}") } else { path.to_owned() }
}

fn headers(input: &Input) -> Vec<(&'static str, String)> {
    let mut headers = vec![("content-type", input.media_type.to_owned())];
    if !input.key_in_query {
        headers.push(("authorization", format!("Bearer {WRITE_KEY}")));
    }
    let encoding = match input.encoding {
        Encoding::Plain => return headers,
        Encoding::Gzip => "gzip",
        Encoding::Zstd => "zstd",
        Encoding::Brotli => "br",
    };
    headers.push(("content-encoding", encoding.to_owned()));
    headers
}

/// The bytes on the wire.
fn encoded(input: &Input) -> Result<Vec<u8>> {
    let mut plain = grammar::render(input);
    let hit = input.fault.filter(|fault| meaning::is_hit_by(input, *fault));
    if hit == Some(Fault::Trailing) {
        plain.extend_from_slice(b" {}");
    }
    let mut wire = match input.encoding {
        Encoding::Plain => plain,
        Encoding::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&plain)?;
            encoder.finish()?
        }
        Encoding::Zstd => zstd::encode_all(&plain[..], 1)?,
        Encoding::Brotli => {
            let mut wire = Vec::new();
            let mut encoder = brotli::CompressorWriter::new(&mut wire, 4096, 3, 20);
            encoder.write_all(&plain)?;
            drop(encoder);
            wire
        }
    };
    if hit == Some(Fault::Cut) {
        wire.pop();
    }
    Ok(wire)
}

/// What lies in the log is what was sent, and what is answered is what lies in the log.
async fn compared(server: &Server, tally: Tally) -> Result<()> {
    let pipeline = server.at_rest().await?;
    let mut records = Vec::new();
    for topic in ["user-events", "content-views", "server-events"] {
        records.extend(log_reader::events(server.data_dir(), topic)?);
    }
    let mut imported = log_reader::events(server.data_dir(), "imports")?;
    imported.iter_mut().for_each(|record| record.imported = true);
    records.extend(imported);
    ensure!(
        total(&pipeline, "dead_lettered")? == tally.rejected,
        "dead letters: {} were rejected, {pipeline}",
        tally.rejected
    );
    same_events(&records, &tally.accepted)?;
    let model = Model::new(records.clone());
    crate::check_pipeline(&pipeline, &model, Some(tally.rejected))?;
    let days = compare::every_day(server, &model).await?;
    // Finer windows are kept for a hundred years at most.
    records.retain(|record| record.timestamp >= KEPT_FROM_MS);
    let cells = compare::every_cell(server, &Model::new(records)).await?;
    eprintln!("{days} days and {cells} cells compared");
    Ok(())
}

/// What two sendings of an event have in common in the log, its moment apart.
type Key = (Vec<Option<String>>, i64);

fn key_of(
    texts: &[&Option<String>],
    event_type: &str,
    event_id: Option<&str>,
    rest: String,
    sent_ms: i64,
) -> Key {
    let fixed = [Some(event_type.to_owned()), event_id.map(str::to_owned), Some(rest)];
    (texts.iter().copied().cloned().chain(fixed).collect(), sent_ms)
}

/// The log holds each accepted event as it was sent, and no other.
fn same_events(records: &[Stored], accepted: &[Sent]) -> Result<()> {
    ensure!(
        records.len() == accepted.len(),
        "{} records, {} events were accepted",
        records.len(),
        accepted.len()
    );
    let mut sent: HashMap<Key, Vec<&Sent>> = HashMap::new();
    for event in accepted {
        let rest =
            format!("{:?} {:?} {}", event.session_duration_sec, event.completed, event.import);
        let mut texts: Vec<_> = vec![&event.user_id, &event.anonymous_id, &event.service_name];
        texts.extend(&event.dimensions);
        let key =
            key_of(&texts, &event.event_type, event.event_id.as_deref(), rest, event.timestamp);
        sent.entry(key).or_default().push(event);
    }
    for record in records {
        let rest =
            format!("{:?} {:?} {}", record.session_duration_sec, record.completed, record.imported);
        let id = (!record.event_id.starts_with("d-")).then_some(record.event_id.as_str());
        let mut texts = vec![&record.user_id, &record.anonymous_id, &record.service_name];
        texts.extend([
            &record.country,
            &record.device_type,
            &record.app_version,
            &record.content_id,
            &record.content_category,
            &record.subscription_tier,
            &record.cohort,
            &record.channel,
        ]);
        let key = key_of(&texts, &record.event_type, id, rest, record.sent_timestamp);
        let candidates =
            sent.get_mut(&key).with_context(|| format!("was never sent: {record:?}"))?;
        let fits = |event: &&Sent| event.time_at(record.received_at) == record.timestamp;
        let place = candidates.iter().position(fits).with_context(|| {
            format!("the time {} of {record:?} is none of {candidates:?}", record.timestamp)
        })?;
        candidates.swap_remove(place);
    }
    let left: Vec<_> = sent.values().flatten().collect();
    ensure!(left.is_empty(), "not in the log: {left:?}");
    Ok(())
}
