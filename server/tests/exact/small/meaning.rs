//! What a generated request means, by the words of docs/api.md and nothing of ours.

use std::collections::HashSet;

use super::grammar::{Encoding, Fault, Frame, Input, Line, Node, Text, Writer, text};

const EVENT_BYTES_MAX: usize = 65_536;
const DEPTH_MAX: usize = 32;
const PROPERTIES_MAX: usize = 256;
const STRING_BYTES_MAX: usize = 8_192;

/// The years 1 to 9999.
const TIME_MS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// How far a client's clock may differ from ours, and an event be ahead of its receipt.
const CLOCK_MS_MAX: i64 = 300_000;

/// An event that is accepted, as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    pub(crate) timestamp: i64,
    pub(crate) sent_at: Option<i64>,
    /// The bytes as sent, where no id was given.
    pub(crate) event_id: Option<String>,
    pub(crate) event_type: String,
    pub(crate) user_id: Option<String>,
    pub(crate) anonymous_id: Option<String>,
    pub(crate) service_name: Option<String>,
    pub(crate) dimensions: [Option<String>; 8],
    pub(crate) session_duration_sec: Option<f64>,
    pub(crate) completed: Option<bool>,
    pub(crate) import: bool,
}

/// The dimensions of [`Sent::dimensions`], in order.
pub(crate) const DIMENSIONS: [&str; 8] = [
    "country",
    "device_type",
    "app_version",
    "content_id",
    "content_category",
    "subscription_tier",
    "cohort",
    "channel",
];

/// What must become of a request.
pub(crate) enum Meaning {
    /// 400, and nothing of it is in.
    NoBody,
    /// 200: what becomes of each event, in order; `None` is rejected.
    Read(Vec<Option<Sent>>),
}

pub(crate) fn of(input: &Input, now_ms: i64) -> Meaning {
    if is_none(input) {
        return Meaning::NoBody;
    }
    let judge = |node: &Node, sent_at: SentAt| judge(node, sent_at, input, now_ms);
    Meaning::Read(match &input.frame {
        Frame::Lines { lines, .. } => lines
            .iter()
            .filter_map(|line| match line {
                Line::Event(node) => Some(judge(node, Ok(None))),
                Line::Blank(_) => None,
                Line::Broken(_) => Some(None),
            })
            .collect(),
        Frame::One(node) => match events_of(node) {
            Some((events, sent_at)) => events.iter().map(|event| judge(event, sent_at)).collect(),
            None => vec![judge(node, Ok(None))],
        },
    })
}

/// What an envelope says of when it was sent: nothing, a time, or nonsense.
type SentAt = Result<Option<i64>, ()>;

/// The events of a body that is no single event, and when it was sent.
fn events_of(body: &Node) -> Option<(&[Node], SentAt)> {
    match body {
        Node::List(events) => Some((events, Ok(None))),
        Node::Object(members) => {
            let is = |member: &&(Text, Node), name: &str| member.0 == text(name);
            let mut lists = members.iter().filter(|member| is(member, "events"));
            let (Some((_, Node::List(events))), None) = (lists.next(), lists.next()) else {
                return None;
            };
            let has_type = members.iter().any(|member| is(&member, "event_type"));
            let has_fields = members.iter().any(|(name, _)| {
                name.spoilt.is_none()
                    && KNOWN.contains(&name.chars.as_str())
                    && name.chars != "sent_at"
            });
            let is_event = has_type || (has_fields && events.is_empty());
            let said = |member: &&(Text, Node)| !matches!(member.1, Node::Word("null"));
            let sent_at = members.iter().filter(|member| is(member, "sent_at")).find(said);
            let sent_at = sent_at.map(|(_, time)| time_ms(time).ok_or(())).transpose();
            (!is_event).then_some((events.as_slice(), sent_at))
        }
        _ => None,
    }
}

/// True where a body is none: by its fault, or as nothing is in it.
fn is_none(input: &Input) -> bool {
    let blank = |line: &Line| matches!(line, Line::Blank(_));
    match &input.frame {
        Frame::Lines { lines, .. } if lines.iter().all(blank) => true,
        _ => input.fault.is_some_and(|fault| is_hit_by(input, fault)),
    }
}

/// True where a fault makes a body none. What is behind the last line is another line, half a
/// line is a broken line, and a number may end anywhere.
pub(crate) fn is_hit_by(input: &Input, fault: Fault) -> bool {
    match (fault, &input.frame) {
        (Fault::Empty, _) | (Fault::Trailing, Frame::One(_)) => true,
        (Fault::Trailing, Frame::Lines { .. }) => false,
        (Fault::Cut, _) if input.encoding != Encoding::Plain => true,
        (Fault::Cut, Frame::Lines { .. } | Frame::One(Node::Number(_))) => false,
        (Fault::Cut, Frame::One(_)) => true,
    }
}

/// The names that the schema knows.
const KNOWN: [&str; 19] = [
    "event_id",
    "event_type",
    "user_id",
    "anonymous_id",
    "service_name",
    "session_id",
    "country",
    "device_type",
    "app_version",
    "content_id",
    "content_category",
    "subscription_tier",
    "cohort",
    "channel",
    "timestamp",
    "sent_at",
    "session_duration_sec",
    "completed",
    "properties",
];

/// The names whose values may be whole numbers.
const IDS: [&str; 6] =
    ["user_id", "anonymous_id", "session_id", "event_id", "content_id", "service_name"];

/// What becomes of one event; `None` where it is rejected.
fn judge(event: &Node, envelope_sent_at: SentAt, input: &Input, now_ms: i64) -> Option<Sent> {
    let Node::Object(members) = event else { return None };
    if !Shape::of(event).is_within_limits() {
        return None;
    }
    let said = Said(members);
    said.properties_are_right()?;
    said.text("session_id")?;
    let event_id = said.text("event_id")?;
    if event_id.as_deref() == Some("") {
        return None;
    }
    let key = |name: &str| said.user_key(name);
    let (user_id, anonymous_id, service_name) =
        (key("user_id")?, key("anonymous_id")?, key("service_name")?);
    if user_id.is_none() && anonymous_id.is_none() && service_name.is_none() {
        return None;
    }
    let timestamp = said.time("timestamp")??;
    if input.import && timestamp > now_ms + CLOCK_MS_MAX {
        return None;
    }
    let mut dimensions = [const { None }; 8];
    for (slot, name) in dimensions.iter_mut().zip(DIMENSIONS) {
        *slot = said.text(name)?;
    }
    // The envelope speaks for all of its events; their own word must be right all the same.
    let own_sent_at = said.time("sent_at")?;
    Some(Sent {
        timestamp,
        sent_at: envelope_sent_at.ok()?.or(own_sent_at),
        event_id,
        event_type: said.text("event_type")?.filter(|text| !text.is_empty())?,
        user_id,
        anonymous_id,
        service_name,
        dimensions,
        session_duration_sec: said.duration()?,
        completed: said.completed()?,
        import: input.import,
    })
}

/// The members of an event. What is asked of them is `None` where it is wrong, and `Some(None)`
/// where it was left out.
struct Said<'e>(&'e [(Text, Node)]);

impl Said<'_> {
    fn known(&self, name: &str) -> Option<&Node> {
        let member = self.0.iter().find(|member| member.0.chars == name);
        member.map(|(_, value)| value).filter(|value| !matches!(value, Node::Word("null")))
    }

    fn text(&self, name: &str) -> Option<Option<String>> {
        match self.known(name) {
            None => Some(None),
            Some(Node::Text(text)) => Some(Some(text.chars.clone())),
            Some(Node::Number(digits)) if IDS.contains(&name) => whole(digits).map(Some),
            Some(_) => None,
        }
    }

    /// A part of the user key; an empty one is as good as none.
    fn user_key(&self, name: &str) -> Option<Option<String>> {
        match self.text(name)?.filter(|key| !key.is_empty()) {
            Some(key) if name != "service_name" && is_nobody(&key) => None,
            key => Some(key),
        }
    }

    fn time(&self, name: &str) -> Option<Option<i64>> {
        match self.known(name) {
            None => Some(None),
            Some(time) => time_ms(time).map(Some),
        }
    }

    fn duration(&self) -> Option<Option<f64>> {
        match self.known("session_duration_sec") {
            None => Some(None),
            Some(Node::Number(digits)) => duration(digits).map(Some),
            Some(_) => None,
        }
    }

    fn completed(&self) -> Option<Option<bool>> {
        match self.known("completed") {
            None => Some(None),
            Some(Node::Word(word)) => Some(Some(*word == "true")),
            Some(_) => None,
        }
    }

    /// Properties are an object, and with what the schema does not know no more than allowed.
    fn properties_are_right(&self) -> Option<()> {
        let properties: &[(Text, Node)] = match self.known("properties") {
            None => &[],
            Some(Node::Object(properties)) => properties,
            Some(_) => return None,
        };
        let unknown = self.0.iter().filter(|member| !KNOWN.contains(&member.0.chars.as_str()));
        let mut names = HashSet::new();
        let are_apart = properties.iter().chain(unknown).all(|(name, _)| names.insert(&name.chars));
        (are_apart && names.len() <= PROPERTIES_MAX).then_some(())
    }
}

/// The decimal text of a whole number.
fn whole(digits: &str) -> Option<String> {
    let plain = digits.strip_prefix('-').unwrap_or(digits);
    (digits != "-0" && plain.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.to_owned())
}

/// Words that programs write where there is no user.
fn is_nobody(key: &str) -> bool {
    let words = ["undefined", "null", "nan", "none", "nil", "(null)", "<nil>", "[object object]"];
    // Of all that is not seen, what the grammar writes.
    let is_unseen = |char: char| {
        char.is_whitespace()
            || char.is_control()
            || ['\u{ad}', '\u{200b}', '\u{feff}'].contains(&char)
    };
    let seen = key.trim_matches(is_unseen);
    seen.is_empty() || words.contains(&seen.to_lowercase().as_str())
}

/// Seconds from 0 up whose micro-seconds fit 64 bits; of the two zeros the one without a sign.
fn duration(digits: &str) -> Option<f64> {
    let seconds: f64 = digits.parse().ok()?;
    let micros = (seconds * 1e6).round();
    (seconds >= 0.0 && micros < 9_223_372_036_854_775_808.0).then_some(seconds + 0.0)
}

/// A moment as a client may write it.
fn time_ms(value: &Node) -> Option<i64> {
    let ms = match value {
        Node::Number(digits) => {
            let plain = digits.strip_prefix('-').unwrap_or(digits);
            let looks_like_seconds = (9..=10).contains(&plain.len());
            if looks_like_seconds || !plain.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            digits.parse().ok()?
        }
        Node::Text(text) => written_ms(&text.chars)?,
        _ => return None,
    };
    TIME_MS.contains(&ms).then_some(ms)
}

/// RFC 3339 and, beyond it, a comma before a fraction and offsets as `+0130` and `+01`.
fn written_ms(written: &str) -> Option<i64> {
    let at = |index: usize| written.as_bytes().get(index).copied();
    let digits = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = written.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let (hour, minute, second) = (digits(11..13)?, digits(14..16)?, digits(17..19)?);
    let marks = [at(4)?, at(7)?, at(13)?, at(16)?];
    if marks != *b"--::" || !matches!(at(10)?, b'T' | b't' | b' ') {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let date =
        jiff::civil::Date::new(year.try_into().ok()?, month.try_into().ok()?, day.try_into().ok()?)
            .ok()?;
    let days = i64::from((date - jiff::civil::date(1970, 1, 1)).get_days());
    let rest = written.get(19..)?;
    let (ms, rest) = match rest.strip_prefix(['.', ',']) {
        None => (0, rest),
        Some(rest) => {
            let count = rest.bytes().take_while(u8::is_ascii_digit).count();
            if count == 0 {
                return None;
            }
            let padded = format!("{:0<3}", &rest[..count]);
            (padded[..3].parse().ok()?, &rest[count..])
        }
    };
    let offset_min = offset_min(rest)?;
    let minute_ms = ((days * 24 + hour) * 60 + minute - offset_min) * 60_000;
    let next = jiff::Timestamp::from_millisecond(minute_ms + 60_000).ok()?.to_string();
    match second {
        // A leap second is the last of a month, and counts as the second before it.
        60 if !next.ends_with("-01T00:00:00Z") => None,
        second => Some(minute_ms + second.min(59) * 1000 + ms),
    }
}

/// The minutes that a written time is ahead of UTC.
fn offset_min(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let digits: String = zone.get(1..)?.chars().filter(|char| *char != ':').collect();
    let shape: String =
        zone.chars().map(|char| if char.is_ascii_digit() { '0' } else { char }).collect();
    if !["00:00", "0000", "00"].contains(&shape.get(1..)?) {
        return None;
    }
    let padded = format!("{digits:0<4}");
    let (hours, minutes): (i64, i64) = (padded[..2].parse().ok()?, padded[2..].parse().ok()?);
    let ahead = (hours <= 23 && minutes <= 59).then_some(hours * 60 + minutes)?;
    match zone.as_bytes()[0] {
        b'+' => Some(ahead),
        b'-' => Some(-ahead),
        _ => None,
    }
}

/// What the limits ask of a tree.
#[derive(Default)]
struct Shape {
    /// Written in the tightest way: events near the limit are not generated.
    bytes: usize,
    depth: usize,
    string_bytes: usize,
    spoilt: bool,
    /// An object has a name twice.
    repeats: bool,
}

impl Shape {
    fn of(node: &Node) -> Self {
        let mut shape = Self::default();
        shape.walk(node, 0);
        let mut writer = Writer::new(0);
        writer.node(node);
        shape.bytes = writer.out.len();
        shape
    }

    fn is_within_limits(&self) -> bool {
        let is_small = self.depth <= DEPTH_MAX && self.string_bytes <= STRING_BYTES_MAX;
        is_small && self.bytes <= EVENT_BYTES_MAX && !self.spoilt && !self.repeats
    }

    fn walk(&mut self, node: &Node, depth: usize) {
        match node {
            Node::Word(_) | Node::Number(_) => {}
            Node::Text(text) => self.text(text),
            Node::List(items) => {
                self.depth = self.depth.max(depth + 1);
                items.iter().for_each(|item| self.walk(item, depth + 1));
            }
            Node::Object(members) => {
                self.depth = self.depth.max(depth + 1);
                let mut names = HashSet::new();
                for (name, value) in members {
                    self.text(name);
                    self.repeats |= !names.insert(&name.chars);
                    self.walk(value, depth + 1);
                }
            }
        }
    }

    fn text(&mut self, text: &Text) {
        self.spoilt |= text.spoilt.is_some();
        self.string_bytes = self.string_bytes.max(text.chars.len());
    }
}

impl Sent {
    /// When the event counts, where it was received at `received_at`.
    pub(crate) fn time_at(&self, received_at: i64) -> i64 {
        if self.import {
            return self.timestamp;
        }
        let offset = self.sent_at.map_or(0, |sent_at| received_at - sent_at);
        let offset = if offset.abs() > CLOCK_MS_MAX { offset } else { 0 };
        let moved = (self.timestamp + offset).clamp(*TIME_MS.start(), *TIME_MS.end());
        if moved - received_at > CLOCK_MS_MAX { received_at } else { moved }
    }
}
