//! `nilometer import`: files of history to a running server's imports.

mod identity;
mod mapping;
mod resume;
mod rows;
mod source;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use self::identity::RowIds;
use self::mapping::Mapping;
use self::resume::{Progress, Resume};
use crate::cli::ImportArgs;
use crate::output;
use crate::send::{Answer, Rejection, Sender};

/// Events in a request: below the server's limit, small enough that a retry is cheap.
const BATCH_ROWS_MAX: u64 = 2_000;
/// Bytes in a request: half of the default body limit.
const BATCH_BYTES_MAX: usize = 512 * 1024;
/// Rows that a dry run shows.
const DRY_RUN_ROWS: u64 = 5;
/// Refused rows that are shown.
const SHOWN_REJECTIONS_MAX: usize = 10;

/// Rows ready to be sent, as NDJSON.
struct Batch {
    /// Number of the first row, counted from 0 over the file.
    first_row: u64,
    rows: u64,
    body: Vec<u8>,
}

/// What came of a file.
#[derive(Debug, Default, Serialize)]
struct Report {
    file: String,
    name: String,
    rows: u64,
    skipped: u64,
    accepted: u64,
    rejected: u64,
}

/// Sends the files, one after the other, and prints what came of each as JSON.
///
/// # Errors
///
/// When a file cannot be read, a flag does not fit, or the server refuses for good. Rows that
/// the server rejects are dead letters there; they are shown, and the exit code says failed.
pub(crate) async fn run(args: ImportArgs) -> Result<()> {
    let mapping = Arc::new(Mapping::new(&args)?);
    if args.dry_run {
        return dry_run(&args, &mapping);
    }
    let sender = Sender::new(&args.target.url, args.target.write_key())?;
    sender.ready(Duration::from_secs(30)).await?;
    let mut rejected = 0;
    for file in &args.files {
        let report = import_file(&args, file, &mapping, &sender)
            .await
            .with_context(|| format!("import {}", file.display()))?;
        rejected += report.rejected;
        // The files that follow are sent whether anybody reads this or not.
        output::tell(&format!("{}\n", serde_json::to_string_pretty(&report)?));
    }
    ensure!(rejected == 0, "{rejected} rows were rejected; they are the server's dead letters now");
    Ok(())
}

/// The import's name: given, or the file's name without folders and endings.
fn import_name(args: &ImportArgs, file: &Path) -> Result<String> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
            let name = name.unwrap_or_default();
            let stem = name.split('.').next().unwrap_or_default();
            let clean = |letter: char| {
                if letter.is_ascii_alphanumeric() || letter == '_' { letter } else { '-' }
            };
            stem.chars().map(clean).collect()
        }
    };
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    ensure!(fits, "--name: expected 1 to 64 letters, digits, '-' or '_', found {name:?}");
    Ok(name)
}

async fn import_file(
    args: &ImportArgs,
    file: &Path,
    mapping: &Arc<Mapping>,
    sender: &Sender,
) -> Result<Report> {
    let name = import_name(args, file)?;
    let resume = Resume::open(&args.target.url, &name, file, args.restart)?;
    let skip = resume.rows_done();
    if skip > 0 {
        tracing::info!(rows = skip, "earlier run of this import continued");
    }
    let connections = usize::try_from(args.connections)?;
    let (batches, receiver) = mpsc::channel(connections);
    let reading = {
        let (file, mapping, name) = (file.to_owned(), Arc::clone(mapping), name.clone());
        let row_bytes_max = usize::try_from(args.row_bytes_max)?;
        tokio::task::spawn_blocking(move || {
            read_file(&file, row_bytes_max, &name, &mapping, skip, &batches)
        })
    };
    let path = format!("/v1/imports/{name}/events");
    let sent = send_batches(sender, &path, receiver, connections, resume).await;
    // The reader's own error explains more than the channel that it closed.
    let rows = reading.await.context("read the file")??;
    let (total, resume) = sent?;
    resume.finish()?;
    show_rejections(&total.errors);
    Ok(Report {
        file: file.display().to_string(),
        name,
        rows,
        skipped: skip,
        accepted: total.accepted,
        rejected: total.rejected,
    })
}

/// Reads, maps and batches the rows of a file; returns how many there are.
fn read_file(
    file: &Path,
    row_bytes_max: usize,
    name: &str,
    mapping: &Mapping,
    skip: u64,
    batches: &mpsc::Sender<Batch>,
) -> Result<u64> {
    let mut ids = RowIds::new(name);
    let mut row_number = 0;
    let mut batch = Batch { first_row: skip, rows: 0, body: Vec::new() };
    source::for_each_row(file, row_bytes_max, &mut |row| {
        let number = row_number;
        row_number += 1;
        // Ids count the occurrences of a content, so rows that are skipped are counted, too.
        let id = ids.next(&row)?;
        if number < skip {
            return Ok(());
        }
        let event = mapping.event(row, id);
        serde_json::to_writer(&mut batch.body, &event).context("write an event")?;
        batch.body.push(b'\n');
        batch.rows += 1;
        if batch.rows == BATCH_ROWS_MAX || batch.body.len() >= BATCH_BYTES_MAX {
            let next = Batch { first_row: number + 1, rows: 0, body: Vec::new() };
            let full = std::mem::replace(&mut batch, next);
            if batches.blocking_send(full).is_err() {
                bail!("sending stopped");
            }
        }
        Ok(())
    })?;
    if batch.rows > 0 && batches.blocking_send(batch).is_err() {
        bail!("sending stopped");
    }
    Ok(row_number)
}

/// Sends batches, several at once; remembers how many rows from the beginning are done.
async fn send_batches(
    sender: &Sender,
    path: &str,
    mut batches: mpsc::Receiver<Batch>,
    connections: usize,
    mut resume: Resume,
) -> Result<(Answer, Resume)> {
    let permits = Arc::new(Semaphore::new(connections));
    let mut sending: JoinSet<Result<(Progress, Answer)>> = JoinSet::new();
    let mut total = Answer::default();
    while let Some(batch) = batches.recv().await {
        let permit = Arc::clone(&permits).acquire_owned().await.context("wait for a connection")?;
        let (sender, path) = (sender.clone(), path.to_owned());
        sending.spawn(async move {
            let done =
                Progress { first_row: batch.first_row, next_row: batch.first_row + batch.rows };
            let answer = sender.post(&path, Bytes::from(batch.body)).await;
            drop(permit);
            Ok((done, answer?))
        });
        while let Some(done) = sending.try_join_next() {
            let (progress, answer) = done.context("send a batch")??;
            collect(&mut total, progress, answer);
            resume.done(progress)?;
        }
    }
    while let Some(done) = sending.join_next().await {
        let (progress, answer) = done.context("send a batch")??;
        collect(&mut total, progress, answer);
        resume.done(progress)?;
    }
    Ok((total, resume))
}

fn collect(total: &mut Answer, progress: Progress, answer: Answer) {
    total.accepted += answer.accepted;
    total.rejected += answer.rejected;
    let room = SHOWN_REJECTIONS_MAX.saturating_sub(total.errors.len());
    let named = answer.errors.into_iter().take(room);
    total
        .errors
        .extend(named.map(|error| Rejection { index: progress.first_row + error.index, ..error }));
}

fn show_rejections(errors: &[Rejection]) {
    for error in errors {
        tracing::warn!(
            row = error.index + 1,
            code = error.code,
            message = error.message,
            "row was rejected"
        );
    }
}

/// Prints the first rows as the events that they would become.
fn dry_run(args: &ImportArgs, mapping: &Mapping) -> Result<()> {
    for file in &args.files {
        let name = import_name(args, file)?;
        let mut ids = RowIds::new(&name);
        let mut shown = 0;
        let mut rows = 0u64;
        let mut problems = 0u64;
        source::for_each_row(file, usize::try_from(args.row_bytes_max)?, &mut |row| {
            rows += 1;
            let id = ids.next(&row)?;
            let event = mapping.event(row, id);
            let problem = mapping::problem(&event);
            problems += u64::from(problem.is_some());
            if shown < DRY_RUN_ROWS || (problem.is_some() && problems <= DRY_RUN_ROWS) {
                shown += 1;
                output::answer(&format!("{}\n", serde_json::to_string(&event)?))?;
                if let Some(problem) = problem {
                    tracing::warn!(row = rows, problem, "row would be rejected");
                }
            }
            Ok(())
        })
        .with_context(|| format!("read {}", file.display()))?;
        tracing::info!(file = %file.display(), rows, problems, "nothing was sent");
    }
    Ok(())
}

/// Standard input, as the command line names it.
fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

#[cfg(test)]
mod tests;
