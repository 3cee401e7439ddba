//! One entry: its records get their verdicts, count, and move the watermark.

use std::sync::Arc;

use nilometer_event::{
    Event, EventTime, Field, ReceiveTime, TimeCorrection, Topic, UserHash, avro,
};
use nilometer_log::Record;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    CAUGHT_UP_MARGIN_MS, Cold, Effects, EntryRecords, Key, LateEvent, Named, Prepared, Sealed,
    State, ids_settings, sessions_settings,
};
use crate::cells::{Layer, SessionMeasure};
use crate::declare::{DimId, EventFacts, Plan};
use crate::ids::{IdKey, Ids, Source, Verdict};
use crate::journal::Entry;
use crate::sessions::{SessionChange, SessionRef, Sessions, Word};
use crate::settings::FoldSettings;
use crate::tables::Tables;
use crate::view::LayerAndFacts;

/// What the records of one entry have in common while they are folded.
struct Pass<'a> {
    layer: &'a mut Layer,
    tables: &'a Tables,
    cold: &'a Cold,
    /// The watermark at the entry's begin.
    watermark: EventTime,
    /// The newest event time that may move the watermark.
    newest: EventTime,
    late: Vec<LateEvent>,
    /// The dimension that is the event's type.
    event_type: Option<DimId>,
}

/// Memory is read ahead for so many events at a time.
const WARM: u64 = 64;

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

    /// Finds what the records need from cold files; changes nothing.
    #[must_use]
    pub fn prepare(&self, records: &EntryRecords) -> Prepared {
        let mut keys = Vec::new();
        let mut received_at: Vec<(ReceiveTime, u64)> = Vec::new();
        for (index, topic) in Topic::RECEIVED.into_iter().enumerate() {
            if topic == Topic::DeadLetters {
                continue;
            }
            for record in records.topic(index).iter() {
                keys.push(self.key(record.value));
                match received_at.last_mut() {
                    _ if topic == Topic::Imports => {}
                    Some((at, records)) if *at == record.timestamp => *records += 1,
                    _ => received_at.push((record.timestamp, 1)),
                }
            }
        }
        let ids: Vec<IdKey> = keys.iter().flatten().map(|key| key.id).collect();
        let touches: Vec<(UserHash, EventTime)> =
            keys.iter().flatten().filter_map(|key| key.session).collect();
        Prepared {
            ids: self.ids.plan_lookups(&ids),
            sessions: self.sessions.plan_lookups(&touches),
            keys,
            received_at,
        }
    }

    /// Folds the entry. `prepared` and `cold` are of the same records and this state.
    pub fn enter(
        &mut self,
        entry: &Entry,
        records: &EntryRecords,
        prepared: &Prepared,
        cold: &Cold,
    ) -> Effects {
        #[cfg(feature = "mutants")]
        let mutated = self.mutated_cold(cold);
        #[cfg(feature = "mutants")]
        let cold = mutated.as_ref().unwrap_or(cold);
        let open = Arc::clone(&self.open);
        let mut guard = open.write();
        let LayerAndFacts { layer, facts } = &mut *guard;
        let tables = self.tables.clone();
        let mut pass = Pass {
            layer,
            tables: &tables,
            cold,
            watermark: self.watermark,
            newest: EventTime::MIN,
            late: Vec::new(),
            event_type: self.plan.dimension_of(Field::EventType),
        };
        self.ids.close_damaged(&cold.ids);
        let mut keys = prepared.keys.as_slice();
        for (index, topic) in Topic::RECEIVED.into_iter().enumerate() {
            self.fold_topic(topic, index, records, &mut keys, &mut pass);
        }
        let Pass { newest, late, .. } = pass;
        self.end_sessions(entry, layer);
        layer.end_entry();
        self.last = Some(entry.clone());
        self.move_watermark(entry, newest);
        *facts = self.facts();
        drop(guard);
        let sealed = entry.seal.then(|| self.seal());
        Effects { late, sealed }
    }

    /// The settings hold for the entry's own records and its seal.
    fn configure(&mut self, settings: &FoldSettings) {
        let ids = ids_settings(self.shard.partition, settings);
        self.ids.configure(ids.hot_ms, ids.hot_ids_max, ids.horizon_ms);
        let sessions = sessions_settings(self.shard.partition, settings);
        self.sessions.configure(sessions.hot_sessions_max, sessions.horizon_ms);
    }

    fn be_born(&mut self, entry: &Entry) {
        self.birth = entry.now;
        let lateness_ms = i64::from(entry.settings.lateness_ms);
        self.watermark = entry.now.as_event_time().minus_ms(lateness_ms);
        let partition = self.shard.partition;
        self.ids = Ids::new(ids_settings(partition, &entry.settings), self.watermark);
        self.sessions =
            Sessions::new(sessions_settings(partition, &entry.settings), self.watermark);
        self.name_session_dims();
    }

    /// Of a record that is no event it may tell a key too: [`Self::fold_topic`] looks again.
    fn key(&self, value: &[u8]) -> Option<Key> {
        let head = avro::head(value).ok()?;
        let user_key = head.user_key?;
        let user = self.shard.identity.user(user_key);
        let fingerprint = self.shard.identity.event(user, head.event_id);
        let check = xxh3_64(head.as_sent).to_le_bytes()[0];
        let bucket = self.ids.bucket_of(head.sent_timestamp, head.time_correction);
        let session = user_key.is_user().then_some((user, head.timestamp));
        Some(Key { id: IdKey { fingerprint, check, bucket }, session })
    }

    fn fold_topic(
        &mut self,
        topic: Topic,
        index: usize,
        records: &EntryRecords,
        keys: &mut &[Option<Key>],
        pass: &mut Pass<'_>,
    ) {
        let taken = records.topic(index);
        let mut present = 0u64;
        for record in taken.iter() {
            let is_event = topic != Topic::DeadLetters;
            if is_event && present.is_multiple_of(WARM) {
                self.warm(keys, pass);
            }
            present += 1;
            let folded_to = &mut self.positions.0[index].folded_to;
            *folded_to = record.timestamp.max(*folded_to);
            if !is_event {
                self.counters.dead_lettered += 1;
                continue;
            }
            let key = keys.split_off_first().copied().flatten();
            match (key, avro::decode(record.value)) {
                (Some(key), Ok(event)) => self.fold_event(topic, &record, key, event, pass),
                _ => self.counters.quarantined += 1,
            }
        }
        self.counters.received += taken.len();
        self.counters.quarantined += taken.len().saturating_sub(present);
        let next = &mut self.positions.0[index].next;
        *next = taken.end().max(*next);
    }

    /// Reads ahead what the next events will touch in memory: ids, sessions and users of a
    /// million lie too far apart for the cache.
    fn warm(&self, keys: &[Option<Key>], pass: &Pass<'_>) {
        let next = &keys[..keys.len().min(usize::try_from(WARM).unwrap_or(0))];
        self.ids.warm(next.iter().flatten().map(|key| &key.id));
        let users = || next.iter().flatten().filter_map(|key| key.session).map(|(user, _)| user);
        self.sessions.warm(users());
        pass.layer.warm(users());
    }

    fn fold_event(
        &mut self,
        topic: Topic,
        record: &Record<'_>,
        key: Key,
        event: Event<'_>,
        pass: &mut Pass<'_>,
    ) {
        let source = if topic == Topic::Imports { Source::Import } else { Source::Live };
        if source == Source::Live {
            self.counters.late += u64::from(event.timestamp < pass.watermark);
            if event.time_correction == TimeCorrection::None {
                pass.newest = pass.newest.max(event.timestamp);
            }
        } else {
            self.imported_at = Some(record.timestamp);
        }
        let verdict = if self.ids.is_forgotten(event.timestamp, source) {
            Verdict::Closed
        } else {
            self.ids.admit(key.id, &pass.cold.ids)
        };
        #[cfg(feature = "mutants")]
        let verdict = self.mutated_verdict(verdict);
        match verdict {
            Verdict::New => {
                self.counters.unique += 1;
                self.count(event, key, pass);
            }
            Verdict::Duplicate { conflict } => {
                self.counters.duplicate += 1;
                self.counters.conflicts += u64::from(conflict);
            }
            Verdict::Closed => {
                self.counters.late_pending += 1;
                let value = record.value.to_vec();
                pass.late.push(LateEvent { received_at: record.timestamp, value });
            }
        }
    }

    /// Counts a first occurrence, enriched, in the open layer and in its session.
    fn count(&mut self, event: Event<'_>, key: Key, pass: &mut Pass<'_>) {
        let event = pass.tables.enriched(event);
        let user = key.session.map(|(user, _)| user);
        pass.layer.count(&mut self.tallies, &event, user);
        let Some((user, time)) = key.session else { return };
        let facts = EventFacts::new(&event);
        let Self { plan, sessions, words, .. } = self;
        let event_type =
            pass.event_type.and_then(|dim| words.of(plan, dim, pass.layer, &facts, sessions));
        let event_type = event_type.unwrap_or_else(|| sessions.word(event.event_type));
        let dims: SmallVec<[_; 8]> = plan
            .session_dims
            .iter()
            .map(|&dim| words.of(plan, dim, pass.layer, &facts, sessions))
            .collect();
        sessions.touch_words((user, time), event_type, &dims, &pass.cold.sessions);
    }

    /// One −old and one +new for each session that the entry changed; in one go where it was
    /// only prolonged, as nearly all are.
    fn end_sessions(&mut self, entry: &Entry, layer: &mut Layer) {
        #[cfg(feature = "mutants")]
        let keeps_old = self.keeps_old_sessions();
        let Self { sessions, tallies, plan, .. } = self;
        let mut kinds = TypeKinds { plan: &*plan, known: SmallVec::new() };
        sessions.end_entry(entry.seq, &mut |change: SessionChange<'_>| {
            let added = change.added;
            let now = kinds.measure(added);
            #[cfg(feature = "mutants")]
            if keeps_old {
                layer.count_session(tallies, added.start(), &values_of(added), &now, 1);
                return;
            }
            if let &[old] = change.removed
                && old.counts_beside(added)
            {
                let (before, dims) = (kinds.measure(old), values_of(added));
                layer.revise_session(tallies, added.start(), &dims, &before, &now);
                return;
            }
            for &old in change.removed {
                let (before, dims) = (kinds.measure(old), values_of(old));
                layer.count_session(tallies, old.start(), &dims, &before, -1);
            }
            layer.count_session(tallies, added.start(), &values_of(added), &now, 1);
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

fn values_of(session: SessionRef<'_>) -> SmallVec<[Option<&str>; 8]> {
    session.values().collect()
}

/// So many event types are remembered within an entry; there are dozens, a hostile client has
/// thousands.
const KINDS_MAX: usize = 32;

/// What an event of a type is to its session.
#[derive(Clone, Copy, Debug)]
struct TypeKind {
    is_view: bool,
    is_conversion: bool,
}

/// Measures sessions; the lists of types are asked once an entry for each type.
struct TypeKinds<'a> {
    plan: &'a Plan,
    known: SmallVec<[(Word, TypeKind); KINDS_MAX]>,
}

impl TypeKinds<'_> {
    fn of(&mut self, word: Word, event_type: &str) -> TypeKind {
        if let Some(&(_, kind)) = self.known.iter().find(|(known, _)| *known == word) {
            return kind;
        }
        let kind = TypeKind {
            is_view: self.plan.is_view(event_type),
            is_conversion: self.plan.is_conversion(event_type),
        };
        if self.known.len() < KINDS_MAX {
            self.known.push((word, kind));
        }
        kind
    }

    fn measure(&mut self, session: SessionRef<'_>) -> SessionMeasure {
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
