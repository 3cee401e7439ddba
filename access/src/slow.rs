//! A body that came too slowly: told by whoever reads it, in the words of whoever has the time.

use std::error::Error;
use std::time::Duration;

use thiserror::Error;

use crate::{Problem, Status};

/// A body did not arrive in its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the body did not arrive within body_timeout_ms = {}", after.as_millis())]
pub struct BodyTimeout {
    /// The time that it had.
    pub after: Duration,
}

impl BodyTimeout {
    /// Finds it among the causes of an error, for a body's error travels in other errors.
    #[must_use]
    pub fn among(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut causes = std::iter::successors(Some(error), |&error| error.source());
        causes.find_map(|cause| cause.downcast_ref::<Self>().copied())
    }
}

impl From<BodyTimeout> for Problem {
    fn from(timeout: BodyTimeout) -> Self {
        let title = "the body came too slowly";
        Self::new(Status::RequestTimeout, "body_timeout", title, timeout.to_string())
    }
}
