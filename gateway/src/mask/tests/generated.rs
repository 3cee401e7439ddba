//! Addresses as people and programs write them, and what is none: exactly the first go.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::{masker, names};

fn v4() -> impl Strategy<Value = String> {
    any::<[u8; 4]>().prop_map(|octets| Ipv4Addr::from(octets).to_string())
}

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
        object(),
        "[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?",
        "[0-9a-f]{2}(:[0-9a-f]{2}){5}",
        "[0-9A-F]{2}(:[0-9A-F]{2}){7}",
        "[0-9A-F]{2}(:[0-9A-F]{2}){19}",
        "[0-9]{1,4}(\\.[0-9]{1,4}){0,2}",
        "Mozilla/5\\.0 \\(X11; rv:[0-9]{1,3}\\.0\\) Chrome/[0-9]{1,3}\\.0\\.[0-9]{1,4}\\.[0-9]{1,3} Safari/537\\.36",
    ]
}

/// The number of an object: X.660 has three roots, with at most 40 numbers below the first two.
fn object() -> impl Strategy<Value = String> {
    let head = prop_oneof![
        (0..=1_u32, 0..40_u32),
        (Just(2_u32), prop::sample::select(vec![1_u32, 5, 16, 23, 40, 49])),
    ];
    let arc = prop_oneof![4 => 0..256_u32, 1 => any::<u32>()];
    (head, prop::collection::vec(arc, 4..9)).prop_map(|((root, second), arcs)| {
        arcs.iter().fold(format!("{root}.{second}"), |text, arc| format!("{text}.{arc}"))
    })
}

/// What a browser says of itself, as RFC 9110 has it, with versions of any length.
fn agent() -> impl Strategy<Value = String> {
    let version = || "[0-9]{1,3}(\\.[0-9]{1,3}){0,4}";
    let product =
        ("[A-Z][A-Za-z]{1,9}", version()).prop_map(|(name, version)| format!("{name}/{version}"));
    let system = prop::sample::select(vec![
        "X11; Linux x86_64",
        "iPhone; CPU iPhone OS 18_0 like Mac OS X",
        "Windows NT 10.0; Win64; x64; rv:133.0",
        "compatible; Googlebot/2.1; +http://www.google.com/bot.html",
        "compatible; MSIE 9.0; Trident/5.0",
    ]);
    (system, prop::collection::vec(product, 0..4), any::<bool>()).prop_map(
        |(system, products, gecko)| {
            let gecko = if gecko { " (KHTML, like Gecko)" } else { "" };
            let head = format!("Mozilla/5.0 ({system}) AppleWebKit/537.36{gecko}");
            products.iter().fold(head, |text, product| format!("{text} {product}"))
        },
    )
}

/// An IPv4 address that is no network of no host, and what stands around it: what could make a
/// version, an object's number or a part of something else of it, and does not.
fn tempted() -> impl Strategy<Value = (String, String, String)> {
    let name = || "[a-z]{1,6}";
    let method = prop::sample::select(vec!["GET", "POST", "from", "via", "->", "-", "|"]);
    let before = prop_oneof![
        // Logs: an agent, and then a page, a host or a proxy.
        (agent(), method, name())
            .prop_map(|(agent, word, host)| format!("{agent} {word} https://{host}.example/")),
        (agent(), name()).prop_map(|(agent, host)| format!("{agent} {host}.example/")),
        (agent(), name()).prop_map(|(agent, host)| format!("{agent} {host}:8080/")),
        (agent(), name()).prop_map(|(agent, path)| format!("{agent}\" \"/{path}/")),
        (agent(), name())
            .prop_map(|(agent, key)| format!("{{\"agent\":\"{agent}\",\"{key}\":\"/{key}/")),
        (agent(), name()).prop_map(|(agent, word)| format!("{agent}, {word}/")),
        agent().prop_map(|agent| format!("{agent} ")),
        agent().prop_map(|agent| format!("{agent} (+https://x.example/")),
        (name(), name()).prop_map(|(a, b)| format!("https://{a}.example/{b}/")),
        // Prose about builds and releases.
        name().prop_map(|word| format!("built on {word} ")),
        Just("release 5.2 of ".to_owned()),
        // Escapes in front.
        prop::sample::select(vec![
            "\\n", "\\t", "\\r\\n", "\\\\n", "\\u0022", "\\u0020", "%20", "%22", "%2522"
        ])
        .prop_map(str::to_owned),
    ];
    // Ports as tcpdump and netstat write them, ports, paths, words.
    let after = prop_oneof![
        (1..=65_535_u16).prop_map(|port| format!(".{port}")),
        (1..=65_535_u16).prop_map(|port| format!(".{port} > 10.1.2.3.443: Flags")),
        (1..=65_535_u16).prop_map(|port| format!(":{port}/a")),
        prop::sample::select(vec![
            "", "/a/b", " ", "-dev", "-next", "-POST", "+final", "\\n", "\", \"", ")", "%20",
            "?a=b", "...",
        ])
        .prop_map(str::to_owned),
    ];
    let address = v4().prop_filter("networks", |address| !address.ends_with(".0.0.0"));
    (before, address, after)
}

/// A text of [`tempted`].
pub(super) fn tempting() -> impl Strategy<Value = String> {
    tempted().prop_map(|(before, address, after)| format!("{before}{address}{after}"))
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

/// One way to write one character, of those that URLs, HTML and JSON know.
fn way(kind: u8, char: char) -> String {
    let code = u32::from(char);
    let named = [('@', "commat"), ('.', "period"), (':', "colon"), ('&', "amp"), ('%', "percnt")];
    match (kind % 10, named.iter().find(|(named, _)| *named == char)) {
        (0, _) => format!("%{code:02X}"),
        (1, _) => format!("%{code:02x}"),
        (2, _) => format!("&#{code};"),
        (3, _) => format!("&#0{code};"),
        (4, _) => format!("&#x{code:x};"),
        (5, _) => format!("&#X00{code:X};"),
        (6, _) => format!("\\u{code:04x}"),
        (7, _) => format!("\\\\u{code:04X}"),
        (_, Some((_, name))) => format!("&{name};"),
        (_, None) => format!("&#000{code};"),
    }
}

/// How each character of a text is written: plain, in one way, or in one within another.
type Ways = Vec<Option<(u8, Option<u8>)>>;

fn ways() -> impl Strategy<Value = Ways> {
    let one = (any::<u8>(), prop::option::weighted(0.3, any::<u8>()));
    prop::collection::vec(prop::option::weighted(0.8, one), 12)
}

/// `text` with every character that `is_meant` written as `ways` have it, in turn.
fn written(text: &str, ways: &Ways, is_meant: impl Fn(char) -> bool) -> String {
    let mut turn = ways.iter().cycle();
    let mut write = |char: char| {
        let way_of = if is_meant(char) { *turn.next()? } else { None };
        let (inner, outer) = way_of?;
        let once = way(inner, char);
        let again = |char: char| match outer {
            Some(outer) if "%&#;\\".contains(char) => way(outer, char),
            _ => char.to_string(),
        };
        Some(once.chars().map(again).collect::<String>())
    };
    text.chars().map(|char| write(char).unwrap_or_else(|| char.to_string())).collect()
}

/// A mail address without signs that could begin an escape.
fn plain_email() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9._+-]{0,8}[a-z0-9]@[a-z]{2,8}(-[a-z0-9]{1,3})?\\.(com|de|co\\.uk|museum)"
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
    fn an_address_becomes_one_token_however_it_is_written(
        (before, after) in between(),
        address in prop_oneof![plain_email(), ip()],
        ways in ways(),
        is_whole in any::<bool>(),
    ) {
        // Most escape what separates, some whole addresses.
        let written = written(&address, &ways, |char| is_whole || "@.:".contains(char));
        let masked = masker().text(&format!("{before}{written}{after}")).into_owned();
        let token = masked.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        prop_assert!(token.is_some_and(is_token), "{address} as {written} became {masked}");
    }

    #[test]
    fn a_reference_of_html_ends_without_a_semicolon_where_no_digit_follows(
        local in "[a-z]{1,8}", label in "[g-z]{2,8}", groups in prop::collection::vec("[a-f][0-9a-f]{0,3}", 8),
        zeros in "0{0,9}", is_hex in any::<bool>(),
    ) {
        let reference = |char: char| match is_hex {
            true => format!("&#x{zeros}{:x}", u32::from(char)),
            false => format!("&#{zeros}{}", u32::from(char)),
        };
        let mail = format!("{local}{}{label}{}com", reference('@'), if is_hex { ".".to_owned() } else { reference('.') });
        prop_assert!(is_token(&masker().text(&mail)), "{}", masker().text(&mail));
        if !is_hex && groups.iter().any(|group| group.contains(|char: char| char.is_ascii_digit())) {
            let ip = groups.join(&reference(':'));
            let is_device = groups.iter().all(|group| group.len() == 2);
            prop_assert!(is_device || is_token(&masker().text(&ip)), "{}", masker().text(&ip));
        }
    }

    #[test]
    fn what_is_no_address_is_none_however_it_is_written(
        (before, after) in between(),
        text in no_address().prop_filter("known by what stands plain", |text| !text.contains("git@") && !text.contains("Mozilla")),
        ways in ways(),
    ) {
        let text = format!("{before}{}{after}", written(&text, &ways, |char| "@.:".contains(char)));
        let masked = masker().text(&text).into_owned();
        prop_assert_eq!(masked, text);
    }

    #[test]
    fn escapes_of_what_is_no_address_stay(
        text in "([a-z %&;#\\\\.:\u{e9}]|%[a-f]{2}|&#x[a-f]{1,4};|&[a-z]{1,4};|\\\\u[a-f]{4}|::|Mozilla/|%2[0-9a-d]|&#(32|10|92);){0,30}",
    ) {
        // Without an `@`, and with no digits but those of escapes, which stand for none.
        let masked = masker().text(&text).into_owned();
        prop_assert_eq!(masked, text);
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
    fn what_browsers_say_of_themselves_stays_as_it_is(
        agent in agent(),
        (before, after) in prop::sample::select(vec![
            ("", ""), ("\"", "\""), ("ua=", "&x=1"), ("a, ", ", b"), ("GET / ", " - -"), ("(", ")"),
            ("{\"agent\":\"", "\",\"ip\":null"), ("seen ", "\nnext"), ("\\\"", "\\\""),
        ]),
    ) {
        let text = format!("{before}{agent}{after}");
        let masked = masker().text(&text).into_owned();
        prop_assert_eq!(masked, text);
    }

    #[test]
    fn an_address_that_could_be_taken_for_something_else_becomes_one_token(
        (before, address, after) in tempted(),
    ) {
        let token = masker().text(&address).into_owned();
        let masked_after = after.replace("10.1.2.3", &masker().text("10.1.2.3"));
        let masked = masker().text(&format!("{before}{address}{after}")).into_owned();
        prop_assert_eq!(masked, format!("{before}{token}{masked_after}"));
    }

    #[test]
    fn an_address_behind_a_number_does_not_get_through(
        number in 3..70_000_u32,
        address in v4(),
        after in prop_oneof![Just(String::new()), (1..=65_535_u16).prop_map(|port| format!(".{port}"))],
    ) {
        let masked = masker().text(&format!("{number}.{address}{after}")).into_owned();
        prop_assert!(!masked.contains(&address) && masked.contains("ip1_"), "{}", masked);
    }

    #[test]
    fn an_ip_address_goes_behind_escapes(
        address in ip(),
        before in prop::sample::select(vec![
            "\\n", "\\t", "\\r", "\\\\n", "\\u0022", "\\u003c", "\\u000a", "%20", "%5B", "%2520", "a\\n",
            "&#32;", "&#x20;", "a&#10;", "a&#x0a;", "a&amp;#32;", "a%26%2332%3B", "a\\u0026#x20;", "&nbsp;",
        ]),
    ) {
        let masked = masker().text(&format!("{before}{address}\\n")).into_owned();
        prop_assert!(!masked.contains(&address), "{address} became {masked}");
        prop_assert!(masked.ends_with("\\n") && masked.contains("ip1_"), "{address} became {masked}");
    }

    #[test]
    fn a_version_field_keeps_a_version(
        field in prop::sample::select(vec![
            "version", "app_version", "osVersion", "sdk_ver", "versionName", "version_code", "firmware",
            "build_number", "release-no",
        ]),
        numbers in "[0-9]{1,3}(\\.[0-9]{1,3}){0,5}",
        (before, after) in prop::sample::select(vec![
            ("", ""), ("v", ""), ("V", "-rc.1"), ("", "+build.77"), ("", "b2"), ("", " (77)"), ("", "_alpha"),
        ]),
    ) {
        let version = format!("{before}{numbers}{after}");
        prop_assert_eq!(masker().field(field, &version).into_owned(), version.clone());
        let json = serde_json::json!({"a": {field: version}, "b": 1}).to_string();
        prop_assert_eq!(masker().json(&json, &mut |_name| ()).into_owned(), json);
    }

    #[test]
    fn no_field_lets_an_address_through_that_is_part_of_a_text(
        field in prop::sample::select(vec![
            "version", "app_version", "versions", "sdk_ver", "version_name", "firmware", "build",
            "build_number", "release", "pressRelease", "oid", "content_id",
        ]),
        address in v4(),
        (before, after) in prop::sample::select(vec![
            ("built on ", ""), ("contact ", "."), ("5.2 (", ")"), ("", " via proxy"), ("", ":443"),
            ("", ", and others"), ("1.2.3 from ", ""), ("https://x.example/?a=", ""), ("[", "]"), ("5.2.0.1-", ""),
        ]),
    ) {
        let text = format!("{before}{address}{after}");
        prop_assert!(!masker().field(field, &text).contains(&address));
        for json in [
            serde_json::json!({field: text}),
            serde_json::json!({field: [address]}),
            serde_json::json!({field: {"at": address}}),
        ] {
            let masked = masker().json(&json.to_string(), &mut |_name| ()).into_owned();
            prop_assert!(!masked.contains(&address), "{}", masked);
        }
    }
}
