//! What a fold writes: the dimension sets of a plan, as chunks name them.

use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_stream::aggregate::SlotMask;
use nilometer_stream::cells::ScanRequest;
use nilometer_stream::declare::{Plan, SetId};

use crate::chunk::SetSchema;
use crate::error::FoldError;
use crate::manifest::CHUNKS;

/// The dimension sets of a chunk, by the plan that reads them.
pub(crate) struct Sets {
    pub(crate) plan: Arc<Plan>,
    pub(crate) sets: Vec<(SetId, SetSchema)>,
    /// Hash of all schemas.
    pub(crate) hash: u64,
}

impl Sets {
    /// Every set of a plan that is not missing as a whole, without the slots that are.
    ///
    /// # Errors
    ///
    /// [`FoldError::Encode`].
    ///
    /// # Panics
    ///
    /// Where the plan does not find its own sets: their cells would be left out.
    pub(crate) fn new(
        plan: Arc<Plan>,
        missing: impl Fn(&ScanRequest) -> SlotMask,
    ) -> Result<Self, FoldError> {
        let nowhere = TimeRange { start: EventTime::from_ms(0), end: EventTime::from_ms(0) };
        let mut sets = Vec::new();
        for set in &plan.sets {
            let id = plan.set_for(set.kind, &set.dims).expect("B3: a plan finds its own sets");
            let request = ScanRequest::new(Arc::clone(&plan), id, Granularity::Minute, nowhere);
            let missing = missing(&request);
            if missing != request.wanted() || missing.is_empty() {
                sets.push((id, SetSchema::of(&plan, set, missing)));
            }
        }
        let schemas: Vec<&SetSchema> = sets.iter().map(|(_, schema)| schema).collect();
        let encoded = postcard::to_allocvec(&schemas).map_err(|error| FoldError::Encode {
            path: CHUNKS.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Self { plan, sets, hash: xxhash_rust::xxh3::xxh3_64(&encoded) })
    }
}
