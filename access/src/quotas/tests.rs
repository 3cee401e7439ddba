//! Whoever waits as told gets in, and nobody gets more than the rate.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Time that passes when it is told to.
#[derive(Clone, Debug, Default)]
struct Clock(Arc<Mutex<Duration>>);

impl Clock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

fn quotas(per_second: u32) -> (Quotas, Clock) {
    let clock = Clock::default();
    let rate = NonZeroU32::new(per_second).unwrap();
    let settings = QuotaSettings {
        events_per_second: rate,
        events_burst: rate,
        queries_per_second: rate,
        connections_max: 2,
        subscriptions_max: 1,
        ..QuotaSettings::default()
    };
    let read = clock.clone();
    (Quotas::with_clock(&settings, Arc::new(move || read.now())), clock)
}

/// As a request does it: the door first, then the whole batch.
fn send(quotas: &Quotas, key_id: &str, address: IpAddr, events: u32) -> Result<(), TooMany> {
    let principal = sender(key_id);
    let sending = Sending { principal: &principal, address, ms: 0 };
    quotas.look_events(sending).map_err(rate)?;
    check(quotas, key_id, address, events)
}

/// A browser key without a quota of its own.
fn sender(key_id: &str) -> Principal {
    Principal {
        key_id: key_id.to_owned(),
        kind: crate::KeyKind::Write,
        origins: Vec::new(),
        event_types: Vec::new(),
        server: false,
        source: None,
        is_public: true,
        quota: Quota::default(),
    }
}

fn rate(refused: MayNotSend) -> TooMany {
    match refused {
        MayNotSend::Rate(too_many) => too_many,
        MayNotSend::Quota(over) => panic!("{over}"),
    }
}

fn check(quotas: &Quotas, key_id: &str, address: IpAddr, events: u32) -> Result<(), TooMany> {
    let load = Load { events: events.into(), bytes: 0 };
    let principal = sender(key_id);
    quotas.check_events(Sending { principal: &principal, address, ms: 0 }, load).map_err(rate)
}

fn refund(quotas: &Quotas, key_id: &str, address: IpAddr, events: u32) {
    let load = Load { events: events.into(), bytes: 0 };
    let principal = sender(key_id);
    quotas.refund_events(Sending { principal: &principal, address, ms: 0 }, load);
}

/// As a refusal has it.
fn ms(ms: u64) -> Option<Duration> {
    Some(Duration::from_millis(ms))
}

fn there(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, last))
}

#[test]
fn a_second_admits_the_rate_and_the_next_second_again() {
    let (quotas, clock) = quotas(100);
    check(&quotas, "k", HERE, 100).unwrap();
    let refused = check(&quotas, "k", HERE, 1).unwrap_err();
    assert!(refused.retry_after <= ms(10), "{refused}");
    clock.advance(Duration::from_secs(1));
    check(&quotas, "k", HERE, 100).unwrap();
}

#[test]
fn one_key_over_its_limit_leaves_the_others_alone_and_an_address_counts_all_its_keys() {
    let (quotas, _clock) = quotas(100);
    check(&quotas, "a", there(1), 100).unwrap();
    assert_eq!(check(&quotas, "a", there(2), 1).unwrap_err().whose, "key");
    assert_eq!(check(&quotas, "b", there(1), 1).unwrap_err().whose, "address");
    check(&quotas, "b", there(3), 1).unwrap();
}

#[test]
fn a_refused_batch_closes_the_door_until_it_would_have_been_admitted() {
    let (quotas, clock) = quotas(100);
    check(&quotas, "k", HERE, 60).unwrap();
    check(&quotas, "k", HERE, 60).unwrap_err();
    check(&quotas, "k", HERE, 1).unwrap_err();
    clock.advance(Duration::from_millis(250));
    check(&quotas, "k", HERE, 60).unwrap();
}

#[test]
fn a_batch_over_one_seconds_allowance_passes_a_rested_client_and_is_paid_off() {
    let (quotas, clock) = quotas(100);
    send(&quotas, "k", HERE, 101).unwrap();
    // A batch that is refused passes the same way, after just so long as was said.
    let refused = send(&quotas, "k", HERE, 101).unwrap_err();
    assert_eq!(refused.retry_after, ms(1_010));
    clock.advance(Duration::from_millis(1_010));
    send(&quotas, "k", HERE, 5_000).unwrap();
    let refused = send(&quotas, "k", HERE, 1).unwrap_err();
    assert_eq!(refused.retry_after, ms(50_000));
    clock.advance(Duration::from_secs(49));
    assert_eq!(send(&quotas, "k", HERE, 1).unwrap_err().retry_after, ms(1_000));
}

#[test]
fn what_the_key_refuses_is_not_charged_to_the_address() {
    let (quotas, clock) = quotas(100);
    send(&quotas, "k", there(1), 59).unwrap();
    for _ in 0..10 {
        let refused = check(&quotas, "k", there(2), 60).unwrap_err();
        assert_eq!((refused.whose, refused.retry_after), ("key", ms(190)));
    }
    clock.advance(Duration::from_millis(190));
    send(&quotas, "k", there(2), 60).unwrap();
}

#[test]
fn a_batch_that_was_not_taken_costs_nothing_and_neither_does_whoever_waits_for_it() {
    let (quotas, clock) = quotas(100);
    send(&quotas, "k", HERE, 5_000).unwrap();
    // Another one is under way, and is told how long that would take.
    let refused = check(&quotas, "k", HERE, 60).unwrap_err();
    assert_eq!(refused.retry_after, ms(49_600));
    clock.advance(Duration::from_millis(300));
    refund(&quotas, "k", HERE, 5_000);
    send(&quotas, "k", HERE, 5_000).unwrap();
    // What is owed for other batches stays.
    assert_eq!(send(&quotas, "k", HERE, 1).unwrap_err().retry_after, ms(50_000));
    refund(&quotas, "k", HERE, 4_900);
    assert_eq!(send(&quotas, "k", HERE, 1).unwrap_err().retry_after, ms(1_000));
    // And nobody else's.
    refund(&quotas, "j", there(1), 5_000);
    assert_eq!(send(&quotas, "k", HERE, 1).unwrap_err().retry_after, ms(1_000));
}

#[test]
fn advice_is_rounded_up_to_what_a_header_can_say() {
    let (quotas, clock) = quotas(3);
    quotas.check_queries("k", HERE, 3).unwrap();
    // A third of a second is 333.3 ms: after 333 there is nothing yet.
    let refused = quotas.check_queries("k", HERE, 1).unwrap_err();
    assert_eq!(refused.retry_after, ms(334));
    clock.advance(Duration::from_millis(333));
    quotas.check_queries("k", HERE, 1).unwrap_err();
    clock.advance(Duration::from_millis(1));
    quotas.check_queries("k", HERE, 1).unwrap();
}

#[test]
fn an_ipv6_client_cannot_hide_in_its_own_network() {
    let (quotas, _clock) = quotas(1);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    quotas.check_address(address("2001:db8::1"), 1).unwrap();
    quotas.check_address(address("2001:db8::2"), 1).unwrap_err();
    quotas.check_address(address("2001:db8:0:1::1"), 1).unwrap();
    quotas.check_address(address("::ffff:203.0.113.9"), 1).unwrap();
    quotas.check_address(there(9), 1).unwrap_err();
}

#[test]
fn who_guesses_is_slowed_and_nobody_else_at_the_same_address_is() {
    let (quotas, clock) = quotas(1_000);
    for guess in 0..20 {
        quotas.sign_in_failed(HERE, &format!("nr_aaaaa{guess}")).unwrap();
    }
    let refused = quotas.sign_in_failed(HERE, "nr_aaaaa-guess").unwrap_err();
    assert_eq!(refused.retry_after, ms(1_000));
    quotas.sign_in_failed(HERE, "nr_bbbbb-guess").unwrap();
    quotas.sign_in_failed(there(9), "nr_aaaaa-guess").unwrap();
    quotas.check_queries("k", HERE, 1_000).unwrap();
    clock.advance(Duration::from_secs(1));
    quotas.sign_in_failed(HERE, "nr_aaaaa-guess").unwrap();
}

#[test]
fn strangers_past_the_bound_share_one_limit_and_rested_ones_make_room() {
    let (one, two) = (NonZeroU32::MIN, NonZeroU32::new(2).unwrap());
    let rates: Rates<String> = Rates::new(one, two, ("queries a second", "address"), 2);
    let at = Duration::from_millis;
    for (stranger, cost) in [("a", 1), ("b", 30), ("c", 2)] {
        rates.check(at(0), stranger, cost).unwrap();
    }
    rates.check(at(0), "d", 1).unwrap_err();
    assert_eq!(rates.lock().accounts.len(), 2);
    // One owes nothing any more and makes room; the other is not let off by waiting its turn.
    rates.check(at(2_000), "d", 1).unwrap();
    let known = |name: &str| rates.lock().accounts.contains_key(name);
    assert!(known("d") && known("b") && !known("a"));
    rates.check(at(2_000), "b", 1).unwrap_err();
}

#[test]
fn what_is_held_is_given_back_when_dropped() {
    let (quotas, _clock) = quotas(1);
    let slots = [quotas.connection(HERE).unwrap(), quotas.connection(HERE).unwrap()];
    let refused = quotas.connection(HERE).unwrap_err();
    assert_eq!((refused.limit, refused.retry_after), (2, None));
    let told = "over the limit of 2 connections at once of one address: end one first";
    assert_eq!(refused.to_string(), told);
    let problem: crate::Problem = refused.into();
    let response: http::Response<Vec<u8>> = problem.to_response();
    assert_eq!(response.status(), 429);
    assert!(!response.headers().contains_key(http::header::RETRY_AFTER), "no time ends it");
    drop(slots);
    quotas.connection(HERE).unwrap();
    assert!(quotas.connections.lock().is_empty());

    let live = quotas.subscription("k", HERE).unwrap();
    for (key, address, whose) in [("j", HERE, "address"), ("k", there(1), "key")] {
        let refused = quotas.subscription(key, address).unwrap_err();
        assert_eq!((refused.whose, refused.retry_after), (whose, None));
    }
    // The refused one gave its address back.
    quotas.subscription("j", there(1)).unwrap();
    drop(live);
    quotas.subscription("k", HERE).unwrap();
}

/// What a client does next: it sends a batch, after a pause.
fn batches() -> impl Strategy<Value = Vec<(u32, u64)>> {
    let size = prop_oneof![1..200_u32, 1..20_000_u32, Just(u32::MAX)];
    let pause_ns = prop_oneof![Just(0), 0..1_000_000_u64, 0..20_000_000_000_u64];
    prop::collection::vec((size, pause_ns), 1..20)
}

proptest! {
    #[test]
    fn whoever_waits_as_told_gets_in_and_the_long_run_rate_holds(
        rate in prop_oneof![1..300_u32, 1..2_000_000_u32, Just(u32::MAX)],
        batches in batches(),
        by_header in any::<bool>(),
    ) {
        let (quotas, clock) = quotas(rate);
        // Over the whole life: the burst, and the rate times the time, before each batch.
        let mut admitted = 0_u128;
        for (size, pause_ns) in batches {
            clock.advance(Duration::from_nanos(pause_ns));
            let mut outcome = send(&quotas, "k", HERE, size);
            // The door is asked first, so its advice holds for a batch of any size.
            if let Err(refused) = outcome {
                let wait = if by_header {
                    let problem: crate::Problem = refused.into();
                    let response: http::Response<Vec<u8>> = problem.to_response();
                    let header = response.headers()[http::header::RETRY_AFTER].to_str().unwrap();
                    Duration::from_secs(header.parse().unwrap())
                } else {
                    refused.retry_after.unwrap()
                };
                clock.advance(wait);
                outcome = send(&quotas, "k", HERE, size);
            }
            prop_assert!(outcome.is_ok(), "{size} at {rate}/s, waited as told: {outcome:?}");
            let allowed = u128::from(rate) * (1_000_000_000 + clock.now().as_nanos());
            prop_assert!(admitted * 1_000_000_000 <= allowed, "{admitted} before {size}");
            admitted += u128::from(size);
        }
    }

    #[test]
    fn what_is_paid_back_neither_admits_more_than_the_rate_nor_makes_advice_untrue(
        rate in prop_oneof![1..300_u32, 1..2_000_000_u32],
        batches in prop::collection::vec(
            (1..20_000_u32, prop_oneof![Just(0), 0..3_000_000_000_u64], any::<bool>()),
            1..30,
        ),
    ) {
        let (quotas, clock) = quotas(rate);
        let mut taken = 0_u128;
        // What was said last to whoever was refused.
        let mut promised = None;
        for (size, pause_ns, is_taken) in batches {
            clock.advance(Duration::from_nanos(pause_ns));
            if let Err(refused) = send(&quotas, "k", HERE, size) {
                promised = Some((clock.now() + refused.retry_after.unwrap(), size));
                continue;
            }
            let allowed = u128::from(rate) * (1_000_000_000 + clock.now().as_nanos());
            prop_assert!(taken * 1_000_000_000 <= allowed, "{taken} before {size}");
            if is_taken {
                taken += u128::from(size);
                promised = None;
            } else {
                // The log refuses it after a while.
                clock.advance(Duration::from_nanos(pause_ns / 2));
                refund(&quotas, "k", HERE, size);
            }
        }
        if let Some((at, size)) = promised {
            clock.advance(at.saturating_sub(clock.now()));
            prop_assert_eq!(send(&quotas, "k", HERE, size), Ok(()));
        }
    }

    #[test]
    fn a_client_within_its_rate_is_never_refused(
        rate in 1..100_000_u32,
        shares in prop::collection::vec(1..100_u32, 1..40),
    ) {
        // Batches that each come as long after the last one as that one takes to pay off.
        let (quotas, clock) = quotas(rate);
        for share in shares {
            let size = (rate / share).max(1);
            prop_assert_eq!(send(&quotas, "k", HERE, size), Ok(()));
            let ns = (u64::from(size) * 1_000_000_000).div_ceil(u64::from(rate));
            clock.advance(Duration::from_nanos(ns));
        }
    }
}
