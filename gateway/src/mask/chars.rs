//! What Unicode says of characters beyond what std knows: looked up, as a text may be full of them.

use std::cmp::Ordering;
use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// Ranges of characters, ascending, the last of each included.
type Ranges = Box<[(char, char)]>;

/// Whether it is written onto a letter.
pub(super) fn is_mark(char: char) -> bool {
    static MARKS: LazyLock<Ranges> = LazyLock::new(|| ranges(r"\p{M}"));
    contain(&MARKS, char)
}

/// Whether it is punctuation, white space or a control, or not given yet.
pub(super) fn separates(char: char) -> bool {
    static SEPARATORS: LazyLock<Ranges> = LazyLock::new(|| ranges(r"[\p{P}\p{Z}\p{C}]"));
    contain(&SEPARATORS, char)
}

/// Whether nothing is seen of it: white space, a control, or what only changes how others look.
pub(crate) fn is_blank(char: char) -> bool {
    static BLANKS: LazyLock<Ranges> =
        LazyLock::new(|| ranges(r"[\p{White_Space}\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}]"));
    if char.is_ascii() { char <= ' ' || char == '\u{7f}' } else { contain(&BLANKS, char) }
}

fn ranges(class: &str) -> Ranges {
    match regex_syntax::parse(class).expect("a constant").into_kind() {
        HirKind::Class(Class::Unicode(class)) => {
            class.iter().map(|range| (range.start(), range.end())).collect()
        }
        _ => unreachable!("a class is parsed to a class"),
    }
}

fn contain(ranges: &Ranges, char: char) -> bool {
    let found = ranges.binary_search_by(|&(first, last)| match () {
        () if last < char => Ordering::Less,
        () if char < first => Ordering::Greater,
        () => Ordering::Equal,
    });
    found.is_ok()
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn a_character_is_what_its_category_says() {
        let [mark, separator, control] = [r"^\p{M}$", r"^[\p{P}\p{Z}\p{C}]$", r"^[\p{Cc}\p{Cf}]$"]
            .map(|pattern| Regex::new(pattern).unwrap());
        // All that letters of the world have, then one of each hundred.
        let all = ('\0'..'\u{3100}').chain(('\u{3100}'..=char::MAX).step_by(97));
        for char in all.chain("\u{ff20}\u{fe6b}\u{e0100}\u{10ffff}".chars()) {
            let mut text = [0; 4];
            let text = char.encode_utf8(&mut text);
            assert_eq!(is_mark(char), mark.is_match(text), "{char:?}");
            assert_eq!(separates(char), separator.is_match(text), "{char:?}");
            let is_blank_at_least = char.is_whitespace() || control.is_match(text);
            assert!(is_blank(char) || !is_blank_at_least, "{char:?}");
            assert!(
                !is_blank(char)
                    || !char.is_alphanumeric()
                    || "\u{115f}\u{1160}\u{3164}\u{ffa0}".contains(char),
                "{char:?}"
            );
        }
    }
}
