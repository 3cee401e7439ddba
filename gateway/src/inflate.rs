//! Decompression that counts: it stops at the limit, and a stream that does not end is refused.

use std::io::{self, Read};

use thiserror::Error;

use crate::Limits;

/// Bytes inflated between two looks at the limits.
const STEP_BYTES: usize = 64 << 10;

/// Below this the ratio is not judged: tiny bodies of one repeated event are no bombs.
const RATIO_FLOOR_BYTES: usize = 64 << 10;

/// Largest window of zstd, as its logarithm: 16 MiB, what a whole body may inflate to.
const ZSTD_WINDOW_LOG_MAX: u32 = 24;

const CUT_SHORT: &str = "it ends too early";
const NO_GZIP: &str = "it is no gzip stream, or damaged";
const NO_ZSTD: &str = "it is no zstd stream, or damaged, or needs a window of more than 16 MiB";
const NO_BROTLI: &str = "it is no brotli stream, or damaged";

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// RFC 1952, one member or several.
    Gzip,
    /// RFC 8878, one frame or several.
    Zstd,
    /// RFC 7932.
    Brotli,
}

impl Encoding {
    /// The encoding of that name in `Content-Encoding`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Self::Identity),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            "br" => Some(Self::Brotli),
            _ => None,
        }
    }
}

/// Why a body was not inflated; nothing of it is used.
#[derive(Debug, Error)]
pub(crate) enum InflateError {
    /// Not the encoding that it says, or cut short, or followed by something else.
    #[error("the body does not decompress to its end: {reason}")]
    Corrupt { reason: &'static str },
    /// Larger than the limit.
    #[error(
        "the body inflates to more than inflated_bytes_max = {max} bytes; send smaller batches"
    )]
    TooLarge { max: usize },
    /// A bomb.
    #[error(
        "the body inflates to more than inflate_ratio_max = {max} times its size; send it plain"
    )]
    Ratio { max: usize },
    /// No memory for it now.
    #[error("the buffers for bodies are full")]
    Busy,
}

/// Inflates `wire`; `reserve` is asked for memory before it is used.
pub(crate) fn inflate(
    encoding: Encoding,
    wire: &[u8],
    limits: &Limits,
    reserve: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<u8>, InflateError> {
    let mut sink = Sink { out: Vec::new(), wire_bytes: wire.len(), limits, reserve };
    if wire.is_empty() {
        return Err(corrupt("it is empty"));
    }
    match encoding {
        Encoding::Identity => sink.check(wire.len()).map(|()| wire.to_vec()),
        Encoding::Gzip => sink.read(flate2::bufread::MultiGzDecoder::new(wire), NO_GZIP),
        Encoding::Zstd => {
            let fault = |error| fault(&error, NO_ZSTD);
            let mut decoder = zstd::stream::read::Decoder::with_buffer(wire).map_err(fault)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(fault)?;
            sink.read(decoder, NO_ZSTD)
        }
        Encoding::Brotli => sink.brotli(wire),
    }
}

const fn corrupt(reason: &'static str) -> InflateError {
    InflateError::Corrupt { reason }
}

/// What a library says of a stream, in our words: that it ends too early, or `otherwise`.
fn fault(error: &io::Error, otherwise: &'static str) -> InflateError {
    corrupt(if error.kind() == io::ErrorKind::UnexpectedEof { CUT_SHORT } else { otherwise })
}

struct Sink<'a> {
    out: Vec<u8>,
    wire_bytes: usize,
    limits: &'a Limits,
    reserve: &'a mut dyn FnMut(usize) -> bool,
}

impl Sink<'_> {
    fn read(
        mut self,
        mut reader: impl Read,
        otherwise: &'static str,
    ) -> Result<Vec<u8>, InflateError> {
        let step = u64::try_from(STEP_BYTES).unwrap_or(u64::MAX);
        loop {
            let before = self.out.len();
            let mut limited = reader.by_ref().take(step);
            limited.read_to_end(&mut self.out).map_err(|error| fault(&error, otherwise))?;
            if self.out.len() == before {
                return Ok(self.out);
            }
            self.check(self.out.len() - before)?;
        }
    }

    fn brotli(mut self, wire: &[u8]) -> Result<Vec<u8>, InflateError> {
        use brotli::BrotliResult;
        use brotli::enc::StandardAlloc;

        let alloc = StandardAlloc::default;
        // RFC 7932 and no more: with large windows a few bytes may ask for a gigabyte.
        let mut state = brotli::BrotliState::new_strict(alloc(), alloc(), alloc());
        let mut step = vec![0; STEP_BYTES];
        let (mut left, mut consumed, mut total) = (wire.len(), 0, 0);
        loop {
            let (mut room, mut written) = (step.len(), 0);
            let result = brotli::BrotliDecompressStream(
                &mut left,
                &mut consumed,
                wire,
                &mut room,
                &mut written,
                &mut step,
                &mut total,
                &mut state,
            );
            self.out.extend_from_slice(&step[..written]);
            self.check(written)?;
            match result {
                BrotliResult::ResultSuccess if left == 0 => return Ok(self.out),
                BrotliResult::ResultSuccess => return Err(corrupt("bytes follow its end")),
                BrotliResult::NeedsMoreOutput => {}
                BrotliResult::NeedsMoreInput => return Err(corrupt(CUT_SHORT)),
                BrotliResult::ResultFailure => return Err(corrupt(NO_BROTLI)),
            }
        }
    }

    fn check(&mut self, grown: usize) -> Result<(), InflateError> {
        let max = self.limits.inflated_bytes_max;
        if self.out.len() > max {
            return Err(InflateError::TooLarge { max });
        }
        let max = self.limits.inflation_ratio_max;
        if self.out.len() > RATIO_FLOOR_BYTES.max(self.wire_bytes.saturating_mul(max)) {
            return Err(InflateError::Ratio { max });
        }
        if (self.reserve)(grown) { Ok(()) } else { Err(InflateError::Busy) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn brotli(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut input = bytes;
        brotli::BrotliCompress(&mut input, &mut out, &brotli::enc::BrotliEncoderParams::default())
            .unwrap();
        out
    }

    fn all(bytes: &[u8]) -> [(Encoding, Vec<u8>); 3] {
        [
            (Encoding::Gzip, gzip(bytes)),
            (Encoding::Zstd, zstd::encode_all(bytes, 3).unwrap()),
            (Encoding::Brotli, brotli(bytes)),
        ]
    }

    fn open(encoding: Encoding, wire: &[u8]) -> Result<Vec<u8>, InflateError> {
        inflate(encoding, wire, &Limits::default(), &mut |_| true)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_was_compressed_comes_back(bytes in proptest::collection::vec(any::<u8>(), 1..4_000)) {
            for (encoding, wire) in all(&bytes) {
                prop_assert_eq!(&open(encoding, &wire).unwrap(), &bytes, "{:?}", encoding);
            }
        }

        #[test]
        fn any_bytes_are_inflated_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for encoding in [Encoding::Gzip, Encoding::Zstd, Encoding::Brotli] {
                drop(open(encoding, &bytes));
            }
        }
    }

    #[test]
    fn a_stream_cut_anywhere_or_followed_by_something_is_refused() {
        let bytes = b"{\"event_type\":\"play\",\"user_id\":\"u-1\"}".repeat(20);
        for (encoding, wire) in all(&bytes) {
            for cut in 0..wire.len() {
                let outcome = open(encoding, &wire[..cut]);
                assert!(matches!(outcome, Err(InflateError::Corrupt { .. })), "{encoding:?} {cut}");
            }
            let mut longer = wire.clone();
            longer.extend_from_slice(b"garbage!");
            assert!(open(encoding, &longer).is_err(), "{encoding:?} followed by garbage");
        }
    }

    #[test]
    fn a_stream_that_does_not_inflate_is_told_from_one_that_ends_too_early() {
        let told = |encoding, wire: &[u8]| match open(encoding, wire) {
            Err(InflateError::Corrupt { reason }) => reason,
            other => panic!("{other:?}"),
        };
        for (encoding, wire) in all(&b"{\"event_type\":\"play\"}".repeat(20)) {
            for cut in 1..wire.len() {
                assert_eq!(told(encoding, &wire[..cut]), CUT_SHORT, "{encoding:?} {cut}");
            }
        }
        let json = b"{\"event_type\":\"play\"}";
        let streams =
            [(Encoding::Gzip, NO_GZIP), (Encoding::Zstd, NO_ZSTD), (Encoding::Brotli, NO_BROTLI)];
        for (encoding, reason) in streams {
            assert_eq!(told(encoding, json), reason);
        }
        // A window that would take more memory than a body may.
        let mut wide = zstd::Encoder::new(Vec::new(), 3).unwrap();
        wide.window_log(27).unwrap();
        wide.write_all(&[b' '; 100]).unwrap();
        wide.flush().unwrap();
        assert_eq!(told(Encoding::Zstd, &wide.finish().unwrap()), NO_ZSTD);
        let mut wide = Vec::new();
        let params = brotli::enc::BrotliEncoderParams {
            large_window: true,
            lgwin: 30,
            ..Default::default()
        };
        brotli::BrotliCompress(&mut &[b' '; 100][..], &mut wide, &params).unwrap();
        assert_eq!(told(Encoding::Brotli, &wide), NO_BROTLI);
    }

    #[test]
    fn several_members_are_one_body() {
        let wire = [gzip(b"[1,"), gzip(b"2]")].concat();
        assert_eq!(open(Encoding::Gzip, &wire).unwrap(), b"[1,2]");
    }

    #[test]
    fn a_bomb_stops_at_the_ratio_and_a_giant_at_the_limit() {
        let zeros = vec![b' '; 8 << 20];
        for (encoding, wire) in all(&zeros) {
            let outcome = open(encoding, &wire);
            assert!(matches!(outcome, Err(InflateError::Ratio { max: 100 })), "{encoding:?}");
        }
        let limits = Limits {
            inflated_bytes_max: 1 << 20,
            inflation_ratio_max: 1 << 20,
            ..Limits::default()
        };
        for (encoding, wire) in all(&zeros) {
            let mut most = 0;
            let outcome = inflate(encoding, &wire, &limits, &mut |grown| {
                most += grown;
                true
            });
            assert!(matches!(outcome, Err(InflateError::TooLarge { .. })), "{encoding:?}");
            assert!(most <= (1 << 20) + STEP_BYTES, "{encoding:?} used {most}");
        }
    }

    #[test]
    fn without_memory_it_stops() {
        for (encoding, wire) in all(&b"x".repeat(1_000)) {
            let outcome = inflate(encoding, &wire, &Limits::default(), &mut |_| false);
            assert!(matches!(outcome, Err(InflateError::Busy)), "{encoding:?}");
        }
    }
}
