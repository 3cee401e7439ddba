//! Naive clients: they send, and repeat in another order what was not acknowledged.

use std::collections::{BTreeMap, HashSet};

use fastrand::Rng;
use nilometer_event::{Partition, ReceiveTime, Topic};
use nilometer_log::{AppendBatch, RecordsBuilder};

use crate::house::House;
use crate::said::{Said, Who};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// A repeat with another timestamp stays within so much of the client's clock (the ids'
/// bucket): across its ends a repeat may count again until the lake repairs it (DESIGN.md, 9).
const BUCKET_MS: i64 = 10 * MINUTE_MS;

/// Keys of one source; the house itself has none.
pub(crate) const KEYS: [Option<&str>; 4] = [None, Some("a"), Some("b"), Some("c")];

const TYPES: [&str; 6] =
    ["page_view", "click", "purchase", "play_start", "heartbeat", "impression"];
const DIMS: [(&str, u8); 8] = [
    ("country", 3),
    ("device_type", 2),
    ("content_category", 2),
    ("content_id", 5),
    ("app_version", 2),
    ("subscription_tier", 2),
    ("cohort", 2),
    ("channel", 2),
];

/// All clients together, with their memory.
#[derive(Debug, Default)]
pub struct Client {
    /// To be sent again.
    waiting: Vec<Said>,
    said: Vec<Said>,
    serial: u64,
    acknowledged: HashSet<(Who, String)>,
    sent: HashSet<Vec<u8>>,
}

impl Client {
    /// Identities of which some sending was acknowledged.
    #[must_use]
    pub const fn acknowledged(&self) -> &HashSet<(Who, String)> {
        &self.acknowledged
    }

    /// Every record that was ever offered to the log.
    #[must_use]
    pub const fn sent(&self) -> &HashSet<Vec<u8>> {
        &self.sent
    }

    /// Whether something waits for its acknowledgement.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Every event that was said so far, repeats included.
    #[must_use]
    pub fn said(&self) -> &[Said] {
        &self.said
    }

    /// Sends what waits and up to `events` more, in batches of any size and in any order.
    pub fn send(&mut self, house: &House, rng: &mut Rng, events: usize) {
        let now = house.now();
        let mut all = std::mem::take(&mut self.waiting);
        for _ in 0..events {
            let said = self.think(rng, now);
            self.said.push(said.clone());
            all.push(said);
        }
        rng.shuffle(&mut all);
        while !all.is_empty() {
            let batch = all.split_off(all.len().saturating_sub(rng.usize(1..20)));
            self.offer(house, batch);
        }
    }

    /// Says again everything that was ever said.
    pub fn repeat_everything(&mut self, house: &House, rng: &mut Rng) {
        let mut all = self.said.clone();
        rng.shuffle(&mut all);
        self.waiting.extend(all);
        self.send(house, rng, 0);
    }

    /// One submission, acknowledged as a whole or not at all.
    fn offer(&mut self, house: &House, batch: Vec<Said>) {
        let now = house.now();
        let mut places: BTreeMap<_, RecordsBuilder> = BTreeMap::new();
        for said in &batch {
            let value = said.encode(now);
            let partition = said.partition(&house.identity, house.knobs.shards);
            let topic = Topic::RECEIVED.iter().position(|&topic| topic == said.topic);
            places.entry((partition, topic)).or_default().push(now, None, &value);
            self.sent.insert(value);
        }
        let batches = places.into_iter().filter_map(|((partition, topic), records)| {
            let topic = *Topic::RECEIVED.get(topic?)?;
            Some(AppendBatch { topic, partition, records: records.build() })
        });
        match house.append(batches.collect()) {
            Ok(()) => {
                let names = batch.into_iter().map(|said| (said.who, said.id));
                self.acknowledged.extend(names);
            }
            Err(_refused) => self.waiting.extend(batch),
        }
    }

    /// Sends bytes that are no event, and a dead letter; nobody repeats them.
    pub fn send_rubbish(&mut self, house: &House, rng: &mut Rng) {
        let partition = Partition::new(rng.u16(0..house.knobs.shards.get()));
        let batches =
            [(Topic::UserEvents, b"no event".as_slice()), (Topic::DeadLetters, b"letter")].map(
                |(topic, value)| {
                    let mut records = RecordsBuilder::new();
                    records.push(house.now(), None, value);
                    self.sent.insert(value.to_vec());
                    AppendBatch { topic, partition, records: records.build() }
                },
            );
        drop(house.append(batches.into()));
    }

    fn think(&mut self, rng: &mut Rng, now: ReceiveTime) -> Said {
        if let Some(before) = rng.choice(self.said.iter())
            && rng.u8(0..100) < 18
        {
            return repeat(before.clone(), rng, now);
        }
        self.invent(rng, now)
    }

    fn invent(&mut self, rng: &mut Rng, now: ReceiveTime) -> Said {
        self.serial += 1;
        let (who, mut topic) = match rng.u8(0..20) {
            0..13 => (Who::User(format!("u{}", rng.u8(0..14))), Topic::UserEvents),
            13..17 => (Who::Anonymous(format!("u{}", rng.u8(0..4))), Topic::ContentViews),
            _ => (Who::Service(format!("s{}", rng.u8(0..2))), Topic::ServerEvents),
        };
        let age_ms = match rng.u8(0..40) {
            0..24 => rng.i64(-MINUTE_MS..5 * MINUTE_MS),
            24..30 => rng.i64(0..3 * HOUR_MS),
            30..34 => rng.i64(0..3 * DAY_MS),
            34 => -rng.i64(6 * MINUTE_MS..30 * DAY_MS),
            35 => now.ms() - rng.i64(0..1_000_000),
            36..39 => {
                topic = Topic::Imports;
                rng.i64(0..75 * DAY_MS)
            }
            _ => {
                topic = Topic::Imports;
                rng.i64(110 * DAY_MS..1_200 * DAY_MS)
            }
        };
        let mut dims = BTreeMap::new();
        for (name, values) in DIMS {
            let value = rng.u8(0..=values);
            if value > 0 {
                dims.insert(name, format!("{}{value}", &name[..2]));
            }
        }
        Said {
            who,
            key: rng.choice(KEYS).flatten(),
            id: format!("e{}", self.serial),
            event_type: rng.choice(TYPES).unwrap_or(TYPES[0]),
            sent_ms: now.ms() - age_ms,
            topic,
            dims,
            duration_halves: rng.bool().then(|| rng.u32(0..2_000)),
            completed: rng.bool().then(|| rng.bool()),
        }
    }
}

/// The same identity again: as it was, by import, or with another timestamp or content.
fn repeat(mut said: Said, rng: &mut Rng, now: ReceiveTime) -> Said {
    match rng.u8(0..10) {
        0 => {
            let bucket = said.sent_ms.div_euclid(BUCKET_MS) * BUCKET_MS;
            let moved = bucket + rng.i64(0..BUCKET_MS);
            // A corrected time is another bucket.
            if said.sent_ms.max(moved) < now.ms() + 4 * MINUTE_MS {
                said.sent_ms = moved;
            }
        }
        1 => said.duration_halves = Some(7),
        3 => said.key = rng.choice(KEYS).flatten(),
        2 if said.sent_ms > DAY_MS => said.topic = Topic::Imports,
        _ => {}
    }
    said
}
