//! The ids against a list of everything that was ever admitted.

use std::collections::BTreeMap;

use nilometer_event::{EventTime, Fingerprint, ReceiveTime, TimeCorrection};
use nilometer_log::Disk;
use nilometer_log::disk::sim::SimDisk;
use proptest::prelude::*;

use super::*;

const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;
const BIRTH_MS: i64 = 1_000 * HOUR_MS;

fn settings() -> IdsSettings {
    IdsSettings { horizon_ms: 6 * HOUR_MS, hot_ms: HOUR_MS, ..IdsSettings::new("0/ids") }
}

fn new_ids(settings: &IdsSettings) -> Ids {
    Ids::new(settings.clone(), EventTime::from_ms(BIRTH_MS))
}

/// An id by small numbers: which, in which ten minutes of the shard's life (`None`: corrected).
fn key(id: u64, slot: Option<i64>, check: u8) -> IdKey {
    let hash = xxhash_rust::xxh3::xxh3_64(&id.to_le_bytes());
    let sent = EventTime::from_ms(BIRTH_MS + slot.unwrap_or(0) * 10 * MINUTE_MS);
    let correction = match slot {
        Some(_) => TimeCorrection::None,
        None => TimeCorrection::ToReceiveTime,
    };
    let bucket = Bucket::of(sent, correction, BucketWidth::DEFAULT);
    IdKey { fingerprint: Fingerprint::new(hash), check, bucket, by_arrival: false }
}

/// The reference: a list, searched from end to end. It knows the rules of I1 and I2 as prose has
/// them, and nothing of tables, tags, runs or filters.
#[derive(Clone, Debug)]
struct Model {
    hot_ms: i64,
    hot_ids_max: u64,
    horizon_ms: i64,
    ids: Vec<Known>,
    seals: BTreeMap<u64, i64>,
    forgotten_ms: i64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    key: IdKey,
    layer: Option<u64>,
    hot: bool,
}

impl Model {
    fn new(settings: &IdsSettings) -> Self {
        Self {
            hot_ms: settings.hot_ms,
            hot_ids_max: settings.hot_ids_max,
            horizon_ms: settings.horizon_ms,
            ids: Vec::new(),
            seals: BTreeMap::new(),
            forgotten_ms: i64::MIN,
        }
    }

    fn admit(&mut self, key: IdKey) -> Verdict {
        let hour_ms = i64::from(key.bucket.number()).div_euclid(60) * HOUR_MS;
        let odd = key.bucket == Bucket::ODD;
        if !odd && (BIRTH_MS..self.forgotten_ms).contains(&hour_ms) {
            return Verdict::Closed;
        }
        let same = |known: &&Known| known.key.fingerprint == key.fingerprint;
        let hot = self.ids.iter().filter(same).find(|known| known.hot);
        let own = self.ids.iter().filter(same).find(|known| known.key.bucket == key.bucket);
        let odd = self.ids.iter().filter(same).find(|known| known.key.bucket == Bucket::ODD);
        if let Some(known) = hot.or(own).or(odd) {
            return Verdict::Duplicate { conflict: known.key.check != key.check };
        }
        self.ids.push(Known { key, layer: None, hot: true });
        Verdict::New
    }

    fn seal(&mut self, layer: u64, now_ms: i64, watermark_ms: i64) {
        for known in &mut self.ids {
            known.layer.get_or_insert(layer);
        }
        self.seals.insert(layer, now_ms);
        let horizon_ms = watermark_ms.saturating_sub(self.horizon_ms);
        self.forgotten_ms = self.forgotten_ms.max(horizon_ms.div_euclid(HOUR_MS) * HOUR_MS);
        let sealed_before = |known: &Known| known.layer.is_some_and(|of| of < layer);
        for known in self.ids.iter_mut().filter(|known| sealed_before(known)) {
            known.hot &= now_ms - self.seals[&known.layer.unwrap()] <= self.hot_ms;
        }
        while self.ids.iter().filter(|known| known.hot).count() as u64 > self.hot_ids_max {
            let evictable = self.ids.iter().filter(|known| known.hot && sealed_before(known));
            let oldest = evictable.map(|known| (known.key.bucket, known.layer)).min();
            let Some(oldest) = oldest else { break };
            for known in &mut self.ids {
                known.hot &= (known.key.bucket, known.layer) != oldest;
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// An entry's ids: which, ten-minute slot, check.
    Entry(Vec<(u64, Option<i64>, u8)>),
    /// Seals after so many minutes.
    Seal(i64),
    Merge,
    /// Loses what no manifest holds, and folds again what came since.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let slot = prop_oneof![8 => (-12..60_i64).prop_map(Some), 1 => Just(None)];
    let id = (0..60_u64, slot, 0..2_u8);
    prop_oneof![
        6 => prop::collection::vec(id, 0..12).prop_map(Step::Entry),
        4 => (1..40_i64).prop_map(Step::Seal),
        2 => Just(Step::Merge),
        1 => Just(Step::Crash),
    ]
}

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// Cold runs are never asked.
    ColdIdsLost,
    /// Recovery forgets the newest run.
    NewestRunLost,
}

/// The ids with their disk and what a shell does around them.
struct House {
    settings: IdsSettings,
    disk: SimDisk,
    ids: Ids,
    manifest: Option<IdsManifest>,
    written: Option<IdsWritten>,
    since_seal: Vec<(Vec<IdKey>, Vec<Verdict>)>,
    layer: u64,
    now_ms: i64,
    mutant: Mutant,
}

impl House {
    fn new(settings: IdsSettings, mutant: Mutant) -> Self {
        Self {
            disk: SimDisk::new(1),
            ids: new_ids(&settings),
            settings,
            manifest: None,
            written: None,
            since_seal: Vec::new(),
            layer: 1,
            now_ms: BIRTH_MS,
            mutant,
        }
    }

    fn admit(&mut self, keys: &[IdKey]) -> Vec<Verdict> {
        let lookups = self.ids.plan_lookups(keys.iter().copied());
        let cold = match self.mutant {
            Mutant::ColdIdsLost => ColdIds::empty(),
            Mutant::None | Mutant::NewestRunLost => lookups.fetch(&self.disk).unwrap(),
        };
        self.ids.close_damaged(&cold);
        keys.iter().map(|&key| self.ids.admit(key, &cold)).collect()
    }

    fn entry(&mut self, keys: Vec<IdKey>) -> Vec<Verdict> {
        let verdicts = self.admit(&keys);
        self.since_seal.push((keys, verdicts.clone()));
        verdicts
    }

    fn watermark_ms(&self) -> i64 {
        self.now_ms - 2 * HOUR_MS
    }

    fn seal(&mut self, minutes: i64) {
        self.install();
        self.now_ms += minutes * MINUTE_MS;
        let (now, watermark) =
            (ReceiveTime::from_ms(self.now_ms), EventTime::from_ms(self.watermark_ms()));
        let sealed = self.ids.seal(self.layer, now, watermark);
        let written = sealed.write(&self.disk).unwrap();
        let bytes = postcard::to_stdvec(written.manifest()).unwrap();
        self.manifest = Some(postcard::from_bytes(&bytes).unwrap());
        self.written = Some(written);
        self.since_seal.clear();
        self.layer += 1;
    }

    fn install(&mut self) {
        if let Some(written) = self.written.take() {
            self.ids.installed(written);
        }
    }

    fn merge(&mut self) {
        if let Some(merge) = self.ids.plan_merge() {
            let merged = merge.run(&self.disk).unwrap();
            self.ids.merged(merged);
        }
    }

    fn crash(&mut self) {
        self.disk.crash();
        self.written = None;
        self.ids = match &self.manifest {
            None => new_ids(&self.settings),
            Some(manifest) => {
                let mut manifest = manifest.clone();
                if self.mutant == Mutant::NewestRunLost {
                    manifest.runs.pop();
                }
                let settings = self.settings.clone();
                let (ids, damage) =
                    Ids::recover(&self.disk, &manifest, settings, OnDamage::Refuse).unwrap();
                assert_eq!(damage, []);
                ids
            }
        };
    }
}

/// Runs a script; the first difference from the model, if any.
fn run(steps: &[Step], settings: &IdsSettings, mutant: Mutant) -> Result<(), String> {
    let mut house = House::new(settings.clone(), mutant);
    let mut model = Model::new(settings);
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Entry(ids) => {
                let keys: Vec<IdKey> =
                    ids.iter().map(|&(id, slot, check)| key(id, slot, check)).collect();
                let expected: Vec<Verdict> = keys.iter().map(|&key| model.admit(key)).collect();
                let verdicts = house.entry(keys);
                if verdicts != expected {
                    return Err(format!("step {at}: {verdicts:?}, expected {expected:?}"));
                }
            }
            Step::Seal(minutes) => {
                house.seal(*minutes);
                model.seal(house.layer - 1, house.now_ms, house.watermark_ms());
            }
            Step::Merge => {
                house.install();
                house.merge();
            }
            Step::Crash => {
                house.crash();
                for (keys, verdicts) in house.since_seal.clone() {
                    let again = house.admit(&keys);
                    if again != verdicts {
                        return Err(format!("step {at}: {again:?} again, before {verdicts:?}"));
                    }
                }
            }
        }
        let hot = model.ids.iter().filter(|known| known.hot).count() as u64;
        if house.ids.hot_len() != hot {
            return Err(format!("step {at}: {} hot, expected {hot}", house.ids.hot_len()));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn i1_i2_i3_verdicts_equal_the_list_of_everything_ever_admitted(
        steps in prop::collection::vec(step(), 1..60),
        hot_ids_max in prop_oneof![0..40_u64, Just(u64::MAX)],
        filter_bytes_max in prop_oneof![Just(0), Just(200), Just(1 << 20)],
    ) {
        let settings = IdsSettings { hot_ids_max, filter_bytes_max, ..settings() };
        prop_assert_eq!(run(&steps, &settings, Mutant::None), Ok(()));
    }

    #[test]
    fn i1_hot_equals_cold_for_repeats_that_keep_their_bucket(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let verdicts = |settings: IdsSettings| {
            let mut house = House::new(settings, Mutant::None);
            let mut verdicts = Vec::new();
            for step in &steps {
                match step {
                    Step::Entry(ids) => verdicts.push(house.entry(
                        ids.iter().map(|&(id, _, check)| {
                            let slot = i64::try_from(id).unwrap() % 40 - 5;
                            key(id, (!id.is_multiple_of(7)).then_some(slot), check)
                        }).collect(),
                    )),
                    Step::Seal(minutes) => house.seal(*minutes),
                    Step::Merge => {
                        house.install();
                        house.merge();
                    }
                    Step::Crash => {}
                }
            }
            verdicts
        };
        let cold = IdsSettings { hot_ids_max: 0, hot_ms: -1, ..settings() };
        let hot = IdsSettings { hot_ms: i64::MAX, ..settings() };
        prop_assert_eq!(verdicts(cold), verdicts(hot));
    }
}

/// A script that no mutant survives: ids go cold and come again, before and after a crash.
fn telling_script() -> Vec<Step> {
    let ids = |range: std::ops::Range<u64>| {
        Step::Entry(range.map(|id| (id, Some(i64::try_from(id % 5).unwrap()), 0)).collect())
    };
    vec![
        ids(0..20),
        Step::Seal(1),
        ids(20..40),
        Step::Seal(90),
        Step::Seal(90),
        ids(10..30),
        Step::Seal(1),
        ids(40..60),
        Step::Seal(1),
        Step::Crash,
        ids(30..60),
    ]
}

#[test]
fn the_tests_notice_when_cold_ids_are_lost() {
    assert_eq!(run(&telling_script(), &settings(), Mutant::None), Ok(()));
    assert!(run(&telling_script(), &settings(), Mutant::ColdIdsLost).is_err());
}

#[test]
fn the_tests_notice_when_recovery_loses_a_run() {
    assert!(run(&telling_script(), &settings(), Mutant::NewestRunLost).is_err());
}

/// Ids in three layers, all cold after the seals; every 7th odd.
fn cold_house() -> (House, Vec<IdKey>) {
    let mut house = House::new(settings(), Mutant::None);
    let slot = |id: u64| (!id.is_multiple_of(7)).then_some(i64::try_from(id).unwrap() / 120);
    let keys: Vec<IdKey> = (0..1_500).map(|id| key(id, slot(id), 3)).collect();
    for keys in keys.chunks(500) {
        house.entry(keys.to_vec());
        house.seal(1);
    }
    (0..2).for_each(|_| house.seal(90));
    house.install();
    assert_eq!(house.ids.hot_len(), 0);
    (house, keys)
}

#[test]
fn i4_no_flipped_bit_in_a_run_makes_an_old_id_new() {
    let (mut house, keys) = cold_house();
    let file = house.manifest.as_ref().unwrap().files().next().unwrap().to_owned();
    let bytes = house.disk.read(&file).unwrap();
    for offset in (0..bytes.len()).step_by(37).chain(bytes.len() - 110..bytes.len()) {
        house.disk.flip_bit_at(&file, offset as u64, u8::try_from(offset % 8).unwrap());
        // Found by a look-up.
        let cold = house.ids.plan_lookups(keys.iter().copied()).fetch(&house.disk).unwrap();
        let found = cold.damage().iter().all(|damage| damage.file == file);
        assert!(found, "the damaged file is named, and no other");
        // Found by a recovery.
        let manifest = house.manifest.clone().unwrap();
        let recover = |on_damage| Ids::recover(&house.disk, &manifest, settings(), on_damage);
        let refused = recover(OnDamage::Refuse).is_err();
        let (mut ids, damage) = recover(OnDamage::Close).unwrap();
        assert_eq!(refused, !damage.is_empty(), "byte {offset}");
        let cold = ids.plan_lookups(keys.iter().copied()).fetch(&house.disk).unwrap();
        assert!(refused || !cold.damage().is_empty() || offset < 8, "byte {offset} is not noticed");
        ids.close_damaged(&cold);
        for &key in &keys {
            let verdict = ids.admit(key, &cold);
            assert_ne!(verdict, Verdict::New, "byte {offset}: {key:?}");
        }
        house.disk.flip_bit_at(&file, offset as u64, u8::try_from(offset % 8).unwrap());
    }
    // The mutant: an unreadable run that answers "new".
    let verdict = house.ids.admit(keys[1], &ColdIds::empty());
    assert_eq!(verdict, Verdict::New, "without the answer of its run an old id looks new");
}

#[test]
fn i4_a_damaged_run_closes_its_hours_and_no_others_and_is_named() {
    let (mut house, keys) = cold_house();
    let file = house.manifest.as_ref().unwrap().files().next().unwrap().to_owned();
    house.disk.remove(&file).unwrap();
    let lookups = house.ids.plan_lookups(keys[..20].iter().copied());
    let cold = lookups.fetch(&house.disk).unwrap();
    let named = cold.damage()[0].to_string();
    assert!(named.contains(&file) && named.contains("corrupt"), "{named}");
    house.ids.close_damaged(&cold);
    assert_eq!(house.ids.admit(keys[1], &cold), Verdict::Closed);
    // A stranger of the same hour cannot be told from what was lost; one of another hour can.
    assert_eq!(house.ids.admit(key(9_000, Some(0), 0), &cold), Verdict::Closed);
    assert_eq!(house.ids.admit(key(9_001, Some(50), 0), &cold), Verdict::New);
    let hours: Vec<Hour> = house.ids.closed_hours().damaged().collect();
    assert_eq!(hours, [Hour::of(EventTime::from_ms(BIRTH_MS))]);
    // The closed hour is checkpointed state.
    house.seal(1);
    house.install();
    house.disk.sync_dir("").unwrap();
    let manifest = house.manifest.clone().unwrap();
    let (mut ids, _) = Ids::recover(&house.disk, &manifest, settings(), OnDamage::Close).unwrap();
    assert_eq!(ids.admit(key(9_000, Some(0), 0), &ColdIds::empty()), Verdict::Closed);
}

#[test]
fn an_id_of_an_hour_behind_the_horizon_is_closed_and_its_run_is_dropped() {
    let mut house = House::new(settings(), Mutant::None);
    let old = key(1, Some(0), 0);
    assert_eq!(house.entry(vec![old]), [Verdict::New]);
    house.seal(1);
    (0..10).for_each(|_| house.seal(60));
    assert_eq!(house.entry(vec![old, key(1, Some(-9), 0)]), [Verdict::Closed, Verdict::New]);
    assert_eq!(house.ids.runs_len(), 0, "nothing asks for it any more");
    let at = |slot: i64| EventTime::from_ms(BIRTH_MS + slot * 10 * MINUTE_MS);
    assert!(house.ids.is_forgotten(at(0), Source::Import));
    assert!(house.ids.is_forgotten(at(-9), Source::Live));
    assert!(!house.ids.is_forgotten(at(-9), Source::Import), "no hour before birth was closed");
}

#[test]
fn more_buckets_in_a_layer_than_memory_tells_apart_lose_no_id() {
    let mut house = House::new(settings(), Mutant::None);
    let ids = u64::try_from(heat::LAYER_BUCKETS_MAX).unwrap() + 500;
    let in_past = |id: u64| Some(-100 - i64::try_from(id).unwrap());
    let keys: Vec<IdKey> = (0..ids).map(|id| key(id, in_past(id), 0)).collect();
    let crossed: Vec<IdKey> = (0..ids).map(|id| key(id, Some(1), 0)).collect();
    let is_duplicate = |verdict: &Verdict| *verdict == Verdict::Duplicate { conflict: false };
    house.entry(keys.clone());
    assert!(house.admit(&keys).iter().all(is_duplicate));
    house.seal(1);
    house.crash();
    assert!(house.admit(&crossed).iter().all(is_duplicate), "all are hot until the next seal");
    house.seal(1);
    assert!(house.admit(&keys).iter().all(is_duplicate), "hot or cold");
    let crossed = house.admit(&crossed);
    let new = crossed.iter().filter(|&&verdict| verdict == Verdict::New).count();
    assert!(new >= 500, "the crowd went cold: {new}");
}

#[test]
fn merging_makes_few_runs_of_many_and_a_run_costs_about_nine_bytes_an_id() {
    let mut house = House::new(settings(), Mutant::None);
    let mut keys = Vec::new();
    for layer in 0..70_u64 {
        let of_layer: Vec<IdKey> = (0..300)
            .map(|id| key(layer * 300 + id, Some(i64::try_from(layer / 10).unwrap()), 0))
            .collect();
        house.entry(of_layer.clone());
        keys.extend(of_layer);
        house.seal(1);
    }
    (0..2).for_each(|_| house.seal(70));
    house.install();
    let before = house.ids.runs_len();
    (0..20).for_each(|_| house.merge());
    assert!((before, house.ids.runs_len()) == (70, 7), "{before}, {}", house.ids.runs_len());
    let sizes: Vec<usize> = house
        .ids
        .seal(1_000, ReceiveTime::from_ms(house.now_ms), EventTime::from_ms(house.watermark_ms()))
        .write(&house.disk)
        .unwrap()
        .manifest()
        .files()
        .map(|file| house.disk.read(file).unwrap().len())
        .collect();
    let bytes = sizes.iter().sum::<usize>() * 10 / keys.len();
    assert!(bytes < 115, "{bytes} tenths of a byte an id, filters and index included");
    let cold = house.ids.plan_lookups(keys.iter().copied()).fetch(&house.disk).unwrap();
    let verdicts = keys.iter().map(|&key| house.ids.admit(key, &cold));
    assert!(verdicts.into_iter().all(|verdict| verdict == Verdict::Duplicate { conflict: false }));
}

#[test]
fn a_copy_is_found_once_cold_whatever_the_clocks_said_when_either_came() {
    use TimeCorrection::{ByOffset, BySentAt, None, ToReceiveTime};
    let in_the_past = [(None, ByOffset), (ByOffset, None), (ByOffset, ByOffset)];
    // What lay in the future does so less and less.
    let from_the_future = [(BySentAt, ByOffset), (ToReceiveTime, None), (BySentAt, BySentAt)];
    let table = [(-HOUR_MS, &in_the_past[..]), (0, &from_the_future)];
    for (behind_ms, cases) in table {
        for &(first, copy) in cases {
            let mut house = House::new(settings(), Mutant::None);
            house.seal(20 * 60);
            let sent = EventTime::from_ms(house.now_ms + behind_ms);
            let mut came = |correction| {
                let bucket = house.ids.bucket_of(sent, correction);
                let id = IdKey { bucket, ..key(1, Some(0), 7) };
                let verdict = house.entry(vec![id])[0];
                for _ in 0..4 {
                    house.seal(40);
                }
                verdict
            };
            assert_eq!(came(first), Verdict::New, "{behind_ms} {first:?} {copy:?}");
            let again = came(copy);
            assert_eq!(
                again,
                Verdict::Duplicate { conflict: false },
                "{behind_ms} {first:?} {copy:?}"
            );
        }
    }
}

/// Ids are remembered for three days here. The model is a sentence: an event that comes again within
/// a day less than that is a duplicate, whatever hour its client's clock names.
#[test]
fn an_event_of_a_client_that_is_behind_counts_once_however_far() {
    const DAY_MS: i64 = 24 * HOUR_MS;
    let settings =
        IdsSettings { horizon_ms: 3 * DAY_MS, hot_ms: HOUR_MS, ..IdsSettings::new("0/ids") };
    let behind =
        [1, 20, 24, 25, 47, 60, 69, 70, 71, 72, 73, 90, 2_000].map(|hours| hours * HOUR_MS);
    // What the clocks are apart differs a little from time to time.
    for (number, jitter_ms) in (0..).zip([0, -1_000, 1_000]) {
        let mut house = House::new(settings.clone(), Mutant::None);
        (0..80).for_each(|_| house.seal(60));
        let first_ms = house.now_ms;
        let came = |house: &mut House, off_ms: i64, moved_ms: i64| {
            let sent = EventTime::from_ms(first_ms - off_ms);
            let time = EventTime::from_ms(first_ms + moved_ms);
            let bucket = house.ids.bucket_of(sent, TimeCorrection::ByOffset);
            let by_arrival = is_far_behind(sent, time, TimeCorrection::ByOffset);
            let id = u64::try_from(off_ms).unwrap() * 3 + number;
            house.entry(vec![IdKey { bucket, by_arrival, ..key(id, Some(0), 7) }])[0]
        };
        for off_ms in behind {
            assert_eq!(came(&mut house, off_ms, 0), Verdict::New, "{off_ms}");
        }
        for hour in 1..47 {
            house.seal(60);
            for off_ms in behind {
                let again = came(&mut house, off_ms, jitter_ms);
                let expected = Verdict::Duplicate { conflict: false };
                assert_eq!(again, expected, "{off_ms} ms behind, again after {hour} hours");
            }
        }
    }
}
