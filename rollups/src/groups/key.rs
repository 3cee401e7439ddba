//! Groups as bytes whose order is the order of their windows and values.

use nilometer_event::EventTime;
use nilometer_stream::cells::{DimValue, OwnedDimValue};

const NULL: u8 = 0;
const TEXT: u8 = 1;
const OTHER: u8 = 2;

/// Appends a window.
pub(super) fn put_window(window: EventTime, out: &mut Vec<u8>) {
    let [first, rest @ ..] = window.ms().to_be_bytes();
    // Below 1970 comes first.
    out.push(first ^ 0x80);
    out.extend_from_slice(&rest);
}

/// Appends a value; none of any two reads as the other's beginning.
pub(super) fn put_value(value: DimValue<'_>, out: &mut Vec<u8>) {
    match value {
        DimValue::Null => out.push(NULL),
        DimValue::Other => out.push(OTHER),
        DimValue::Text(text) => {
            out.push(TEXT);
            let mut parts = text.as_bytes().split(|byte| *byte == 0);
            out.extend_from_slice(parts.next().unwrap_or_default());
            for part in parts {
                out.extend_from_slice(&[0, 1]);
                out.extend_from_slice(part);
            }
            out.extend_from_slice(&[0, 0]);
        }
    }
}

/// The values of a key, which begins with a window where `has_window`.
pub(super) fn values(key: &[u8], has_window: bool) -> Vec<OwnedDimValue> {
    let mut rest = key.iter().copied().skip(if has_window { 8 } else { 0 });
    let mut values = Vec::new();
    while let Some(tag) = rest.next() {
        values.push(match tag {
            NULL => OwnedDimValue::Null,
            OTHER => OwnedDimValue::Other,
            _ => OwnedDimValue::Text(text(&mut rest).into()),
        });
    }
    values
}

fn text(rest: &mut impl Iterator<Item = u8>) -> String {
    let mut bytes = Vec::new();
    while let Some(byte) = rest.next() {
        if byte == 0 && rest.next() != Some(1) {
            break;
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).expect("a key holds the text that was put into it")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = OwnedDimValue> {
        prop_oneof![
            Just(OwnedDimValue::Null),
            Just(OwnedDimValue::Other),
            "[\u{0}\u{1}ab\u{e4}]{0,3}".prop_map(|text| OwnedDimValue::Text(text.into())),
        ]
    }

    fn key(window: i64, dims: &[OwnedDimValue]) -> Vec<u8> {
        let mut key = Vec::new();
        put_window(EventTime::from_ms(window), &mut key);
        dims.iter().for_each(|value| put_value(value.as_ref(), &mut key));
        key
    }

    proptest! {
        #[test]
        fn keys_order_as_what_they_stand_for_and_read_back(
            one in (-2_i64..3, prop::collection::vec(value(), 2)),
            two in (-2_i64..3, prop::collection::vec(value(), 2)),
        ) {
            let (a, b) = (key(one.0, &one.1), key(two.0, &two.1));
            prop_assert_eq!(a.cmp(&b), one.cmp(&two));
            prop_assert_eq!(values(&a, true), one.1.clone());
            prop_assert_eq!(values(&a[8..], false), one.1);
        }
    }
}
