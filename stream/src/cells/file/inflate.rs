//! Decompression of sections, of which a file has hundreds.

use std::cell::RefCell;
use std::io;

use zstd::bulk::Decompressor;

thread_local! {
    /// Most sections are so small that a context costs more to set up than they to decompress.
    static CONTEXT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// What one zstd frame holds, of at most `bytes_max` bytes.
///
/// # Errors
///
/// Where `stored` is no such frame, or holds more.
pub fn inflate(stored: &[u8], bytes_max: usize) -> io::Result<Vec<u8>> {
    CONTEXT.with_borrow_mut(|context| match context {
        Some(context) => context.decompress(stored, bytes_max),
        None => context.insert(Decompressor::new()?).decompress(stored, bytes_max),
    })
}
