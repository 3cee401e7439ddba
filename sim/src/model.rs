//! The naive model: reads the log, and counts by brute force what every cell must hold.
//!
//! It knows the codecs of records and journal entries, and no other code of the stream: the
//! journal says in which order records count and which tables enrich them, the records say the
//! rest.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::{Context, Result, ensure};
use nilometer_event::{Event, Granularity, Offset, Partition, PartitionCount, Topic, avro};
use nilometer_log::Log;
use nilometer_stream::journal::{Entry, JournalRecord};
use nilometer_stream::purges::Purge;
use nilometer_stream::tables::{Rows, TableName};
use nilometer_stream::view::Counters;

use crate::said::Who;

const GAP_MS: i64 = 30 * 60_000;
/// A live event from before 1980 is behind every horizon; the clients send none in between.
const ANCIENT_MS: i64 = 315_532_800_000;
const VIEWS: [&str; 4] = ["page_view", "content_view", "play_start", "view"];
const CONVERSIONS: [&str; 3] = ["purchase", "signup", "subscribe"];
/// What a table fills, where the event lacks it.
const FILLS: [(TableName, &[&str]); 3] = [
    (TableName::Users, &["country", "device_type", "subscription_tier", "cohort", "channel"]),
    (TableName::Content, &["content_category"]),
    (TableName::Services, &["country", "app_version", "cohort", "channel"]),
];

/// One event that counts.
#[derive(Clone, Debug)]
pub struct Fact {
    who: Who,
    time_ms: i64,
    event_type: String,
    dims: BTreeMap<&'static str, String>,
    duration_us: Option<i64>,
    completed: Option<bool>,
}

/// What a cell of events or of sessions holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// Events in it.
    pub events: i64,
    /// Who sent them, services left out.
    pub users: BTreeSet<Who>,
    /// Micro-seconds of `session_duration_sec`.
    pub duration_us: i64,
    /// Events that carry it.
    pub durations: i64,
    /// Events that were completed.
    pub completions: i64,
    /// Events that say whether they were.
    pub completables: i64,
    /// Events of the view types.
    pub views: i64,
    /// Sessions that start in it.
    pub sessions: i64,
    /// Those of one event.
    pub bounces: i64,
    /// Those of 10 s, 2 views or a conversion.
    pub engaged: i64,
    /// From their first to their last events.
    pub session_ms: i64,
}

/// A cell's key: window start, and the values of its dimensions.
pub type Key = (i64, Vec<Option<String>>);

/// How far one shard's journal is read.
#[derive(Clone, Debug, Default)]
struct Reading {
    journal_next: Offset,
    seq: u64,
    nexts: [Offset; Topic::RECEIVED.len()],
}

/// Everything that the journals say was counted.
#[derive(Clone, Debug)]
pub struct Model {
    shards: Vec<Reading>,
    tables: HashMap<(TableName, u64), Rows>,
    seen: HashSet<(Who, String)>,
    /// By shard, in the order of the fold.
    taken: Vec<Vec<Taken>>,
    /// How many purges each shard knows.
    purged: Vec<usize>,
    counters: Counters,
}

/// An event that was not late.
#[derive(Clone, Debug)]
struct Taken {
    name: (Who, String),
    key: Option<String>,
    fact: Fact,
    fate: Fate,
}

impl Taken {
    const fn day(&self) -> i64 {
        self.fact.time_ms.div_euclid(86_400_000)
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Counted,
    Repeat,
    /// It was taken out again.
    Erased,
    /// It was, though it was a repeat.
    ErasedRepeat,
    /// A repeat of what was erased, which stays one.
    Held,
}

impl Model {
    /// Of a house that has not begun.
    #[must_use]
    pub fn new(shards: PartitionCount) -> Self {
        Self {
            shards: vec![Reading::default(); usize::from(shards.get())],
            tables: HashMap::new(),
            seen: HashSet::new(),
            taken: vec![Vec::new(); usize::from(shards.get())],
            purged: vec![0; usize::from(shards.get())],
            counters: Counters::default(),
        }
    }

    /// Remembers the rows that were put as a table's version.
    pub fn put(&mut self, table: TableName, version: u64, rows: Rows) {
        self.tables.insert((table, version), rows);
    }

    /// The last durable entry of a shard.
    #[must_use]
    pub fn seq(&self, shard: Partition) -> u64 {
        self.shards.get(shard.index()).map_or(0, |reading| reading.seq)
    }

    /// Identities that counted.
    #[must_use]
    pub const fn seen(&self) -> &HashSet<(Who, String)> {
        &self.seen
    }

    /// What must have become of the records; conflicts and late arrivals are not modelled.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Reads what the journals and the topics gained.
    ///
    /// # Errors
    ///
    /// Where they say what cannot be: a gap, bytes that nobody sent, an unknown table.
    pub fn read(&mut self, log: &dyn Log, sent: &HashSet<Vec<u8>>, purges: &[Purge]) -> Result<()> {
        for shard in log.partitions().partitions() {
            let end = log.bounds(Topic::Journal, shard).end;
            while self.reading(shard)?.journal_next < end {
                self.read_journal(log, shard, sent, purges)?;
            }
            self.purge(shard, purges)?;
        }
        Ok(())
    }

    /// Takes out what purges took that were made by now.
    fn purge(&mut self, shard: Partition, purges: &[Purge]) -> Result<()> {
        let at = shard.index();
        while let Some(purge) = purges.get(self.purged[at]) {
            let seq = purge.shards.get(at).context("a purge lacks a shard")?.seq;
            if seq > self.reading(shard)?.seq {
                break;
            }
            self.purged[at] += 1;
            let mut gone = HashSet::new();
            for one in &mut self.taken[at] {
                let is_its = one.key.as_ref() == Some(&purge.key) && one.day() == purge.day;
                match one.fate {
                    Fate::Counted if is_its => {
                        (self.counters.unique, one.fate) = (self.counters.unique - 1, Fate::Erased);
                        gone.insert(one.name.clone());
                    }
                    Fate::Repeat | Fate::Held if is_its => {
                        self.counters.duplicate -= 1;
                        one.fate = Fate::ErasedRepeat;
                    }
                    _ => continue,
                }
                self.counters.erased += 1;
            }
            for one in &mut self.taken[at] {
                if one.fate != Fate::Repeat || !gone.contains(&one.name) {
                    continue;
                }
                if one.day() != purge.day {
                    one.fate = Fate::Held;
                    continue;
                }
                // The first of the day in its place; the others are repeats of that.
                gone.remove(&one.name);
                one.fate = Fate::Counted;
                self.counters.unique += 1;
                self.counters.duplicate -= 1;
            }
        }
        Ok(())
    }

    fn read_journal(
        &mut self,
        log: &dyn Log,
        shard: Partition,
        sent: &HashSet<Vec<u8>>,
        purges: &[Purge],
    ) -> Result<()> {
        let from = self.reading(shard)?.journal_next;
        let fetched = log.read(Topic::Journal, shard, from, 1 << 20)?;
        for record in fetched.iter() {
            let entry = JournalRecord::decode(record.value)?.entry;
            let before = self.reading(shard)?.seq;
            ensure!(entry.seq <= before + 1, "entry {} follows {before}", entry.seq);
            // A lower one is an append that was tried again.
            if entry.seq == before + 1 {
                self.purge(shard, purges)?;
                self.enter(log, shard, &entry, sent)?;
            }
        }
        ensure!(fetched.next() > from, "the journal gives nothing at {from}");
        self.reading(shard)?.journal_next = fetched.next();
        Ok(())
    }

    fn reading(&mut self, shard: Partition) -> Result<&mut Reading> {
        self.shards.get_mut(shard.index()).context("no such shard")
    }

    fn enter(
        &mut self,
        log: &dyn Log,
        shard: Partition,
        entry: &Entry,
        sent: &HashSet<Vec<u8>>,
    ) -> Result<()> {
        self.reading(shard)?.seq = entry.seq;
        for (index, topic) in Topic::RECEIVED.into_iter().enumerate() {
            let end = Offset::new(entry.ends[index]);
            while self.reading(shard)?.nexts[index] < end {
                let from = self.reading(shard)?.nexts[index];
                let mut next = from;
                let fetched = log.read(topic, shard, next, 1 << 20)?;
                for record in fetched.iter().filter(|record| record.offset < end) {
                    self.lose(log, (topic, shard), next, record.offset)?;
                    next = record.offset.plus(1);
                    ensure!(sent.contains(record.value), "{topic}: nobody sent that (L5)");
                    self.take((topic, shard), record.value, entry)?;
                }
                let read_to = fetched.next().min(end);
                self.lose(log, (topic, shard), next, read_to)?;
                next = read_to.max(next);
                ensure!(next > from, "{topic} gives nothing at {from}");
                self.reading(shard)?.nexts[index] = next;
            }
        }
        Ok(())
    }

    /// A hole in a topic: allowed where the log names it. The client looks for what was in it:
    /// of a batch that a power loss has torn, nobody can tell whether it was acknowledged.
    fn lose(
        &mut self,
        log: &dyn Log,
        (topic, shard): (Topic, Partition),
        from: Offset,
        to: Offset,
    ) -> Result<()> {
        if to <= from {
            return Ok(());
        }
        let named = log.quarantined();
        let is_named = named.iter().any(|known| {
            (known.topic, known.partition) == (topic, shard)
                && known.first <= from
                && to <= known.next
        });
        ensure!(is_named, "{topic} has a hole from {from} to {to} (L1), named are {named:?}");
        self.counters.received += to.since(from);
        self.counters.quarantined += to.since(from);
        Ok(())
    }

    fn take(
        &mut self,
        (topic, shard): (Topic, Partition),
        value: &[u8],
        entry: &Entry,
    ) -> Result<()> {
        self.counters.received += 1;
        if topic == Topic::DeadLetters {
            self.counters.dead_lettered += 1;
            return Ok(());
        }
        let Ok(event) = avro::decode(value) else {
            self.counters.quarantined += 1;
            return Ok(());
        };
        let who = who(&event).context("an event of nobody")?;
        if topic != Topic::Imports && event.timestamp.ms() < ANCIENT_MS {
            self.counters.late_pending += 1;
            return Ok(());
        }
        let name = (who.clone(), event.event_id.to_owned());
        let taken = &self.taken[shard.index()];
        let fate = if self.seen.insert(name.clone()) {
            self.counters.unique += 1;
            Fate::Counted
        } else {
            self.counters.duplicate += 1;
            // What came before a purge holds what comes after it.
            let was_erased = |one: &Taken| one.fate == Fate::Erased && one.name == name;
            if taken.iter().any(was_erased) { Fate::Held } else { Fate::Repeat }
        };
        let dims = self.enriched(&who, &event, entry)?;
        let (key, fact) = (event.key.map(ToOwned::to_owned), fact(who, &event, dims));
        self.taken[shard.index()].push(Taken { name, key, fact, fate });
        Ok(())
    }

    /// What counts.
    fn facts(&self) -> impl Iterator<Item = &Fact> {
        let taken = self.taken.iter().flatten();
        taken.filter(|one| one.fate == Fate::Counted).map(|one| &one.fact)
    }

    /// Keys with days of which events count.
    #[must_use]
    pub fn keys_and_days(&self) -> Vec<(String, i64)> {
        let counted = self.taken.iter().flatten().filter(|one| one.fate == Fate::Counted);
        let of = |one: &Taken| Some((one.key.clone()?, one.day()));
        let all: BTreeSet<(String, i64)> = counted.filter_map(of).collect();
        all.into_iter().collect()
    }

    /// The event's own values, and those of the entry's tables where it has none.
    fn enriched(
        &self,
        who: &Who,
        event: &Event<'_>,
        entry: &Entry,
    ) -> Result<BTreeMap<&'static str, String>> {
        let mut dims = own_dims(event);
        for (table, fills) in FILLS {
            let version = entry.dims.of(table);
            let key = match (table, who) {
                (TableName::Users, Who::User(id)) => Some(id.clone()),
                (TableName::Content, _) => dims.get("content_id").cloned(),
                (TableName::Services, Who::Service(name)) => Some(name.clone()),
                _ => None,
            };
            let Some(key) = key.filter(|_| version > 0) else { continue };
            let rows = self.tables.get(&(table, version));
            let rows = rows.with_context(|| format!("{table} has no version {version}"))?;
            let is_key = |row: &&Vec<Option<String>>| row.first() == Some(&Some(key.clone()));
            let Some(row) = rows.rows.iter().find(is_key) else { continue };
            for (column, value) in rows.columns.iter().zip(row).skip(1) {
                let fill = fills.iter().find(|fill| *fill == column);
                if let (Some(fill), Some(value)) = (fill, value) {
                    dims.entry(fill).or_insert_with(|| value.clone());
                }
            }
        }
        Ok(dims)
    }

    /// Every cell of a set of event dimensions, from `from_ms` on.
    #[must_use]
    pub fn events_by(
        &self,
        dims: &[String],
        granularity: Granularity,
        from_ms: i64,
    ) -> BTreeMap<Key, Cell> {
        let mut cells: BTreeMap<Key, Cell> = BTreeMap::new();
        for fact in self.facts() {
            let window = floor(fact.time_ms, granularity);
            if window < from_ms {
                continue;
            }
            let values = dims.iter().map(|dim| fact.dims.get(dim.as_str()).cloned()).collect();
            let cell = cells.entry((window, values)).or_default();
            cell.events += 1;
            cell.duration_us += fact.duration_us.unwrap_or(0);
            cell.durations += i64::from(fact.duration_us.is_some());
            cell.completions += i64::from(fact.completed == Some(true));
            cell.completables += i64::from(fact.completed.is_some());
            cell.views += i64::from(VIEWS.contains(&fact.event_type.as_str()));
            if !matches!(fact.who, Who::Service(_)) {
                cell.users.insert(fact.who.clone());
            }
        }
        cells
    }

    /// Every cell of a set of session dimensions, from `from_ms` on.
    #[must_use]
    pub fn sessions_by(
        &self,
        dims: &[String],
        granularity: Granularity,
        from_ms: i64,
    ) -> BTreeMap<Key, Cell> {
        let mut by_user: BTreeMap<&Who, Vec<&Fact>> = BTreeMap::new();
        for fact in self.facts().filter(|fact| !matches!(fact.who, Who::Service(_))) {
            by_user.entry(&fact.who).or_default().push(fact);
        }
        let mut cells: BTreeMap<Key, Cell> = BTreeMap::new();
        for mut facts in by_user.into_values() {
            facts.sort_by_key(|fact| fact.time_ms);
            for session in facts.chunk_by(|one, next| next.time_ms - one.time_ms <= GAP_MS) {
                let (first, last) = (session[0].time_ms, session[session.len() - 1].time_ms);
                let window = floor(first, granularity);
                if window < from_ms {
                    continue;
                }
                let earliest = || session.iter().filter(|fact| fact.time_ms == first);
                let least =
                    |dim: &String| earliest().filter_map(|fact| fact.dims.get(dim.as_str())).min();
                let values = dims.iter().map(|dim| least(dim).cloned()).collect();
                let of = |types: &[&str]| {
                    session.iter().filter(|fact| types.contains(&fact.event_type.as_str())).count()
                };
                let is_engaged = last - first >= 10_000 || of(&VIEWS) >= 2 || of(&CONVERSIONS) > 0;
                let cell = cells.entry((window, values)).or_default();
                cell.sessions += 1;
                cell.bounces += i64::from(session.len() == 1);
                cell.engaged += i64::from(is_engaged);
                cell.session_ms += last - first;
            }
        }
        cells
    }
}

fn who(event: &Event<'_>) -> Option<Who> {
    let owned = str::to_owned;
    let user = event.user_id.map(|id| Who::User(owned(id)));
    let anonymous = || event.anonymous_id.map(|id| Who::Anonymous(owned(id)));
    let service = || event.service_name.map(|name| Who::Service(owned(name)));
    user.or_else(anonymous).or_else(service)
}

fn own_dims(event: &Event<'_>) -> BTreeMap<&'static str, String> {
    let own = [
        ("event_type", Some(event.event_type)),
        ("country", event.country),
        ("device_type", event.device_type),
        ("content_category", event.content_category),
        ("content_id", event.content_id),
        ("app_version", event.app_version),
        ("subscription_tier", event.subscription_tier),
        ("cohort", event.cohort),
        ("channel", event.channel),
        ("service_name", event.service_name),
    ];
    own.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned()))).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "half seconds below 1,000 are exact")]
fn fact(who: Who, event: &Event<'_>, dims: BTreeMap<&'static str, String>) -> Fact {
    Fact {
        who,
        time_ms: event.timestamp.ms(),
        event_type: event.event_type.to_owned(),
        dims,
        duration_us: event.session_duration_sec.map(|seconds| (seconds * 1e6) as i64),
        completed: event.completed,
    }
}

fn floor(time_ms: i64, granularity: Granularity) -> i64 {
    time_ms.div_euclid(granularity.ms()) * granularity.ms()
}
