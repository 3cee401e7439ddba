//! The gateway: from a body that was read to an answer that is durable.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use nilometer_access::{Buffers, Keys, Load, Principal, Problem, Quotas, Sending, Share, Status};
use nilometer_event::clock::Clock;
use nilometer_event::{EventTime, IdentityKey, ReceiveTime, json};
use nilometer_log::{AppendError, Log, Retry};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::batch::{Batch, Batched, Context, FrameError, Framed, Frames, SentBy};
use crate::inflate::{InflateError, inflate};
use crate::metrics::{Lent, Metrics, Senders};
use crate::parse::TextField;
use crate::{BodyFormat, Encoding, GatewayPlan, IngestAnswer, Masker, Source, parse};

/// Bodies up to this size are taken on the spot; larger ones would keep a runtime worker
/// longer than 500 µs (at about 1 µs for 500 bytes) and go to a blocking thread.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// Records of one body, at most: masking can make many small addresses larger, and a log
/// takes no batch of any size.
const RECORD_BYTES_MAX: usize = 30 << 20;

/// The front door's state: shared, immutable but for quotas, buffers and metrics.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) plan: GatewayPlan,
    masker: Masker,
    identity: IdentityKey,
    log: Arc<dyn Log>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) quotas: Arc<Quotas>,
    clock: Arc<dyn Clock>,
    pub(crate) buffers: Buffers,
    pub(crate) metrics: Metrics,
}

/// Who sent a body: nobody is charged for what the house sends itself.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) principal: Arc<Principal>,
    pub(crate) address: IpAddr,
}

/// A dead letter that is sent once more.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'a> {
    /// The letter's body, or the mended event in its place.
    pub event: &'a str,
    /// The letter's source: `events`, or `imports/NAME`.
    pub source: &'a str,
    /// The id where the event has none: the letter's, or one made of its place
    /// (`dlq-<partition>-<offset>`), so that a second replay is the same event.
    pub event_id: &'a str,
    /// When the letter came: what its `sent_at` is compared with.
    pub received_at: ReceiveTime,
    /// What its envelope said, if it had one.
    pub sent_at: Option<EventTime>,
    /// The id of the key that sent it first: its event is that key's still.
    pub key: Option<&'a str>,
    /// That key's source.
    pub key_source: Option<&'a str>,
}

impl Gateway {
    /// A gateway in front of `log`. `masking_secret` is made once per data directory and
    /// never changes: user keys that are addresses become tokens under it.
    #[must_use]
    pub fn new(
        plan: GatewayPlan,
        identity: IdentityKey,
        masking_secret: [u8; 32],
        log: Arc<dyn Log>,
        keys: Arc<Keys>,
        quotas: Arc<Quotas>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let masker = Masker::new(plan.masking.clone(), &masking_secret);
        let buffers = Buffers::new(plan.buffer_bytes_max);
        let metrics = Metrics::new();
        Self { plan, masker, identity, log, keys, quotas, clock, buffers, metrics }
    }

    /// Memory for bodies, for the rooms beside this one that read some, too.
    #[must_use]
    pub const fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Adds the room's metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
        registry.register_collector(Box::new(Senders(Arc::clone(&self.quotas))));
        registry.register_collector(Box::new(Lent(self.buffers.clone())));
    }

    /// The masker, for whoever must look up what was masked: a user id in a filter becomes
    /// what the log holds.
    #[must_use]
    pub const fn masker(&self) -> &Masker {
        &self.masker
    }

    /// How many values masking has changed since the start, by field.
    #[must_use]
    pub fn masked_fields(&self) -> BTreeMap<String, u64> {
        self.metrics.masked.counts()
    }

    /// Takes a body of the house's own making (the demo's audience, a test): no key, no quota,
    /// everything else as over HTTP.
    ///
    /// # Errors
    ///
    /// [`Problem`] as over HTTP; nothing was acknowledged then.
    pub async fn ingest_bytes(
        self: &Arc<Self>,
        source: Source,
        format: BodyFormat,
        body: Bytes,
    ) -> Result<IngestAnswer, Problem> {
        let share = self.buffers.share();
        self.ingest(None, source, format, Encoding::Identity, body, share).await
    }

    /// Sends a dead letter once more. An event that is still bad is named in the answer and
    /// makes no second letter.
    ///
    /// # Errors
    ///
    /// [`Problem`] where the log does not take it; nothing was acknowledged then.
    pub async fn replay(&self, letter: Replay<'_>) -> Result<IngestAnswer, Problem> {
        let source = Source::from_text(letter.source);
        let event = letter.event.trim();
        let now = self.context(&source, None);
        // An admin's letters are few: nothing of theirs is over a quota.
        let sent_by = SentBy { key: letter.key, source: letter.key_source, values_max: None };
        let context = Context { received_at: letter.received_at, wall: None, sent_by, ..now };
        let mut batch = Batch::new(context, letter.event.len());
        let outcome = self.replayed(&mut batch, event, &letter);
        let error = outcome.err().map(|refusal| batch.error(event.as_bytes(), &refusal));
        let mut batched = batch.finish();
        match error {
            Some(error) => batched.answer.errors.push(error),
            None => batched.answer.accepted = 1,
        }
        batched.answer.rejected = batched.answer.errors.len();
        self.append(batched).await
    }

    fn replayed(
        &self,
        batch: &mut Batch<'_>,
        event: &str,
        letter: &Replay<'_>,
    ) -> Result<(), crate::Refusal> {
        let not_json =
            || crate::Refusal::new(crate::refusal::INVALID_JSON, "the event is not JSON");
        let parsed = parse::value(event.as_bytes(), 0, Some(event), &self.plan.limits)
            .map_err(|_not_json| not_json())?;
        if parsed.raw.len() != event.len() {
            return Err(not_json());
        }
        let mut draft = parsed.verdict?;
        draft.texts[TextField::EventId as usize].get_or_insert(Cow::Borrowed(letter.event_id));
        batch.accept(event.as_bytes(), &draft, &|| Ok(letter.sent_at))
    }

    /// From the bytes on the wire to the answer; `share` is the memory that they hold.
    pub(crate) async fn ingest(
        self: &Arc<Self>,
        sender: Option<Sender>,
        source: Source,
        format: BodyFormat,
        encoding: Encoding,
        wire: Bytes,
        share: Share,
    ) -> Result<IngestAnswer, Problem> {
        let inline = encoding == Encoding::Identity && wire.len() <= INLINE_BYTES_MAX;
        let task = Task { sender, source, format, encoding, wire, share };
        let Taken { batched, share, charge } = if inline {
            self.take(task)?
        } else {
            let gateway = Arc::clone(self);
            tokio::task::spawn_blocking(move || gateway.take(task))
                .await
                .map_err(|error| Problem::internal(format!("a body's thread ended: {error}")))??
        };
        let answer = self.append(batched).await;
        drop(share);
        // None of it was taken: what the refusal advises must not be refused for its rate.
        if let (Err(_refused), Some(Charge { sender, load })) = (&answer, charge) {
            self.quotas.refund_events(self.sending(&sender), load);
        }
        answer
    }

    /// Inflates and reads a body; no I/O.
    fn take(&self, task: Task) -> Result<Taken, Problem> {
        let Task { sender, source, format, encoding, wire, mut share } = task;
        let body = if encoding == Encoding::Identity {
            let max = self.plan.limits.inflated_bytes_max;
            if wire.len() > max {
                return Err(inflate_problem(&InflateError::TooLarge { max }));
            }
            Cow::Borrowed(&wire[..])
        } else {
            let inflated =
                inflate(encoding, &wire, &self.plan.limits, &mut |bytes| share.grow(bytes));
            Cow::Owned(inflated.map_err(|error| inflate_problem(&error))?)
        };
        self.metrics.body(wire.len(), body.len());
        let principal = sender.as_ref().map(|sender| &*sender.principal);
        let mut batch = Batch::new(self.context(&source, principal), body.len());
        Frames::each(&body, format, &self.plan.limits, &mut |framed| match framed {
            Framed::Again => batch = Batch::new(self.context(&source, principal), body.len()),
            // A body over this is refused below; nothing more is made of it.
            Framed::Event(parsed, sent_at) if batch.record_bytes() <= RECORD_BYTES_MAX => {
                batch.take(parsed, sent_at);
            }
            Framed::Event(..) => {}
        })
        .map_err(|error| frame_problem(&body, error))?;
        if batch.record_bytes() > RECORD_BYTES_MAX {
            return Err(too_large("the body's records are too large; send fewer events at once"));
        }
        // A body without events was work, too.
        let load = Load::new(batch.len().max(1), body.len());
        let charge = sender.as_ref().map(|sender| Charge { sender: sender.clone(), load });
        if let Some(Charge { sender, load }) = &charge {
            self.quotas.check_events(self.sending(sender), *load)?;
        }
        Ok(Taken { batched: batch.finish(), share, charge })
    }

    pub(crate) fn sending<'s>(&self, sender: &'s Sender) -> Sending<'s> {
        let (principal, address) = (&*sender.principal, sender.address);
        Sending { principal, address, ms: self.clock.now().ms() }
    }

    fn context<'c>(&'c self, source: &'c Source, principal: Option<&'c Principal>) -> Context<'c> {
        let (now, standing) = (self.clock.now(), self.clock.standing());
        Context {
            plan: &self.plan,
            masker: &self.masker,
            identity: &self.identity,
            partitions: self.log.partitions(),
            source,
            principal,
            sent_by: principal
                .map_or_else(SentBy::default, |principal| SentBy::of(principal, &self.quotas)),
            now,
            received_at: now,
            wall: standing.is_slow.then(|| now.as_event_time().minus_ms(standing.behind_ms)),
        }
    }

    /// Answers once everything is durable (N1).
    async fn append(&self, batched: Batched) -> Result<IngestAnswer, Problem> {
        let Batched { batches, answer, codes, masked, corrected } = batched;
        let begun = Instant::now();
        if !batches.is_empty() {
            let pending = self.log.submit(batches).map_err(|error| append_problem(&error))?;
            pending.await.map_err(|error| append_problem(&error))?;
        }
        self.metrics.durable(answer.accepted, &codes, corrected, begun.elapsed());
        self.metrics.masked.add(masked);
        Ok(answer)
    }
}

fn frame_problem(body: &[u8], error: FrameError) -> Problem {
    match error {
        FrameError::NotJson { at } => Problem::new(
            Status::BadRequest,
            "body_not_json",
            "the body is not JSON",
            format!("{}; nothing of it was accepted", json::fault(body, at)),
        )
        .with("byte", at),
        FrameError::More { at } => Problem::new(
            Status::BadRequest,
            "body_not_json",
            "the body is not JSON",
            format!("{error}; nothing of it was accepted"),
        )
        .with("byte", at),
        FrameError::Empty => Problem::new(
            Status::BadRequest,
            "body_empty",
            "the body is empty",
            "send an event, an array of events, or an envelope with events",
        ),
        FrameError::TooMany { max } => too_large(format!("{error}; send smaller batches"))
            .with("limit", "batch_events_max")
            .with("max", max),
    }
}

struct Task {
    sender: Option<Sender>,
    source: Source,
    format: BodyFormat,
    encoding: Encoding,
    wire: Bytes,
    share: Share,
}

/// A body that was read.
struct Taken {
    batched: Batched,
    share: Share,
    charge: Option<Charge>,
}

/// What a body was charged to its sender.
struct Charge {
    sender: Sender,
    load: Load,
}

/// 413
pub(crate) fn too_large(detail: impl Into<String>) -> Problem {
    Problem::new(Status::ContentTooLarge, "batch_too_large", "the batch is over a limit", detail)
}

/// 503, because memory is short.
pub(crate) fn busy() -> Problem {
    let detail = "the buffers for bodies are full; nothing of the batch was accepted";
    Problem::new(Status::Unavailable, "overloaded", "the server is busy", detail)
        .after(std::time::Duration::from_secs(1))
}

fn inflate_problem(error: &InflateError) -> Problem {
    let limited = |limit: &'static str, max: usize| {
        too_large(error.to_string()).with("limit", limit).with("max", max)
    };
    match error {
        InflateError::Corrupt { .. } => Problem::new(
            Status::BadRequest,
            "body_corrupt",
            "the body does not decompress",
            format!("{error}; nothing of it was accepted"),
        ),
        InflateError::TooLarge { max } => limited("inflated_bytes_max", *max),
        InflateError::Ratio { max } => limited("inflate_ratio_max", *max),
        InflateError::Busy => busy(),
    }
}

fn append_problem(error: &AppendError) -> Problem {
    let code = match error {
        AppendError::Full { .. } => "log_full",
        AppendError::DiskFull { .. } => "disk_full",
        AppendError::ShuttingDown => "shutting_down",
        AppendError::Io { .. } => "log_unavailable",
        AppendError::TooLarge { .. } => {
            return too_large("the batch is larger than the log takes; send smaller batches");
        }
        AppendError::NoSuchPartition { .. } => return Problem::internal(error.to_string()),
    };
    let Retry::AfterMs(ms) = error.retry() else { return Problem::internal(error.to_string()) };
    let detail = "the log cannot take more now; nothing was acknowledged, and the same batch \
                  again is safe";
    Problem::new(Status::Unavailable, code, "the log cannot take more now", detail)
        .after(std::time::Duration::from_millis(ms))
        .logged(error.to_string())
}
