//! Addresses as people and programs write them, and what is none: exactly the first go.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::{masker, names};

/// Mail addresses, in scripts of several kinds.
pub(super) fn email() -> impl Strategy<Value = String> {
    let sign = prop::sample::select(vec!["@", "@", "@", "%40", "%2540", "&#64;", "\u{ff20}"]);
    let local = prop_oneof![
        4 => "[a-zA-Z0-9]([a-zA-Z0-9._+-]{0,10}[a-zA-Z0-9])?",
        1 => "[a-z][a-z!#$%'*^`{|}~-]{0,6}[a-z]",
        1 => "[а-яα-ωא-ת]{1,8}(\\.[а-я]{1,4})?",
        1 => "([अ-ह][ािी्]?){1,5}",
        1 => "[ぁ-ん一-龠]{1,5}",
        1 => "(e\u{301}|ü|ß|ñ|😀|👩\u{200d}🚀){1,4}",
    ];
    let domain = prop_oneof![
        4 => "[a-z0-9]{1,8}(-[a-z0-9]{1,4})?(\\.[a-z]{1,6}){0,2}\\.[a-z]{2,6}",
        1 => "[a-z0-9]{1,8}(\\.[a-z0-9-]{1,3}[a-z0-9])?\\.(com|co\\.uk|zip|sh|rs|py|museum|xn--p1ai)",
        1 => "[а-я]{1,8}\\.(рф|укр|бел)",
        1 => "[ぁ-ん]{1,5}[.。．](jp|com|みんな)",
        1 => "([अ-ह][ािी्]?){1,5}\\.भारत",
    ];
    (local, sign, domain)
        .prop_map(|(local, sign, domain)| format!("{local}{sign}{domain}"))
        .prop_filter("names of files", |address| {
            let ending = address.rsplit('.').next().unwrap();
            !names::FILE_ENDINGS.contains(&ending)
        })
}

/// IP addresses in every form that RFC 4291 and RFC 5952 know, with at least one digit.
pub(super) fn ip() -> impl Strategy<Value = String> {
    let v4 = || any::<[u8; 4]>().prop_map(|octets| Ipv4Addr::from(octets).to_string());
    let v6 = prop_oneof![
        any::<[u16; 8]>(),
        prop::array::uniform8(prop_oneof![Just(0_u16), 0..0x100_u16, any::<u16>()]),
    ];
    let case = prop::sample::select(vec![0, 1, 2]);
    let zeros = (0..8_usize, 0..8_usize);
    let written = (v6, zeros, any::<bool>(), case, prop::option::of(v4())).prop_map(
        |(groups, (from, to), padded, case, tail)| {
            let group = |at: usize| {
                if padded { format!("{:04x}", groups[at]) } else { format!("{:x}", groups[at]) }
            };
            // With an IPv4 address at its end there are six groups before it.
            let count = if tail.is_some() { 6 } else { 8 };
            let (from, to) = (from.min(to).min(count), from.max(to).min(count));
            let mut parts: Vec<String> = (0..count).map(group).collect();
            parts.extend(tail);
            let text = if from < to {
                format!("{}::{}", parts[..from].join(":"), parts[to..].join(":"))
            } else {
                parts.join(":")
            };
            match case {
                0 => text,
                1 => text.to_uppercase(),
                // As a telephone's keyboard begins a sentence.
                _ => text[..1].to_uppercase() + &text[1..],
            }
        },
    );
    prop_oneof![
        2 => v4(),
        1 => v4().prop_map(|v4| format!("::ffff:{v4}")),
        1 => any::<[u16; 8]>().prop_map(|groups| Ipv6Addr::from(groups).to_string()),
        4 => written,
    ]
    .prop_filter("a text without a digit, or a device's number", |text| {
        let mut groups = text.split(':');
        text.contains(|char: char| char.is_ascii_digit())
            && !(text.matches(':').count() == 7 && groups.all(|group| group.len() == 2))
    })
}

/// What is none, and is easily taken for one.
fn no_address() -> impl Strategy<Value = String> {
    let word = "[A-Za-z][a-z]{0,7}";
    prop_oneof![
        // Paths of code, and other texts without a digit.
        (word, word, word).prop_map(|(a, b, c)| format!("{a}::{b}::{c}")),
        "[A-Fa-f:]{1,20}",
        "[a-z:.; {}#-]{0,30}",
        // Packages and remotes.
        (word, "[0-9]{1,2}\\.[0-9]{1,3}\\.[0-9]{1,3}(-(beta|rc|alpha)(\\.[0-9]{1,2})?)?")
            .prop_map(|(name, version)| format!("@scope/{name}@{version}")),
        (word, word).prop_map(|(owner, name)| format!("git@github.com:{owner}/{name}.git")),
        // Hosts without a domain, and files.
        (word, "[a-z]{1,8}(-?[a-z0-9]{1,4}){0,3}").prop_map(|(who, host)| format!("{who}@{host}")),
        (word, "[1-4](\\.5)?", prop::sample::select(names::FILE_ENDINGS.to_vec()))
            .prop_map(|(name, scale, ending)| format!("/img/{name}@{scale}x.{ending}")),
        // Numbers: versions, objects, times, devices.
        "v[0-9]{1,2}\\.[0-9]{1,2}\\.[0-9]{1,2}\\.[0-9]{1,3}",
        "[0-2](\\.[0-9]{1,3}){4,9}",
        "[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?",
        "[0-9a-f]{2}(:[0-9a-f]{2}){5}",
        "[0-9A-F]{2}(:[0-9A-F]{2}){7}",
        "[0-9A-F]{2}(:[0-9A-F]{2}){19}",
        "[0-9]{1,4}(\\.[0-9]{1,4}){0,2}",
        "Mozilla/5\\.0 \\(X11; rv:[0-9]{1,3}\\.0\\) Chrome/[0-9]{1,3}\\.0\\.[0-9]{1,4}\\.[0-9]{1,3} Safari/537\\.36",
    ]
}

/// What stands around a thing in a text, and is neither part of an address nor of a version.
fn between() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop::sample::select(vec![
        ("", ""),
        (" ", " "),
        ("\"", "\""),
        ("<", ">"),
        ("(", ")"),
        ("who=", "&what=1"),
        ("a, ", ", b"),
        ("https://x.example/?e=", "#end"),
        ("ключ=", "\n"),
        ("seen by ", " today."),
        ("\t", "; "),
    ])
}

/// Whether `text` is one token.
fn is_token(text: &str) -> bool {
    let token = text.strip_prefix("em1_").or(text.strip_prefix("ip1_"));
    let is_part = |char: char| char.is_ascii_alphanumeric() || "-_".contains(char);
    token.is_some_and(|token| token.len() == 22 && token.chars().all(is_part))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn an_address_becomes_one_token_and_what_stands_around_it_stays(
        (before, after) in between(),
        address in prop_oneof![email(), ip()],
    ) {
        let masked = masker().text(&format!("{before}{address}{after}")).into_owned();
        let token = masked.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        prop_assert!(token.is_some_and(is_token), "{address} became {masked}");
    }

    #[test]
    fn an_ip_address_goes_with_brackets_ports_zones_and_in_urls(
        address in ip(),
        (before, after) in prop::sample::select(vec![
            ("[", "]"), ("[", "]:443"), ("http://[", "]:8080/a/b?c=d"), ("", "%eth0"), ("", "%25en0/64"),
            ("", "/64"), ("ip6:", " x"), ("for=\"[", "]:4711\""), ("", ","),
        ]),
    ) {
        // Brackets are IPv6's, ports without them IPv4's.
        let (before, after) = if address.contains(':') { (before, after) } else { ("tcp://", ":443/x") };
        let masked = masker().text(&format!("{before}{address}{after}")).into_owned();
        prop_assert!(!masked.contains(&address), "{address} became {masked}");
        prop_assert!(masked.ends_with(after) && masked.contains("ip1_"), "{address} became {masked}");
    }

    #[test]
    fn what_is_no_address_stays_as_it_is(
        (before, after) in between(),
        text in no_address(),
    ) {
        let text = format!("{before}{text}{after}");
        let masked = masker().text(&text).into_owned();
        prop_assert_eq!(masked, text);
    }

    #[test]
    fn a_version_field_keeps_four_numbers_and_nothing_else(
        version in "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}",
        address in email(),
    ) {
        prop_assert_eq!(masker().field("app_version", &version).into_owned(), version.clone());
        let text = format!("{version} by {address}");
        let masked = masker().field("appVersion", &text).into_owned();
        let token = masked.strip_prefix(&format!("{version} by "));
        prop_assert!(token.is_some_and(is_token), "{text} became {masked}");
    }
}
