//! Where a request carries its key: header, cookie, or an ingest URL.

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};

use crate::COOKIE_NAME;

/// The token of `Authorization: Bearer …`. One that is missing, or no text, is an empty one, which
/// opens nothing: who shows a token is judged by it, and not by what else the request carries.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let scheme = value.split(|byte| *byte == b' ').next()?;
    let token = &value[scheme.len()..];
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer");
    is_bearer.then(|| std::str::from_utf8(token).unwrap_or_default().trim())
}

/// The value of the session cookie.
#[must_use]
pub fn session(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE_NAME)
        .map(|(_, value)| value)
}

/// The `write_key` of a query string, for beacons, which cannot set headers. Tokens are made
/// of characters that a URL needs no escapes for; a `%` in one is not understood.
#[must_use]
pub fn write_key(query: Option<&str>) -> Option<&str> {
    query?
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| *name == "write_key")
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_key_is_found_where_it_may_be_and_nowhere_else() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("bearer nw_1"));
        headers.insert(COOKIE, HeaderValue::from_static("a=b; nilometer_session=s1; c=d"));
        assert_eq!(bearer(&headers), Some("nw_1"));
        assert_eq!(session(&headers), Some("s1"));
        assert_eq!(write_key(Some("x=1&write_key=nw_2")), Some("nw_2"));
        assert_eq!(write_key(Some("token=nw_2")), None);
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic nw_1"));
        assert_eq!(bearer(&headers), None);
        for nothing in [&b"Bearer"[..], b"Bearer ", b"Bearer \xff"] {
            headers.insert(AUTHORIZATION, HeaderValue::from_bytes(nothing).unwrap());
            assert_eq!(bearer(&headers), Some(""), "{nothing:?}");
        }
    }
}
