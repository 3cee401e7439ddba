//! Bytes: compressed bodies, batches of the log, checkpoints, records.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use nilometer_event::{DeadLetter, avro as codec};
use nilometer_gateway::bench;
use nilometer_gateway::{Encoding, Limits};
use nilometer_log::settings::Codec;
use nilometer_log::{Fetched, RecordsBuilder, fuzz};
use nilometer_stream::checkpoint::Manifest;

use crate::in_time;

/// Larger bodies are not compressed for the way back, which costs more than the way in.
const ROUNDTRIP_BYTES_MAX: usize = 4 << 10;

/// A body of any encoding: it stays within its limits, and what was compressed comes back.
///
/// # Panics
///
/// Where that does not hold.
pub fn inflate(data: &[u8]) {
    let limits = Limits { inflated_bytes_max: 1 << 20, ..Limits::default() };
    for encoding in [Encoding::Gzip, Encoding::Zstd, Encoding::Brotli, Encoding::Identity] {
        // What comes out costs time as what goes in does.
        let done = in_time(data.len() + limits.inflated_bytes_max, || {
            bench::inflate(encoding, data, &limits)
        });
        if let Ok((body, reserved)) = done {
            assert!(body.len() <= limits.inflated_bytes_max && body.len() <= reserved);
        }
    }
    if data.is_empty() || data.len() > ROUNDTRIP_BYTES_MAX {
        return;
    }
    for (encoding, wire) in compressed(data) {
        let (body, _) = bench::inflate(encoding, &wire, &limits).expect("it was just compressed");
        assert!(body == data, "{encoding:?} gives back something else");
    }
}

fn compressed(data: &[u8]) -> [(Encoding, Vec<u8>); 3] {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(data).expect("a vector takes any bytes");
    let mut brotli = Vec::new();
    let params = brotli::enc::BrotliEncoderParams { quality: 1, ..Default::default() };
    let mut rest = data;
    brotli::BrotliCompress(&mut rest, &mut brotli, &params).expect("a vector takes any bytes");
    [
        (Encoding::Gzip, gzip.finish().expect("a vector takes any bytes")),
        (Encoding::Zstd, zstd::bulk::compress(data, 1).expect("it compresses")),
        (Encoding::Brotli, brotli),
    ]
}

/// A batch as it lies on the disk: damaged, or with its checks made right, so that what is behind
/// them is reached. Records that were read are those that are read when they are written again.
///
/// # Panics
///
/// Where that does not hold.
pub fn log_batch(data: &[u8]) {
    let said = in_time(data.len(), || fuzz::read(data));
    let base = said.as_ref().map_or(7, |fetched| fetched.next().get() / 2);
    let mut mended = data.to_vec();
    fuzz::mend(&mut mended, base);
    let Some(read) = in_time(data.len(), || fuzz::read(&mended)) else { return };
    let mut records = RecordsBuilder::new();
    for record in read.iter() {
        records.push(record.timestamp, record.key, record.value);
    }
    let records = records.build();
    assert_eq!(read.next().get(), base + records.len() as u64, "a record is missing");
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let written = fuzz::write(&records, base, codec).expect("records compress");
        let again = fuzz::read(&written).expect("what was written reads");
        assert!(all(&again) == all(&read), "{codec:?} gives back something else");
    }
}

fn all(fetched: &Fetched) -> Vec<nilometer_log::Record<'_>> {
    fetched.iter().collect()
}

/// A checkpoint's manifest, its checksum made right.
///
/// # Panics
///
/// Where one that is read is not read again, equal, when it is written.
pub fn manifest(data: &[u8]) {
    let mut bytes = data.to_vec();
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data);
    bytes.extend_from_slice(&crc.to_le_bytes()[..4]);
    let Some(read) = in_time(data.len(), || Manifest::from_bytes(&bytes)) else { return };
    let written = read.to_bytes().expect("a manifest is written");
    let again = Manifest::from_bytes(&written).expect("what was written reads");
    assert_eq!(again, read);
}

/// A record of the event topics, or of the dead letters.
///
/// # Panics
///
/// Where one that is read is not read again when it is written, in bytes that are no more, or is
/// read with bytes behind it.
pub fn avro(data: &[u8]) {
    let longer = [data, &[0]].concat();
    if let Ok(event) = in_time(data.len(), || codec::decode(data)) {
        assert!(codec::decode(&longer).is_err());
        let mut written = Vec::new();
        codec::encode(&event, &mut written);
        // The same numbers may be written longer than they need.
        assert!(written.len() <= data.len());
        let again = codec::decode(&written).expect("what was written reads");
        let mut once_more = Vec::new();
        codec::encode(&again, &mut once_more);
        // By bytes, for a number that is none equals nothing.
        assert!(once_more == written, "{again:?} is not {event:?}");
    }
    if let Ok(letter) = in_time(data.len(), || DeadLetter::decode(data)) {
        assert!(DeadLetter::decode(&longer).is_err());
        let mut written = Vec::new();
        letter.encode(&mut written);
        assert_eq!(DeadLetter::decode(&written), Ok(letter));
    }
}
