//! A connection that ends gently: whoever still writes gets to read the answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How long what still comes is read after our end of the connection was closed. A close with
/// unread bytes is a reset, which takes the answer from the client's hands (RFC 9112, 9.6).
const LINGER_TIME_MAX: Duration = Duration::from_secs(5);

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
pub(crate) struct Gentle {
    stream: TcpStream,
    unread: Unread,
    /// Until when is read; there from our shutdown on.
    ending: Option<Pin<Box<Sleep>>>,
}

impl Gentle {
    pub(crate) fn new(stream: TcpStream, unread: Unread) -> Self {
        Self { stream, unread, ending: None }
    }

    /// Reads and throws away until the client ends; ready at once where nothing is expected
    /// and nothing waits.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut nowhere = [0; 8 << 10];
        loop {
            let mut piece = ReadBuf::new(&mut nowhere);
            match Pin::new(&mut self.stream).poll_read(context, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => self.unread.set(),
                Poll::Ready(_ended) => return Poll::Ready(()),
                Poll::Pending if !self.unread.is_set() => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        match &mut self.ending {
            Some(ending) => ending.as_mut().poll(context),
            None => Poll::Ready(()),
        }
    }
}

impl AsyncRead for Gentle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gentle {
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
            this.ending = Some(Box::pin(tokio::time::sleep(LINGER_TIME_MAX)));
        }
        this.poll_linger(context).map(Ok)
    }
}
