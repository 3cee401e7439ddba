//! Which encoding of a file a client can read (RFC 9110, section 12.5.3).

/// An encoding that the build made of every file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As written.
    Identity,
    /// `gzip`.
    Gzip,
    /// `br`.
    Brotli,
}

impl Encoding {
    /// Value of `Content-Encoding`; none for the plain file.
    pub(crate) fn token(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Brotli => Some("br"),
        }
    }

    /// The smallest encoding that `Accept-Encoding` admits.
    ///
    /// Weights other than zero are not ranked: each of the three decodes in about the same time,
    /// so the fewest bytes win. A refusal of everything still gets the plain file, which every
    /// client can read.
    pub(crate) fn choose(accept: &str) -> Self {
        [Self::Brotli, Self::Gzip]
            .into_iter()
            .find(|encoding| encoding.token().is_some_and(|token| admits(accept, token)))
            .unwrap_or(Self::Identity)
    }
}

/// Whether `accept` names `token`, or `*` where it does not name it, with a weight above zero.
fn admits(accept: &str, token: &str) -> bool {
    let weight = |name: &str| {
        accept.split(',').find_map(|part| {
            let mut pieces = part.split(';');
            let coding = pieces.next()?.trim();
            coding.eq_ignore_ascii_case(name).then(|| {
                pieces
                    .find_map(|piece| piece.trim().strip_prefix("q=")?.trim().parse::<f32>().ok())
                    .unwrap_or(1.0)
            })
        })
    };
    weight(token).or_else(|| weight("*")).is_some_and(|q| q > 0.0)
}

/// Whether `If-None-Match` holds `tag` (weak comparison, RFC 9110, section 13.1.2).
pub(crate) fn holds(if_none_match: &str, tag: &str) -> bool {
    if_none_match.split(',').map(str::trim).any(|candidate| {
        candidate == "*" || candidate.strip_prefix("W/").unwrap_or(candidate) == tag
    })
}

#[cfg(test)]
mod tests {
    use super::{Encoding, holds};

    #[test]
    fn the_smallest_admitted_encoding_is_chosen() {
        let cases = [
            ("", Encoding::Identity),
            ("gzip, deflate, br, zstd", Encoding::Brotli),
            ("gzip", Encoding::Gzip),
            ("GZIP;q=0.5", Encoding::Gzip),
            ("br;q=0, gzip", Encoding::Gzip),
            ("br; q=0.0, gzip; q=0", Encoding::Identity),
            ("*", Encoding::Brotli),
            ("*;q=0.1, br;q=0", Encoding::Gzip),
            ("identity", Encoding::Identity),
            ("brotli, xgzip", Encoding::Identity),
        ];
        for (accept, expected) in cases {
            assert_eq!(Encoding::choose(accept), expected, "{accept}");
        }
    }

    #[test]
    fn a_tag_is_found_in_a_list_weak_or_strong() {
        let cases = [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"ab\"", false),
            ("a", false),
            ("", false),
        ];
        for (header, expected) in cases {
            assert_eq!(holds(header, "\"a\""), expected, "{header}");
        }
    }
}
