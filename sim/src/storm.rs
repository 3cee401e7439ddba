//! One storm: a seed's worth of clients, weather, power losses and folds, and what must be left.

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use nilometer_event::Partition;
use nilometer_log::Disk;
use nilometer_log::disk::sim::{Fault, FaultKind, Op};
use nilometer_rollups::purge::MakePurgeError;
use nilometer_stream::PurgeError;
use nilometer_stream::checkpoint::{self, Manifest};
use nilometer_stream::purges;
use nilometer_stream::shell::PlanBook;
use nilometer_stream::tables::{Rows, TableName};
use xxhash_rust::xxh3::Xxh3;

use crate::check::{Look, cells, conservation};
use crate::client::Client;
use crate::house::{House, Knobs};
use crate::model::Model;
use crate::mutant::Mutant;

/// Size of a disk with room.
const ROOMY_BYTES: u64 = 1 << 40;
/// Folders of the store's manifests and of the journal.
const ROLLUP_MANIFESTS: &str = "rollups/manifests/";
const JOURNAL: &str = "log/journal/";

/// A purge makes about so many calls of the disk.
const PURGE_CALLS: u64 = 600;

/// What a storm left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calm {
    /// Of every file and every answer on the way: the same for the same seed.
    pub digest: u64,
    /// Events that count.
    pub unique: u64,
    /// Starts of the process.
    pub starts: u64,
    /// Calls that the disk refused.
    pub refusals: u64,
    /// Purges that were made.
    pub purges: u64,
    /// Bits flipped.
    pub flips: u64,
}

/// Runs the storm of a seed, under a deliberate bug or none.
///
/// # Errors
///
/// The first difference to what the guarantees say.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Calm> {
    let mut storm = Storm::new(seed, mutant);
    let rounds = storm.rng.usize(15..40);
    for round in 0..rounds {
        storm.round().with_context(|| format!("in round {round}"))?;
    }
    storm.end().context("after the storm")?;
    Ok(storm.told())
}

/// Whether a purge says that it cannot be made: the day is past the horizon, or records of the
/// log are lost.
fn is_refusal(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(MakePurgeError::Shard(PurgeError::Closed { .. } | PurgeError::Lost { .. }))
    )
}

struct Storm {
    rng: Rng,
    house: House,
    client: Client,
    model: Model,
    /// The newest entry that a reader saw, by shard.
    shown: Vec<u64>,
    weather: Weather,
    /// The disk is full for so many more rounds.
    full_for: u32,
    journal_flipped: bool,
    /// The current plan's file is damaged: it is written anew while that plan stays.
    plan_flipped: bool,
    calm: Calm,
    trace: Xxh3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    Fair,
    Rough,
    /// The power fails within the round.
    Deadly,
}

impl Storm {
    fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let knobs = Knobs::roll(&mut rng);
        let shards = knobs.shards;
        Self {
            rng,
            house: House::new(seed, knobs, mutant),
            client: Client::default(),
            model: Model::new(shards),
            shown: vec![0; usize::from(shards.get())],
            weather: Weather::Fair,
            full_for: 0,
            journal_flipped: false,
            plan_flipped: false,
            calm: Calm::default(),
            trace: Xxh3::new(),
        }
    }

    fn round(&mut self) -> Result<()> {
        self.brew();
        if !self.house.is_running() {
            if self.rng.u8(0..3) == 0 {
                self.purge()?;
            }
            self.try_to_start()?;
        }
        for _ in 0..self.rng.usize(1..4) {
            let events = self.rng.usize(0..25);
            self.client.send(&self.house, &mut self.rng, events);
            if self.rng.u8(0..10) == 0 {
                self.client.send_rubbish(&self.house, &mut self.rng);
            }
            self.work();
            let ms = match self.rng.u8(0..30) {
                0 => self.rng.i64(0..6 * 3_600_000),
                1..4 => self.rng.i64(0..900_000),
                _ => self.rng.i64(50..15_000),
            };
            self.house.wait_ms(ms);
        }
        self.clear_up()
    }

    /// What the disk will do in this round.
    fn brew(&mut self) {
        let ops = Op::ALL;
        self.weather = Weather::Rough;
        match self.rng.u8(0..12) {
            0..5 => self.weather = Weather::Fair,
            5..8 => {
                for _ in 0..self.rng.u8(1..4) {
                    let op = self.rng.choice(ops).unwrap_or(Op::Sync);
                    let kinds = [FaultKind::Error, FaultKind::Short, FaultKind::NoSpace];
                    let kind = self.rng.choice(kinds).unwrap_or(FaultKind::Error);
                    let (after, times) = (self.rng.u64(0..40), self.rng.u64(1..4));
                    self.house.disk.fail_next(Fault { op, after, kind, times });
                }
            }
            8 => {
                let op = self.rng.choice(ops).unwrap_or(Op::Sync);
                self.house.disk.set_fault_rate(op, self.rng.u32(10_000..300_000));
            }
            9..11 => {
                self.weather = Weather::Deadly;
                self.house.disk.die_after(self.rng.u64(0..250));
            }
            _ => {
                self.full_for = self.rng.u32(1..5);
                let free = self.rng.choice([0, 3_000, 60_000, 32 << 20]).unwrap_or(0);
                self.house.disk.fill_up(free);
            }
        }
    }

    fn try_to_start(&mut self) -> Result<()> {
        if self.weather == Weather::Fair || self.rng.bool() {
            self.calm_disk();
        }
        self.calm.starts += 1;
        if self.rng.u8(0..6) == 0 {
            self.house.knobs.stream = Knobs::roll_stream(&mut self.rng);
            let declares = self.rng.bool();
            if !self.plan_flipped {
                self.house.knobs.declares = declares;
            }
        }
        let may_fail = self.weather != Weather::Fair || self.full_for > 0;
        match self.house.start() {
            Ok(()) => {
                self.plan_flipped = false;
                Ok(())
            }
            Err(error) if may_fail => {
                self.refused(&error);
                Ok(())
            }
            Err(error) => Err(error.context("the house does not start on a good disk")),
        }
    }

    /// Takes a key's events of a day out, where nothing runs; power may fail meanwhile.
    fn purge(&mut self) -> Result<()> {
        let weather = self.weather;
        self.calm_disk();
        let (key, day) = match self.rng.choice(self.model.keys_and_days()) {
            Some((key, day)) if self.rng.u8(0..8) > 0 => (key, day),
            _ => ("a".to_owned(), self.house.now().ms().div_euclid(86_400_000)),
        };
        let is_deadly = self.rng.bool();
        if is_deadly {
            self.house.disk.die_after(self.rng.u64(0..PURGE_CALLS));
        }
        match self.house.purge(&key, day) {
            Ok(made) => {
                self.calm.purges += 1;
                self.trace.update(format!("{made:?}").as_bytes());
            }
            Err(error) if is_deadly || is_refusal(&error) => self.refused(&error),
            Err(error) => return Err(error.context(format!("purge of {key} on {day}"))),
        }
        self.house.disk.heal();
        if self.rng.bool() {
            self.house.lose_power();
        } else {
            self.house.kill();
        }
        self.weather = weather;
        Ok(())
    }

    fn refused(&mut self, error: &anyhow::Error) {
        self.calm.refusals += 1;
        self.trace.update(format!("{error:#}").as_bytes());
    }

    /// Steps, seals and folds in any order.
    fn work(&mut self) {
        for _ in 0..self.rng.usize(0..5) {
            let shard = self.any_shard();
            if self.rng.u8(0..12) == 0 {
                self.house.request_seal(shard);
            }
            let done = match self.rng.u8(0..4) {
                0 => self.house.fold().map(|report| format!("{report:?}")),
                _ => self.house.step(shard).map(|report| format!("{report:?}")),
            };
            match done {
                Ok(report) => self.trace.update(report.as_bytes()),
                Err(error) => self.refused(&error),
            }
        }
    }

    fn calm_disk(&mut self) {
        self.weather = Weather::Fair;
        self.house.disk.heal();
        self.full_for = 0;
        self.house.disk.set_capacity(ROOMY_BYTES);
    }

    /// The end of a round: maybe the end of the process, then a look at what is shown.
    fn clear_up(&mut self) -> Result<()> {
        let was = self.weather;
        if was == Weather::Deadly {
            self.house.disk.heal();
            self.house.lose_power();
        }
        self.house.disk.heal();
        self.full_for = self.full_for.saturating_sub(1);
        if self.full_for == 0 {
            self.house.disk.set_capacity(ROOMY_BYTES);
        }
        if self.house.is_running() {
            self.look()?;
            self.put_table()?;
            match self.rng.u8(0..12) {
                0 => self.house.lose_power(),
                1 => self.house.kill(),
                2 => {
                    self.flip();
                    self.house.lose_power();
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads the journals, and compares where nothing is on its way.
    fn look(&mut self) -> Result<()> {
        let purges = purges::load(&self.house.disk)?;
        self.model.read(self.house.log()?, self.client.sent(), &purges)?;
        let pin = self.house.pin()?;
        ensure!(pin.is_complete(), "a started house shows every shard");
        let residual = pin.counters().residual();
        ensure!(residual == 0, "N3: residual {residual} in {:?}", pin.counters());
        let mut is_level = true;
        for (shard, facts) in pin.moment().shards() {
            let (durable, shown) = (self.model.seq(*shard), &mut self.shown[shard.index()]);
            ensure!(facts.seq <= durable, "shard {shard} shows {} of {durable}", facts.seq);
            ensure!(*shown <= facts.seq, "shard {shard} showed {shown}, now {}", facts.seq);
            *shown = facts.seq;
            is_level &= facts.seq == durable;
        }
        drop(pin);
        if is_level && self.full_for == 0 {
            // A layer that did not open is opened again by the next fold.
            let folded = self.house.fold();
            if let Err(error) = folded {
                self.refused(&error);
            }
            cells(&self.house.pin()?, &self.model, Look::Glance(&mut self.rng))?;
        }
        Ok(())
    }

    /// Another version of a dimension table, now and then.
    fn put_table(&mut self) -> Result<()> {
        if self.full_for > 0 || self.rng.u8(0..5) > 0 {
            return Ok(());
        }
        let name = self.rng.choice(TableName::ALL).unwrap_or(TableName::Users);
        let (key, columns, keys) = match name {
            TableName::Users => ("user_id", ["country", "cohort", "channel"], "u"),
            TableName::Content => ("content_id", ["content_category", "title", "year"], "co"),
            TableName::Services => ("service_name", ["country", "app_version", "cohort"], "s"),
        };
        let mut rows = Rows::default();
        rows.columns.push(key.to_owned());
        rows.columns.extend(columns.map(str::to_owned));
        for number in 0..self.rng.u8(1..12) {
            let mut row = vec![Some(format!("{keys}{number}"))];
            for column in columns {
                let value = self.rng.u8(0..4);
                row.push((value > 0).then(|| format!("{}T{value}", &column[..2])));
            }
            rows.rows.push(row);
        }
        let version = self.house.tables()?.put(name, rows.clone())?;
        self.model.put(name, version, rows);
        Ok(())
    }

    /// Flips a bit where the design says that it can be repaired: in what only the newest
    /// manifest lists, in one journal entry, in a file that is at hand elsewhere.
    fn flip(&mut self) {
        let candidates = match self.rng.u8(0..4) {
            0 => self.newest_checkpoint(),
            1 => self.newest_rollups(),
            2 if !self.journal_flipped => {
                self.journal_flipped = true;
                self.inner_journal()
            }
            _ => self.current_plan(),
        };
        let Some(path) = self.rng.choice(candidates) else { return };
        let Some(bytes) = self.house.disk.len_of(&path).filter(|bytes| *bytes > 0) else { return };
        self.house.disk.flip_bit(&path, self.rng.u64(0..bytes));
        self.calm.flips += 1;
    }

    fn any_shard(&mut self) -> Partition {
        Partition::new(self.rng.u16(0..self.house.knobs.shards.get()))
    }

    fn paths(&self, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
        self.house.disk.paths().into_iter().filter(|path| is_meant(path)).collect()
    }

    /// A shard's newest manifest and the files that it wrote, where there is one before it.
    fn newest_checkpoint(&mut self) -> Vec<String> {
        let folder = checkpoint::folder(self.any_shard());
        let manifests = self.paths(|path| path.starts_with(&format!("{folder}/manifest-")));
        let [.., _before, newest] = manifests.as_slice() else { return Vec::new() };
        let Some(manifest) = Manifest::load(&self.house.disk, newest) else { return Vec::new() };
        let fresh = manifest.fresh.into_iter().map(|file| file.path);
        fresh.chain([newest.clone()]).collect()
    }

    fn current_plan(&mut self) -> Vec<String> {
        let Ok(pin) = self.house.pin() else { return Vec::new() };
        self.plan_flipped = true;
        vec![PlanBook::path(pin.plan.id)]
    }

    fn newest_rollups(&self) -> Vec<String> {
        let manifests = self.paths(|path| path.starts_with(ROLLUP_MANIFESTS));
        if manifests.len() < 2 { Vec::new() } else { manifests.into_iter().rev().take(1).collect() }
    }

    /// Journal segments that another one with entries follows: each entry there has a successor.
    fn inner_journal(&mut self) -> Vec<String> {
        let folder = format!("{JOURNAL}{}/", self.any_shard());
        let disk = &self.house.disk;
        // A full disk leaves a new segment empty.
        let mut segments = self.paths(|path| {
            let is_segment = path.starts_with(&folder) && path.ends_with(".log");
            is_segment && disk.len_of(path).is_some_and(|bytes| bytes > 0)
        });
        segments.pop();
        segments
    }

    /// The storm is over: everything comes to rest, and is compared; then once more after a
    /// power loss.
    fn end(&mut self) -> Result<()> {
        self.calm_disk();
        self.rest()?;
        for _ in 0..200 {
            if !self.house.fold()?.switched() {
                break;
            }
        }
        self.conserved()?;
        self.house.lose_power();
        self.rest()?;
        self.conserved()?;
        cells(&self.house.pin()?, &self.model, Look::Everything)?;
        self.calm.unique = self.model.counters().unique;
        Ok(())
    }

    fn rest(&mut self) -> Result<()> {
        if !self.house.is_running() {
            self.calm.starts += 1;
            self.house.start()?;
        }
        for _ in 0..50 {
            if !self.client.is_waiting() {
                break;
            }
            self.house.wait_ms(2_000);
            self.client.send(&self.house, &mut self.rng, 0);
        }
        if self.client.is_waiting() {
            bail!("the log does not take what waits");
        }
        self.house.settle()?;
        self.look()
    }

    fn conserved(&self) -> Result<()> {
        conservation(&self.house.pin()?, &self.model, self.house.log()?, &self.client)
    }

    /// What happened, with every byte that is left.
    fn told(mut self) -> Calm {
        for path in self.house.disk.paths() {
            self.trace.update(path.as_bytes());
            self.trace.update(&self.house.disk.read(&path).unwrap_or_default());
        }
        self.calm.digest = self.trace.digest();
        self.calm
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nilometer_event::Topic;

    use super::*;

    /// A house of five days whose log keeps the last one and a half.
    fn aged(seed: u64) -> Result<Storm> {
        let mut storm = Storm::new(seed, None);
        storm.house.knobs.segment_bytes = 4 << 10;
        storm.house.knobs.log_retention = Some(Duration::from_secs(36 * 3_600));
        storm.house.start()?;
        for round in 0..180 {
            let events = storm.rng.usize(0..12);
            storm.client.send(&storm.house, &mut storm.rng, events);
            storm.house.wait_ms(40 * 60_000);
            storm.house.settle()?;
            if round % 5 == 0 {
                for shard in storm.house.knobs.shards.partitions() {
                    storm.house.request_seal(shard);
                }
                storm.put_table()?;
            }
            storm.look()?;
            storm.house.retain();
        }
        Ok(storm)
    }

    #[test]
    fn nobody_goes_back_to_what_is_older_than_a_purge() -> Result<()> {
        let mut storm = Storm::new(3, None);
        storm.rest()?;
        for _ in 0..6 {
            storm.client.send(&storm.house, &mut storm.rng, 20);
            storm.house.wait_ms(60_000);
            storm.rest()?;
        }
        storm.house.kill();
        let day = storm.house.now().ms().div_euclid(86_400_000);
        let made = storm.house.purge("a", day)?;
        ensure!(made.shards.iter().map(|shard| shard.erased).sum::<u64>() > 0, "{made:?}");
        let manifests = storm.paths(|path| path.starts_with("checkpoints/0/manifest-"));
        ensure!(manifests.len() == 1, "{manifests:?}");
        storm.house.disk.flip_bit(&manifests[0], 40);
        let error = storm.house.start().err().context("it starts with what was purged")?;
        let told = format!("{error:#}");
        ensure!(told.contains("since the purge"), "{told}");
        Ok(())
    }

    #[test]
    fn a_day_is_purged_from_the_middle_of_a_log_and_what_it_no_longer_has_is_refused() -> Result<()>
    {
        let (mut purged, mut refused) = (0, Vec::new());
        for seed in 0..3 {
            let mut storm = aged(seed)?;
            let first = Partition::new(0);
            let starts = Topic::RECEIVED
                .map(|topic| storm.house.log().map(|log| log.bounds(topic, first).start.get()));
            let starts = starts.into_iter().collect::<Result<Vec<_>>>()?;
            ensure!(starts.iter().any(|&start| start > 0), "the log begins at {starts:?}");
            let today = storm.house.now().ms().div_euclid(86_400_000);
            for (key, day) in [("a", today), ("b", today), ("c", today - 1), ("a", today - 3)] {
                storm.house.kill();
                match storm.house.purge(key, day) {
                    Ok(_) if day < today - 1 => bail!("seed {seed}: {day} is no longer in the log"),
                    Ok(_) => purged += 1,
                    Err(error) => {
                        let told = format!("{error:#}");
                        let reasons = [
                            "the log reaches back to",
                            "by what is no longer in the log",
                            "before the log does",
                        ];
                        let is_told = reasons.iter().any(|reason| told.contains(reason));
                        ensure!(is_told, "seed {seed}, {key} on {day}: {told}");
                        refused.push(told);
                    }
                }
                storm.rest()?;
                cells(&storm.house.pin()?, &storm.model, Look::Everything)?;
                storm.conserved()?;
            }
        }
        ensure!(purged >= 5 && refused.len() >= 3, "{purged} purges, refused {refused:#?}");
        Ok(())
    }
}
