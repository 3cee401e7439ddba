//! An answer's body, which says that it goes on: whoever stops taking it is found out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use nilometer_access::Share;

use super::lent;
use super::seats::Exchange;

/// Bytes that are handed over at once to a client that has to ask for each of them (HTTP/2): what
/// it does not ask for stays with us, in one copy for all who are answered the same.
pub(super) const PIECE_BYTES_MAX: usize = 16 << 10;

/// A body in pieces of at most so many bytes.
pub(super) struct Paced {
    body: Body,
    rest: Bytes,
    piece_bytes_max: usize,
    exchange: Exchange,
    /// What the answer holds of the memory for exchanges.
    share: Option<Arc<Share>>,
}

impl Paced {
    pub(super) fn new(
        body: Body,
        piece_bytes_max: usize,
        exchange: Exchange,
        share: Option<Arc<Share>>,
    ) -> Self {
        exchange.goes_on();
        Self { body, rest: Bytes::new(), piece_bytes_max, exchange, share }
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        this.exchange.goes_on();
        if this.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                ended => return Poll::Ready(ended),
            };
            match frame.into_data() {
                Ok(data) => this.rest = lent::held(data, this.share.as_ref()),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(this.piece_bytes_max));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let behind = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(behind.lower() + rest);
        if let Some(upper) = behind.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
