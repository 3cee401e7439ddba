//! A connection that ends gently: whoever still writes gets to read the answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// How long what still comes is read after our end of the connection was closed. A close with
/// unread bytes is a reset, which takes the answer from the client's hands (RFC 9112, 9.6).
const LINGER_TIME_MAX: Duration = Duration::from_secs(5);
/// How much of it: whoever sends more does not wait for an answer.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// After so much of it there is a pause: whoever floods a connection that has ended is slowed by
/// its own full window, and takes no more of a core than others leave.
const LINGER_BYTES_AT_ONCE: usize = 1 << 20;
const LINGER_PAUSE: Duration = Duration::from_millis(10);

/// Says of a connection that its client has not been read to the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unread(Arc<AtomicBool>);

impl Unread {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream whose shutdown reads what still comes, where anything does.
#[derive(Debug)]
pub(crate) struct Gentle<S = TcpStream> {
    stream: S,
    unread: Unread,
    time_max: Duration,
    /// Until when is read; there from our shutdown on.
    ending: Option<Pin<Box<Sleep>>>,
    /// How much is still read then, and of it before the next pause.
    bytes_left: usize,
    bytes_at_once: usize,
    /// Nothing is read before its end.
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Gentle<S> {
    pub(crate) const fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> Gentle<S> {
    pub(crate) fn new(stream: S, unread: Unread) -> Self {
        let (time_max, bytes_left) = (LINGER_TIME_MAX, LINGER_BYTES_MAX);
        let bytes_at_once = LINGER_BYTES_AT_ONCE;
        Self { stream, unread, time_max, ending: None, bytes_left, bytes_at_once, pause: None }
    }

    /// Reads and throws away until the client ends; ready at once where nothing is expected
    /// and nothing waits.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(ending) = &mut self.ending else { return Poll::Ready(()) };
        let mut nowhere = [0; 8 << 10];
        // The clock is looked at before each read, too: where bytes come without a pause, the task
        // uses its turn up, after which timers are as pending as reads (tokio's coop budget).
        while self.bytes_left > 0 && Instant::now() < ending.deadline() {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                (self.pause, self.bytes_at_once) = (None, LINGER_BYTES_AT_ONCE);
            }
            let mut piece = ReadBuf::new(&mut nowhere);
            match Pin::new(&mut self.stream).poll_read(context, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => self.unread.set(),
                Poll::Ready(_ended) => return Poll::Ready(()),
                Poll::Pending if !self.unread.is_set() => return Poll::Ready(()),
                Poll::Pending => return ending.as_mut().poll(context),
            }
            let read = piece.filled().len();
            self.bytes_left = self.bytes_left.saturating_sub(read);
            self.bytes_at_once = self.bytes_at_once.saturating_sub(read);
            if self.bytes_at_once == 0 {
                self.pause = Some(Box::pin(tokio::time::sleep(LINGER_PAUSE)));
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gentle<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gentle<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ending.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            this.ending = Some(Box::pin(tokio::time::sleep(this.time_max)));
        }
        this.poll_linger(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use tokio::io::AsyncWriteExt;

    use super::*;

    /// A client that never stops: each read finds as many bytes, as long as the task has its turn.
    struct Endless {
        piece: usize,
        read: Arc<AtomicUsize>,
    }

    impl AsyncRead for Endless {
        fn poll_read(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            ready!(pin!(tokio::task::consume_budget()).poll(context));
            let piece = self.piece.min(buffer.remaining());
            buffer.initialize_unfilled_to(piece);
            buffer.advance(piece);
            self.read.fetch_add(piece, Ordering::Relaxed);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Endless {
        fn poll_write(
            self: Pin<&mut Self>,
            _context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Closes on a client that sends so many bytes at a time without end: how many were read, and
    /// whether it ended before a long while was over.
    async fn closed_on(piece: usize, time_max: Duration) -> (usize, bool) {
        let read = Arc::new(AtomicUsize::new(0));
        let client = Endless { piece, read: Arc::clone(&read) };
        let mut gentle = Gentle::new(client, Unread::default());
        gentle.time_max = time_max;
        let ended = tokio::time::timeout(Duration::from_secs(10), gentle.shutdown()).await;
        (read.load(Ordering::Relaxed), ended.is_ok())
    }

    #[tokio::test]
    async fn whoever_sends_without_a_pause_is_let_go_when_the_time_is_over() {
        let (read, ended) = closed_on(1, Duration::from_millis(50)).await;
        assert!(ended, "still open after {read} bytes");
        assert!(read > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_floods_is_read_with_pauses() {
        let begun = Instant::now();
        let (read, _) = closed_on(8 << 10, Duration::from_millis(105)).await;
        assert_eq!(read, 11 * LINGER_BYTES_AT_ONCE, "one at once, ten after a pause each");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn whoever_sends_without_end_is_let_go_when_enough_was_read() {
        const PIECE: usize = 8 << 10;
        let (read, ended) = closed_on(PIECE, Duration::from_secs(3_600)).await;
        assert!(ended, "still open after {read} bytes");
        assert!((LINGER_BYTES_MAX..LINGER_BYTES_MAX + PIECE).contains(&read), "{read}");
    }
}
