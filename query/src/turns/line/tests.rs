//! The line against a list of all who wait, in which fairness is counted.

use proptest::prelude::*;

use super::*;

fn caller(key: u8, connection: u8) -> Caller {
    Caller { key: format!("key-{key}").into(), connection: connection.into() }
}

fn line(at_once: usize, long_at_once: usize) -> Line<u32> {
    Line::new(Limits { at_once, long_at_once, waiting_max: 1_000, key_waiting_max: 500 })
}

/// What all work costs, where that does not matter.
const COST: Option<Duration> = Some(Duration::from_millis(1));

#[test]
fn one_question_waits_for_one_of_each_other_key_however_many_those_have() {
    let mut line = line(1, 1);
    for n in 0..400 {
        line.enter(&caller(1, u8::try_from(n % 16).unwrap()), Length::Short, n).unwrap();
    }
    line.enter(&caller(2, 0), Length::Short, 9_999).unwrap();
    assert_eq!(line.next(), Some((0, Length::Short)));
    line.done("key-1", Length::Short, COST);
    assert_eq!(line.next(), Some((9_999, Length::Short)));
}

#[test]
fn whose_questions_are_cheap_has_many_turns_for_one_of_a_key_with_dear_ones() {
    let mut line = line(1, 1);
    for n in 0..400 {
        line.enter(&caller(1, 0), Length::Short, n).unwrap();
        line.enter(&caller(2, 0), Length::Short, 1_000 + n).unwrap();
    }
    let mut cheap = 0;
    for _ in 0..300 {
        let (own, length) = line.next().unwrap();
        let (key, ms) = if own < 1_000 { ("key-1", 300) } else { ("key-2", 2) };
        cheap += usize::from(own >= 1_000);
        line.done(key, length, Some(Duration::from_millis(ms)));
    }
    assert!(cheap >= 296, "{cheap} of 300");
}

#[test]
fn a_place_is_left_by_a_key_with_dear_questions() {
    let mut line = line(4, 1);
    for n in 0..10 {
        line.enter(&caller(1, 0), Length::Short, n).unwrap();
    }
    line.next().unwrap();
    line.done("key-1", Length::Short, Some(Duration::from_secs(1)));
    assert_eq!(std::iter::from_fn(|| line.next()).count(), 3);
    line.enter(&caller(1, 0), Length::Long, 88).unwrap();
    assert_eq!(line.next(), Some((88, Length::Long)));
    line.done("key-1", Length::Long, COST);
    line.enter(&caller(2, 0), Length::Short, 99).unwrap();
    assert_eq!(line.next(), Some((99, Length::Short)));
}

#[test]
fn short_work_has_a_place_that_long_work_never_takes() {
    let mut line = line(2, 1);
    for n in 0..10 {
        line.enter(&caller(1, 0), Length::Long, n).unwrap();
    }
    assert_eq!(line.next(), Some((0, Length::Long)));
    assert_eq!(line.next(), None, "the other place is for short work");
    line.enter(&caller(2, 0), Length::Short, 99).unwrap();
    assert_eq!(line.next(), Some((99, Length::Short)));
}

#[test]
fn long_work_gets_its_turn_in_a_flood_of_short_work() {
    for at_once in [1, 2] {
        let mut line = line(at_once, 1);
        line.enter(&caller(1, 0), Length::Long, 99).unwrap();
        for n in 0..10 {
            line.enter(&caller(2, 0), Length::Short, n).unwrap();
        }
        let first: Vec<Length> = (0..2)
            .filter_map(|_| {
                let (own, length) = line.next()?;
                let key = if own == 99 { "key-1" } else { "key-2" };
                line.done(key, length, COST);
                Some(length)
            })
            .collect();
        assert_eq!(first, [Length::Short, Length::Long]);
    }
}

#[test]
fn what_would_wait_too_long_is_refused_first_to_the_key_that_has_most() {
    let limits = Limits { at_once: 1, long_at_once: 1, waiting_max: 3, key_waiting_max: 2 };
    let mut line = Line::new(limits);
    assert!(line.enter(&caller(1, 0), Length::Short, 1).is_ok());
    assert!(line.enter(&caller(1, 1), Length::Long, 2).is_ok());
    assert_eq!(line.enter(&caller(1, 2), Length::Short, 3), Err(Full::OfKey));
    assert!(line.enter(&caller(2, 0), Length::Short, 4).is_ok());
    assert_eq!(line.enter(&caller(3, 0), Length::Short, 5), Err(Full::OfAll));
}

/// What happens to a line.
#[derive(Clone, Debug)]
enum Step {
    Enter { key: u8, connection: u8, long: bool },
    Leave { which: usize },
    Next,
    Done { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_u8, 0..3_u8, any::<bool>())
            .prop_map(|(key, connection, long)| Step::Enter { key, connection, long }),
        1 => (0..64_usize).prop_map(|which| Step::Leave { which }),
        3 => Just(Step::Next),
        3 => (0..64_usize).prop_map(|which| Step::Done { which }),
    ]
}

/// One that waits, and whom it has seen go before it since it came.
#[derive(Clone, Debug)]
struct Waits {
    ticket: Ticket,
    caller: Caller,
    length: Length,
    /// Who had a turn of this length since it became the first of its connection.
    before: Vec<Caller>,
}

/// The model: a list in order of arrival.
#[derive(Default)]
struct Model {
    waits: Vec<Waits>,
    running: Vec<(Caller, Length)>,
}

impl Model {
    fn is_first(&self, at: usize) -> bool {
        let own = &self.waits[at];
        let same = |other: &Waits| other.caller == own.caller && other.length == own.length;
        !self.waits[..at].iter().any(same)
    }

    /// Takes out whoever the line has named, after it has been judged.
    fn served(&mut self, ticket: Ticket, length: Length) {
        let at = self.waits.iter().position(|own| own.ticket == ticket).expect("it waits");
        assert!(self.is_first(at), "within a connection whoever came first");
        let gone = self.waits[at].clone();
        assert_eq!(gone.length, length);
        for at in 0..self.waits.len() {
            let is_first = self.is_first(at);
            let own = &mut self.waits[at];
            if !is_first || own.length != length || own.ticket == ticket {
                continue;
            }
            let of_key = |key: &str| own.before.iter().filter(|one| *one.key == *key).count();
            let (whose, most) = if own.caller.key == gone.caller.key {
                (own.before.iter().filter(|one| **one == gone.caller).count(), 0)
            } else {
                // As often as its own key has had a turn, for another of its connections.
                (of_key(&gone.caller.key), of_key(&own.caller.key))
            };
            assert!(whose <= most, "{:?} had {whose} turns before {:?}", gone.caller, own.caller);
            own.before.push(gone.caller.clone());
        }
        self.waits.remove(at);
        self.running.push((gone.caller, length));
    }
}

proptest! {
    #[test]
    fn nobody_has_two_turns_while_another_waits_for_one(
        steps in prop::collection::vec(step(), 1..400),
        at_once in 1..4_usize,
        long_at_once in 1..4_usize,
    ) {
        let limits = Limits { at_once, long_at_once, waiting_max: 60, key_waiting_max: 30 };
        let mut line = Line::new(limits);
        let mut model = Model::default();
        let mut next = 0;
        for step in steps {
            match step {
                Step::Enter { key, connection, long } => {
                    let (caller, length) =
                        (caller(key, connection), if long { Length::Long } else { Length::Short });
                    let of_key = model.waits.iter().filter(|own| own.caller.key == caller.key);
                    let expected = match (model.waits.len() < 60, of_key.count() < 30) {
                        (false, _) => Err(Full::OfAll),
                        (true, false) => Err(Full::OfKey),
                        (true, true) => { next += 1; Ok(next) }
                    };
                    prop_assert_eq!(line.enter(&caller, length, next), expected);
                    if let Ok(ticket) = expected {
                        model.waits.push(Waits { ticket, caller, length, before: Vec::new() });
                    }
                }
                Step::Leave { which } if !model.waits.is_empty() => {
                    let gone = model.waits.remove(which % model.waits.len());
                    line.leave(&gone.caller, gone.length, gone.ticket);
                }
                Step::Next => {
                    let long = model.running.iter().filter(|own| own.1 == Length::Long).count();
                    let long_may = long < long_at_once.min(at_once);
                    let free = model.running.len() < at_once;
                    let may = |own: &Waits| own.length == Length::Short || long_may;
                    let expected = free && model.waits.iter().any(may);
                    match line.next() {
                        Some((ticket, length)) => {
                            prop_assert!(expected && (length == Length::Short || long_may));
                            model.served(ticket, length);
                        }
                        None => prop_assert!(!expected, "a place is free and somebody waits"),
                    }
                }
                Step::Done { which } if !model.running.is_empty() => {
                    let (caller, length) = model.running.remove(which % model.running.len());
                    line.done(&caller.key, length, COST);
                }
                Step::Leave { .. } | Step::Done { .. } => {}
            }
            prop_assert_eq!(line.waiting(), model.waits.len());
        }
    }
}
