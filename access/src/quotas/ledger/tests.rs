//! Nobody gets more than his quota, whoever waits as told gets in, and what is told only grows.

use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> Moment {
    Moment { now: Duration::from_millis(ms), ms: i64::try_from(ms).unwrap() }
}

const fn load(events: u64, bytes: u64) -> Load {
    Load { events, bytes }
}

fn quota(text: &str) -> Quota {
    text.parse().unwrap()
}

/// As a request does it: the door first, then the whole batch.
fn send(ledger: &Ledger, at: Moment, quota: &Quota, load: Load) -> Result<(), OverQuota> {
    ledger.look(at, "k", quota)?;
    ledger.charge(at, "k", quota, load)
}

#[test]
fn each_bound_of_a_quota_is_named_with_its_number_and_when_there_is_room_again() {
    const NOON: u64 = 43_200_000;
    let cases = [
        ("events=10/s", load(10, 0), 1_000),
        ("bytes=1KiB/s", load(1, 1 << 10), 1_000),
        ("events=10/day", load(10, 0), NOON),
        ("bytes=1KiB/day", load(1, 1 << 10), NOON),
    ];
    for (text, all, wait_ms) in cases {
        let (ledger, mine) = (Ledger::default(), quota(text));
        send(&ledger, at(NOON), &mine, all).unwrap();
        // Of a second, what is refused by its size is told until when its size has room.
        let refused = ledger.charge(at(NOON), "k", &mine, all).unwrap_err();
        assert_eq!(refused.quota, mine, "{text}");
        assert_eq!(refused.retry_after, Duration::from_millis(wait_ms), "{text}");
        let problem = Problem::from(refused);
        let response: http::Response<Vec<u8>> = problem.to_response();
        assert_eq!(response.status(), 429);
        let after = response.headers()[http::header::RETRY_AFTER].to_str().unwrap();
        assert_eq!(after, (wait_ms / 1_000).to_string(), "{text}");
        let told: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!((&told["code"], &told["quota"]), (&"quota_exceeded".into(), &text.into()));
        let limit = if text.starts_with("events") { 10 } else { 1 << 10 };
        assert_eq!((&told["limit"], &told["key"]), (&limit.into(), &"k".into()));
        // Nobody else is held up, and neither is he then.
        ledger.charge(at(NOON), "another", &mine, all).unwrap();
        send(&ledger, at(NOON + wait_ms), &mine, all).unwrap();
    }
}

#[test]
fn nothing_of_a_batch_is_charged_that_one_of_the_bounds_refuses() {
    let ledger = Ledger::default();
    let both = quota("events=100/s,bytes=1000/day");
    send(&ledger, at(0), &both, load(1, 900)).unwrap();
    ledger.charge(at(0), "k", &both, load(50, 200)).unwrap_err();
    send(&ledger, at(0), &both, load(99, 100)).unwrap();
    assert_eq!(ledger.day(0).keys["k"], load(100, 1_000));
    let (senders, rest) = ledger.tell();
    assert_eq!(senders[0].told, Told { sent: load(100, 1_000), refused: 1 });
    assert_eq!(rest, Told::default());
}

#[test]
fn a_days_first_batch_is_admitted_whatever_its_size_and_then_the_door_is_closed() {
    let (ledger, small) = (Ledger::default(), quota("events=10/day"));
    let day = 86_400_000;
    for start in [0, day] {
        send(&ledger, at(start), &small, load(500, 1)).unwrap();
        let refused = ledger.look(at(start + 1), "k", &small).unwrap_err();
        assert!(refused.to_string().ends_with("the day ends at 00:00 UTC, in 23 h 59 min"));
        send(&ledger, at(start + day - 1), &small, load(1, 1)).unwrap_err();
    }
}

#[test]
fn a_batch_that_was_not_taken_costs_nothing() {
    let ledger = Ledger::default();
    let all = quota("events=10/s,bytes=100/s,events=10/day,bytes=100/day");
    for _ in 0..100 {
        send(&ledger, at(0), &all, load(10, 100)).unwrap();
        ledger.refund("k", &all, load(10, 100));
    }
    assert!(ledger.day(0).keys.is_empty());
}

#[test]
fn a_restart_goes_on_with_the_same_day_and_not_with_another() {
    let small = quota("events=10/day");
    let before = Ledger::default();
    send(&before, at(1_000), &small, load(8, 80)).unwrap();
    let kept = serde_json::to_string(&before.day(2_000)).unwrap();
    let counts: DayCounts = serde_json::from_str(&kept).unwrap();
    let after = Ledger::default();
    after.resume(counts.clone(), 3_000);
    send(&after, at(3_000), &small, load(3, 1)).unwrap_err();
    send(&after, at(3_000), &small, load(2, 1)).unwrap();
    let tomorrow = Ledger::default();
    tomorrow.resume(counts, 86_400_000);
    assert!(tomorrow.day(86_400_000).keys.is_empty());
}

#[test]
fn keys_that_sent_nothing_for_a_day_are_forgotten_and_what_they_sent_is_not() {
    let (ledger, none) = (Ledger::default(), Quota::default());
    let day = 86_400_000;
    ledger.charge(at(0), "once", &none, load(1, 10)).unwrap();
    for days in 0..4 {
        ledger.charge(at(days * day), "often", &none, load(1, 1)).unwrap();
    }
    let (senders, rest) = ledger.tell();
    assert_eq!(senders.len(), 1);
    assert_eq!((senders[0].told.sent, rest.sent), (load(4, 4), load(1, 10)));
}

/// Keys in the order in which they send, more of them than are named.
fn sends() -> impl Strategy<Value = Vec<(usize, u64, bool)>> {
    prop::collection::vec((0..40_usize, 1..1_000_u64, any::<bool>()), 1..300)
}

proptest! {
    #[test]
    fn what_is_told_of_a_name_and_of_the_rest_only_grows_and_adds_up(sends in sends()) {
        let (ledger, none) = (Ledger::default(), Quota::default());
        let (mut all, mut of_rest) = (0, 0);
        let mut of_name: BTreeMap<String, u64> = BTreeMap::new();
        for (key, bytes, is_told) in sends {
            ledger.charge(at(0), &format!("key-{key}"), &none, load(1, bytes)).unwrap();
            all += bytes;
            if !is_told {
                continue;
            }
            let (senders, rest) = ledger.tell();
            prop_assert!(senders.len() <= KEYS_NAMED_MAX);
            let named: u64 = senders.iter().map(|one| one.told.sent.bytes).sum();
            prop_assert_eq!(named + rest.sent.bytes, all);
            prop_assert!(of_rest <= rest.sent.bytes);
            of_rest = rest.sent.bytes;
            let before = std::mem::take(&mut of_name);
            for one in senders {
                // Who was named before, too.
                if let Some(before) = before.get(&one.key) {
                    prop_assert!(*before <= one.told.sent.bytes);
                }
                of_name.insert(one.key, one.told.sent.bytes);
            }
        }
    }

    #[test]
    fn whoever_waits_as_told_gets_in_and_nobody_gets_more_than_his_quota(
        (per_second, bytes_per_second) in (1..2_000_u32, 1..200_000_u32),
        per_day in prop::option::of(1_000..1_000_000_u64),
        batches in prop::collection::vec((1..3_000_u64, 1..400_000_u64, 0..5_000_u64), 1..20),
    ) {
        let ledger = Ledger::default();
        let mine = Quota {
            events_per_second: NonZeroU32::new(per_second),
            bytes_per_second: NonZeroU32::new(bytes_per_second),
            events_per_day: per_day.and_then(std::num::NonZeroU64::new),
            ..Quota::default()
        };
        let (mut ms, mut all) = (0, Load::default());
        let mut days: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (events, bytes, pause_ms) in batches {
            ms += pause_ms;
            // A batch that has waited for one bound may have to wait for another.
            let mut tries = 0;
            while let Err(refused) = send(&ledger, at(ms), &mine, load(events, bytes)) {
                prop_assert!(tries < 4, "{refused}");
                tries += 1;
                ms += u64::try_from(refused.retry_after.as_millis()).unwrap();
            }
            // What came before this batch is paid off, but for what may come at once.
            for (sent, rate) in [(all.events, per_second), (all.bytes, bytes_per_second)] {
                prop_assert!(sent <= u64::from(rate) * (1_000 + ms) / 1_000, "{sent} by {ms}");
            }
            all = all.plus(load(events, bytes));
            days.entry(ms / 86_400_000).or_default().push(events);
        }
        for of_day in days.values() {
            let sum: u64 = of_day.iter().sum();
            prop_assert!(of_day.len() == 1 || per_day.is_none_or(|per_day| sum <= per_day));
        }
    }
}
