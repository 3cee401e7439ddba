//! A body off the wire: counted while it comes, within its size, its time and the house's memory,
//! whichever room reads it.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{Problem, Share, Status};

/// Room is made for so much of a body at once: each time that it grows, it is copied.
const RESERVED_MAX: usize = 1 << 20;

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
    /// The connection ended first, or what came is no body of the kind that the head tells.
    #[error("the body ended before its end, or is not framed as its head says")]
    CutShort,
    /// No memory for it now.
    #[error("the buffers for bodies are full")]
    Busy,
}

/// Reads `body` to its end, at most `bytes_max` of it; `share` holds what it takes, and may lose it
/// to others while more is waited for. Its time is the server's business, which ends a body that is
/// slow with [`BodyTimeout`] as its error.
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
    let mut gone = None;
    while let Some(frame) = next(body, gone.as_ref()).await? {
        let frame = frame.map_err(|broken| {
            BodyTimeout::among(&broken).map_or(BodyError::CutShort, BodyError::Timeout)
        })?;
        // Trailers say nothing that we use.
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > bytes_max {
            return Err(BodyError::TooLarge { max: bytes_max });
        }
        if !share.grow_soon(data.len()).await {
            return Err(BodyError::Busy);
        }
        if gone.is_none() && !body.is_end_stream() {
            share.wait(gone.insert(CancellationToken::new()).clone());
        }
        // Most bodies come in one piece, which needs no copy.
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(first.len() + data.len() + to_come(body));
            rest.extend_from_slice(&first);
            first = Bytes::new();
        }
        rest.extend_from_slice(&data);
    }
    if !share.settle() {
        return Err(BodyError::Busy);
    }
    Ok(if rest.is_empty() { first } else { rest.into() })
}

/// What is still to come by the body's own word, as far as it is believed before it is there.
fn to_come<B: http_body::Body>(body: &B) -> usize {
    usize::try_from(body.size_hint().lower()).map_or(RESERVED_MAX, |told| told.min(RESERVED_MAX))
}

/// The next frame, unless the memory of those before it is lost meanwhile.
async fn next<B: http_body::Body + Unpin>(
    body: &mut B,
    gone: Option<&CancellationToken>,
) -> Result<Option<Result<http_body::Frame<B::Data>, B::Error>>, BodyError> {
    let Some(gone) = gone else { return Ok(body.frame().await) };
    tokio::select! {
        biased;
        () = gone.cancelled() => Err(BodyError::Busy),
        frame = body.frame() => Ok(frame),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;

    use super::*;
    use crate::Buffers;

    /// A body that comes in pieces and never ends.
    struct Slow(VecDeque<Bytes>);

    impl http_body::Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0
                .pop_front()
                .map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece)))))
        }
    }

    /// Catches: slow bodies that keep all others out for as long as they may take.
    #[tokio::test]
    async fn a_body_that_comes_slowly_makes_room_for_one_that_is_there() {
        let buffers = Buffers::new(100);
        let piece = Bytes::from_static(&[b'x'; 40]);
        let slow = {
            let (mut share, mut body) = (buffers.share(), Slow([piece.clone(), piece].into()));
            tokio::spawn(async move { read(&mut body, 1_000, &mut share).await })
        };
        while buffers.free_bytes() > 20 {
            tokio::task::yield_now().await;
        }
        let mut share = buffers.share();
        let mut body = http_body_util::Full::new(Bytes::from_static(&[b'x'; 60]));
        assert_eq!(read(&mut body, 1_000, &mut share).await.map(|bytes| bytes.len()), Ok(60));
        assert_eq!(slow.await.unwrap(), Err(BodyError::Busy));
        assert_eq!((buffers.free_bytes(), buffers.lost()), (40, 1));
    }
}
