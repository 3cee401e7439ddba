//! A connection's bytes: whoever does not take them, or has lost his seat, is let go, and what the
//! HTTP library refuses by itself is said in our form.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nilometer_access::{Buffers, PROBLEM_TYPE, Problem, Share, Status};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::gentle::Gentle;
use super::lent;
use super::seats::Seated;

/// Bytes of a head that cost nothing while the rest of it is to come: connections have room for
/// them.
const HEAD_BYTES_FREE: usize = 4 << 10;
/// Buffers grow by doubling.
const HEAD_GROWTH: usize = 2;

/// A stream on a seat.
pub(super) struct Wire {
    stream: Gentle<TcpStream>,
    seated: Seated,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    /// How long the client may take none of what waits for it.
    patience: Duration,
    /// Runs while something waits.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Our words in place of the library's, and how much of them is written.
    own: Option<(Vec<u8>, usize)>,
    /// Whether bytes came that nothing has answered yet.
    is_asked: bool,
    /// Bytes that came since, as long as they are of a head.
    head_bytes: usize,
    head: Option<Share>,
    exchanges: Buffers,
}

impl Wire {
    pub(super) fn new(
        stream: Gentle<TcpStream>,
        seated: Seated,
        patience: Duration,
        exchanges: Buffers,
    ) -> Self {
        let gone = Box::pin(seated.seat.gone().clone().cancelled_owned());
        let (waiting, own, head) = (None, None, None);
        let (is_asked, head_bytes) = (false, 0);
        Self { stream, seated, gone, patience, waiting, own, is_asked, head_bytes, head, exchanges }
    }

    /// Bytes came: where they are a head that is not whole, they hold memory.
    fn hold_head(&mut self, bytes: usize) -> io::Result<()> {
        self.is_asked = true;
        self.head_bytes += bytes;
        if self.head_bytes <= HEAD_BYTES_FREE {
            return Ok(());
        }
        let seat = &self.seated.seat;
        if !seat.is_between() {
            self.let_head_go();
            return Ok(());
        }
        let has_room = match &mut self.head {
            Some(head) => head.grow(bytes * HEAD_GROWTH),
            None => {
                self.head = lent::waiting(&self.exchanges, seat, self.head_bytes * HEAD_GROWTH);
                self.head.is_some()
            }
        };
        if has_room { Ok(()) } else { Err(io::Error::other("no memory for a head")) }
    }

    fn let_head_go(&mut self) {
        self.head_bytes = 0;
        self.head = None;
    }

    fn check_seat(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.gone.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::Error::other("closed for those who wait")),
            Poll::Pending => Ok(()),
        }
    }

    /// Writes, but not for longer than the client may take.
    fn write(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Gentle<TcpStream>>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.check_seat(context)?;
        let written = write(Pin::new(&mut self.stream), context);
        if written.is_ready() {
            self.waiting = None;
            self.is_asked = false;
            self.let_head_go();
            self.seated.seat.hear();
            return written;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }

    /// Writes our words in place of `theirs`.
    fn write_own(&mut self, context: &mut Context<'_>, theirs: usize) -> Poll<io::Result<usize>> {
        while let Some((words, done)) = self.own.take() {
            let wrote =
                self.write(context, |stream, context| stream.poll_write(context, &words[done..]));
            match wrote {
                Poll::Ready(Ok(wrote)) if done + wrote < words.len() => {
                    self.own = Some((words, done + wrote));
                }
                Poll::Ready(Ok(_all)) => return Poll::Ready(Ok(theirs)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.own = Some((words, done));
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(theirs))
    }
}

impl Drop for Wire {
    /// Who was cut off in the middle of a head, for want of the rest in time, is told so: the
    /// library says nothing.
    fn drop(&mut self) {
        if self.is_asked && self.seated.seat.is_overdue() {
            drop(self.stream.stream().try_write(&plain(&overdue())));
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_seat(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let came = buffer.filled().len() - before;
        if came > 0 {
            self.seated.seat.hear();
            self.hold_head(came)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.own.is_none() {
            self.own = in_our_words(bytes).map(|words| (words, 0));
        }
        if self.own.is_some() {
            return self.write_own(context, bytes.len());
        }
        self.write(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = pieces.first().map_or(&[][..], |piece| piece);
        if self.own.is_some() || is_bare_refusal(first) {
            return self.poll_write(context, first);
        }
        self.write(context, |stream, context| stream.poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_seat(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A refusal in plain bytes, where there is no request that it could answer.
pub(super) fn plain(problem: &Problem) -> Vec<u8> {
    let body = problem.to_bytes();
    let status = problem.status.code();
    let head = format!(
        "HTTP/1.1 {} {}\r\nX-Content-Type-Options: nosniff\r\nContent-Type: {PROBLEM_TYPE}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        body.len()
    );
    [head.as_bytes(), &body].concat()
}

/// 408: the head of a request did not come in time.
pub(super) fn overdue() -> Problem {
    let detail = "the head of the request did not arrive within gateway.header_timeout_ms";
    Problem::new(Status::RequestTimeout, "head_timeout", "the request came too slowly", detail)
}

/// What the library says by itself where it cannot read a request: a head without a body. Answers
/// of ours with such a status have one.
fn is_bare_refusal(bytes: &[u8]) -> bool {
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    let mut refusals = [b"HTTP/1.1 400 ", b"HTTP/1.1 414 ", b"HTTP/1.1 431 "].into_iter();
    refusals.any(|start| bytes.starts_with(start))
        && bytes.ends_with(b"\r\n\r\n")
        && holds(b"\r\ncontent-length: 0\r\n")
        && !holds(b"\r\ncontent-type:")
}

fn in_our_words(bytes: &[u8]) -> Option<Vec<u8>> {
    if !is_bare_refusal(bytes) {
        return None;
    }
    let problem = match &bytes[9..12] {
        b"414" => Problem::new(
            Status::UriTooLong,
            "uri_too_long",
            "the address is too long",
            "send a long query as the body of POST /v1/query",
        ),
        b"431" => head_too_large(),
        _ => Problem::new(
            Status::BadRequest,
            "bad_request",
            "the request cannot be read",
            "that is not HTTP",
        ),
    };
    Some(plain(&problem))
}

pub(super) fn head_too_large() -> Problem {
    let detail = format!(
        "a request has at most 100 headers, and {} bytes of address and headers",
        super::HEAD_BYTES_MAX
    );
    Problem::new(Status::HeadersTooLarge, "headers_too_large", "the head is too large", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_library_refuses_bare_is_a_problem_and_what_we_refuse_stays() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
            content-length: 0\r\ndate: Mon, 30 Nov 2026 08:00:00 GMT\r\n\r\n";
        let words = String::from_utf8(in_our_words(bare).unwrap()).unwrap();
        assert!(words.starts_with("HTTP/1.1 431 ") && words.contains("headers_too_large"));
        let (head, body) = words.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        assert_eq!(in_our_words(words.as_bytes()), None);
        assert_eq!(in_our_words(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"), None);
    }
}
