//! What exchanges hold while their clients are waited for: heads, requests that are not whole, and
//! answers that are not taken. When there is too much of it, who is waited for longest is let go.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use http::{Request, Response, Version};
use nilometer_access::{Accounted, Buffers, Problem, Share, Status};

use super::seats::Seat;

/// What a request over HTTP/2 takes until it is answered (8 KiB measured).
const HTTP2_BYTES: usize = 8 << 10;
/// What a header takes beside its text.
const HEADER_BYTES: usize = 200;
/// So much of a head is in the above.
const HEAD_BYTES_FREE: usize = 2 << 10;
/// Answers up to here cost nothing.
const ANSWER_BYTES_FREE: usize = 1 << 10;

/// What a request needs, and has not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needed {
    bytes: usize,
    /// It may be kept until others have given back what it needs.
    is_small: bool,
}

/// The texts of a head: its address, and the names and values of its headers.
pub(super) fn head_bytes<B>(request: &Request<B>) -> usize {
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    headers.sum::<usize>() + path
}

/// Takes what the request needs. The head of one that is refused goes at once.
pub(super) fn request<B: HttpBody>(
    request: &mut Request<B>,
    exchanges: &Buffers,
    seat: &Seat,
) -> Result<Option<Share>, Needed> {
    let head = head_bytes(request) + request.headers().len() * HEADER_BYTES;
    // Over HTTP/1 it is its connection's, and of these there are only so many (`Seats`).
    let own = if request.version() >= Version::HTTP_2 { HTTP2_BYTES } else { 0 };
    let over = head.saturating_sub(HEAD_BYTES_FREE);
    match own + over {
        0 => Ok(None),
        bytes => {
            let needed = Needed { bytes, is_small: over == 0 };
            let share = waiting(exchanges, seat, bytes);
            if share.is_none() && !needed.is_small {
                drop(std::mem::take(request.headers_mut()));
            }
            share.map(Some).ok_or(needed)
        }
    }
}

/// What the request needs, where it did not get it, once others have given it back.
pub(super) async fn soon(
    share: Result<Option<Share>, Needed>,
    exchanges: &Buffers,
    seat: &Seat,
) -> Result<Option<Share>, Problem> {
    let needed = match share {
        Ok(share) => return Ok(share),
        Err(needed) if needed.is_small => needed,
        Err(_large) => return Err(busy()),
    };
    let mut share = exchanges.share();
    share.wait(seat.gone().clone());
    if share.grow_soon(needed.bytes).await { Ok(Some(share)) } else { Err(busy()) }
}

/// What an answer needs; `None` where it costs nothing, or is in somebody's account.
pub(super) fn answer_bytes<B: HttpBody>(response: &Response<B>) -> Option<usize> {
    let bytes = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX);
    let is_accounted = response.extensions().get::<Accounted>().is_some();
    (bytes > ANSWER_BYTES_FREE && !is_accounted).then_some(bytes)
}

/// Takes what the answer needs; `Err` where there is no room.
pub(super) async fn answer(
    bytes: Option<usize>,
    exchanges: &Buffers,
    seat: &Seat,
) -> Result<Option<Arc<Share>>, Problem> {
    let Some(bytes) = bytes else { return Ok(None) };
    let mut share = exchanges.share();
    share.wait(seat.gone().clone());
    // What is larger than all that there is takes just that: there is never more than one such.
    let taken = share.grow_soon(bytes.min(exchanges.bytes_max())).await;
    if taken { Ok(Some(Arc::new(share))) } else { Err(busy()) }
}

/// So much for somebody who is waited for, and loses his seat where others need it.
pub(super) fn waiting(exchanges: &Buffers, seat: &Seat, bytes: usize) -> Option<Share> {
    let mut share = exchanges.share();
    share.wait(seat.gone().clone());
    share.grow(bytes).then_some(share)
}

fn busy() -> Problem {
    let detail = "the memory for requests and answers under way is full; nothing was done";
    Problem::new(Status::Unavailable, "overloaded", "the server is busy", detail)
        .after(Duration::from_secs(1))
}

/// Bytes of an answer, and the memory that they hold until the network has taken the last of them.
pub(super) struct Part {
    bytes: Bytes,
    _share: Arc<Share>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bytes with what they hold.
pub(super) fn held(bytes: Bytes, share: Option<&Arc<Share>>) -> Bytes {
    match share {
        Some(share) => Bytes::from_owner(Part { bytes, _share: Arc::clone(share) }),
        None => bytes,
    }
}
