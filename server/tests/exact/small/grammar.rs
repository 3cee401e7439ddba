//! What a client may send, as trees: bodies, events and values at the edges of what is allowed.
//!
//! A tree is rendered to bytes here and judged in `meaning`: nobody parses what was generated.

use fastrand::Rng;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A text, and how it is spoiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) chars: String,
    pub(crate) spoilt: Option<Spoilt>,
}

/// What makes a text none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoilt {
    /// An escape of half a character.
    HalfCharacter,
    /// A byte that is no UTF-8.
    BadByte,
}

/// A JSON value.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// `null`, `true`, `false`.
    Word(&'static str),
    /// A number by its digits.
    Number(String),
    Text(Text),
    List(Vec<Node>),
    Object(Vec<(Text, Node)>),
}

/// What one line of NDJSON holds.
#[derive(Clone, Debug)]
pub(crate) enum Line {
    Event(Node),
    /// White space: no event.
    Blank(&'static str),
    /// No JSON: one rejected event.
    Broken(Vec<u8>),
}

/// How a body holds its events.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    /// One JSON value: an event, an array of events, an envelope, or nothing of it.
    One(Node),
    Lines {
        lines: Vec<Line>,
        ending: &'static str,
        ends_with_one: bool,
    },
}

/// What is wrong with a body as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// More after its end.
    Trailing,
    /// Its last bytes are missing.
    Cut,
    /// Nothing but white space.
    Empty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    Gzip,
    Zstd,
    Brotli,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) frame: Frame,
    pub(crate) fault: Option<Fault>,
    pub(crate) encoding: Encoding,
    pub(crate) media_type: &'static str,
    /// With the mark that some editors put first.
    pub(crate) bom: bool,
    pub(crate) import: bool,
    /// The key in the address, as a beacon has it.
    pub(crate) key_in_query: bool,
    /// How often it is sent.
    pub(crate) sendings: usize,
    /// Chooses white space and escapes.
    pub(crate) style: u64,
}

pub(crate) fn text(chars: impl Into<String>) -> Text {
    Text { chars: chars.into(), spoilt: None }
}

fn number(digits: impl ToString) -> Node {
    Node::Number(digits.to_string())
}

/// Any request. `now_ms` is the test's own clock.
pub(crate) fn input(now_ms: i64) -> impl Strategy<Value = Input> {
    let fault = prop_oneof![
        30 => Just(None),
        1 => Just(Some(Fault::Trailing)),
        1 => Just(Some(Fault::Cut)),
        1 => Just(Some(Fault::Empty)),
    ];
    let encoding = prop_oneof![
        6 => Just(Encoding::Plain),
        1 => Just(Encoding::Gzip),
        1 => Just(Encoding::Zstd),
        1 => Just(Encoding::Brotli),
    ];
    let how = (
        any::<bool>(),
        0..5_u8,
        0..10_u8,
        any::<bool>(),
        any::<u64>(),
        any::<prop::sample::Index>(),
    );
    (frame(now_ms), fault, encoding, how).prop_map(
        |(frame, fault, encoding, (bom, import, sendings, key_in_query, style, media))| {
            let types: &[&str] = match frame {
                Frame::Lines { .. } => &[
                    "application/x-ndjson",
                    "application/ndjson",
                    "application/jsonl",
                    "Application/X-NDJSON; charset=utf-8",
                ],
                _ => &[
                    "application/json",
                    "application/json; charset=UTF-8",
                    "text/plain",
                    "text/plain;charset=UTF-8",
                    "text/json",
                    "application/cloudevents+json",
                ],
            };
            let sendings = if sendings == 0 { 2 } else { 1 };
            let media_type = *media.get(types);
            Input {
                frame,
                fault,
                encoding,
                media_type,
                bom,
                import: import == 0,
                key_in_query,
                sendings,
                style,
            }
        },
    )
}

/// Events of one body, sometimes one of them twice.
fn events(item: impl Strategy<Value = Node>) -> impl Strategy<Value = Vec<Node>> {
    (vec(item, 0..7), 0..8_usize).prop_map(|(mut events, again)| {
        events.extend(events.get(again).cloned());
        events
    })
}

fn frame(now_ms: i64) -> impl Strategy<Value = Frame> {
    let item = || prop_oneof![150 => event(now_ms), 1 => scalar(), 1 => vec(scalar(), 0..3).prop_map(Node::List)];
    let line = prop_oneof![
        120 => item().prop_map(Line::Event),
        2 => select(vec!["", " ", "\t ", "\r"]).prop_map(Line::Blank),
        1 => broken().prop_map(Line::Broken),
    ];
    let beside = || vec((name(), value(2)), 0..2);
    prop_oneof![
        3 => item().prop_map(Frame::One),
        3 => events(item()).prop_map(Node::List).prop_map(Frame::One),
        3 => (events(item()), beside(), beside(), prop::option::of(time(now_ms)), any::<bool>())
            .prop_map(|(events, before, after, sent_at, first)| envelope(events, before, after, sent_at, first)),
        3 => (vec(line, 0..7), select(vec!["\n", "\r\n"]), any::<bool>())
            .prop_map(|(lines, ending, ends_with_one)| Frame::Lines { lines, ending, ends_with_one }),
    ]
}

fn envelope(
    events: Vec<Node>,
    mut before: Vec<(Text, Node)>,
    mut after: Vec<(Text, Node)>,
    sent_at: Option<Node>,
    first: bool,
) -> Frame {
    if let Some(sent_at) = sent_at {
        let side = if first { &mut before } else { &mut after };
        side.push((text("sent_at"), sent_at));
    }
    before.push((text("events"), Node::List(events)));
    before.extend(after);
    Frame::One(Node::Object(before))
}

fn broken() -> impl Strategy<Value = Vec<u8>> {
    select(vec![
        b"{".to_vec(),
        b"not json".to_vec(),
        b"{\"event_type\":\"x\",}".to_vec(),
        b"{'event_type':'x'}".to_vec(),
        b"{\"a\":1}{\"b\":2}".to_vec(),
        b"{\"a\":01}".to_vec(),
        b"{\"a\":\"\x01\"}".to_vec(),
        b"{\"a\":NaN}".to_vec(),
        b"\xff\xfe".to_vec(),
        b"]".to_vec(),
    ])
}

/// An event: the members that it needs, right or wrong, and others.
pub(crate) fn event(now_ms: i64) -> impl Strategy<Value = Node> {
    let optional = (
        prop::option::weighted(0.5, field("event_id", event_id())),
        prop::option::weighted(0.4, field("session_id", id())),
        prop::option::weighted(0.4, field("session_duration_sec", duration())),
        prop::option::weighted(0.4, field("completed", completed())),
        prop::option::weighted(0.4, field("properties", properties())),
        prop::option::weighted(0.05, field("sent_at", time(now_ms))),
        vec(dimension(), 0..4),
        vec((name(), value(2)), 0..2),
        prop::option::weighted(0.01, field("user_id", id())),
    );
    let needed = (
        prop::option::weighted(0.99, field("event_type", event_type())),
        prop::option::weighted(0.99, field("timestamp", time(now_ms))),
        user(),
    );
    (needed, optional, any::<u64>()).prop_map(|((kind, time, user), optional, order)| {
        let (id, session, duration, completed, properties, sent_at, dimensions, unknown, again) =
            optional;
        let mut members: Vec<(Text, Node)> =
            [kind, time, id, session, duration, completed, properties, sent_at, again]
                .into_iter()
                .flatten()
                .chain(user)
                .chain(dimensions)
                .chain(unknown)
                .collect();
        Rng::with_seed(order).shuffle(&mut members);
        Node::Object(members)
    })
}

fn field(
    name: &'static str,
    value: impl Strategy<Value = Node>,
) -> impl Strategy<Value = (Text, Node)> {
    value.prop_map(move |value| (text(name), value))
}

fn user() -> impl Strategy<Value = Vec<(Text, Node)>> {
    prop_oneof![
        60 => field("user_id", id()).prop_map(|one| vec![one]),
        20 => field("anonymous_id", id()).prop_map(|one| vec![one]),
        15 => field("service_name", id()).prop_map(|one| vec![one]),
        10 => (field("user_id", id()), field("anonymous_id", id())).prop_map(|(one, two)| vec![one, two]),
        1 => Just(Vec::new()),
    ]
}

/// An id: a text, a whole number, or what is none.
fn id() -> impl Strategy<Value = Node> {
    prop_oneof![
        72 => (0..40_u32).prop_map(|n| Node::Text(text(format!("u-{n}")))),
        4 => (0..40_u32).prop_map(number),
        2 => odd_text().prop_map(Node::Text),
        1 => select(vec![
            "0", "-1", "-0", "00", "9007199254740993", "9223372036854775808",
            "340282366920938463463374607431768211456", "1.0", "1e3", "1E+2", "0.5",
        ]).prop_filter_map("JSON has no such number", |digits| (digits != "00").then(|| number(digits))),
        1 => select(vec!["undefined", "null", "NaN", "None", "[object Object]", " ", "\t\n", "nullable", "nan-1",
            "\u{a0}\u{200b}", "\u{0}", "\u{feff}null\u{ad}", "a\u{0}"])
            .prop_map(|word| Node::Text(text(word))),
        1 => scalar(),
    ]
}

/// An id of an event: no two have the same by chance, for which of them came first is nobody's
/// to say where they came by two topics.
fn event_id() -> impl Strategy<Value = Node> {
    let odd = (any::<u64>(), odd_text()).prop_map(|(own, mut text)| {
        if !text.chars.is_empty() {
            let own = format!("{own:016x}");
            let keep = text.chars.chars().skip(own.len()).collect::<String>();
            text.chars = own + &keep;
        }
        Node::Text(text)
    });
    prop_oneof![
        60 => any::<u64>().prop_map(|own| Node::Text(text(format!("e-{own:x}")))),
        10 => any::<u64>().prop_map(number),
        2 => "-?[1-9][0-9]{20,60}".prop_map(number),
        3 => odd,
        1 => select(vec!["-0", "1.0", "1e3", "1E+2"]).prop_map(number),
        1 => select(vec![Node::Word("true"), Node::Word("null"), Node::List(Vec::new())]),
    ]
}

fn event_type() -> impl Strategy<Value = Node> {
    prop_oneof![
        72 => select(vec!["page_view", "Page_View", "click", "impression", "purchase", "heartbeat", "view"])
            .prop_map(|kind| Node::Text(text(kind))),
        2 => odd_text().prop_map(Node::Text),
        1 => scalar(),
    ]
}

fn dimension() -> impl Strategy<Value = (Text, Node)> {
    let names = vec![
        "country",
        "device_type",
        "content_category",
        "app_version",
        "subscription_tier",
        "cohort",
        "channel",
        "content_id",
    ];
    let value = prop_oneof![
        72 => select(vec!["DE", "US", "日本", "tv", "mobile", "drama", "a", "__other__", "null", "*", "!x"])
            .prop_map(|value| Node::Text(text(value))),
        2 => odd_text().prop_map(Node::Text),
        1 => scalar(),
    ];
    (select(names), value).prop_map(|(name, value)| (text(name), value))
}

/// Texts at their edges, none of them an address of a person or a machine.
fn odd_text() -> impl Strategy<Value = Text> {
    prop_oneof![
        12 => "[a-z]{1,8}".prop_map(text),
        12 => "[a-zé日🎉\"\\\\/\u{0}\u{7f}\u{2028}\u{200b}\n\t ,*!]{1,12}".prop_map(text),
        1 => Just(text("")),
        1 => select(vec![8191_usize, 8192, 8193]).prop_map(|length| text("x".repeat(length))),
        1 => Just(text("é".repeat(4096))),
        1 => Just(Text { chars: "half".to_owned(), spoilt: Some(Spoilt::HalfCharacter) }),
        1 => Just(Text { chars: "bad".to_owned(), spoilt: Some(Spoilt::BadByte) }),
    ]
}

fn duration() -> impl Strategy<Value = Node> {
    prop_oneof![
        36 => (0..5_000_000_u32).prop_map(|ms| number(f64::from(ms) / 1000.0)),
        2 => (0..10_000_u32).prop_map(number),
        2 => select(vec![
            "0", "0.0", "-0.0", "1e-9", "0.0000005", "1e3", "1.5E+2", "123456789.987654321",
            "9223372036854.775807", "9223372036855", "1e13", "10000000000000000000",
        ]).prop_map(number),
        1 => select(vec!["-1", "-0.001", "-1e12", "1e40", "1e400"]).prop_map(number),
        1 => select(vec!["12.5", "", "long"]).prop_map(|word| Node::Text(text(word))),
        1 => scalar(),
    ]
}

fn completed() -> impl Strategy<Value = Node> {
    prop_oneof![
        48 => any::<bool>().prop_map(|is| Node::Word(if is { "true" } else { "false" })),
        1 => scalar(),
    ]
}

fn scalar() -> impl Strategy<Value = Node> {
    prop_oneof![
        Just(Node::Word("null")),
        any::<bool>().prop_map(|is| Node::Word(if is { "true" } else { "false" })),
        select(vec!["0", "7", "-1.5", "1e400", "123456789012345678901234567890"]).prop_map(number),
        "[a-z]{0,5}".prop_map(|chars| Node::Text(text(chars))),
        Just(Node::List(Vec::new())),
        Just(Node::Object(Vec::new())),
    ]
}

/// A name that the schema does not know.
fn name() -> impl Strategy<Value = Text> {
    prop_oneof![
        6 => "[a-c]{1,2}".prop_map(text),
        1 => select(vec!["events", "EVENT_TYPE", "userId", "batch", "", "event_type ", "properties.a"]).prop_map(text),
        1 => odd_text(),
    ]
}

fn value(depth: u32) -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![4 => scalar(), 1 => odd_text().prop_map(Node::Text)];
    leaf.prop_recursive(depth, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Node::List),
            vec(("[a-c]{1,2}".prop_map(text), inner), 0..3).prop_map(Node::Object),
        ]
    })
}

fn properties() -> impl Strategy<Value = Node> {
    let nested =
        |depth: usize| (1..depth).fold(Node::Word("null"), |inner, _| Node::List(vec![inner]));
    let many = |count: usize| {
        Node::Object((0..count).map(|n| (text(format!("p{n}")), number(n))).collect())
    };
    prop_oneof![
        72 => vec((name(), value(3)), 0..4).prop_map(Node::Object),
        1 => select(vec![28_usize, 29, 30, 31, 32, 33, 40])
            .prop_map(move |depth| Node::Object(vec![(text("deep"), nested(depth))])),
        1 => select(vec![24_usize, 25, 254, 255, 256, 257]).prop_map(many),
        1 => scalar(),
    ]
}

/// A time: near now, far from it, in every form that is one, and in some that are none.
fn time(now_ms: i64) -> impl Strategy<Value = Node> {
    const MINUTE_MS: i64 = 60_000;
    const DAY_MS: i64 = 1440 * MINUTE_MS;
    // Not within minutes of where the rules change: the test's clock is not the server's.
    let ms = prop_oneof![
        60 => -90 * MINUTE_MS..0,
        2 => -4 * MINUTE_MS..3 * MINUTE_MS,
        2 => -80 * DAY_MS..-DAY_MS,
        1 => 8 * MINUTE_MS..3 * 60 * MINUTE_MS,
        1 => DAY_MS..400 * DAY_MS,
        1 => -4000 * DAY_MS..-100 * DAY_MS,
    ]
    .prop_map(move |offset| now_ms + offset);
    prop_oneof![
        48 => ms.clone().prop_map(number),
        48 => (ms, form()).prop_map(|(ms, form)| Node::Text(text(form.write(ms)))),
        1 => select(vec![
            "0", "-1", "1", "99999999", "100000000", "1795000000", "9999999999", "10000000000",
            "-1795000000", "-0", "1795000000000.0", "1.795e12", "253402300799999", "253402300800000",
            "-62135596800000", "-62135596800001", "9223372036854775807", "9223372036854775808",
        ]).prop_map(number),
        1 => select(vec![
            "", "yesterday", "1795000000000", "2026-11-21", "2026-11-21T20:15:03", "2026-02-29T00:00:00Z",
            "2026-11-21T24:00:00Z", "2026-11-21T20:60:00Z", "2026-13-01T00:00:00Z", "2026-11-21T20:15:03+25:00",
            "2026-11-21T20:15:03+24:00", "2026-11-21T20:15:03+14:00:30", "2026-11-21T20:15:03+01:60",
            "2026-11-21T20:15:03 Z", " 2026-11-21T20:15:03Z", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z",
            "2026-11-21T20:15:03.Z", "2026-11-21T20:15:03Z[UTC]", "2016-12-31T23:59:60Z", "2016-12-31T22:59:60-01:00",
            "2016-12-30T23:59:60Z", "2026-11-21T20:15:60Z", "2026-11-21T20:15:03+1:00", "2026-11-21T20:15Z", "20261121T201503Z",
        ]).prop_map(|written| Node::Text(text(written))),
        1 => scalar(),
    ]
}

/// How a moment is written in RFC 3339.
#[derive(Clone, Copy, Debug)]
struct Form {
    offset_min: i64,
    digits: usize,
    zone: &'static str,
    separator: char,
    /// Between hours and minutes of an offset, and before a fraction.
    colon: &'static str,
    point: char,
}

fn form() -> impl Strategy<Value = Form> {
    let offsets = vec![0, 60, -330, 825, 1439, -1439];
    let marks = (select(vec!['T', 't', ' ']), select(vec![":", ""]), select(vec!['.', '.', ',']));
    (
        select(offsets),
        0..10_usize,
        select(vec!["Z", "z", "+00:00", "-00:00", "+0000", "+00"]),
        marks,
    )
        .prop_map(|(offset_min, digits, zone, (separator, colon, point))| Form {
            offset_min,
            digits,
            zone,
            separator,
            colon,
            point,
        })
}

impl Form {
    fn write(self, ms: i64) -> String {
        let local = jiff::Timestamp::from_millisecond(ms + self.offset_min * 60_000)
            .expect("a time of the test");
        let plain = local
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string()
            .replace(' ', &self.separator.to_string());
        // Digits past the millisecond are cut off.
        let nanos = format!("{:03}{:06}", ms.rem_euclid(1000), 999_999);
        let fraction = if self.digits == 0 {
            String::new()
        } else {
            format!("{}{}", self.point, &nanos[..self.digits])
        };
        let zone = match self.offset_min {
            0 => self.zone.to_owned(),
            offset => {
                let sign = if offset < 0 { '-' } else { '+' };
                format!("{sign}{:02}{}{:02}", offset.abs() / 60, self.colon, offset.abs() % 60)
            }
        };
        format!("{plain}{fraction}{zone}")
    }
}

/// Writes trees down, in one of the ways that mean the same.
pub(crate) struct Writer {
    rng: Rng,
    spaced: bool,
    escaped: bool,
    pub(crate) out: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(style: u64) -> Self {
        let mut rng = Rng::with_seed(style);
        let (spaced, escaped) = (rng.u8(..4) == 0, rng.u8(..4) == 0);
        Self { rng, spaced, escaped, out: Vec::new() }
    }

    /// White space that may stand between two tokens; none has a line's end.
    fn space(&mut self) {
        if self.spaced {
            self.out.extend_from_slice(["", " ", "\t", "  "][self.rng.usize(..4)].as_bytes());
        }
    }

    pub(crate) fn node(&mut self, node: &Node) {
        match node {
            Node::Word(word) => self.out.extend_from_slice(word.as_bytes()),
            Node::Number(digits) => self.out.extend_from_slice(digits.as_bytes()),
            Node::Text(text) => self.text(text),
            Node::List(items) => self.list(items),
            Node::Object(members) => {
                self.out.push(b'{');
                self.members(members);
                self.out.push(b'}');
            }
        }
    }

    pub(crate) fn list(&mut self, items: &[Node]) {
        self.out.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.space();
            self.node(item);
            self.space();
        }
        self.out.push(b']');
    }

    pub(crate) fn members(&mut self, members: &[(Text, Node)]) {
        for (index, (name, value)) in members.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.name(name);
            self.node(value);
            self.space();
        }
    }

    pub(crate) fn name(&mut self, name: &Text) {
        self.space();
        self.text(name);
        self.space();
        self.out.push(b':');
        self.space();
    }

    fn text(&mut self, text: &Text) {
        self.out.push(b'"');
        for char in text.chars.chars() {
            let must = char < ' ' || char == '"' || char == '\\';
            if must || (self.escaped && self.rng.u8(..3) == 0) {
                let mut units = [0; 2];
                for unit in char.encode_utf16(&mut units) {
                    self.out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            } else {
                self.out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        match text.spoilt {
            Some(Spoilt::HalfCharacter) => self.out.extend_from_slice(b"\\ud800"),
            Some(Spoilt::BadByte) => self.out.push(0xff),
            None => {}
        }
        self.out.push(b'"');
    }
}

/// The body's bytes before its encoding, its fault included.
pub(crate) fn render(input: &Input) -> Vec<u8> {
    let mut writer = Writer::new(input.style);
    if input.bom {
        writer.out.extend_from_slice("\u{feff}".as_bytes());
    }
    if input.fault == Some(Fault::Empty) {
        writer.out.extend_from_slice(b" \n ");
        return writer.out;
    }
    match &input.frame {
        Frame::One(node) => writer.node(node),
        Frame::Lines { lines, ending, ends_with_one } => {
            for (index, line) in lines.iter().enumerate() {
                match line {
                    Line::Event(node) => writer.node(node),
                    Line::Blank(white) => writer.out.extend_from_slice(white.as_bytes()),
                    Line::Broken(bytes) => writer.out.extend_from_slice(bytes),
                }
                if index + 1 < lines.len() || *ends_with_one {
                    writer.out.extend_from_slice(ending.as_bytes());
                }
            }
        }
    }
    writer.out
}
