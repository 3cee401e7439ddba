//! Texts of others, wherever we show them: a character that acts on the terminal or on the text
//! around it stands there by its number, as JSON would write it. `dashboard/web/src/legible.ts`
//! does so in the pages.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// What our own log does on a terminal: plain, bold, dim, italic, and six colours. All of it can
/// be read; what else a text may do there, such as to hide what follows, is written out.
const STYLES: [&str; 10] =
    ["[0m", "[1m", "[2m", "[3m", "[31m", "[32m", "[33m", "[34m", "[35m", "[36m"];

/// Control characters, and those that decide the direction of what follows.
fn acts(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text that stands within a line.
pub(crate) fn legible(text: &str) -> Cow<'_, str> {
    written_out(text, |_char, _rest| false)
}

/// An answer of several lines.
pub(crate) fn legible_lines(text: &str) -> Cow<'_, str> {
    written_out(text, |char, _rest| char == '\n' || char == '\t')
}

/// `is_ours` is asked of what acts, and of what follows it.
fn written_out(text: &str, is_ours: impl Fn(char, &str) -> bool) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut legible = String::with_capacity(text.len() + 16);
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        if !acts(char) || is_ours(char, rest.as_str()) {
            legible.push(char);
        } else {
            // Writing into a `String` cannot fail.
            let _written = write!(legible, "\\u{:04x}", u32::from(char));
        }
    }
    Cow::Owned(legible)
}

/// Whether an escape begins a style of our log.
fn is_style(char: char, rest: &str) -> bool {
    char == '\x1b' && STYLES.iter().any(|style| rest.starts_with(style))
}

/// A log whose lines come one a write, each with its end.
#[derive(Debug)]
pub(crate) struct LegibleLog<W>(pub(crate) W);

impl<W: Write> Write for LegibleLog<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let (text, end) = text.strip_suffix('\n').map_or((&*text, ""), |text| (text, "\n"));
        let legible = written_out(text, is_style);
        self.0.write_all(format!("{legible}{end}").as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn what_acts_is_written_by_its_number_and_everything_else_stays() {
        let cases = [
            ("a\u{202e}gpj.exe", "a\\u202egpj.exe"),
            ("\u{2066}x\u{2069}\u{200f}\u{61c}\u{2028}", "\\u2066x\\u2069\\u200f\\u061c\\u2028"),
            ("\0\u{1b}[2J\u{7f}\u{9b}31m", "\\u0000\\u001b[2J\\u007f\\u009b31m"),
            ("one\r\ntwo", "one\\u000d\\u000atwo"),
        ];
        for (text, shown) in cases {
            assert_eq!(legible(text), shown, "{text:?}");
        }
        for text in ["", "12\u{202f}s", "שלום", "مرحبا", "👩\u{200d}🚀", "ä – \u{a0}"]
        {
            assert_eq!(legible(text), text);
        }
        assert_eq!(legible_lines("a\tb\n\u{7}"), "a\tb\n\\u0007");
    }

    /// What a subscriber writes of `label`, as text with colours or as JSON.
    fn logged(is_json: bool, label: &str) -> String {
        #[derive(Clone, Debug, Default)]
        struct Taken(Arc<Mutex<Vec<u8>>>);
        impl Write for Taken {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let taken = Taken::default();
        let out = taken.clone();
        let builder =
            tracing_subscriber::fmt().with_writer(move || LegibleLog(out.clone())).with_ansi(true);
        let say = || tracing::warn!(label, shown = %label, "the key {label} is unknown");
        if is_json {
            tracing::subscriber::with_default(builder.json().flatten_event(true).finish(), say);
        } else {
            tracing::subscriber::with_default(builder.compact().finish(), say);
        }
        let bytes = taken.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_log_line_is_one_line_whatever_is_in_it() {
        let label = "x\u{202e}\u{1b}[2J\n2026-01-01 INFO forged\u{9b}1m\u{7f}";
        for is_json in [false, true] {
            let line = logged(is_json, label);
            assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "{line:?}");
            let rest = line.trim_end_matches('\n');
            assert!(rest.contains("\\u202e") && rest.contains("forged"), "{rest:?}");
            assert!(
                !rest.contains("\u{1b}[2J") && rest.contains("\u{1b}[0m") != is_json,
                "{rest:?}"
            );
            assert!(written_out(rest, |char, rest| !is_json && is_style(char, rest)) == rest);
            if is_json {
                let read: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert_eq!(read["label"], label);
            }
        }
    }
}
