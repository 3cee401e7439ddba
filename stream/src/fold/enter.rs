//! One entry: its records get their verdicts, count, and move the watermark.

use std::sync::Arc;

use std::borrow::Cow;

use nilometer_event::{Event, EventTime, Field, TimeCorrection, Topic, avro};
use nilometer_log::Record;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::source::LastSource;
use super::{
    CAUGHT_UP_MARGIN_MS, Cold, Effects, EntryRecords, Key, LateEvent, Named, Prepared, Sealed,
    Seen, Spare, State, Walk, ids_beside, ids_settings, sessions_settings,
};
use crate::cells::{CodedEvents, Layer, SessionMeasure};
use crate::declare::{DimId, EventFacts, Plan};
use crate::ids::{IdKey, Ids, Source, Verdict, is_far_behind};
use crate::journal::Entry;
use crate::sessions::{SessionChange, SessionRef, Sessions, WARM, Word};
use crate::settings::FoldSettings;
use crate::view::FoldGuard;

/// What the records of one entry have in common while they are folded.
struct Pass<'a, 'g> {
    open: &'a mut FoldGuard<'g>,
    cold: &'a Cold,
    prepared: &'a Prepared<'a>,
    /// The next record of the event topics, and the next event.
    place: usize,
    row: usize,
    /// The next of [`Prepared::unknown`].
    unknown: usize,
    /// The topic's records, and the number of the next among them.
    walk: Walk<'a>,
    number: usize,
    /// The watermark at the entry's begin.
    watermark: EventTime,
    /// The newest event time that may move the watermark.
    newest: EventTime,
    late: Vec<LateEvent>,
    /// The dimension that is the event's type.
    event_type: Option<DimId>,
}

impl Prepared<'_> {
    fn see(&mut self, topic: Topic, index: usize, record: &Record<'_>, is_event: bool) {
        let seen = &mut self.seen[index];
        seen.records += 1;
        if is_event {
            seen.last_event_at = Some(record.timestamp);
        }
        seen.newest = record.timestamp.max(seen.newest);
        match self.received_at.last_mut() {
            _ if matches!(topic, Topic::Imports | Topic::DeadLetters) => {}
            Some((at, records)) if *at == record.timestamp => *records += 1,
            _ => self.received_at.push((record.timestamp, 1)),
        }
    }
}

impl<'a> Pass<'a, '_> {
    /// The record of the row, where it is one of [`Prepared::unknown`].
    fn next_unknown(&mut self) -> Option<&'a [u8]> {
        let unknown = &self.prepared.unknown;
        while unknown.get(self.unknown).is_some_and(|&(row, _)| row < self.row) {
            self.unknown += 1;
        }
        unknown.get(self.unknown).filter(|&&(row, _)| row == self.row).map(|&(_, value)| value)
    }
}

/// Readers who wait are let in after so many records or sessions, about a millisecond: an entry of
/// tens of thousands would hold them up for a quarter of a second. A multiple of [`WARM`].
const LET_IN: usize = 256;

impl State {
    /// Takes over what `entry` names, before its records. An open layer of another plan or of
    /// a lower number is closed first: its checkpoint is returned, and must have been written
    /// and taken over before the next seal.
    pub fn begin(&mut self, entry: &Entry, named: Named) -> Option<Sealed> {
        if self.last.is_none() {
            self.be_born(entry);
        }
        let other_plan = named.plan.id != self.plan.id;
        let behind = self.open.number() < entry.layer;
        let sealed = ((other_plan || behind) && !self.layer_is_fresh()).then(|| self.seal());
        if other_plan {
            self.forget_unread(&named.plan);
        }
        self.plan = named.plan;
        self.tables = named.tables;
        if other_plan {
            self.name_session_dims();
        }
        self.configure(&entry.settings);
        if other_plan || self.open.number() != entry.layer {
            self.open_layer(entry.layer.max(self.open.number()));
        }
        sealed
    }

    /// Decodes the records and finds what they need from cold files; changes nothing that
    /// shows. Between [`Self::begin`] and [`Self::enter`].
    #[must_use]
    pub fn prepare<'r>(&mut self, records: &'r EntryRecords) -> Prepared<'r> {
        let Spare { mut keys, mut coded } = std::mem::take(&mut self.spare);
        keys.clear();
        let mut prepared = Prepared {
            seen: [Seen::default(); Topic::RECEIVED.len()],
            records,
            received_at: Vec::new(),
            ids: crate::ids::ColdLookups::default(),
            sessions: self.sessions.plan_lookups([]),
            keys: Vec::new(),
            coded: CodedEvents::default(),
            unknown: Vec::new(),
        };
        let open = self.open.read();
        open.layer.reset(&mut coded);
        let mut last = LastSource::default();
        for (index, topic) in Topic::RECEIVED.into_iter().enumerate() {
            for record in records.topic(index).iter() {
                let is_event = topic != Topic::DeadLetters;
                let key = match is_event {
                    true => self.key(&open.layer, record.value, &mut coded, &mut last),
                    false => None,
                };
                prepared.see(topic, index, &record, key.is_some());
                if key.is_some() && !coded.is_known(coded.len() - 1) {
                    prepared.unknown.push((coded.len() - 1, record.value));
                }
                if is_event {
                    keys.push(key);
                }
            }
        }
        prepared.ids = self.ids.plan_lookups(keys.iter().flatten().map(|key| key.id));
        prepared.sessions =
            self.sessions.plan_lookups(keys.iter().flatten().filter_map(Key::session));
        (prepared.keys, prepared.coded) = (keys, coded);
        prepared
    }

    /// Takes the memory of an entry that was folded.
    pub(crate) fn recycle(&mut self, prepared: Prepared<'_>) {
        self.spare = Spare { keys: prepared.keys, coded: prepared.coded };
    }

    /// Folds the entry. `prepared` is of its records and this state, `cold` of `prepared`.
    ///
    /// Until [`Layer::end_entry`] what is counted waits beside the cells, so readers may be let
    /// in between records and between sessions; cells and facts then change under one lock.
    pub fn enter(&mut self, entry: &Entry, prepared: &Prepared<'_>, cold: &Cold) -> Effects {
        #[cfg(feature = "mutants")]
        let mutated = self.mutated_cold(cold);
        #[cfg(feature = "mutants")]
        let cold = mutated.as_ref().unwrap_or(cold);
        let open = Arc::clone(&self.open);
        let mut guard = open.write();
        self.ids.close_damaged(&cold.ids);
        let (newest, late) = self.fold_records(&mut guard, prepared, cold);
        self.end_sessions(entry, &mut guard);
        guard.let_readers_in();
        guard.layer.end_entry(&mut self.tallies);
        self.note_over_quota(&prepared.coded);
        self.note_unread(&guard.layer.take_unread());
        let layer_bytes = guard.layer.memory_bytes();
        self.last = Some(entry.clone());
        self.move_watermark(entry, newest);
        guard.show(self.facts());
        drop(guard);
        let sealed = entry.seal.then(|| self.seal());
        Effects { late, sealed, layer_bytes }
    }

    /// Gives every record its verdict and counts what is new; returns the newest event time that
    /// may move the watermark, and what is for `late-events`.
    fn fold_records(
        &mut self,
        open: &mut FoldGuard<'_>,
        prepared: &Prepared<'_>,
        cold: &Cold,
    ) -> (EventTime, Vec<LateEvent>) {
        let mut pass = Pass {
            open,
            cold,
            prepared,
            place: 0,
            row: 0,
            unknown: 0,
            walk: Walk::over(prepared.records.topic(0)),
            number: 0,
            watermark: self.watermark,
            newest: EventTime::MIN,
            late: Vec::new(),
            event_type: self.plan.dimension_of(Field::EventType),
        };
        for (index, topic) in Topic::RECEIVED.into_iter().enumerate() {
            self.fold_topic(topic, index, &mut pass);
        }
        (pass.newest, pass.late)
    }

    /// The settings hold for the entry's own records and its seal.
    fn configure(&mut self, settings: &FoldSettings) {
        let ids = ids_settings(&self.shard, settings);
        let hot_ids_max = ids_beside(ids.hot_ids_max, self.tallies.guard.charged_entries());
        self.ids.configure(ids.hot_ms, hot_ids_max, ids.horizon_ms);
        let sessions = sessions_settings(&self.shard, settings);
        self.sessions.configure(sessions.hot_sessions_max, sessions.horizon_ms);
    }

    fn be_born(&mut self, entry: &Entry) {
        self.birth = entry.now;
        let lateness_ms = i64::from(entry.settings.lateness_ms);
        self.watermark = entry.now.as_event_time().minus_ms(lateness_ms);
        self.ids = Ids::new(ids_settings(&self.shard, &entry.settings), self.watermark);
        let sessions = sessions_settings(&self.shard, &entry.settings);
        self.sessions = Sessions::new(sessions, self.watermark);
        self.name_session_dims();
    }

    /// Identity of one record, and a row of `coded`; neither where it is no event.
    fn key<'r>(
        &self,
        layer: &Layer,
        value: &'r [u8],
        coded: &mut CodedEvents,
        last: &mut LastSource<'r>,
    ) -> Option<Key> {
        let (decoded, as_sent) = avro::decode_with_sent(value).ok()?;
        let source = last.hash(&self.shard.identity, decoded.source);
        // Tables, whose texts live shorter, will fill it.
        let mut event = decoded;
        let user_key = event.user_key()?;
        let user = self.shard.identity.user(user_key);
        let fingerprint = self.shard.identity.event(user, source, event.event_id);
        let check = xxh3_64(as_sent).to_le_bytes()[0];
        let (sent, correction) = (event.sent_timestamp, event.time_correction);
        let bucket = self.ids.bucket_of(sent, correction);
        let by_arrival = is_far_behind(sent, event.timestamp, correction);
        let is_user = user_key.is_user();
        self.tables.enrich(&mut event);
        layer.look_up(&event, is_user.then_some(user), coded);
        Some(Key {
            id: IdKey { fingerprint, check, bucket, by_arrival },
            user,
            time: event.timestamp,
            is_user,
            correction,
        })
    }

    fn fold_topic(&mut self, topic: Topic, index: usize, pass: &mut Pass<'_, '_>) {
        let taken = pass.prepared.records.topic(index);
        pass.walk = Walk::over(taken);
        let Seen { records, newest, last_event_at } = pass.prepared.seen[index];
        let present = records as u64;
        self.counters.received += taken.len();
        let lost = taken.len().checked_sub(present).expect("E3: more records than offsets");
        self.counters.quarantined += lost;
        let position = &mut self.positions.0[index];
        position.folded_to = newest.max(position.folded_to);
        position.next = taken.end().max(position.next);
        if topic == Topic::DeadLetters {
            self.counters.dead_lettered += present;
            return;
        }
        if topic == Topic::Imports {
            self.imported_at = last_event_at.or(self.imported_at);
        }
        for number in 0..records {
            pass.number = number;
            if number % LET_IN == 0 {
                pass.open.let_readers_in();
            }
            if number % WARM == 0 {
                self.warm(pass);
            }
            match pass.prepared.keys[pass.place] {
                Some(key) => {
                    self.fold_event(topic, &key, pass);
                    pass.row += 1;
                }
                None => self.counters.quarantined += 1,
            }
            pass.place += 1;
        }
    }

    /// Reads ahead what the next events will touch in memory: ids, sessions and users of a
    /// million lie too far apart for the cache.
    fn warm(&self, pass: &Pass<'_, '_>) {
        let keys = &pass.prepared.keys[pass.place..];
        let next = &keys[..keys.len().min(WARM)];
        self.ids.warm(next.iter().flatten().map(|key| &key.id));
        let users = || next.iter().flatten().filter_map(Key::session).map(|(user, _)| user);
        self.sessions.warm(users());
        pass.open.layer.warm(users());
    }

    fn fold_event(&mut self, topic: Topic, key: &Key, pass: &mut Pass<'_, '_>) {
        let source = if topic == Topic::Imports { Source::Import } else { Source::Live };
        if source == Source::Live {
            self.counters.late += u64::from(key.time < pass.watermark);
            if key.correction == TimeCorrection::None {
                pass.newest = pass.newest.max(key.time);
            }
        }
        let verdict = if self.ids.is_forgotten(key.time, source) {
            Verdict::Closed
        } else if let Some(purging) = &mut self.purging {
            match purging.judge(&mut self.ids, key, pass.place, &pass.cold.ids) {
                Some(verdict) => verdict,
                None => return,
            }
        } else {
            self.ids.admit(key.id, &pass.cold.ids)
        };
        #[cfg(feature = "mutants")]
        let verdict = self.mutated_verdict(verdict);
        match verdict {
            Verdict::New => {
                self.counters.unique += 1;
                if source == Source::Live && key.correction == TimeCorrection::ToReceiveTime {
                    Arc::make_mut(&mut self.corrected).note(key.time);
                }
                self.count(key, pass);
            }
            Verdict::Duplicate { conflict } => {
                self.counters.duplicate += 1;
                if conflict {
                    self.counters.conflicts += 1;
                    let event = decoded_again(pass.walk.to(pass.number).value);
                    self.note_conflict(event.source);
                }
            }
            Verdict::Closed => {
                self.counters.late_pending += 1;
                Arc::make_mut(&mut self.late).note(key.time);
                let record = pass.walk.to(pass.number);
                pass.late.push(LateEvent {
                    topic,
                    offset: record.offset,
                    received_at: record.timestamp,
                    value: record.value.to_vec(),
                });
            }
        }
    }

    /// The counters have it already, which is all for the default source.
    fn note_conflict(&mut self, source: Option<&str>) {
        if let Some(source) = source {
            Arc::make_mut(&mut self.conflicts).note(source);
        }
    }

    /// Counts a first occurrence in the open layer and in its session.
    fn count(&mut self, key: &Key, pass: &mut Pass<'_, '_>) {
        let Self { plan, sessions, words, tallies, tables, .. } = self;
        let unknown = pass.next_unknown();
        let Pass { walk, number, .. } = pass;
        let mut event = || {
            let value = unknown.unwrap_or_else(|| walk.to(*number).value);
            let mut event = decoded_again(value);
            tables.enrich(&mut event);
            event
        };
        if pass.prepared.coded.is_known(pass.row) {
            pass.open.layer.count_known(tallies, &pass.prepared.coded, pass.row);
        } else {
            pass.open.layer.count(tallies, &event(), key.is_user.then_some(key.user));
        }
        let Some((user, time)) = key.session() else { return };
        let layer = &pass.open.layer;
        let mut word = |dim: DimId| {
            words.of(dim, layer, sessions, || {
                let event = event();
                let source = &plan.dimensions[dim.index()].source;
                EventFacts::by(&event, plan.numbers).text(source).map(Cow::into_owned)
            })
        };
        let event_type = pass.event_type.and_then(&mut word);
        let mut dims: SmallVec<[_; 8]> = SmallVec::new();
        for &dim in &plan.session_dims {
            dims.push(word(dim));
        }
        let event_type = event_type.unwrap_or_else(|| sessions.word(event().event_type));
        sessions.touch_words((user, time), event_type, &dims, &pass.cold.sessions);
    }

    /// One −old and one +new for each session that the entry changed; in one go where it was
    /// only prolonged, as nearly all are.
    fn end_sessions(&mut self, entry: &Entry, open: &mut FoldGuard<'_>) {
        #[cfg(feature = "mutants")]
        let keeps_old = self.keeps_old_sessions();
        let Self { sessions, tallies, plan, words, .. } = self;
        let mut kinds = TypeKinds::new(plan);
        let mut told = 0_usize;
        sessions.end_entry(entry.seq, &mut |change: SessionChange<'_>| {
            told += 1;
            if told.is_multiple_of(LET_IN) {
                open.let_readers_in();
            }
            let layer = &mut open.layer;
            let added = change.added;
            let now = kinds.measure(added);
            let codes = words.codes_of(plan, layer, tallies, added);
            #[cfg(feature = "mutants")]
            if keeps_old {
                layer.count_coded_session(added.start(), &codes, &now, 1);
                return;
            }
            if let &[old] = change.removed
                && old.counts_beside(added)
            {
                let before = kinds.measure(old);
                layer.revise_coded_session(added.start(), &codes, &before, &now);
                return;
            }
            for &old in change.removed {
                let (before, codes) =
                    (kinds.measure(old), words.codes_of(plan, layer, tallies, old));
                layer.count_coded_session(old.start(), &codes, &before, -1);
            }
            layer.count_coded_session(added.start(), &codes, &now, 1);
        });
    }

    fn move_watermark(&mut self, entry: &Entry, newest: EventTime) {
        let lateness_ms = i64::from(entry.settings.lateness_ms);
        self.watermark = self.watermark.max(newest.minus_ms(lateness_ms));
        if entry.caught_up {
            let idle = entry.now.as_event_time().minus_ms(CAUGHT_UP_MARGIN_MS + lateness_ms);
            self.watermark = self.watermark.max(idle);
        }
    }
}

/// An event whose record had an identity when the entry was prepared.
///
/// # Panics
///
/// When it is no event any more: it must not count as another.
pub(super) fn decoded_again(record: &[u8]) -> Event<'_> {
    match avro::decode(record) {
        Ok(event) => event,
        Err(error) => panic!("E1: a record was an event once and is none now: {error}"),
    }
}

/// What an event of a type is to its session.
#[derive(Clone, Copy, Debug)]
struct TypeKind {
    is_view: bool,
    is_conversion: bool,
}

/// Measures sessions; the lists of types are asked once an entry for each type.
pub(super) struct TypeKinds<'a> {
    plan: &'a Plan,
    /// By word.
    known: Vec<Option<TypeKind>>,
}

impl<'a> TypeKinds<'a> {
    pub(super) const fn new(plan: &'a Plan) -> Self {
        Self { plan, known: Vec::new() }
    }

    fn of(&mut self, word: Word, event_type: &str) -> TypeKind {
        let at = word as usize;
        if self.known.len() <= at {
            self.known.resize(at + 1, None);
        }
        *self.known[at].get_or_insert_with(|| TypeKind {
            is_view: self.plan.is_view(event_type),
            is_conversion: self.plan.is_conversion(event_type),
        })
    }

    pub(super) fn measure(&mut self, session: SessionRef<'_>) -> SessionMeasure {
        let mut measure = SessionMeasure {
            duration_ms: session.duration_ms(),
            events: session.events(),
            views: 0,
            conversions: 0,
        };
        for (word, event_type, events) in session.words() {
            let kind = self.of(word, event_type);
            measure.views += if kind.is_view { events } else { 0 };
            measure.conversions += if kind.is_conversion { events } else { 0 };
        }
        measure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_takes_from_hot_ids_what_it_remembers_up_to_three_quarters() {
        for (hot_ids_max, guarded, left) in
            [(1_000, 0, 1_000), (1_000, 100, 800), (1_000, 1 << 40, 250), (1, u64::MAX, 1)]
        {
            assert_eq!(ids_beside(hot_ids_max, guarded), left);
        }
        assert_eq!(ids_beside(u64::MAX, u64::MAX), u64::MAX / 4 + 3);
    }

    #[test]
    #[should_panic(expected = "E1: a record was an event once and is none now")]
    fn what_cannot_be_decoded_again_counts_as_nothing_and_not_as_an_empty_event() {
        decoded_again(b"no event any more");
    }

    #[test]
    #[should_panic(expected = "E2: a record is not where it was")]
    fn a_record_that_is_not_there_any_more_is_not_taken_for_another() {
        let taken = EntryRecords::at([Default::default(); Topic::RECEIVED.len()]);
        Walk::over(taken.topic(0)).to(0);
    }
}
