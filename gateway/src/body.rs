//! A body off the wire: counted while it comes, within its size and the house's memory.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use nilometer_access::BodyTimeout;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory is handed out in pieces of this size.
const PIECE_BYTES: usize = 1 << 10;

/// Memory for bodies, shared by all requests (G4). Nobody waits for it: whoever gets none is
/// answered 503, which costs no memory.
#[derive(Debug)]
pub(crate) struct Buffers(Arc<Semaphore>);

impl Buffers {
    pub(crate) fn new(bytes_max: usize) -> Self {
        // Rounded up: what is just the limit must have room, or it would be told to wait for ever.
        let pieces = bytes_max.div_ceil(PIECE_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(pieces)))
    }

    /// A share of the memory, empty at first.
    pub(crate) fn share(&self) -> Share {
        Share { buffers: Arc::clone(&self.0), permit: None, bytes: 0, pieces: 0 }
    }

    /// Bytes that nobody holds.
    pub(crate) fn free_bytes(&self) -> usize {
        self.0.available_permits() * PIECE_BYTES
    }
}

/// What one request holds of the memory; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    buffers: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
    pieces: usize,
}

impl Share {
    /// Takes `bytes` more; false where there is no room.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
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

/// Why a body was not read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum BodyError {
    /// Larger than the limit.
    #[error("the body is over {name} = {max} bytes on the wire")]
    TooLarge { name: &'static str, max: usize },
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

/// The limit on a body, by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WireLimit {
    pub(crate) name: &'static str,
    pub(crate) max: usize,
}

/// Reads `body` to its end. Its time is the house's business, which ends a body that is slow
/// with [`BodyTimeout`] as its error.
///
/// # Cancel safety
///
/// Not cancel safe: what was read is lost.
pub(crate) async fn read(
    body: &mut Body,
    limit: WireLimit,
    share: &mut Share,
) -> Result<Bytes, BodyError> {
    let mut first = Bytes::new();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|broken| {
            BodyTimeout::among(&broken).map_or(BodyError::CutShort, BodyError::Timeout)
        })?;
        // Trailers say nothing that we use.
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit.max {
            return Err(BodyError::TooLarge { name: limit.name, max: limit.max });
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
