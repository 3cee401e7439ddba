//! One batch by itself, for the fuzz targets.

use std::io;

use nilometer_event::Offset;

use crate::batch::{HEADER_BYTES, Header, count_despite_damage, encode, place, seal};
use crate::{Codec, Fetched, Records};

/// What a reader makes of a batch; `None` where it is damaged.
#[must_use]
pub fn read(batch: &[u8]) -> Option<Fetched> {
    // A damaged one is asked how many it held: whatever that says, it says it of any bytes.
    let _count = count_despite_damage(batch);
    let header = Header::parse(batch.first_chunk()?)?;
    if !header.verify(batch) {
        return None;
    }
    let (from, next) = (Offset::new(header.base), Offset::new(header.next()?));
    Some(Fetched::new(from, next, vec![header.decode(batch)?]))
}

/// Makes length and checks of a batch right, so that what lies behind them is reached.
pub fn mend(batch: &mut [u8], base: u64) {
    if batch.len() >= HEADER_BYTES && seal(batch).is_ok() {
        place(batch, base);
    }
}

/// The bytes of a batch at `base`.
///
/// # Errors
///
/// When the compressor fails.
pub fn write(records: &Records, base: u64, codec: Codec) -> io::Result<Vec<u8>> {
    let mut batch = Vec::new();
    encode(records, base, codec, &mut batch)?;
    Ok(batch)
}
