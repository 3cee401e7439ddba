//! What is wrong with a text that is no JSON: where, and what stands there, in words for people.

/// Where `text` stops being JSON, which is at its byte `at`, and what stands there:
/// `line 1, column 2: found ', where texts and names stand in double quotes`.
#[must_use]
pub fn fault(text: &[u8], at: usize) -> String {
    let at = at.min(text.len());
    let begin = text[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = 1 + text[..at].iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + String::from_utf8_lossy(&text[begin..at]).chars().count();
    // A character has four bytes at most.
    let here = String::from_utf8_lossy(&text[at..text.len().min(at + 4)]);
    let what = match here.chars().next() {
        None => "the text ends before its JSON does".to_owned(),
        Some('\'') => "found ', where texts and names stand in double quotes".to_owned(),
        Some(found) if found.is_control() => {
            format!("found the control character U+{:04X}", u32::from(found))
        }
        Some(char::REPLACEMENT_CHARACTER) => "found bytes that are no UTF-8".to_owned(),
        Some(found) => format!("found {found}, which cannot stand there"),
    };
    format!("line {line}, column {column}: {what}")
}

/// As [`fault`], from what the reader of JSON says.
#[must_use]
pub fn fault_of(text: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return fault(text, text.len());
    }
    let at = byte_of(text, error);
    let said = error.to_string();
    let more = if said.starts_with("recursion limit") {
        "it is nested too deeply"
    } else if said.starts_with("number out of range") {
        "the number is too large"
    } else if said.contains("escape") || said.contains("surrogate") {
        "what follows the backslash is none of JSON's escapes"
    } else if error.is_data() {
        // What a type of ours wanted; callers say what their body is.
        "the JSON is not of the form that is read here"
    } else {
        return fault(text, at);
    };
    let place = fault(text, at);
    let place = place.split_once(": ").map_or(place.as_str(), |(place, _)| place);
    format!("{place}: {more}")
}

/// The byte that a line and a column, counted in bytes from 1, speak of.
fn byte_of(text: &[u8], error: &serde_json::Error) -> usize {
    let before = error.line().saturating_sub(1);
    let newlines = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let begin = match before.checked_sub(1) {
        None => 0,
        Some(nth) => newlines.map(|(at, _)| at + 1).nth(nth).unwrap_or(text.len()),
    };
    (begin + error.column()).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn of(text: &str) -> String {
        fault_of(text.as_bytes(), &serde_json::from_str::<Value>(text).unwrap_err())
    }

    #[test]
    fn the_place_is_named_and_what_stands_there() {
        let quoted = "line 1, column 2: found ', where texts and names stand in double quotes";
        assert_eq!(of("{'a': 1}"), quoted);
        assert_eq!(fault(b"{'a': 1}", 1), quoted);
        assert_eq!(
            of("{\"a\": 1,\n \"ä\": x}"),
            "line 2, column 7: found x, which cannot stand there"
        );
        assert_eq!(of("{\"a\": [1, 2"), "line 1, column 12: the text ends before its JSON does");
        assert_eq!(of(""), "line 1, column 1: the text ends before its JSON does");
        assert_eq!(of("[1,]"), "line 1, column 4: found ], which cannot stand there");
        assert_eq!(of("{} {}"), "line 1, column 4: found {, which cannot stand there");
        assert_eq!(of("[1e999]"), "line 1, column 6: the number is too large");
        assert!(of(&"[".repeat(200)).ends_with("it is nested too deeply"));
        assert_eq!(
            of("\"a\\x\""),
            "line 1, column 4: what follows the backslash is none of JSON's escapes"
        );
        // Half of a pair.
        for text in ["\"\\ud800b\"", "\"\\ud800\"", "\"\\ud800\\n\"", "\"\\ude00\""] {
            let said = of(text);
            assert!(said.ends_with("is none of JSON's escapes"), "{text}: {said}");
        }
        assert_eq!(fault(b"a\x01", 1), "line 1, column 2: found the control character U+0001");
        assert_eq!(fault(b"\xff", 0), "line 1, column 1: found bytes that are no UTF-8");
    }

    proptest! {
        #[test]
        fn any_text_that_is_no_json_has_a_place_and_none_of_the_readers_words(
            text in r#"[\[\]{}:,"'a0-9eE.+\-\\ \nutrfä]{0,40}"#,
        ) {
            if let Err(error) = serde_json::from_str::<Value>(&text) {
                let said = fault_of(text.as_bytes(), &error);
                prop_assert!(said.starts_with("line ") && said.contains(", column "), "{}", said);
                prop_assert!(!said.contains("expected") && !said.contains("EOF"), "{}", said);
            }
        }
    }
}
