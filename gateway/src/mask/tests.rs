//! No planted address survives, whatever its shape and its wrapping.

use proptest::prelude::*;

use super::*;
use crate::settings::{Detector, MaskingSettings};

fn masker_with(settings: MaskingSettings) -> Masker {
    Masker::new(settings.try_into().unwrap(), &[7; 32])
}

fn masker() -> Masker {
    masker_with(MaskingSettings::default())
}

fn gone(text: &str) {
    let masked = masker().text(text);
    assert_ne!(masked, text);
    for sign in ["@", "%40", "192.", "2001", "&#", "::"] {
        assert!(!masked.contains(sign), "{text} became {masked}");
    }
}

#[test]
fn emails_go_in_every_shape() {
    for text in [
        "user@mail.com",
        "user\\\\u0040mail.com",
        "user\\\\\\\\u0040mail.com",
        "USER@MAIL.COM",
        "first.last+tag@sub.mail.co.uk",
        "o'brien@mail.com",
        "x@y",
        "root@localhost",
        "user@192.168.0.1",
        "user@[192.168.0.1]",
        "user@[IPv6:2001:db8::1]",
        "\"john smith\"@mail.com",
        "user@münchen.de",
        "josé@mail.com",
        "пользователь@пример.рф",
        "user%40mail.com",
        "user%40mail%2Ecom",
        "user%2540mail.com",
        "user%2Btag%40mail.com",
        "user&#64;mail.com",
        "user&#x40;mail.com",
        "user&commat;mail.com",
        "user\u{ff20}mail.com",
        "user\\u0040mail.com",
        "write to <user@mail.com>, please.",
        "https://shop.example/?email=user%40mail.com&x=1",
        "https://user:secret@shop.example/path",
        "mailto:user@mail.com?subject=hi",
        "a@b@c.com",
        "user@mail.com,other@mail.com;third@mail.com",
        "{\"email\":\"user@mail.com\"}",
        "!#$@mail.com",
    ] {
        gone(text);
    }
}

#[test]
fn ip_addresses_go_in_every_shape() {
    for text in [
        "192.168.0.1",
        "192.168.000.001",
        "ip=192.168.0.1;",
        "ip192.168.0.1x",
        "192%2E168%2e0%2E1",
        "%20192%2E168%2e0%2E1%20",
        "x=%5B2001%3Adb8%3A%3A1%5D",
        "http://192.168.0.1:8080/x",
        "192.168.0.1.",
        "192.168.0.1, 192.168.0.2",
        "2001:db8::1",
        "2001:DB8:0:0:0:0:0:1",
        "[2001:db8::1]:443",
        "2001:db8::",
        "::1",
        "::ffff:192.168.0.1",
        "64:ff9b::192.168.0.1",
        "1:2:3:4:5:6:192.168.0.1",
        "fe80::1%eth0",
        "2001%3Adb8%3A%3A1",
        "ip6:2001:db8::1",
        "addr:2001:db8::1.",
        "2001:db8:1:2:3:4:5:6/64",
        "192.0.0.0",
        "https://shop.example/192.168.0.1",
    ] {
        gone(text);
    }
}

#[test]
fn what_is_no_address_stays_and_allocates_nothing() {
    for text in [
        "5.2.0",
        "2026-11-21T20:15:03.120Z",
        "react@18.2.0",
        "@mention and @more",
        "Mozilla/5.0 Chrome/120.0.0.0 Safari/537.36",
        "1.2.3.4444",
        "256.1.1.1",
        "std::vec<App::Error>",
        "12:30:45",
        "00:1b:44:11:3a:b7",
        "a & b, 100 % of it",
        "em1_AAAAAAAAAAAAAAAAAAAAAA",
        "3.14",
        "",
        "日本語のテキスト",
    ] {
        assert!(
            matches!(masker().text(text), Cow::Borrowed(_)),
            "{text} became {}",
            masker().text(text)
        );
    }
}

#[test]
fn one_text_is_one_token_and_another_secret_another() {
    let (one, other) =
        (masker(), Masker::new(MaskingSettings::default().try_into().unwrap(), &[8; 32]));
    assert_eq!(one.text("u@mail.com"), one.text("u@mail.com"));
    assert_ne!(one.text("u@mail.com"), one.text("v@mail.com"));
    assert_ne!(one.text("u@mail.com"), other.text("u@mail.com"));
    let token = one.text("u@mail.com").into_owned();
    assert!(token.starts_with("em1_") && token.len() == 26, "{token}");
    assert_eq!(one.text("mail u@mail.com now"), format!("mail {token} now"));
}

#[test]
fn truncation_keeps_the_network_alone() {
    let settings = MaskingSettings { addresses: AddressMasking::Truncate, ..Default::default() };
    let masker = masker_with(settings);
    let masked = masker.text("from 203.0.113.77 and 2001:db8:1:2:3::4%eth0, 203%2E0%2E113%2E9");
    assert_eq!(masked, "from 203.0.113.0 and 2001:db8:1::%eth0, 203.0.113.0");
    assert_eq!(masker.text(&masked), masked);
}

#[test]
fn json_is_masked_behind_its_escapes_in_names_and_values_and_stays_json() {
    let json = r#"{"u\u0073er\u0040mail.com": ["x\/192.168.0.1", {"n":"plain \"text\" \ud83d\ude00"}], "b":"user\u0040mail.com", "half":"\ud800 user@mail.com"}"#;
    let masked = masker().json(json);
    let tree: serde_json::Value = serde_json::from_str(&masked).unwrap();
    let user = masker().text("user@mail.com").into_owned();
    assert_eq!(tree["b"], user);
    assert_eq!(tree[&user][1]["n"], "plain \"text\" 😀");
    assert!(!masked.contains("192") && !masked.contains("0040"));
    assert!(matches!(masker().json(r#"{"a":"b\n","c":[1.5,null]}"#), Cow::Borrowed(_)));
}

#[test]
fn fields_named_by_configuration_become_tokens_or_go() {
    let list = |name: &str| vec![name.to_owned()];
    let masker = masker_with(MaskingSettings {
        tokenise_fields: list("phone"),
        drop_fields: list("card"),
        detectors: vec![Detector { name: "iban".to_owned(), pattern: "DE[0-9]{20}".to_owned() }],
        ..Default::default()
    });
    let masked = masker.json(r#"{"phone":"0123","a":{"Card":{"no":[1]},"phone":55,"x":"to DE12345678901234567890."},"card":null}"#);
    let tree: serde_json::Value = serde_json::from_str(&masked).unwrap();
    assert!(tree["phone"].as_str().unwrap().starts_with("fd1_"));
    assert!(tree["a"]["phone"].as_str().unwrap().starts_with("fd1_"));
    assert_eq!(tree["a"]["Card"], serde_json::Value::Null);
    assert!(tree["a"]["x"].as_str().unwrap().starts_with("to iban1_"));
    assert_eq!(masker.json(&masked), masked, "a replay changes nothing");
}

#[test]
fn a_broken_body_is_masked_as_text() {
    for raw in [
        &b"{\"a\":\"user\\u0040mail.com\""[..],
        b"user@mail.com \xff",
        b"\xffuser%40mail.com",
        b"{\"a\":\"\\u0075ser@mail.com",
    ] {
        let masked = masker().body(raw);
        assert!(!masked.contains("mail.com") && !masked.contains("ser@"), "{masked}");
    }
}

#[test]
fn a_storm_of_signs_takes_linear_time() {
    for text in [
        "@".repeat(100_000),
        "a@".repeat(50_000),
        "%40".repeat(30_000),
        ":".repeat(100_000),
        "1:".repeat(50_000),
        "1.".repeat(50_000),
        "a".repeat(100_000) + "@",
        "::".repeat(50_000),
        "%3a".repeat(30_000),
    ] {
        drop(masker().text(&text));
    }
}

/// Addresses as people write them.
fn email() -> impl Strategy<Value = String> {
    let sign = prop::sample::select(vec!["@", "@", "@", "%40", "%2540", "&#64;", "\u{ff20}"]);
    (
        "[a-zA-Z0-9]([a-zA-Z0-9._+-]{0,10}[a-zA-Z0-9])?",
        sign,
        "[a-z0-9]{1,8}(-[a-z0-9]{1,4})?(\\.[a-z]{1,6}){0,2}\\.[a-z]{2,6}",
    )
        .prop_map(|(local, sign, domain)| format!("{local}{sign}{domain}"))
}

fn ip() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|octets| Ipv4Addr::from(octets).to_string()),
        any::<[u16; 8]>().prop_map(|groups| Ipv6Addr::from(groups).to_string()),
        (any::<[u16; 8]>(), 0..8usize, 0..8usize).prop_map(|(mut groups, from, to)| {
            groups[from.min(to)..=from.max(to)].fill(0);
            // A lone :: is the unspecified address: nobody's.
            groups[7] |= 1;
            Ipv6Addr::from(groups).to_string()
        }),
        any::<[u16; 8]>().prop_map(|groups| {
            let groups: Vec<_> = groups.iter().map(|group| format!("{group:04X}")).collect();
            groups.join(":")
        }),
    ]
}

fn around() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just(" ".to_owned()),
        Just("\"".to_owned()),
        Just("https://x.example/?e=".to_owned()),
        Just("&y=1".to_owned()),
        Just("<".to_owned()),
        Just(">,".to_owned()),
        Just("\n".to_owned()),
        Just("ключ=".to_owned()),
        Just("\\".to_owned()),
        Just("(".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just("|".to_owned()),
        Just("日本 ".to_owned()),
        "[ -~]{0,12} ",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn no_planted_address_survives_in_text(before in around(), planted in prop_oneof![email(), ip()], after in around()) {
        let after = if after.starts_with(|char: char| char.is_ascii_graphic() && !"\"&<>,()[]|\\".contains(char)) { format!(" {after}") } else { after };
        // An address glued to a digit is another address.
        let before = if before.ends_with(char::is_alphanumeric) { format!("{before}=") } else { before };
        let text = format!("{before}{planted}{after}");
        let masked = masker().text(&text);
        prop_assert!(!masked.contains(&planted), "{} became {}", text, masked);
        prop_assert_eq!(masker().text(&masked), &*masked, "masked once more, {} changes", masked);
    }

    #[test]
    fn masking_once_more_changes_nothing(text in "([a-c1.:@%4_\\[\\]\" -]|@|::|%40|em1_|ip1_|127\\.0\\.0\\.1|a@b\\.c){0,24}") {
        let masked = masker().text(&text).into_owned();
        let again = masker().text(&masked).into_owned();
        prop_assert_eq!(&again, &masked, "from {}", text);
    }

    #[test]
    fn what_the_quick_look_calls_clean_is_clean(texts in prop::collection::vec(prop_oneof![around(), email(), ip(), "[ -~]{0,20}", any::<String>()], 0..5)) {
        let json = serde_json::to_string(&texts).unwrap();
        let masker = masker();
        if masker.is_clean(json.as_bytes()) {
            for text in &texts {
                prop_assert!(matches!(masker.text(text), Cow::Borrowed(_)), "{}", text);
            }
        }
    }

    #[test]
    fn any_text_and_any_bytes_are_masked_without_panic(text in any::<String>(), bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        drop(masker().text(&text));
        drop(masker().body(&bytes));
        let json = serde_json::to_string(&text).unwrap();
        let masked = masker().json(&json).into_owned();
        let decoded: String = serde_json::from_str(&masked).unwrap();
        prop_assert_eq!(&decoded, &*masker().text(&text));
    }
}
