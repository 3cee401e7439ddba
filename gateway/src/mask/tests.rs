//! No planted address survives, whatever its shape and its wrapping.

use proptest::prelude::*;

use super::*;

mod generated;
use generated::{email, ip, tempting};

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
        "x@y.de",
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
        "jane@mail.com.png",
        "uploads/jane@mail.com.png",
        "jane@mail.com.5",
        "jane@mail.com-old",
        "jane@1x.com",
        "jane@163.com",
        "jane@1.2.example.com",
        "jane@mail.com✅",
        "jane@mail.com: hello",
        "git@vger.kernel.org: hello",
        "git@mail.com",
        "jane@mail&#46;com",
        "jane&#64;mail&period;com",
        "jane%2540mail%252Ecom",
        "jane\\u0040mail\\u002ecom",
        "jane\u{ff20}mail\u{ff0e}com",
        "jane@日本。jp",
        "संपर्क@डाटामेल.भारत",
        "उदाहरण@उदाहरण.परीक्षा",
        "😀@mail.com",
        "jane@xn--e1afmkfd.xn--p1ai",
        "user%40%D0%BF%D1%80.%D1%80%D1%84",
        "user@mail.com,other@mail.com;third@mail.com",
        "{\"email\":\"user@mail.com\"}",
        "!#$@mail.com",
    ] {
        gone(text);
    }
}

#[test]
fn emails_go_however_their_characters_are_written() {
    for text in [
        "user&#064;mail.com",
        "user&#0064;mail.com",
        "user&#00064;mail.com",
        "user&#x0040;mail.com",
        "user&#X40;mail.com",
        "user&#64mail.com",
        "user&#x40mail.com",
        "user@mail&#46com",
        "user&amp;#64;mail.com",
        "user&amp;commat;mail&amp;period;com",
        "user%26%2364%3Bmail.com",
        "user\\u0026#64;mail.com",
        "user&percnt;40mail.com",
        "user%5Cu0040mail.com",
        "user%252540mail.com",
        "user%EF%BC%A0mail.com",
        "user&#64;[192&#46;168.0.1]",
        "user%40%5B192.168.0.1%5D",
        "&#117;&#115;&#101;&#114;&#64;&#109;&#97;&#105;&#108;&#46;&#99;&#111;&#109;",
        "%75ser%40%6Dail%2Ecom",
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
        "host/192.168.0.1",
        "GET /a/192.168.0.1 Mozilla/5.0 Acme/5.2",
        "see.192.168.0.1",
        "192.168.0.1... gone",
        "192.168.0.1-192.168.0.9",
        "[::ffff:192.168.0.1]:443",
        "[fe80::1%25eth0]",
        "FE80::1",
        "::ffff:c0a8:1",
        "2001::",
        "https://[2001:db8::1]:8443/a?b=c",
        // Dots, colons and digits in every way.
        "192&#46;168&#46;0&#46;1",
        "192&period;168&period;0&period;1",
        "192&#x2e;168&#x2E;0&#x002e;1",
        "192&#0046;168&#46;0&#046;1",
        "2001&#58db8&#58&#58;1",
        "192&amp;#46;168&amp;#46;0&amp;#46;1",
        "192%252E168%252e0%252E1",
        "192\\u002e168\\\\u002e0\\u002E1",
        "&#49;92.168.0.1",
        "%31%39%32.168.0.1",
        "2001&#58;db8&#58;&#58;1",
        "2001&colon;db8&colon;&colon;1",
        "2001&#x3a;db8&#x3A;&#x003a;1",
        "2001\\u003adb8\\u003a\\u003a1",
        "[2001%253Adb8%253A%253A1]:443",
        "%26%2350%3B001:db8::1",
        // Behind escapes, whose letters and digits are nobody's.
        "{\"m\":\"peer\\n2001::5\"}",
        "{\"m\":\"peer\\\\t2001::5\"}",
        "peer\\r\\n2001::5",
        "\\u003c2001::5\\u003e",
        "\\u0022192.168.0.1\\u0022",
        "q=%20fe80%3A%3A1",
        "http%3A%2F%2F%5Bfe80%3A%3A1%5D",
        "%2522192.168.0.1%2522",
    ] {
        gone(text);
    }
}

#[test]
fn an_address_is_one_where_versions_and_numbers_stand_beside_it() {
    for text in [
        // A user agent ends where something else begins.
        "Mozilla/5.0 (X11) GET https://shop.example/192.168.0.1",
        "Mozilla/5.0 (X11) shop.example/192.168.0.1",
        "Mozilla/5.0 (X11; +https://shop.example/192.168.0.1) Chrome/120.0.0.0",
        "\"Mozilla/5.0 (X11)\" host/192.168.0.1",
        "{\"ua\":\"Mozilla/5.0 (X11)\",\"page\":\"/item/192.168.0.1\"",
        // Ports, and numbers in front.
        "IP 192.168.0.1.51234 > 192.168.0.2.443: Flags [S]",
        "tcp4 0 0 192.168.0.1.22 192.168.0.2.51234 ESTABLISHED",
        "3.192.168.0.1",
        "70000.192.168.0.1",
        "1.192.168.0.1.2.3",
        "1.192.168.0.1.4",
        // Files that may be about it, and hosts that are named by it.
        "192.168.0.1.log",
        "192.168.0.1.csv",
        "backup-192.168.0.1.tar.gz",
        "192.168.0.1.mp4.example",
        "192.168.0.1.js-host.example",
        "192.168.0.1.static.example",
        // Words before it.
        "ffmpeg 192.168.0.1",
        "ffmpeg/192.168.0.1",
        "oid:192.168.0.1",
        "xurn:oid:192.168.0.1",
        // Words behind it.
        "192.168.0.1-dev",
        "192.168.0.1-POST /x",
        "192.168.0.1+next",
    ] {
        gone(text);
    }
    let token = masker().text("192.168.0.1").into_owned();
    assert_eq!(masker().text("IP 192.168.0.1.51234 > "), format!("IP {token}.51234 > "));
}

/// Nothing is found, and nothing is allocated.
fn stays(text: &str) {
    let masked = masker().text(text);
    assert!(matches!(masked, Cow::Borrowed(_)), "{text} became {masked}");
}

#[test]
fn versions_and_numbers_of_objects_stay() {
    for text in [
        "5.2.0",
        "Mozilla/5.0 Chrome/120.0.0.0 Safari/537.36",
        "Mozilla/5.0 (Linux) Acme/5.2.0.1 Edg/120.0.0.0",
        "agent=Mozilla/5.0 Acme/5.2.0.1",
        "1.2.3.4444",
        "256.1.1.1",
        "3.14",
        "v1.2.3.4",
        "V1.2.3.4-beta",
        "updated to version 1.2.3.4",
        "1.2.3.4-rc1",
        "v1.2.3.4.5",
        "1.3.6.1.4.1",
        "urn:oid:1.3.6.1.4",
        "\"URN:OID:2.5.4.42\"",
        "192.168.1.1.mp4",
        "/films/1.2.3.4.webm?x=y",
        "setup-5.2.0.1.exe, app-5.2.0.1.APK",
        "https://cdn.example/lib-1.2.3.4.js",
        "1.3.6.1.4.1.311.20.2",
        "2.16.840.1.101.3.4.2.1",
        "0.4.0.127.0.7",
        "Mozilla/5.0 (compatible; Acme/5.2.0.1; +https://acme.example) Edg/5.2.0.1",
    ] {
        stays(text);
    }
}

#[test]
fn what_is_no_address_stays() {
    for text in [
        "2026-11-21T20:15:03.120Z",
        "react@18.2.0",
        "@mention and @more",
        "std::vec<App::Error>",
        "12:30:45",
        "00:1b:44:11:3a:b7",
        "a & b, 100 % of it",
        "em1_AAAAAAAAAAAAAAAAAAAAAA",
        "",
        "日本語のテキスト",
        // Paths of code, digests, numbers of devices, fingerprints, style sheets.
        "Feed::Add",
        "C::D",
        "::",
        "a::b::c",
        "D3::Feed",
        "new C4::Add(A1::Bad)",
        "d3::Feed",
        "std::f64::consts",
        "Digest::SHA2",
        "sha256:ab::",
        "x::date",
        "h1::before, td::after { }",
        "00:1b:44:ff:fe:11:3a:b7",
        "SHA1 5E:9A:10:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:01:23:45",
        "@media (min-width: 2px) { }",
        // Hosts, remotes, packages, files, traces of code.
        "git@github.com:x/y",
        "git@github.com:x/y.git",
        "ssh://git@github.com/x/y",
        "git+ssh://git@github.com:22/x/y",
        "local@tbird-admin1",
        "user@localhost",
        "root@ip-10-0-0-1:~#",
        "/a/b@2x.png",
        "logo@2x.dark.png",
        "logo@1.5x.min.webp",
        "icon@3x.svg?v=2",
        "app@bundle.min.js",
        "@scope/pkg@1.2.3",
        "@babel/core@7.0.0-beta.4",
        "next@14.0.0-canary.next",
        "ruby@1.0.beta2",
        "actions/checkout@v4",
        "pkg@1.0.0.tgz",
        "github.com/a/b@v1.2.3-0.20201010101010-abcdef012345",
        "https://cdn.example/npm/vue@3.4.0/dist/vue.global.js",
        "render@https://cdn.example/app.js:12:34",
        "eval@[native code]",
        "image@sha256:0123456789abcdef",
        "5@9.99",
        "Object@1a2b3c",
        "https://maps.example/@48.85,2.35,15z",
    ] {
        stays(text);
    }
}

#[test]
fn addresses_go_that_look_like_paths_of_code() {
    for text in [
        "2001:db8::Feed",
        "::Add1",
        "FD00::Bad",
        "Fe80::Add",
        "D3::FEED",
        "D3::feed",
        "64:ff9b::Add",
    ] {
        assert!(masker().text(text).starts_with("ip1_"), "{text} became {}", masker().text(text));
    }
}

/// What stands in code in that column of the table of docs/operations.md, "Masking".
fn documented(column: usize) -> Vec<&'static str> {
    let page = include_str!("../../../docs/operations.md");
    let (_, section) = page.split_once("\n## Masking\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows =
        section.lines().filter(|line| line.starts_with("| mail") || line.starts_with("| IPv"));
    let cells = rows.map(|row| row.split('|').nth(column).unwrap());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn what_the_page_says_of_masking_is_so() {
    let (masked, kept) = (documented(2), documented(3));
    assert!(masked.len() > 20 && kept.len() > 15, "{masked:?} {kept:?}");
    for text in masked {
        assert_ne!(masker().text(text), text);
    }
    for text in kept {
        stays(text);
        stays(&format!("see {text}, please"));
    }
}

#[test]
fn a_field_named_like_a_version_keeps_the_numbers_of_one_and_nothing_else() {
    let masker = masker();
    for (field, text) in [
        ("appVersion", "5.2.0.1"),
        ("app_version", "v5.2.0.1-beta.2"),
        ("sdk_ver", "5.2.0.1 (build 77)"),
        ("buildNumber", "5.2.0.1"),
        ("firmware", "5.2.0.1.7"),
    ] {
        let json = serde_json::json!({ field: text, "a": [{ field: text }] }).to_string();
        assert_eq!(masker.json(&json, &mut |name| panic!("{name} of {json}")), json);
        assert_eq!(masker.field(field, text), text);
    }
    let json = r#"{"app_version":"5.2 (192.168.0.1)","build":"built on 192.168.0.2",
        "pressRelease":"contact 192.168.0.3","versions":["192.168.0.4"],"version":{"ip":"192.168.0.5"},
        "os_version":"192.168.0.6 via proxy","ver":"5.2.0.1-192.168.0.7","firmware":"v6 2001:db8::1",
        "version_name":"by jane@mail.com","versionCode":["192.168.0.8"],"content_id":"192.168.0.9"}"#;
    let mut noted = Vec::new();
    let masked = masker.json(json, &mut |name| noted.push(name.to_owned())).into_owned();
    for hidden in ["192.168", "2001", "jane"] {
        assert!(!masked.contains(hidden), "{masked}");
    }
    assert_eq!(noted.len(), 11, "{noted:?}");
    assert!(masked.contains("\"5.2.0.1-ip1_") && masked.contains("\"5.2 (ip1_"), "{masked}");
    assert_eq!(masker.json(&masked, &mut |_name| ()), masked, "a replay changes nothing");
}

#[test]
fn a_value_is_masked_alike_in_an_event_and_by_the_path_to_it() {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let masker = masker_with(MaskingSettings {
        exempt_fields: list(&["debug", "host"]),
        tokenise_fields: list(&["phone"]),
        ..Default::default()
    });
    for text in ["5.2.0.1", "192.168.0.1 x", "jane@mail.com", "plain"] {
        let json = serde_json::json!({"client_version": text, "debug": {"ip": text}, "a": {
            "host": text, "phone": text, "b": {"client": text}}});
        let masked = masker.json(&json.to_string(), &mut |_name| ()).into_owned();
        let masked: serde_json::Value = serde_json::from_str(&masked).unwrap();
        for path in ["client_version", "debug.ip", "a.host", "a.phone", "a.b.client"] {
            let held = path.split('.').fold(&masked, |value, name| &value[name]);
            assert_eq!(*held, *masker.at(&format!("properties.{path}"), text), "{path}");
        }
        assert_eq!(masker.at("country", text), masker.field("country", text));
    }
}

#[test]
fn exempt_fields_stay_and_masking_can_be_off() {
    let json = r#"{"host":"192.168.0.1","Debug":{"who":"jane@mail.com","ip":["::1"]},"who":"jane@mail.com"}"#;
    let exempt_fields = vec!["host".to_owned(), "debug".to_owned()];
    let masker = masker_with(MaskingSettings { exempt_fields, ..Default::default() });
    let masked = masker.json(json, &mut |_name| ());
    let (exempt, rest) = masked.rsplit_once(",\"who\"").unwrap();
    assert!(json.starts_with(exempt) && !rest.contains("jane"), "{masked}");
    assert_eq!(masker.field("host", "192.168.0.1"), "192.168.0.1");
    let off = masker_with(MaskingSettings::off());
    assert!(off.is_clean(json.as_bytes()));
    assert_eq!(off.json(json, &mut |_name| ()), json);
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
    let masked = masker().json(json, &mut |_name| ());
    let tree: serde_json::Value = serde_json::from_str(&masked).unwrap();
    let user = masker().text("user@mail.com").into_owned();
    assert_eq!(tree["b"], user);
    assert_eq!(tree[&user][1]["n"], "plain \"text\" 😀");
    assert!(!masked.contains("192") && !masked.contains("0040"));
    assert!(matches!(
        masker().json(r#"{"a":"b\n","c":[1.5,null]}"#, &mut |_name| ()),
        Cow::Borrowed(_)
    ));
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
    let masked = masker.json(r#"{"phone":"0123","a":{"Card":{"no":[1]},"phone":55,"x":"to DE12345678901234567890."},"card":null}"#, &mut |_name| ());
    let tree: serde_json::Value = serde_json::from_str(&masked).unwrap();
    assert!(tree["phone"].as_str().unwrap().starts_with("fd1_"));
    assert!(tree["a"]["phone"].as_str().unwrap().starts_with("fd1_"));
    assert_eq!(tree["a"]["Card"], serde_json::Value::Null);
    assert!(tree["a"]["x"].as_str().unwrap().starts_with("to iban1_"));
    assert_eq!(masker.json(&masked, &mut |_name| ()), masked, "a replay changes nothing");
}

#[test]
fn a_broken_body_is_masked_as_text() {
    for raw in [
        &b"{\"a\":\"user\\u0040mail.com\""[..],
        b"user@mail.com \xff",
        b"\xffuser%40mail.com",
        b"{\"a\":\"\\u0075ser@mail.com",
    ] {
        let masked = masker().body(raw, &mut |_name| ());
        assert!(!masked.contains("mail.com") && !masked.contains("ser@"), "{masked}");
    }
}

/// Looks at a character, escapes within it and further starts included, that a text may take for
/// each of its bytes: 230 at worst, where escapes begin everywhere and none ends.
const LOOKS_MAX: usize = 500;

/// Masks `text`, and panics where that takes more than linear time.
fn bounded(text: &str) {
    written::tests::looks(LOOKS_MAX * (text.len() + 1), || drop(masker().text(text)));
}

#[test]
fn a_storm_of_signs_takes_linear_time() {
    for part in [
        "@",
        "a@",
        "%40",
        ":",
        "1:",
        "1.",
        "::",
        "%3a",
        "1.2",
        "9.",
        "9",
        "a",
        "&",
        "&#",
        "&#0",
        "%",
        "%25",
        "%2",
        "\\",
        "\\u",
        "&#38;",
        "&amp;",
        "%5C",
        "%26%2338%3B",
        "&#49;&#46;",
        "%2531%252E",
        "Mozilla/",
        "Mozilla/5 (",
        "Mozilla/5.0 a/1.1.1.1 ",
        "Mozilla/5.0 (a/1.1.1.1; ",
        "\\u0040",
        "&#x0000000000000000",
        "1&#46;2&#46;",
        "a@b.",
        "\"a",
        "ä%C3%A4",
    ] {
        let text = part.repeat(20_000 / part.len());
        for text in [&text, &format!("{text}@"), &format!("{text}."), &format!("@{text}")] {
            bounded(text);
        }
    }
}

#[test]
fn what_is_looked_at_is_counted() {
    let count = |text: &str| written::tests::looks(usize::MAX, || drop(masker().text(text)));
    assert!(count(&"%40".repeat(100)) > 100 && count(&"Mozilla/5.0 a/1.1.1.1 ".repeat(9)) > 99);
}

/// Pieces of addresses, of escapes, and of what is read word by word.
fn fragment() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "Mozilla/",
        "Mozilla/5.0 ",
        "(",
        ")",
        " ",
        "&#",
        "&",
        ";",
        "%",
        "%25",
        "\\u",
        "\\",
        "::",
        ":",
        "@",
        ".",
        "/",
        "0",
        "40",
        "0040",
        "x40",
        "amp;",
        "commat;",
        "&period;",
        "1.2.3.4",
        "2001:db8::1",
        "a@b.de",
        "v",
        "\"",
        "[",
        "]",
        "\u{ff20}",
        "ä",
        "\u{301}",
    ]);
    prop_oneof![
        8 => known.prop_map(str::to_owned),
        1 => any::<String>(),
        1 => (0..200_usize, "[@.:%&\\\\#;0-9a-fx]{1,4}").prop_map(|(times, part)| part.repeat(times)),
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
        Just("\\n".to_owned()),
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
        let is_glued = before.ends_with(char::is_alphanumeric) && !before.ends_with("\\n");
        let before = if is_glued { format!("{before}=") } else { before };
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
    fn what_the_quick_look_calls_clean_is_clean(texts in prop::collection::vec(prop_oneof![around(), email(), ip(), tempting(), "[ -~]{0,20}", any::<String>()], 0..5)) {
        let json = serde_json::to_string(&texts).unwrap();
        let masker = masker();
        if masker.is_clean(json.as_bytes()) {
            for text in &texts {
                prop_assert!(matches!(masker.text(text), Cow::Borrowed(_)), "{}", text);
            }
        }
    }

    #[test]
    fn what_addresses_are_made_of_is_masked_in_linear_time(parts in prop::collection::vec(fragment(), 0..400)) {
        bounded(&parts.concat());
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes().rev()).collect();
        let max = LOOKS_MAX * (bytes.len() + 1);
        written::tests::looks(max, || drop(masker().body(&bytes, &mut |_name| ())));
    }

    #[test]
    fn any_text_and_any_bytes_are_masked_without_panic(text in any::<String>(), bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        drop(masker().text(&text));
        drop(masker().body(&bytes, &mut |_name| ()));
        let json = serde_json::to_string(&text).unwrap();
        let masked = masker().json(&json, &mut |_name| ()).into_owned();
        let decoded: String = serde_json::from_str(&masked).unwrap();
        prop_assert_eq!(&decoded, &*masker().text(&text));
    }
}
