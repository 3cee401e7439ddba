//! The steps of the hot path by themselves, for `benches/parse.rs`.

use nilometer_event::{IdentityKey, PartitionCount, ReceiveTime};

use crate::batch::{Batch, Context, FrameError, Framed, Frames};
use crate::{BodyFormat, GatewayPlan, IngestAnswer, Limits, Masker, Source};

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
        let context = || Context {
            plan: &self.plan,
            masker: &self.masker,
            identity: &self.identity,
            partitions,
            source: &Source::Events,
            principal: None,
            now,
            received_at: now,
            wall: None,
        };
        let mut batch = Batch::new(context(), body.len());
        Frames::each(body, BodyFormat::Json, &self.plan.limits, &mut |framed| match framed {
            Framed::Event(parsed, sent_at) => batch.take(parsed, sent_at),
            Framed::Again => batch = Batch::new(context(), body.len()),
        })
        .map_err(|error| error.to_string())?;
        let bytes = batch.record_bytes();
        Ok((batch.finish().answer, bytes))
    }
}
