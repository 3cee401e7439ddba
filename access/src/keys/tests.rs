//! The book of keys: what each of its commands leaves, and books of older releases.

use super::*;

const FIRST: &str = "the-first-of-what-is-given";
const SECOND: &str = "the-second-of-what-is-given";

#[test]
fn a_given_token_has_room_for_128_bits() {
    let refused = [
        "a",
        "Secret-of-21-letters_",
        "0123456789abcdef0123456789abcde",
        "0123-4567-89ab-cdef-0123-4567",
        "12345678901234567890123456789012345678",
    ];
    for token in refused {
        let adopted = KeyBook::new().adopt(KeyKind::Admin, token, "", 1);
        assert!(matches!(adopted, Err(KeyError::Weak { .. })), "{token}: {adopted:?}");
    }
    let taken = [
        "Secret-of-22-letters-_",
        "0123456789abcdef0123456789abcdef",
        "f81d4fae-7dec-41d0-a765-00a0c91e6bf6",
        "123456789012345678901234567890123456789",
    ];
    for token in taken {
        KeyBook::new().adopt(KeyKind::Admin, token, "", 1).unwrap();
    }
    for kind in [KeyKind::Write, KeyKind::Read, KeyKind::Admin] {
        let (_, made) = KeyBook::new().create(kind, "", 1).unwrap();
        KeyBook::new().adopt(kind, made.expose(), "", 1).unwrap();
    }
}

#[test]
fn a_key_that_could_never_be_used_is_not_made() {
    let made = |origins: &[&str], event_types: &[&str], label: &str| {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let (origins, event_types) = (owned(origins), owned(event_types));
        let options =
            KeyOptions { label: label.to_owned(), origins, event_types, ..KeyOptions::default() };
        KeyBook::new().create(KeyKind::Write, options, 1).map(|_made| ())
    };
    for origin in ["*", "null", "https://shop.example", "http://[::1]:3000/", "app://localhost"] {
        made(&[origin], &[], "").unwrap();
    }
    for origin in
        ["", "shop.example", "https://", "https://a.b/path", "https://a\u{1b}[31m", "://a"]
    {
        let refused = made(&["https://a.b", origin], &[], "");
        assert!(matches!(refused, Err(KeyError::Origin { .. })), "{origin:?}: {refused:?}");
    }
    for name in ["", " ", &"a".repeat(257)] {
        let refused = made(&[], &["view", name], "");
        assert!(matches!(refused, Err(KeyError::EventType { .. })), "{name:?}: {refused:?}");
    }
    made(&[], &["view", "page view"], &"ü".repeat(200)).unwrap();
    assert!(matches!(made(&[], &[], &"a".repeat(201)), Err(KeyError::Label { found: 201 })));
    assert!(matches!(made(&[], &["a"; 101], ""), Err(KeyError::Narrowed { found: 101, .. })));
}

#[test]
fn a_token_opens_until_it_is_revoked_and_the_file_never_holds_it() {
    let mut book = KeyBook::new();
    let (record, secret) = book.create(KeyKind::Write, "web", 1).unwrap();
    assert!(secret.expose().starts_with("nw_"));
    let bytes = book.to_bytes();
    assert!(!String::from_utf8_lossy(&bytes).contains(secret.expose()));
    let mut again = KeyBook::parse(&bytes).unwrap();
    let principal = again.authenticate(secret.expose()).unwrap();
    assert_eq!(principal.key_id, record.id);
    assert!(again.principal(&record.id).is_some());
    again.revoke(&record.id, 2).unwrap();
    assert!(again.authenticate(secret.expose()).is_none());
    assert!(again.principal(&record.id).is_none());
    let reread = KeyBook::parse(&again.to_bytes()).unwrap();
    assert!(reread.authenticate(secret.expose()).is_none());
}

#[test]
fn a_near_miss_opens_nothing() {
    let mut book = KeyBook::new();
    let (_, secret) = book.create(KeyKind::Read, "r", 1).unwrap();
    let mut near = secret.expose().to_owned();
    let last = near.pop().unwrap();
    near.push(if last == 'A' { 'B' } else { 'A' });
    for token in [near.as_str(), "", "nr_", &"x".repeat(10_000)] {
        assert!(book.authenticate(token).is_none());
    }
}

#[test]
fn an_adopted_token_is_one_key_however_often_and_never_two_kinds() {
    let mut book = KeyBook::new();
    let first = book.adopt(KeyKind::Write, "chosen-by-hand-and-long-enough", "env", 1).unwrap();
    let second = book.adopt(KeyKind::Write, "chosen-by-hand-and-long-enough", "env", 2).unwrap();
    assert_eq!(first.id, second.id);
    assert!(matches!(
        book.adopt(KeyKind::Admin, "chosen-by-hand-and-long-enough", "env", 3),
        Err(KeyError::InUse { .. })
    ));
    book.revoke(&first.id, 4).unwrap();
    assert!(matches!(
        book.adopt(KeyKind::Write, "chosen-by-hand-and-long-enough", "env", 5),
        Err(KeyError::Revoked { .. })
    ));
    assert!(matches!(book.adopt(KeyKind::Read, "two words", "", 6), Err(KeyError::Shape)));
}

fn given(book: &mut KeyBook, token: &str) -> Vec<String> {
    let over = book.retire(ENVIRONMENT, &[(KeyKind::Write, token)], 7);
    let options = KeyOptions { given_by: Some(ENVIRONMENT.to_owned()), ..KeyOptions::default() };
    book.adopt(KeyKind::Write, token, options, 1).unwrap();
    over
}

#[test]
fn what_is_given_stands_in_place_of_what_was_given_before_and_of_nothing_else() {
    let mut book = KeyBook::new();
    let (_, own) = book.create(KeyKind::Write, ENVIRONMENT, 1).unwrap();
    let (_, read) = book.create(KeyKind::Read, "", 1).unwrap();
    assert!(given(&mut book, FIRST).is_empty());
    assert!(given(&mut book, FIRST).is_empty(), "the same again changes nothing");
    let first_id = book.authenticate(FIRST).unwrap().key_id.clone();
    assert_eq!(given(&mut book, SECOND), [first_id.as_str()]);
    assert!(book.authenticate(FIRST).is_none() && book.principal(&first_id).is_none());
    // Back again: it was replaced, not revoked.
    assert_eq!(given(&mut book, FIRST).len(), 1);
    assert!(book.authenticate(FIRST).is_some() && book.authenticate(SECOND).is_none());
    // Nor is what the book made by itself, as long as it was not given, whatever its label.
    for token in [own.expose(), read.expose(), FIRST] {
        assert!(book.authenticate(token).is_some());
    }
    assert_eq!(book.retire("somebody else", &[], 7), [""; 0]);
    // The same token as another kind is another key.
    assert_eq!(book.retire(ENVIRONMENT, &[(KeyKind::Read, FIRST)], 7).len(), 1);
    assert_eq!(book.records().len(), 2);
    let again = KeyBook::parse(&book.to_bytes()).unwrap();
    assert_eq!(again.to_bytes(), book.to_bytes());
}

#[test]
fn a_key_of_the_book_that_was_given_once_ends_with_what_is_given_next() {
    let mut book = KeyBook::new();
    // The key of a first start, which its operator then puts into the environment.
    let (record, own) = book.create(KeyKind::Write, "first start", 1).unwrap();
    assert!(given(&mut book, own.expose()).is_empty());
    assert_eq!(book.authenticate(own.expose()).unwrap().key_id, record.id, "the same key");
    let mut book = KeyBook::parse(&book.to_bytes()).unwrap();
    assert_eq!(given(&mut book, SECOND), [record.id.as_str()]);
    assert!(book.authenticate(own.expose()).is_none());
    assert!(book.authenticate(SECOND).is_some());
    // Back again, it is a key as any that is given.
    assert_eq!(given(&mut book, own.expose()).len(), 1);
    assert!(book.authenticate(own.expose()).is_some());
}

/// Catches: ids that were repeats before the pause and count again after it.
#[test]
fn a_key_that_is_given_again_after_a_pause_is_what_it_was_made_as() {
    let mut book = KeyBook::new();
    let options = KeyOptions {
        source: SourceName::named("pages").unwrap(),
        origins: vec!["https://shop.example".to_owned()],
        quota: "events=5/s".parse().unwrap(),
        ..KeyOptions::from("shop")
    };
    let (record, own) = book.create(KeyKind::Write, options, 1).unwrap();
    assert!(given(&mut book, own.expose()).is_empty());
    let before = book.authenticate(own.expose()).unwrap();
    // Nothing is given, then another, over a restart; both times it opens nothing.
    assert_eq!(book.retire(ENVIRONMENT, &[], 7), [record.id.as_str()]);
    assert!(book.authenticate(own.expose()).is_none() && book.principal(&record.id).is_none());
    assert!(book.retire(ENVIRONMENT, &[], 8).is_empty(), "once");
    let mut book = KeyBook::parse(&book.to_bytes()).unwrap();
    assert!(given(&mut book, SECOND).is_empty());
    assert!(book.authenticate(own.expose()).is_none() && book.principal(&record.id).is_none());
    given(&mut book, own.expose());
    assert_eq!(book.authenticate(own.expose()).unwrap(), before);
    assert_eq!(book.records().len(), 1, "of what only the environment said nothing is left");
    let book = KeyBook::parse(&book.to_bytes()).unwrap();
    assert_eq!(book.authenticate(own.expose()).unwrap(), before);
    // Nor does anything come back that was revoked in the pause.
    let mut revoked = book.clone();
    revoked.retire(ENVIRONMENT, &[], 7);
    revoked.revoke(&record.id, 8).unwrap();
    let adopted = revoked.adopt(KeyKind::Write, own.expose(), ENVIRONMENT, 9);
    assert!(matches!(adopted, Err(KeyError::Revoked { .. })));
    // What another gives anew at each start is gone.
    let demo =
        KeyOptions { server: true, given_by: Some("demo".to_owned()), ..KeyOptions::default() };
    let mut book = KeyBook::new();
    book.create(KeyKind::Write, demo, 1).unwrap();
    assert_eq!(book.retire("demo", &[], 7).len(), 1);
    assert!(book.records().is_empty());
}

#[test]
fn books_of_every_version_are_read() {
    let texts = [
        (1, include_bytes!("../../testdata/v1/book.json").as_slice()),
        (2, include_bytes!("../../testdata/v2/book.json").as_slice()),
        (3, include_bytes!("../../testdata/v3/book.json").as_slice()),
        (4, include_bytes!("../../testdata/v4/book.json").as_slice()),
    ];
    for (version, text) in texts {
        let mut book = KeyBook::parse(text).unwrap();
        let labels: Vec<_> = book.records().iter().map(|it| it.label.as_str()).collect();
        assert_eq!(labels, ["environment", "first start", "environment", "shop"], "{version}");
        assert!(book.authenticate("given-in-the-environment").is_some(), "{version}");
        assert!(book.authenticate("given-and-revoked").is_none(), "{version}");
        let source = book.records()[3].source.as_ref().map(SourceName::as_str);
        assert_eq!(source, (version >= 3).then_some("shop"));
        assert_eq!(given(&mut book, "given-next-in-the-environment").len(), 1, "{version}");
        assert!(book.authenticate("given-in-the-environment").is_none(), "{version}");
        let ids: Vec<_> = book.records().iter().map(|it| it.id.as_str()).collect();
        let others = ["read-8rwM7Wsc", "admin-5SyVfxyg", "write-0cXgVNOo"];
        let next = book.authenticate("given-next-in-the-environment").unwrap();
        // Who gave the first one is known from version 2 on: else it stays to be seen.
        let first: &[&str] = if version == 1 { &["write-vxSsu8SU"] } else { &[] };
        assert_eq!(ids, [first, &others, &[next.key_id.as_str()]].concat(), "{version}");
    }
    let [(_, first), (_, second), (_, third), (_, fourth)] = texts;
    let kept = String::from_utf8(KeyBook::parse(first).unwrap().to_bytes()).unwrap();
    let given = |giver: &str| format!("\"given_by\": \"{giver}\"");
    let surely = kept.replace(&given(PERHAPS_ENVIRONMENT), &given(ENVIRONMENT));
    assert_ne!(kept, surely);
    assert_eq!(surely.replace("\"version\": 4", "\"version\": 2").as_bytes(), second);
    let kept = String::from_utf8(KeyBook::parse(third).unwrap().to_bytes()).unwrap();
    assert_eq!(kept.replace("\"version\": 4", "\"version\": 3").as_bytes(), third);
    assert_eq!(KeyBook::parse(fourth).unwrap().to_bytes(), fourth);
}

#[test]
fn a_key_that_an_old_book_only_labels_as_given_is_never_lost_without_a_trace() {
    let text = include_bytes!("../../testdata/v1/book.json");
    let first = "write-vxSsu8SU";
    let state = |book: &KeyBook| {
        let record = book.records().iter().find(|record| record.id == first)?;
        Some(record.revoked_ms)
    };
    let mut book = KeyBook::parse(text).unwrap();
    // Whoever writes the book first, this release reads it as it is.
    book.create(KeyKind::Read, "beside", 2).unwrap();
    let mut book = KeyBook::parse(&book.to_bytes()).unwrap();
    assert_eq!(book.retire(ENVIRONMENT, &[], 7), [first]);
    assert_eq!(state(&book), Some(Some(7)), "revoked, and listed");
    assert!(book.authenticate("given-in-the-environment").is_none());
    assert!(book.retire(ENVIRONMENT, &[], 8).is_empty(), "once");
    assert_eq!(state(&book), Some(Some(7)));
    // Where the environment does give it, there is no doubt any more.
    let mut book = KeyBook::parse(text).unwrap();
    assert!(given(&mut book, "given-in-the-environment").is_empty());
    assert_eq!(given(&mut book, "given-next-in-the-environment"), [first]);
    assert_eq!(state(&book), None);
}

#[test]
fn a_key_has_the_source_that_it_was_made_with_and_others_have_none() {
    let mut book = KeyBook::new();
    let source = SourceName::named("spam").unwrap();
    let options = KeyOptions { source: source.clone(), ..KeyOptions::default() };
    let (_, own) = book.create(KeyKind::Write, options, 1).unwrap();
    let (_, other) = book.create(KeyKind::Write, "", 1).unwrap();
    let book = KeyBook::parse(&book.to_bytes()).unwrap();
    assert_eq!(book.authenticate(own.expose()).unwrap().source, source);
    assert_eq!(book.authenticate(other.expose()).unwrap().source, None);
    let bad = String::from_utf8(book.to_bytes()).unwrap().replace("\"spam\"", "\"Spam 1\"");
    assert!(matches!(KeyBook::parse(bad.as_bytes()), Err(BookError::Json(_))));
}

#[test]
fn a_key_has_the_quota_that_it_was_made_with_and_one_that_no_release_knows_is_refused() {
    let mut book = KeyBook::new();
    let quota: Quota = "events=500/s,bytes=2GiB/day".parse().unwrap();
    let options = KeyOptions { quota, ..KeyOptions::default() };
    let (_, own) = book.create(KeyKind::Write, options, 1).unwrap();
    let (_, server) = book
        .create(KeyKind::Write, KeyOptions { server: true, ..KeyOptions::default() }, 1)
        .unwrap();
    given(&mut book, FIRST);
    let book = KeyBook::parse(&book.to_bytes()).unwrap();
    let of = |token: &str| {
        let principal = book.authenticate(token).unwrap();
        (principal.is_public, principal.quota)
    };
    assert_eq!(of(own.expose()), (true, quota));
    assert_eq!(of(server.expose()), (false, Quota::default()));
    assert_eq!(of(FIRST), (false, Quota::default()), "the operator's own");
    let bad = String::from_utf8(book.to_bytes()).unwrap().replace("2GiB/day", "2GiB/week");
    assert!(matches!(KeyBook::parse(bad.as_bytes()), Err(BookError::Json(_))));
}

#[test]
fn the_new_values_of_a_book_of_version_3_are_a_part_of_the_quota() {
    let text = std::str::from_utf8(include_bytes!("../../testdata/v3/book.json")).unwrap();
    let shop = "\"source\": \"shop\"";
    for (own, expected) in [
        ("\"values_max\": 60000", "values=60k/day"),
        ("\"values_max\": 7, \"quota\": \"events=5/s\"", "events=5/s,values=7/day"),
    ] {
        let text = text.replace(shop, &format!("{shop}, {own}"));
        let book = KeyBook::parse(text.as_bytes()).unwrap();
        assert_eq!(book.records()[3].quota.to_string(), expected);
        let again = KeyBook::parse(&book.to_bytes()).unwrap();
        assert_eq!(again.records()[3].quota.to_string(), expected);
    }
}

#[test]
fn a_quota_of_a_write_key_in_force_can_be_changed_and_of_no_other() {
    let mut book = KeyBook::new();
    let quota = |text: &str| text.parse::<Quota>().unwrap();
    let options = KeyOptions {
        quota: quota("events=5/s,bytes=1GiB/day"),
        origins: vec!["https://shop.example".to_owned()],
        source: SourceName::named("shop").unwrap(),
        ..KeyOptions::from("shop")
    };
    let (record, own) = book.create(KeyKind::Write, options, 1).unwrap();
    let before = book.authenticate(own.expose()).unwrap();
    assert_eq!(book.set_quota(&record.id, quota("values=9/day")).unwrap(), record.quota);
    // In place of all that it was, and of nothing else.
    let after = Principal { quota: quota("values=9/day"), ..(*before).clone() };
    assert_eq!(*book.authenticate(own.expose()).unwrap(), after);
    let book_after = KeyBook::parse(&book.to_bytes()).unwrap();
    assert_eq!(*book_after.authenticate(own.expose()).unwrap(), after);
    book.set_quota(&record.id, Quota::default()).unwrap();
    assert!(book.authenticate(own.expose()).unwrap().quota.is_empty());
    given(&mut book, FIRST);
    let given_id = book.authenticate(FIRST).unwrap().key_id.clone();
    book.set_quota(&given_id, quota("events=5/s")).unwrap();
    given(&mut book, FIRST);
    assert_eq!(book.authenticate(FIRST).unwrap().quota, quota("events=5/s"), "over starts");
    let (read, _) = book.create(KeyKind::Read, "", 1).unwrap();
    let (admin, _) = book.create(KeyKind::Admin, "", 1).unwrap();
    book.revoke(&record.id, 2).unwrap();
    for (id, told) in [
        (record.id.as_str(), "a revoked key"),
        (&read.id, "a read token"),
        (&admin.id, "an admin token"),
        ("nobody", "list them"),
    ] {
        let error = book.set_quota(id, quota("events=5/s")).unwrap_err().to_string();
        assert!(error.contains(id) && error.contains(told), "{error}");
    }
}

#[test]
fn a_book_of_another_version_or_shape_is_refused() {
    assert!(matches!(
        KeyBook::parse(br#"{"version":5,"keys":[]}"#),
        Err(BookError::Version { found: 5 })
    ));
    assert!(matches!(KeyBook::parse(b"{}"), Err(BookError::Json(_))));
    assert!(matches!(KeyBook::parse(br#"{"version":1,"keys":[],"x":1}"#), Err(BookError::Json(_))));
}

#[test]
fn a_replaced_book_is_in_force_at_once() {
    let keys = Keys::new(KeyBook::new());
    let mut book = KeyBook::new();
    let (record, secret) = book.create(KeyKind::Admin, "a", 1).unwrap();
    keys.replace(book.clone());
    assert!(keys.authenticate(secret.expose()).is_some());
    book.revoke(&record.id, 2).unwrap();
    keys.replace(book);
    assert!(keys.authenticate(secret.expose()).is_none());
}
