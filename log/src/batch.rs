//! The bytes of a batch: Kafka's RecordBatch v2, to be read by anyone for good.
//!
//! Source: Apache Kafka documentation, "Message Format", RecordBatch v2. Kafka's CRC-32C does
//! not cover the first 17 bytes, because a broker sets base offset and leader epoch there. We
//! are the broker: in the leader epoch, which readers ignore, we keep a check of base offset
//! and length, so that a flipped bit anywhere in a batch is seen.

use std::io::{self, Read as _, Write as _};

use crc_fast::CrcAlgorithm;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use crate::Records;
use crate::records::{Decoded, is_well_formed};
use crate::settings::Codec;

/// Bytes before the records.
pub(crate) const HEADER_BYTES: usize = 61;
/// The largest batch before compression, whatever the settings say: readers hold it whole.
pub(crate) const INFLATED_BYTES_MAX: usize = 256 << 20;

/// Bytes that `batchLength` does not count: base offset and itself.
const LENGTH_ENDS: usize = 12;
const EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const MAGIC: u8 = 2;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_DELTA_AT: usize = 23;
const FIRST_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_AT: usize = 43;
const COUNT_AT: usize = 57;

const CODEC_MASK: i16 = 0b111;
const CODEC_LZ4: i16 = 3;
const CODEC_ZSTD: i16 = 4;
const ZSTD_LEVEL: i32 = 1;

/// A header whose base offset and length are right; the rest is only after [`Header::verify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) base: u64,
    /// Size of the whole batch.
    pub(crate) total: usize,
    /// How many records, where the two fields that say it agree.
    pub(crate) count: Option<u32>,
    pub(crate) first_timestamp: i64,
    pub(crate) max_timestamp: i64,
}

impl Header {
    /// Reads a header; `None` where it is damaged.
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        if bytes[MAGIC_AT] != MAGIC || bytes[EPOCH_AT..MAGIC_AT] != place_check(bytes) {
            return None;
        }
        let length = usize::try_from(i32::from_be_bytes(field(bytes, 8))).ok()?;
        let last_delta = i32::from_be_bytes(field(bytes, LAST_DELTA_AT));
        let count = i32::from_be_bytes(field(bytes, COUNT_AT));
        let agree = count > 0 && last_delta == count - 1;
        Some(Self {
            base: u64::from_be_bytes(field(bytes, 0)),
            total: length.checked_add(LENGTH_ENDS).filter(|&total| total >= HEADER_BYTES)?,
            count: u32::try_from(count).ok().filter(|_| agree),
            first_timestamp: i64::from_be_bytes(field(bytes, FIRST_TIMESTAMP_AT)),
            max_timestamp: i64::from_be_bytes(field(bytes, MAX_TIMESTAMP_AT)),
        })
    }

    /// True where `batch`, the whole of it, is as it was written.
    pub(crate) fn verify(&self, batch: &[u8]) -> bool {
        batch.len() == self.total
            && self.next().is_some()
            && batch[CRC_AT..ATTRIBUTES_AT] == crc32c(&batch[ATTRIBUTES_AT..]).to_be_bytes()
    }

    /// The offset after its last record.
    pub(crate) fn next(&self) -> Option<u64> {
        self.base.checked_add(u64::from(self.count?))
    }

    /// Decompresses a verified batch; `None` where it is not what this room writes.
    pub(crate) fn decode(&self, batch: &[u8]) -> Option<Decoded> {
        let attributes = i16::from_be_bytes(field(batch, ATTRIBUTES_AT));
        let body = batch.get(HEADER_BYTES..)?;
        let section = match attributes & CODEC_MASK {
            0 => body.to_vec(),
            CODEC_LZ4 => inflate(FrameDecoder::new(body), body.len())?,
            CODEC_ZSTD => inflate(zstd::stream::read::Decoder::new(body).ok()?, body.len())?,
            _ => return None,
        };
        let count = self.count?;
        is_well_formed(&section, count).then_some(Decoded {
            base: self.base,
            first_timestamp: self.first_timestamp,
            count,
            section: section.into(),
        })
    }
}

/// Appends `records`, which are not empty, as one batch at `base`.
///
/// # Errors
///
/// When the compressor fails, or the batch is over 2 GiB.
pub(crate) fn encode(
    records: &Records,
    base: u64,
    codec: Codec,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    let mut codec_bits = deflate(&records.section, codec, out)?;
    if out.len() - start - HEADER_BYTES >= records.section.len() {
        out.truncate(start + HEADER_BYTES);
        out.extend_from_slice(&records.section);
        codec_bits = 0;
    }
    let batch = &mut out[start..];
    let count = i32::try_from(records.count).map_err(io::Error::other)?;
    put(batch, ATTRIBUTES_AT, codec_bits.to_be_bytes());
    put(batch, LAST_DELTA_AT, (count - 1).to_be_bytes());
    put(batch, FIRST_TIMESTAMP_AT, records.first_timestamp.to_be_bytes());
    put(batch, MAX_TIMESTAMP_AT, records.max_timestamp.to_be_bytes());
    // No producer id, no producer epoch, no sequence.
    batch[PRODUCER_AT..COUNT_AT].fill(0xff);
    put(batch, COUNT_AT, count.to_be_bytes());
    seal(batch)?;
    place(batch, base);
    Ok(())
}

/// Says of a batch, which has a header, how long it is, and what its CRC is.
pub(crate) fn seal(batch: &mut [u8]) -> io::Result<()> {
    let length = i32::try_from(batch.len() - LENGTH_ENDS).map_err(io::Error::other)?;
    put(batch, 8, length.to_be_bytes());
    batch[MAGIC_AT] = MAGIC;
    let crc = crc32c(&batch[ATTRIBUTES_AT..]);
    put(batch, CRC_AT, crc.to_be_bytes());
    Ok(())
}

/// Gives a batch its place, as a broker does: base offset and leader epoch.
pub(crate) fn place(batch: &mut [u8], base: u64) {
    put(batch, 0, base.to_be_bytes());
    let check = place_check(batch);
    put(batch, EPOCH_AT, check);
}

/// What the leader epoch must hold: 31 bits of CRC-32C over base offset and length.
fn place_check(batch: &[u8]) -> [u8; 4] {
    (crc32c(&batch[..LENGTH_ENDS]) & 0x7fff_ffff).to_be_bytes()
}

/// How many records a damaged batch held, where that can still be told: `rest` begins with it,
/// and no good batch follows. One flipped bit, wherever it is, leaves the count known.
pub(crate) fn count_despite_damage(rest: &[u8]) -> Option<u32> {
    let header: &[u8; HEADER_BYTES] = rest.first_chunk()?;
    let count = i32::from_be_bytes(field(header, COUNT_AT));
    let last_delta = i32::from_be_bytes(field(header, LAST_DELTA_AT));
    let said = usize::try_from(i32::from_be_bytes(field(header, 8)))
        .map_or(0, |length| length.saturating_add(LENGTH_ENDS));
    let is_placed = place_check(header) == field(header, EPOCH_AT);
    let vouches = |total: usize, count: i32| {
        let mut repaired = *header;
        put(&mut repaired, LAST_DELTA_AT, (count - 1).to_be_bytes());
        put(&mut repaired, COUNT_AT, count.to_be_bytes());
        let Some(records) = rest.get(HEADER_BYTES..total) else { return false };
        let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&repaired[ATTRIBUTES_AT..]);
        digest.update(records);
        u64::from(u32::from_be_bytes(field(header, CRC_AT))) == digest.finalize()
    };
    let is_count = |count: i32| {
        // Two fields that agree, in a batch that lies where it says, are right whatever else
        // is wrong; a field alone is right where the CRC says so.
        0 < count
            && ((is_placed && last_delta == count - 1)
                || vouches(said, count)
                || vouches(rest.len(), count))
    };
    let found = [count, last_delta.saturating_add(1)].into_iter().find(|&count| is_count(count));
    u32::try_from(found?).ok()
}

fn crc32c(bytes: &[u8]) -> u32 {
    let sum = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes);
    // The library returns every width as u64; this one has 32 bits.
    u32::try_from(sum & 0xffff_ffff).unwrap_or(0)
}

/// Compresses to the end of `out`; returns the codec's bits.
fn deflate(section: &[u8], codec: Codec, out: &mut Vec<u8>) -> io::Result<i16> {
    match codec {
        Codec::None => {
            out.extend_from_slice(section);
            Ok(0)
        }
        Codec::Lz4 => {
            // The encoder allocates blocks of this size.
            let is_small = section.len() <= 64 << 10;
            let size = if is_small { BlockSize::Max64KB } else { BlockSize::Max256KB };
            // Kafka's reader wants independent blocks.
            let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(size);
            let mut encoder = FrameEncoder::with_frame_info(info, out);
            encoder.write_all(section)?;
            encoder.finish().map_err(io::Error::other)?;
            Ok(CODEC_LZ4)
        }
        Codec::Zstd => {
            zstd::stream::copy_encode(section, out, ZSTD_LEVEL)?;
            Ok(CODEC_ZSTD)
        }
    }
}

fn inflate(reader: impl io::Read, compressed: usize) -> Option<Vec<u8>> {
    let limit = INFLATED_BYTES_MAX as u64;
    let mut section = Vec::with_capacity(compressed.saturating_mul(4).min(INFLATED_BYTES_MAX));
    reader.take(limit + 1).read_to_end(&mut section).ok()?;
    (section.len() as u64 <= limit).then_some(section)
}

fn put<const N: usize>(batch: &mut [u8], at: usize, bytes: [u8; N]) {
    batch[at..at + N].copy_from_slice(&bytes);
}

fn field<const N: usize>(batch: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&batch[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests;
