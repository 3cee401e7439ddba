//! A body off the wire: counted while it comes, within its size, its time and the house's memory,
//! whichever room reads it.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Problem, Status};

/// Memory is handed out in pieces of this size.
const PIECE_BYTES: usize = 1 << 10;

/// Memory for bodies, shared by all requests of all rooms. Nobody waits for it: whoever gets none
/// is answered 503, which costs no memory.
#[derive(Clone, Debug)]
pub struct Buffers {
    pieces: Arc<Semaphore>,
    bytes_max: usize,
}

impl Buffers {
    /// Buffers of so many bytes in all.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        // Rounded up: what is just the limit must have room, or it would be told to wait for ever.
        let pieces = bytes_max.div_ceil(PIECE_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self { pieces: Arc::new(Semaphore::new(pieces)), bytes_max: pieces * PIECE_BYTES }
    }

    /// A share of the memory, empty at first.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { buffers: Arc::clone(&self.pieces), permit: None, bytes: 0, pieces: 0 }
    }

    /// All that there is: no body can be larger.
    #[must_use]
    pub const fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes that nobody holds.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.pieces.available_permits() * PIECE_BYTES
    }
}

/// What one request holds of the memory; given back when dropped.
#[derive(Debug)]
pub struct Share {
    buffers: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
    pieces: usize,
}

impl Share {
    /// Takes `bytes` more; false where there is no room.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let pieces = (self.bytes + bytes).div_ceil(PIECE_BYTES);
        let Ok(more) = u32::try_from(pieces - self.pieces) else { return false };
        if more > 0 {
            let Ok(taken) = Arc::clone(&self.buffers).try_acquire_many_owned(more) else {
                return false;
            };
            match &mut self.permit {
                Some(permit) => permit.merge(taken),
                None => self.permit = Some(taken),
            }
        }
        self.bytes += bytes;
        self.pieces = pieces;
        true
    }
}

/// A body did not arrive in its time: told by whoever has the time, as the body's error.
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

/// Why a body was not read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// Larger than the limit.
    #[error("the body is over {max} bytes on the wire")]
    TooLarge {
        /// The limit.
        max: usize,
    },
    /// Too slow.
    #[error(transparent)]
    Timeout(#[from] BodyTimeout),
    /// The connection ended first.
    #[error("the body ended before its end")]
    CutShort,
    /// No memory for it now.
    #[error("the buffers for bodies are full")]
    Busy,
}

/// Reads `body` to its end, at most `bytes_max` of it; `share` holds what it takes. Its time is
/// the server's business, which ends a body that is slow with [`BodyTimeout`] as its error.
///
/// # Errors
///
/// [`BodyError`].
///
/// # Cancel safety
///
/// Not cancel safe: what was read is lost.
pub async fn read<B>(body: &mut B, bytes_max: usize, share: &mut Share) -> Result<Bytes, BodyError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Error + 'static,
{
    // Where the length is told, a body that is too large is not begun with.
    if body.size_hint().lower() > bytes_max.try_into().unwrap_or(u64::MAX) {
        return Err(BodyError::TooLarge { max: bytes_max });
    }
    let mut first = Bytes::new();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|broken| {
            BodyTimeout::among(&broken).map_or(BodyError::CutShort, BodyError::Timeout)
        })?;
        // Trailers say nothing that we use.
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > bytes_max {
            return Err(BodyError::TooLarge { max: bytes_max });
        }
        if !share.grow(data.len()) {
            return Err(BodyError::Busy);
        }
        // Most bodies come in one piece, which needs no copy.
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&first);
            first = Bytes::new();
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() { first } else { rest.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_hold_more_than_there_is_and_give_everything_back() {
        let buffers = Buffers::new(8 << 10);
        let (mut one, mut two) = (buffers.share(), buffers.share());
        assert!(one.grow(1) && one.grow(1_023) && one.grow(4_096));
        assert_eq!(buffers.free_bytes(), 3 << 10);
        assert!(!two.grow(4_096));
        assert!(two.grow(3_072));
        drop((one, two));
        assert_eq!(buffers.free_bytes(), 8 << 10);
        assert!(Buffers::new(1_500).share().grow(1_500), "the largest body has room when alone");
    }
}
