//! The built files, as they lie in the binary.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::negotiate::Encoding;

/// Hexadecimal digits of the content's SHA-256 that name a version: 64 bits.
const VERSION_DIGITS: usize = 16;

/// One file of the pages, in every encoding that the build made.
#[derive(Debug)]
pub(crate) struct Asset {
    /// Path under which it is served, with the leading slash.
    pub(crate) path: &'static str,
    /// Value of `Content-Type`.
    pub(crate) content_type: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
    brotli: &'static [u8],
}

impl Asset {
    /// Bytes of the file in `encoding`.
    pub(crate) fn bytes(&self, encoding: Encoding) -> &'static [u8] {
        match encoding {
            Encoding::Identity => self.plain,
            Encoding::Gzip => self.gzip,
            Encoding::Brotli => self.brotli,
        }
    }

    /// Names the content: the first 16 hexadecimal digits of its SHA-256, as `?v=` carries it.
    pub(crate) fn version(&self) -> String {
        let mut version = hex(&Sha256::digest(self.plain));
        version.truncate(VERSION_DIGITS);
        version
    }
}

/// Writes `bytes` as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a `String` cannot fail.
        let _written = write!(text, "{byte:02x}");
        text
    })
}

macro_rules! asset {
    ($path:literal, $content_type:literal) => {
        Asset {
            path: $path,
            content_type: $content_type,
            plain: include_bytes!(concat!("../assets", $path)),
            gzip: include_bytes!(concat!("../assets", $path, ".gz")),
            brotli: include_bytes!(concat!("../assets", $path, ".br")),
        }
    };
}

/// The page that every address of the dashboard opens.
pub(crate) static INDEX: Asset = asset!("/index.html", "text/html; charset=utf-8");

/// What the page loads.
pub(crate) static FILES: [Asset; 3] = [
    asset!("/app.js", "text/javascript; charset=utf-8"),
    asset!("/app.css", "text/css; charset=utf-8"),
    asset!("/favicon.svg", "image/svg+xml"),
];
