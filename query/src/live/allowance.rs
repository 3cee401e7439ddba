//! What a client may still send, and the memory that a message holds while it comes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use nilometer_access::{Buffers, Share};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{MESSAGE_BYTES_MAX, UNKNOWN_BYTES_MAX};

/// So much of a message costs nothing: a connection has room for it.
const BYTES_FREE: usize = 16 << 10;
/// A message lies in memory twice while it comes: as it was read, and as what it will be.
const COPIES: usize = 2;
/// A message may come in pieces, and each piece has a head of some bytes.
const WITH_HEADS_MAX: usize = 2 * MESSAGE_BYTES_MAX;

/// Bytes that a client may still send: it has few until it is known, and only as many as there is
/// memory for between one message and the next.
#[derive(Debug)]
pub(super) struct Allowance {
    left: AtomicUsize,
    coming: Mutex<Coming>,
    /// Others need what the message holds that is to come.
    gone: CancellationToken,
}

/// A message of which some has come.
#[derive(Debug)]
struct Coming {
    buffers: Buffers,
    bytes: usize,
    share: Option<Share>,
    has_room: bool,
}

impl Allowance {
    pub(super) fn new(buffers: &Buffers) -> Self {
        let coming = Coming { buffers: buffers.clone(), bytes: 0, share: None, has_room: true };
        Self {
            left: AtomicUsize::new(UNKNOWN_BYTES_MAX),
            coming: Mutex::new(coming),
            gone: CancellationToken::new(),
        }
    }

    /// Lets the client send what it likes from now on.
    pub(super) fn lift(&self) {
        self.left.store(usize::MAX, Ordering::Relaxed);
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.left() == 0
    }

    /// Whether the messages had memory, until now.
    pub(super) fn has_room(&self) -> bool {
        self.coming.lock().has_room && !self.gone.is_cancelled()
    }

    /// A message is there as a whole.
    pub(super) fn heard(&self) {
        let mut coming = self.coming.lock();
        (coming.bytes, coming.share) = (0, None);
    }

    /// So many bytes were a frame of their own, which may stand among the pieces of a message.
    pub(super) fn heard_between(&self, bytes: usize) {
        let mut coming = self.coming.lock();
        coming.bytes = coming.bytes.saturating_sub(bytes);
    }

    fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Takes what came from what may; `Err` where there is no memory for it.
    fn use_up(&self, bytes: usize) -> io::Result<()> {
        if self.left() != usize::MAX {
            self.left.fetch_sub(bytes, Ordering::Relaxed);
        }
        let mut coming = self.coming.lock();
        coming.bytes += bytes;
        if coming.bytes <= BYTES_FREE {
            return Ok(());
        }
        let has_room = coming.bytes <= WITH_HEADS_MAX && coming.grow(bytes, &self.gone);
        coming.has_room &= has_room;
        if has_room { Ok(()) } else { Err(io::Error::other("no memory for a message")) }
    }
}

impl Coming {
    fn grow(&mut self, bytes: usize, gone: &CancellationToken) -> bool {
        if let Some(share) = &mut self.share {
            return share.grow(bytes * COPIES);
        }
        let mut share = self.buffers.share();
        share.wait(gone.clone());
        share.grow(self.bytes * COPIES) && {
            self.share = Some(share);
            true
        }
    }
}

/// The network, as far as the allowance goes, and in both directions or none: whoever does not
/// take what is answered is not read, so that no more than one message and the answers to one
/// read ever wait for it.
#[derive(Debug)]
pub(super) struct Metered {
    io: TokioIo<Upgraded>,
    allowance: Arc<Allowance>,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The network takes nothing now.
    is_full: bool,
    /// What still comes is thrown away.
    is_ending: bool,
}

impl Metered {
    pub(super) fn new(io: TokioIo<Upgraded>, allowance: Arc<Allowance>) -> Self {
        let gone = Box::pin(allowance.gone.clone().cancelled_owned());
        Self { io, allowance, gone, is_full: false, is_ending: false }
    }

    /// From here on whatever comes is read.
    pub(super) fn end(&mut self) {
        self.allowance.heard();
        (self.is_full, self.is_ending) = (false, true);
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_ending {
            return Pin::new(&mut this.io).poll_read(context, into);
        }
        if this.gone.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::other("others need the memory of a message")));
        }
        if this.is_full {
            // The write that waits wakes the task, which tries to write before it reads.
            return Poll::Pending;
        }
        let left = this.allowance.left();
        if left == 0 {
            return Poll::Ready(Err(io::Error::other("too much before signing in")));
        }
        if left == usize::MAX {
            let before = into.filled().len();
            let read = Pin::new(&mut this.io).poll_read(context, into);
            let came = into.filled().len() - before;
            return if came > 0 { Poll::Ready(this.allowance.use_up(came)) } else { read };
        }
        let mut piece = [0; 4 << 10];
        let length = left.min(piece.len()).min(into.remaining());
        let mut piece = ReadBuf::new(&mut piece[..length]);
        let read = Pin::new(&mut this.io).poll_read(context, &mut piece);
        into.put_slice(piece.filled());
        let came = piece.filled().len();
        if came > 0 { Poll::Ready(this.allowance.use_up(came)) } else { read }
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.is_full = written.is_pending();
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
