//! What one person does from landing to leaving: a walk through the funnel.

use std::io::Write;

use fastrand::Rng;

use super::people::{Audience, CATEGORIES, Person, title};

/// One visit under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    person: Person,
    /// Number of the visit, unique within a run: part of event ids and of the session id.
    number: u64,
    /// Events sent so far.
    sent: u32,
    state: State,
    category: u8,
    title: u32,
    watched_s: f64,
    length_s: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Landing,
    Browsing,
    Choosing,
    Playing,
    Finished,
    Deciding,
}

/// One event of a visit, and how long until the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) event_type: &'static str,
    /// Until the next event; `None` when the visit is over.
    pub(crate) next_ms: Option<i64>,
    duration_s: Option<f64>,
    completed: Option<bool>,
    has_content: bool,
    price: Option<f64>,
}

impl Visit {
    pub(crate) fn begin(person: Person, number: u64) -> Self {
        Self {
            person,
            number,
            sent: 0,
            state: State::Landing,
            category: person.favourites[0],
            title: 1,
            watched_s: 0.0,
            length_s: 0.0,
        }
    }

    /// Takes the next step.
    pub(crate) fn step(&mut self, rng: &mut Rng) -> Step {
        self.sent += 1;
        let draw = rng.f64();
        match self.state {
            State::Landing => {
                // A quarter look at one page and leave.
                self.state = State::Browsing;
                let leaves = draw < 0.25;
                Step::plain("page_view", (!leaves).then(|| seconds(rng, 3.0, 20.0)))
            }
            State::Browsing => {
                (self.category, self.title) = Audience::content(&self.person, rng);
                self.state = State::Choosing;
                let kind = if draw < 0.3 { "search" } else { "impression" };
                let next = (draw < 0.92).then(|| seconds(rng, 2.0, 15.0));
                Step { has_content: kind == "impression", ..Step::plain(kind, next) }
            }
            State::Choosing => self.choose(draw, rng),
            State::Playing => self.play(draw, rng),
            State::Finished => {
                self.state = if draw < 0.08 { State::Deciding } else { State::Browsing };
                let next = (draw < 0.55).then(|| seconds(rng, 2.0, 30.0));
                Step::plain("page_view", next)
            }
            State::Deciding => {
                let (kind, price) = match draw {
                    draw if draw < 0.45 => ("subscribe", Some(9.99)),
                    draw if draw < 0.75 => ("purchase", Some(3.99 + (draw * 10.0).floor())),
                    _ => ("cart_abandoned", None),
                };
                Step { price, ..Step::plain(kind, None) }
            }
        }
    }

    fn choose(&mut self, draw: f64, rng: &mut Rng) -> Step {
        if draw < 0.45 {
            self.state = State::Browsing;
            let mut step = Step::plain("impression", Some(seconds(rng, 2.0, 12.0)));
            step.has_content = true;
            return step;
        }
        if draw < 0.80 {
            // The player opens a moment after the click.
            self.state = State::Playing;
            self.watched_s = 0.0;
            self.length_s = 60.0 + 2400.0 * rng.f64() * rng.f64();
            let mut step = Step::plain("click", Some(seconds(rng, 1.0, 3.0)));
            step.has_content = true;
            return step;
        }
        self.state = State::Browsing;
        let mut step = Step::plain("content_view", Some(seconds(rng, 4.0, 40.0)));
        step.has_content = true;
        step
    }

    fn play(&mut self, draw: f64, rng: &mut Rng) -> Step {
        let started = self.watched_s == 0.0;
        let stretch_s = (self.length_s / 5.0).clamp(20.0, 240.0);
        let mut step = if started {
            Step::plain("play_start", Some(seconds(rng, stretch_s, stretch_s * 1.1)))
        } else if self.watched_s >= self.length_s || draw < 0.06 {
            let completed = self.watched_s >= self.length_s * 0.9;
            self.state = State::Finished;
            let mut step = Step::plain(
                if completed { "play_complete" } else { "play_stop" },
                (draw < 0.8).then(|| seconds(rng, 2.0, 20.0)),
            );
            step.duration_s = Some((self.watched_s.min(self.length_s) * 10.0).round() / 10.0);
            step.completed = Some(completed);
            step
        } else {
            Step::plain("heartbeat", Some(seconds(rng, stretch_s, stretch_s * 1.1)))
        };
        step.has_content = true;
        if self.state == State::Playing {
            self.watched_s += stretch_s;
        }
        step
    }

    /// Appends the event as one JSON object.
    pub(crate) fn write(&self, step: &Step, time_ms: i64, run: u64, out: &mut Vec<u8>) {
        let person = &self.person;
        let mut text = |arguments: std::fmt::Arguments<'_>| {
            out.write_fmt(arguments).expect("writing to memory cannot fail");
        };
        text(format_args!(
            "{{\"event_id\":\"{run:x}-{:x}-{}\",\"event_type\":\"{}\",\"user_id\":\"u-{}\",\
             \"session_id\":\"s-{run:x}-{:x}\",\"timestamp\":{time_ms},\"country\":\"{}\",\
             \"device_type\":\"{}\",\"app_version\":\"{}\",\"subscription_tier\":\"{}\",\
             \"channel\":\"{}\",\"cohort\":\"{}\"",
            self.number,
            self.sent,
            step.event_type,
            person.number,
            self.number,
            person.country,
            person.device,
            person.version,
            person.tier,
            person.channel,
            person.cohort,
        ));
        if step.has_content {
            let category = CATEGORIES[usize::from(self.category)];
            let (first, second) = title(self.category, self.title);
            text(format_args!(
                ",\"content_id\":\"{first}-{second}\",\"content_category\":\"{category}\""
            ));
        }
        if let Some(duration_s) = step.duration_s {
            text(format_args!(",\"session_duration_sec\":{duration_s}"));
        }
        if let Some(completed) = step.completed {
            text(format_args!(",\"completed\":{completed}"));
        }
        match step.price {
            Some(price) => text(format_args!(
                ",\"properties\":{{\"position\":{},\"price\":{price:.2}}}",
                self.sent
            )),
            None => text(format_args!(
                ",\"properties\":{{\"position\":{},\"referrer\":\"https://www.example.com/{}/spring-\
                 campaign?utm_source={}&utm_medium=banner\",\"viewport\":\"1920x1080\"}}",
                self.sent, person.channel, person.channel
            )),
        }
        out.push(b'}');
    }
}

impl Step {
    const fn plain(event_type: &'static str, next_ms: Option<i64>) -> Self {
        Self {
            event_type,
            next_ms,
            duration_s: None,
            completed: None,
            has_content: false,
            price: None,
        }
    }
}

/// A pause between two lengths, in milliseconds.
fn seconds(rng: &mut Rng, from_s: f64, to_s: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "pauses are minutes at most")]
    let ms = ((from_s + (to_s - from_s) * rng.f64()) * 1000.0) as i64;
    ms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_is_a_walk_of_valid_events_that_ends() {
        let audience = Audience::new(100, 3);
        let mut rng = Rng::with_seed(5);
        let mut types = std::collections::BTreeMap::new();
        for number in 0..500 {
            let mut visit = Visit::begin(audience.arrival(0, &mut rng), number);
            for _ in 0..10_000 {
                let step = visit.step(&mut rng);
                let mut text = Vec::new();
                visit.write(&step, 1_700_000_000_000, 1, &mut text);
                let event: serde_json::Value = serde_json::from_slice(&text).unwrap();
                *types.entry(event["event_type"].as_str().unwrap().to_owned()).or_insert(0) += 1;
                if step.next_ms.is_none() {
                    break;
                }
            }
        }
        for kind in ["page_view", "click", "impression", "play_start", "play_complete", "subscribe"]
        {
            assert!(types.contains_key(kind), "{kind} in {types:?}");
        }
    }
}
