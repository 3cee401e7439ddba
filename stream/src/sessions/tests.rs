//! The sessions against a model that sorts everything and splits it on gaps.

use std::collections::{BTreeMap, BTreeSet};

use nilometer_event::{EventTime, ReceiveTime, UserHash};
use nilometer_log::Disk;
use nilometer_log::disk::sim::SimDisk;
use proptest::prelude::*;

use super::*;
use crate::ids::{OnDamage, RunDamaged};

const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;
const BIRTH_MS: i64 = 1_000 * HOUR_MS;
const GAP_MS: i64 = 30 * MINUTE_MS;
const DIMENSIONS: [&str; 2] = ["country", "device_type"];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    user: u64,
    minute: i64,
    event_type: &'static str,
    dims: [Option<&'static str>; 2],
}

/// A session in plain values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Plain {
    start_ms: i64,
    last_ms: i64,
    events: u64,
    counts: BTreeMap<String, u64>,
    dims: Vec<Option<String>>,
}

/// Sorts everything, splits on gaps.
fn model(events: &[Event]) -> BTreeMap<Plain, i64> {
    let mut sorted: Vec<&Event> = events.iter().collect();
    sorted.sort_by_key(|event| (event.user, event.minute));
    let chained = |a: &&Event, b: &&Event| a.user == b.user && b.minute - a.minute <= 30;
    let mut sessions = BTreeMap::new();
    for chain in sorted.chunk_by(chained) {
        let first = chain[0].minute;
        let earliest = || chain.iter().filter(|event| event.minute == first);
        let dims = (0..2).map(|dim| earliest().filter_map(|event| event.dims[dim]).min());
        let mut counts = BTreeMap::new();
        chain.iter().for_each(|event| *counts.entry(event.event_type.to_owned()).or_default() += 1);
        let plain = Plain {
            start_ms: ms_of(first),
            last_ms: ms_of(chain[chain.len() - 1].minute),
            events: chain.len() as u64,
            counts,
            dims: dims.map(|dim| dim.map(str::to_owned)).collect(),
        };
        *sessions.entry(plain).or_default() += 1;
    }
    sessions
}

fn ms_of(minute: i64) -> i64 {
    BIRTH_MS + minute * MINUTE_MS
}

fn plain(session: SessionRef<'_>) -> Plain {
    let mut dims = Vec::new();
    session.dims(&mut dims);
    let counts = session.counts().map(|(event_type, count)| (event_type.to_owned(), count));
    Plain {
        start_ms: session.start().ms(),
        last_ms: session.last().ms(),
        events: session.events(),
        counts: counts.collect(),
        dims: dims.into_iter().map(|dim| dim.map(str::to_owned)).collect(),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Entry(Vec<Event>),
    Seal(i64),
    Merge,
    Crash,
    /// So many may be hot from now on.
    KeepHot(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let event_type = prop::sample::select(vec!["view", "click", "purchase"]);
    let country = prop::option::of(prop::sample::select(vec!["CH", "DE", "EG"]));
    let device = prop::option::of(prop::sample::select(vec!["tv", "mobile"]));
    (0..3_u64, -600..900_i64, event_type, country, device).prop_map(
        |(user, minute, event_type, country, device)| Event {
            user,
            minute,
            event_type,
            dims: [country, device],
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(event(), 0..10).prop_map(Step::Entry),
        4 => (1..90_i64).prop_map(Step::Seal),
        2 => Just(Step::Merge),
        1 => Just(Step::Crash),
    ]
}

fn step_with_hot() -> impl Strategy<Value = Step> {
    prop_oneof![5 => step(), 1 => (0..40_usize).prop_map(Step::KeepHot)]
}

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// States that changed are put in again without being taken out.
    NotRetracted,
    /// Cold runs are never asked.
    ColdSessionsLost,
}

/// The sessions with their disk and what a shell does around them.
struct House {
    settings: SessionsSettings,
    disk: SimDisk,
    sessions: Sessions,
    manifest: Option<SessionsManifest>,
    written: Option<SessionsWritten>,
    /// Put in, less taken out: as of the last seal, and now.
    sealed_sums: BTreeMap<Plain, i64>,
    sums: BTreeMap<Plain, i64>,
    since_seal: Vec<Vec<Event>>,
    layer: u64,
    seq: u64,
    now_ms: i64,
    mutant: Mutant,
}

impl House {
    fn new(settings: SessionsSettings, mutant: Mutant) -> Self {
        let mut sessions = Sessions::new(settings.clone(), EventTime::from_ms(BIRTH_MS));
        sessions.set_dimensions(&DIMENSIONS);
        Self {
            settings,
            disk: SimDisk::new(1),
            sessions,
            manifest: None,
            written: None,
            sealed_sums: BTreeMap::new(),
            sums: BTreeMap::new(),
            since_seal: Vec::new(),
            layer: 1,
            seq: 0,
            now_ms: BIRTH_MS,
            mutant,
        }
    }

    fn entry(&mut self, events: &[Event]) {
        self.seq += 1;
        let of = |event: &Event| (user(event.user), EventTime::from_ms(ms_of(event.minute)));
        let touches: Vec<(UserHash, EventTime)> = events.iter().map(of).collect();
        let cold = match self.mutant {
            Mutant::ColdSessionsLost => ColdSessions::empty(),
            _ => self.sessions.plan_lookups(touches.iter().copied()).fetch(&self.disk).unwrap(),
        };
        for (event, (user, time)) in events.iter().zip(touches) {
            self.sessions.touch(user, time, event.event_type, &event.dims, &cold);
        }
        let Self { sessions, sums, mutant, .. } = self;
        sessions.end_entry(self.seq, &mut |change| {
            if *mutant != Mutant::NotRetracted {
                change.removed.iter().for_each(|&session| add(sums, plain(session), -1));
            }
            add(sums, plain(change.added), 1);
        });
    }

    fn watermark(&self) -> EventTime {
        EventTime::from_ms(self.now_ms - 2 * HOUR_MS)
    }

    fn install(&mut self) {
        if let Some(written) = self.written.take() {
            self.sessions.installed(written);
        }
    }

    fn seal(&mut self, minutes: i64) {
        self.install();
        self.now_ms += minutes * MINUTE_MS;
        let sealed =
            self.sessions.seal(self.layer, ReceiveTime::from_ms(self.now_ms), self.watermark());
        let written = sealed.write(&self.disk).unwrap();
        let bytes = postcard::to_stdvec(written.manifest()).unwrap();
        self.manifest = Some(postcard::from_bytes(&bytes).unwrap());
        self.written = Some(written);
        self.sealed_sums = self.sums.clone();
        self.since_seal.clear();
        self.layer += 1;
    }

    fn merge(&mut self) {
        self.install();
        if let Some(merge) = self.sessions.plan_merge() {
            let merged = merge.run(&self.disk).unwrap();
            self.sessions.merged(merged);
        }
    }

    fn recover(&mut self, on_damage: OnDamage) -> Vec<RunDamaged> {
        self.written = None;
        let Some(manifest) = &self.manifest else {
            let fresh = Self::new(self.settings.clone(), self.mutant);
            (self.sessions, self.sums) = (fresh.sessions, fresh.sums);
            return Vec::new();
        };
        let (mut sessions, damage) =
            Sessions::recover(&self.disk, manifest, self.settings.clone(), on_damage).unwrap();
        sessions.set_dimensions(&DIMENSIONS);
        (self.sessions, self.sums) = (sessions, self.sealed_sums.clone());
        damage
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Entry(events) => {
                self.entry(events);
                self.since_seal.push(events.clone());
            }
            Step::Seal(minutes) => self.seal(*minutes),
            Step::Merge => self.merge(),
            Step::KeepHot(most) => self.sessions.configure(*most, self.settings.horizon_ms),
            Step::Crash => {
                self.disk.crash();
                assert_eq!(self.recover(OnDamage::Refuse), []);
                for events in self.since_seal.clone() {
                    self.entry(&events);
                }
            }
        }
    }
}

fn user(number: u64) -> UserHash {
    UserHash::new(xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes()))
}

fn add(sums: &mut BTreeMap<Plain, i64>, session: Plain, sign: i64) {
    let sum = sums.entry(session.clone()).or_default();
    *sum += sign;
    if *sum == 0 {
        sums.remove(&session);
    }
}

fn settings() -> SessionsSettings {
    SessionsSettings::new("0/sessions")
}

/// Runs a script; the first step after which the sums are not the model's.
fn run(steps: &[Step], settings: SessionsSettings, mutant: Mutant) -> Result<House, String> {
    let mut house = House::new(settings, mutant);
    let mut events = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        house.take(step);
        if let Step::Entry(of_entry) = step {
            events.extend_from_slice(of_entry);
        }
        let expected = model(&events);
        if house.sums != expected {
            return Err(format!("step {at}: {:?}, expected {expected:?}", house.sums));
        }
    }
    Ok(house)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn s1_s2_what_was_put_in_and_not_taken_out_is_what_sorting_everything_gives(
        steps in prop::collection::vec(step_with_hot(), 1..50),
        hot_sessions_max in prop_oneof![0..4_usize, Just(usize::MAX)],
        filter_bytes_max in prop_oneof![Just(0), Just(1 << 20)],
    ) {
        let settings = SessionsSettings { hot_sessions_max, filter_bytes_max, ..settings() };
        if let Err(difference) = run(&steps, settings, Mutant::None) {
            prop_assert!(false, "{}", difference);
        }
    }

    #[test]
    fn the_oldest_open_start_is_the_model_s_where_nothing_open_was_evicted(
        steps in prop::collection::vec(step(), 1..50),
    ) {
        let mut house = House::new(settings(), Mutant::None);
        let mut events = Vec::new();
        for step in &steps {
            house.take(step);
            if let Step::Entry(of_entry) = step {
                events.extend_from_slice(of_entry);
            }
            let watermark_ms = house.watermark().ms();
            let open = |session: &Plain| {
                session.last_ms + GAP_MS >= watermark_ms
                    && session.last_ms - session.start_ms < 24 * HOUR_MS
            };
            let oldest = model(&events).into_keys().filter(open).map(|session| session.start_ms).min();
            let watermark = house.watermark();
            let answer = house.sessions.oldest_open_start(watermark);
            prop_assert_eq!(answer.map(EventTime::ms), oldest);
        }
    }

    #[test]
    fn with_open_sessions_evicted_the_oldest_open_start_is_never_too_late(
        steps in prop::collection::vec(step(), 1..50),
    ) {
        let mut house = House::new(
            SessionsSettings { hot_sessions_max: 1, ..settings() }, Mutant::None);
        let mut exact = House::new(settings(), Mutant::None);
        for step in &steps {
            house.take(step);
            exact.take(step);
            let watermark = house.watermark();
            if let Some(oldest) = exact.sessions.oldest_open_start(watermark) {
                prop_assert!(house.sessions.oldest_open_start(watermark) <= Some(oldest));
                prop_assert!(house.sessions.oldest_open_start(watermark).is_some());
            }
        }
    }
}

fn at(user: u64, minute: i64) -> Event {
    Event { user, minute, event_type: "view", dims: [None, None] }
}

/// A session that grows, goes cold, and is joined to another by a late event.
fn telling_script() -> Vec<Step> {
    vec![
        Step::Entry(vec![at(1, 0), at(1, 60)]),
        Step::Entry(vec![at(1, 10)]),
        Step::Seal(10),
        Step::Seal(240),
        Step::Seal(1),
        Step::Entry(vec![at(1, 35)]),
    ]
}

#[test]
fn the_tests_notice_when_a_session_is_not_retracted() {
    assert!(run(&telling_script(), settings(), Mutant::NotRetracted).is_err());
}

#[test]
fn the_tests_notice_when_cold_sessions_are_lost() {
    let house = run(&telling_script(), settings(), Mutant::None).unwrap();
    assert_eq!(house.sums.len(), 1, "the late event closed the gap");
    assert!(run(&telling_script(), settings(), Mutant::ColdSessionsLost).is_err());
}

#[test]
fn a_session_of_many_days_is_found_again_by_an_event_in_its_midst() {
    let mut steps = Vec::new();
    for minute in (0..10_000).step_by(29) {
        steps.push(Step::Entry(vec![at(1, minute)]));
        steps.push(Step::Seal(29));
    }
    steps.extend([Step::Seal(300), Step::Seal(1), Step::Merge, Step::Merge]);
    steps.push(Step::Entry(vec![at(1, 5_000), at(2, 5_000)]));
    let house = run(&steps, settings(), Mutant::None).unwrap();
    assert_eq!(house.sums.len(), 2);
}

#[test]
fn of_a_user_who_stays_only_the_newest_run_is_read() {
    let mut house =
        House::new(SessionsSettings { hot_sessions_max: 0, ..settings() }, Mutant::None);
    let mut events = Vec::new();
    let mut stay = |house: &mut House, minute| {
        events.push(at(1, minute));
        house.entry(&[at(1, minute), at(2, minute)]);
        house.seal(10);
        house.install();
        events.push(at(2, minute));
    };
    (0..6).for_each(|number| stay(&mut house, number * 10));
    house.seal(1);
    house.install();
    assert_eq!((house.sessions.hot_len(), house.sessions.runs_len()), (0, 6));
    let files: Vec<String> = house.sessions.files().iter().map(ToString::to_string).collect();
    files[..5].iter().for_each(|file| house.disk.remove(file).unwrap());
    stay(&mut house, 60);
    assert_eq!(house.sessions.unrevised(), 0, "older runs were asked");
    assert_eq!(house.sums, model(&events));
    // An event before it may belong to a session that only they know.
    house.entry(&[at(1, -5)]);
    assert_eq!(house.sessions.unrevised(), 1);
}

#[test]
fn a_dimension_of_a_later_plan_is_null_for_sessions_begun_before() {
    let mut house = House::new(settings(), Mutant::None);
    house.entry(&[Event { dims: [Some("CH"), Some("tv")], ..at(1, 5) }]);
    house.sessions.set_dimensions(&["plan", "country"]);
    let mut told = Vec::new();
    let cold = ColdSessions::empty();
    let time = EventTime::from_ms(ms_of(9));
    house.sessions.touch(user(1), time, "view", &[Some("pro"), Some("DE")], &cold);
    house
        .sessions
        .end_entry(2, &mut |change| told.push((plain(change.removed[0]), plain(change.added))));
    let dims = vec![None, Some("CH".to_owned())];
    assert_eq!((&told[0].0.dims, &told[0].1.dims), (&dims, &dims));
}

#[test]
fn a_session_open_over_a_day_does_not_hold_the_oldest_start_and_is_counted() {
    let mut house = House::new(settings(), Mutant::None);
    for minute in (0..1_500).step_by(20) {
        house.now_ms = ms_of(minute);
        house.entry(&[at(1, minute)]);
    }
    house.entry(&[at(2, 1_490)]);
    let oldest = house.sessions.oldest_open_start(EventTime::from_ms(ms_of(1_480)));
    assert_eq!(oldest, Some(EventTime::from_ms(ms_of(1_490))));
    assert_eq!(house.sessions.long_open(), 1);
}

#[test]
fn sessions_behind_the_horizon_leave_the_disk() {
    let settings = SessionsSettings { horizon_ms: 6 * HOUR_MS, ..settings() };
    let mut house = House::new(settings, Mutant::None);
    house.entry(&[at(1, 30)]);
    house.seal(1);
    house.entry(&[at(2, -90)]);
    (0..12).for_each(|_| house.seal(60));
    house.install();
    assert_eq!(house.sessions.runs_len(), 1, "an import may still touch what lies before birth");
    let expected: BTreeMap<Plain, i64> = model(&[at(1, 30), at(2, -90), at(2, -80)]);
    house.entry(&[at(2, -80)]);
    assert_eq!(house.sums, expected);
}

#[test]
fn s3_sessions_of_a_damaged_run_stay_counted_and_events_near_them_begin_their_own() {
    let script = telling_script();
    let mut house = run(&script[..5], settings(), Mutant::None).unwrap();
    let before = house.sums.clone();
    let file = house.manifest.as_ref().unwrap().files().next().unwrap().to_owned();
    house.disk.flip_bit(&file, 12);
    let lookups = house.sessions.plan_lookups([(user(1), EventTime::from_ms(ms_of(35)))]);
    let damage = lookups.fetch(&house.disk).unwrap().damage().to_vec();
    assert!(damage[0].to_string().contains("corrupt") && damage[0].file == file, "{damage:?}");
    house.take(&script[5]);
    assert_eq!(house.sessions.unrevised(), 1);
    assert!(before.iter().all(|session| house.sums.get(session.0) == Some(session.1)));
    assert_eq!(house.sums.values().sum::<i64>(), 3, "the late event is a session of its own");
    // A recovery that must go on without the whole file says the same.
    house.disk.remove(&file).unwrap();
    let manifest = house.manifest.clone().unwrap();
    assert!(Sessions::recover(&house.disk, &manifest, settings(), OnDamage::Refuse).is_err());
    assert_eq!(house.recover(OnDamage::Close)[0].file, file);
    house.take(&script[5]);
    assert_eq!(house.sessions.unrevised(), 1);
    assert!(house.sums.values().all(|&sum| sum > 0), "nothing was taken out that was not in");
}

#[test]
fn no_flipped_bit_in_a_run_takes_out_a_session_that_was_not_put_in() {
    let script = telling_script();
    let file = {
        let house = run(&script[..5], settings(), Mutant::None).unwrap();
        let file = house.manifest.unwrap().files().next().unwrap().to_owned();
        (file.clone(), house.disk.read(&file).unwrap().len())
    };
    for offset in 0..file.1 {
        let mut house = run(&script[..5], settings(), Mutant::None).unwrap();
        house.disk.flip_bit_at(&file.0, offset as u64, u8::try_from(offset % 8).unwrap());
        house.recover(OnDamage::Close);
        house.take(&script[5]);
        assert!(house.sums.values().all(|&sum| sum > 0), "byte {offset}");
        let noticed = house.sessions.unrevised() == 1 || offset < 8;
        assert!(noticed, "byte {offset} is not noticed");
    }
}

#[test]
fn texts_out_of_use_are_forgotten() {
    let mut house = House::new(settings(), Mutant::None);
    let cold = ColdSessions::empty();
    let mut kept = BTreeSet::new();
    for number in 0..40_000_i64 {
        let country = format!("country {number}");
        let time = EventTime::from_ms(ms_of(number));
        let id = u64::try_from(number).unwrap();
        house.sessions.touch(user(id), time, "view", &[Some(&country), None], &cold);
        if number % 1_000 == 999 {
            house.sessions.end_entry(1, &mut |change| {
                kept.insert(plain(change.added).dims);
            });
            house.now_ms = ms_of(number);
            house.seal(1);
            house.install();
        }
    }
    assert_eq!(kept.len(), 40_000, "every text was told before it was forgotten");
    assert!(house.sessions.words.texts().len() < 15_000, "{}", house.sessions.words.texts().len());
}

#[test]
fn sessions_with_long_texts_are_hot_only_as_many_as_their_memory_holds() {
    let may_bytes = 20_000 * HOT_SESSION_BYTES;
    let limited = SessionsSettings { hot_sessions_max: 20_000, ..settings() };
    let mut house = House::new(limited, Mutant::None);
    let cold = ColdSessions::empty();
    let (mut told, mut most) = (0, 0);
    for number in 0..40_000_u64 {
        let texts =
            ["country", "device"].map(|name| format!("{name} {number} {}", "x".repeat(500)));
        let dims = texts.each_ref().map(|text| Some(text.as_str()));
        let time = EventTime::from_ms(BIRTH_MS + i64::try_from(number).unwrap());
        house.sessions.touch(user(number), time, "view", &dims, &cold);
        if number % 1_000 == 999 {
            house.sessions.end_entry(1, &mut |change| {
                let added = plain(change.added);
                assert!(added.dims.iter().flatten().all(|text| text.ends_with("xxx")), "{added:?}");
                told += 1;
            });
            house.seal(0);
            house.install();
            most = most.max(house.sessions.memory_bytes());
        }
    }
    assert_eq!((told, house.sessions.filled(1)), (40_000, 0));
    // Texts out of use are there until they are half of all; a layer's sessions are always hot.
    assert!(most <= 3 * may_bytes, "{most} of {may_bytes}");
    let hot = house.sessions.hot_len();
    assert!((500..=5_000).contains(&hot), "{hot}");
    // What went cold is found again.
    let first = EventTime::from_ms(BIRTH_MS);
    let found = house.sessions.plan_lookups([(user(0), first)]).fetch(&house.disk).unwrap();
    house.sessions.touch(user(0), first, "view", &[None, None], &found);
    house.sessions.end_entry(2, &mut |change| assert_eq!(change.removed.len(), 1));
}

#[test]
fn a_layer_that_changes_sessions_with_long_texts_is_full_sooner() {
    let limited = SessionsSettings { hot_sessions_max: 10_000, ..settings() };
    let mut house = House::new(limited, Mutant::None);
    let cold = ColdSessions::empty();
    let touch = |house: &mut House, number: u64, text: &str| {
        let country = format!("{number}{text}");
        let time = EventTime::from_ms(BIRTH_MS);
        house.sessions.touch(user(number), time, "view", &[Some(&country), None], &cold);
    };
    (0..4_000).for_each(|number| touch(&mut house, number, ""));
    assert_eq!(house.sessions.filled(1), 0);
    (4_000..6_000).for_each(|number| touch(&mut house, number, &"x".repeat(3_000)));
    assert!(house.sessions.filled(1) >= 2, "{}", house.sessions.filled(1));
}

#[test]
fn memory_goes_back_where_fewer_sessions_may_be_hot() {
    let mut house = House::new(settings(), Mutant::None);
    let minute = |number: u64| i64::try_from(number / 2_000).unwrap();
    for numbers in [0..20_000_u64, 20_000..40_000] {
        let events: Vec<Event> = numbers.map(|number| at(number, minute(number))).collect();
        house.entry(&events);
        house.seal(10);
        house.install();
    }
    let (all, bytes) = (house.sessions.hot_len(), house.sessions.memory_bytes());
    assert_eq!(all, 40_000);
    house.sessions.configure(10_000, settings().horizon_ms);
    house.seal(0);
    house.install();
    let left = house.sessions.memory_bytes();
    assert_eq!(house.sessions.hot_len(), 10_000);
    assert!(left < bytes / 2, "{left} of {bytes}");
    // Those that moved are found, and so are those that went cold.
    house.since_seal.clear();
    house.entry(&[at(39_999, minute(39_999) + 1), at(1, 1)]);
    let longer = house.sums.iter().filter(|(session, _)| session.events == 2);
    assert_eq!(longer.map(|(_, count)| count).sum::<i64>(), 2);
    assert_eq!(house.sums.values().sum::<i64>(), 40_000);
}
