//! A request's body: lent to a room, within its time, and what the room left of it read to the
//! end, so that a client that writes first gets its answer and keeps its connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use nilometer_access::BodyTimeout;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

/// A refused body of so many bytes is read to its end (docs/api.md, "Refusals").
const DRAINED_BYTES_MAX: u64 = 16 << 20;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body on loan: it comes back when it is dropped.
struct Lent<B> {
    /// `None` once it was given back.
    body: Option<B>,
    used: Used,
    deadline: Pin<Box<Sleep>>,
    timeout: BodyTimeout,
    home: Arc<Mutex<Option<(B, Used)>>>,
}

/// What became of a body while it was lent.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    bytes: u64,
    is_asked_for: bool,
    is_broken: bool,
}

impl<B> Drop for Lent<B> {
    fn drop(&mut self) {
        *self.home.lock() = self.body.take().map(|body| (body, self.used));
    }
}

impl<B> HttpBody for Lent<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        this.used.is_asked_for = true;
        match Pin::new(body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.used.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.used.is_broken = true;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                ready!(this.deadline.as_mut().poll(context));
                Poll::Ready(Some(Err(this.timeout.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

/// Whether the answer's request was read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// The connection can be used again.
    None,
    /// The connection ends with the answer.
    Left,
}

/// Hands the request to `rooms` and reads what they leave of its body, all within `timeout`.
/// An answer over HTTP/1 to a body that is not read to its end says that the connection ends.
pub(crate) async fn answered<B, F>(
    request: Request<B>,
    timeout: Duration,
    rooms: impl FnOnce(Request<Body>) -> F,
) -> (Response<Body>, Rest)
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    F: Future<Output = Response<Body>>,
{
    if request.body().is_end_stream() {
        return (rooms(request.map(|_empty| Body::empty())).await, Rest::None);
    }
    let deadline = Instant::now() + timeout;
    let (version, fits) = (request.version(), fits(request.headers()));
    let waits = request.headers().contains_key(EXPECT);
    let home = Arc::new(Mutex::new(None));
    let request = request.map(|body| {
        Body::new(Lent {
            body: Some(body),
            used: Used::default(),
            deadline: Box::pin(tokio::time::sleep_until(deadline)),
            timeout: BodyTimeout { after: timeout },
            home: Arc::clone(&home),
        })
    });
    let mut response = rooms(request).await;
    let left = home.lock().take();
    let Some((body, used)) = left else { return (response, Rest::None) };
    if body.is_end_stream() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return (response, Rest::None);
    }
    // Whoever waits for our "100 Continue" has sent nothing, and reading would invite it.
    let may_drain = fits && !used.is_broken && (used.is_asked_for || !waits);
    let room = DRAINED_BYTES_MAX.saturating_sub(used.bytes);
    if may_drain && drain(body, room, deadline).await {
        return (response, Rest::None);
    }
    if version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    (response, Rest::Left)
}

fn fits(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    length
        .and_then(|length| length.parse().ok())
        .is_none_or(|length: u64| length <= DRAINED_BYTES_MAX)
}

/// Reads to the end and throws away; false where that takes more than `room` or `deadline`.
async fn drain<B>(mut body: B, mut room: u64, deadline: Instant) -> bool
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let all = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match room.checked_sub(u64::try_from(bytes).unwrap_or(u64::MAX)) {
                Some(less) => room = less,
                None => return false,
            }
        }
        true
    };
    tokio::time::timeout_at(deadline, all).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::response::IntoResponse;
    use nilometer_access::Problem;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(7);

    /// A body that comes in pieces, and after them perhaps never ends.
    struct Pieces {
        left: usize,
        piece: Bytes,
        ends: bool,
        read: Arc<Mutex<u64>>,
    }

    impl Pieces {
        fn new(count: usize, bytes: usize, ends: bool) -> (Self, Arc<Mutex<u64>>) {
            let read = Arc::new(Mutex::new(0));
            let piece = vec![b'x'; bytes].into();
            (Self { left: count, piece, ends, read: Arc::clone(&read) }, read)
        }
    }

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match (self.left, self.ends) {
                (0, true) => Poll::Ready(None),
                (0, false) => Poll::Pending,
                _ => {
                    self.left -= 1;
                    *self.read.lock() += u64::try_from(self.piece.len()).unwrap();
                    Poll::Ready(Some(Ok(Frame::data(self.piece.clone()))))
                }
            }
        }

        fn is_end_stream(&self) -> bool {
            self.left == 0 && self.ends
        }
    }

    async fn refuse(_request: Request<Body>) -> Response<Body> {
        Problem::not_found("no").into_response()
    }

    async fn read(request: Request<Body>) -> Response<Body> {
        match axum::body::to_bytes(request.into_body(), usize::MAX).await {
            Ok(_) => StatusCode::OK.into_response(),
            Err(error) => match BodyTimeout::among(&error) {
                Some(slow) => Problem::from(slow).into_response(),
                None => StatusCode::BAD_REQUEST.into_response(),
            },
        }
    }

    #[tokio::test]
    async fn what_a_room_leaves_is_read_to_its_end_and_no_more_than_the_bound() {
        for (pieces, rest) in [(1, Rest::None), (16, Rest::None), (17, Rest::Left)] {
            let (body, read) = Pieces::new(pieces, 1 << 20, true);
            let (response, left) = answered(Request::new(body), TIMEOUT, refuse).await;
            assert_eq!((response.status().as_u16(), left), (404, rest), "{pieces} MiB");
            assert_eq!(*read.lock(), u64::try_from(pieces).unwrap() << 20);
            assert_eq!(response.headers().contains_key(CONNECTION), rest == Rest::Left);
        }
        // What says beforehand that it is larger is not begun with, nor is what waits for us.
        for (name, value) in [(CONTENT_LENGTH, "16777217"), (EXPECT, "100-continue")] {
            let (body, read) = Pieces::new(2, 10, true);
            let mut request = Request::new(body);
            request.headers_mut().insert(name, HeaderValue::from_static(value));
            let (_, left) = answered(request, TIMEOUT, refuse).await;
            assert_eq!((left, *read.lock()), (Rest::Left, 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_is_answered_once_its_time_is_over_whoever_reads_it() {
        let begun = Instant::now();
        let (body, _) = Pieces::new(2, 10, false);
        let (response, left) = answered(Request::new(body), TIMEOUT, read).await;
        assert_eq!((response.status().as_u16(), left), (408, Rest::Left));
        assert_eq!(begun.elapsed().as_secs(), TIMEOUT.as_secs());
        let begun = Instant::now();
        let (body, _) = Pieces::new(2, 10, false);
        let (response, left) = answered(Request::new(body), TIMEOUT, refuse).await;
        assert_eq!((response.status().as_u16(), left), (404, Rest::Left));
        assert_eq!(begun.elapsed().as_secs(), TIMEOUT.as_secs());
        // The time is one: what a room took of it is not had again.
        let begun = Instant::now();
        let (body, _) = Pieces::new(2, 10, false);
        let late = async |request: Request<Body>| {
            tokio::time::sleep(Duration::from_secs(6)).await;
            refuse(request).await
        };
        drop(answered(Request::new(body), TIMEOUT, late).await);
        assert_eq!(begun.elapsed().as_secs(), TIMEOUT.as_secs());
    }
}
