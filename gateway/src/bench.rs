//! The steps of the hot path by themselves, for `benches/parse.rs` and the fuzz targets.

use nilometer_event::{IdentityKey, PartitionCount, ReceiveTime};

use crate::batch::{Batch, Context, FrameError, Framed, Frames, SentBy};
use crate::{BodyFormat, Encoding, GatewayPlan, IngestAnswer, Limits, Masker, Source, inflate};

/// Parses and type-checks every event of a JSON body; gives how many were good.
///
/// # Errors
///
/// Where the body is not JSON.
pub fn parse(body: &[u8], limits: &Limits) -> Result<usize, String> {
    let mut good = 0;
    Frames::each(body, BodyFormat::Json, limits, &mut |framed| match framed {
        Framed::Event(parsed, _) => good += usize::from(parsed.verdict.is_ok()),
        Framed::Again => good = 0,
    })
    .map_err(|error: FrameError| error.to_string())?;
    Ok(good)
}

/// Everything but the log: parse, validate, mask, stamp, encode, route.
#[derive(Debug)]
pub struct Pipeline {
    plan: GatewayPlan,
    masker: Masker,
    identity: IdentityKey,
}

impl Pipeline {
    /// With the given plan and fixed secrets.
    #[must_use]
    pub fn new(plan: GatewayPlan) -> Self {
        let masker = Masker::new(plan.masking.clone(), &[1; 32]);
        Self { plan, masker, identity: IdentityKey::new([2; 32]) }
    }

    /// Takes a JSON body; gives the answer and the bytes of its records.
    ///
    /// # Errors
    ///
    /// Where the body is not JSON.
    pub fn take(
        &self,
        body: &[u8],
        partitions: PartitionCount,
        now: ReceiveTime,
    ) -> Result<(IngestAnswer, usize), String> {
        self.take_as(BodyFormat::Json, body, partitions, now)
    }

    /// Takes a body of any format.
    ///
    /// # Errors
    ///
    /// Where the body is not of that format.
    pub fn take_as(
        &self,
        format: BodyFormat,
        body: &[u8],
        partitions: PartitionCount,
        now: ReceiveTime,
    ) -> Result<(IngestAnswer, usize), String> {
        let context = || Context {
            plan: &self.plan,
            masker: &self.masker,
            identity: &self.identity,
            partitions,
            source: &Source::Events,
            principal: None,
            sent_by: SentBy { key: Some("write-8rwM7Wsc"), source: None, values_max: Some(20_000) },
            now,
            received_at: now,
            wall: None,
        };
        let mut batch = Batch::new(context(), body.len());
        Frames::each(body, format, &self.plan.limits, &mut |framed| match framed {
            Framed::Event(parsed, sent_at) => batch.take(parsed, sent_at),
            Framed::Again => batch = Batch::new(context(), body.len()),
        })
        .map_err(|error| error.to_string())?;
        let bytes = batch.record_bytes();
        Ok((batch.finish().answer, bytes))
    }

    /// Masks a refused event, which may be anything.
    #[must_use]
    pub fn mask_body(&self, raw: &[u8]) -> String {
        self.masker.body(raw, &mut |_name| {})
    }

    /// Masks any text.
    #[must_use]
    pub fn masker(&self) -> &Masker {
        &self.masker
    }
}

/// Inflates a body within `limits`; gives it and the memory that was asked for.
///
/// # Errors
///
/// Where it is not of that encoding, or over a limit.
pub fn inflate(
    encoding: Encoding,
    wire: &[u8],
    limits: &Limits,
) -> Result<(Vec<u8>, usize), String> {
    let mut reserved = 0;
    let mut reserve = |bytes| {
        reserved += bytes;
        true
    };
    let inflated = inflate::inflate(encoding, wire, limits, &mut reserve);
    inflated.map(|body| (body, reserved)).map_err(|error| error.to_string())
}
