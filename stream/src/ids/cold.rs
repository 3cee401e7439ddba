//! Look-ups of ids that are not hot: planned without I/O, read by the shell, answered in the fold.

use hashbrown::HashMap;
use nilometer_event::Fingerprint;
use nilometer_log::{Disk, DiskFile};

use super::damage::{RunDamaged, RunReadFailed};
use super::key::{Bucket, IdKey};
use super::run::{Run, Unreadable};
use super::store::{Group, decode_block};

/// Blocks to read before an entry can be folded.
#[derive(Clone, Debug, Default)]
pub struct ColdLookups {
    pub(crate) runs: Vec<Run>,
    pub(crate) probes: Vec<Probe>,
}

/// One id in one block of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Probe {
    pub(crate) run: usize,
    pub(crate) block: usize,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) asked: Bucket,
}

/// What the cold runs said about the ids of one entry.
#[derive(Clone, Debug, Default)]
pub struct ColdIds {
    answers: HashMap<(Fingerprint, Bucket), Answer>,
    damage: Vec<RunDamaged>,
}

/// The better answer is the greater one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    Unreadable,
    FoundOdd(u8),
    Found(u8),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnRefusal {
    Fail,
    CallItDamage,
}

impl ColdLookups {
    /// True where nothing has to be read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.probes.is_empty()
    }

    /// How many blocks are asked, repeats included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.probes.len()
    }

    /// Reads what the look-ups need.
    ///
    /// A block whose bytes are wrong or missing is damage, told by [`ColdIds::damage`]; ids that
    /// may lie in it are answered with [`super::Verdict::Closed`].
    ///
    /// # Errors
    ///
    /// [`RunReadFailed`] when the disk refuses: nothing is known, so try again, and after some
    /// tries call [`Self::fetch_anyway`].
    pub fn fetch(&self, disk: &dyn Disk) -> Result<ColdIds, RunReadFailed> {
        self.read(disk, OnRefusal::Fail)
    }

    /// As [`Self::fetch`], but what the disk refuses to read counts as damaged.
    ///
    /// # Panics
    ///
    /// Where it does not.
    #[must_use]
    pub fn fetch_anyway(&self, disk: &dyn Disk) -> ColdIds {
        let read = self.read(disk, OnRefusal::CallItDamage);
        read.expect("I2: what the disk refuses counts as damaged, never as new")
    }

    fn read(&self, disk: &dyn Disk, on_refusal: OnRefusal) -> Result<ColdIds, RunReadFailed> {
        let mut probes = self.probes.clone();
        probes.sort_unstable();
        probes.dedup();
        let mut cold = ColdIds::default();
        for of_run in probes.chunk_by(|one, next| one.run == next.run) {
            let run = &self.runs[of_run[0].run];
            let handle = disk.open_read(&run.file).map_err(Unreadable::from);
            for of_block in of_run.chunk_by(|one, next| one.block == next.block) {
                match read_rows(run, &handle, of_block[0].block) {
                    Ok(payload) => cold.answer(run, of_block, &payload),
                    Err(Unreadable::Io(source)) if on_refusal == OnRefusal::Fail => {
                        return Err(RunReadFailed { file: run.file.clone(), source });
                    }
                    Err(error) => cold.unreadable(run, of_block, &error),
                }
            }
        }
        Ok(cold)
    }
}

impl ColdIds {
    /// What is known when nothing had to be read.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// What could not be read; log each, once.
    #[must_use]
    pub fn damage(&self) -> &[RunDamaged] {
        &self.damage
    }

    /// A deliberate bug: what could not be read is as if nobody had asked.
    #[cfg(feature = "mutants")]
    pub(crate) fn without_unreadable(&self) -> Self {
        let mut cold = Self { damage: Vec::new(), ..self.clone() };
        cold.answers.retain(|_, answer| *answer != Answer::Unreadable);
        cold
    }

    pub(crate) fn of(&self, key: IdKey) -> Option<Answer> {
        if self.answers.is_empty() {
            return None;
        }
        self.answers.get(&(key.fingerprint, key.bucket)).copied()
    }

    fn answer(&mut self, run: &Run, probes: &[Probe], payload: &[u8]) {
        let block = run.blocks[probes[0].block];
        let Some(rows) = decode_block(payload, block.rows) else {
            return self.unreadable(run, probes, &Unreadable::Damaged("a block is cut".to_owned()));
        };
        let odd = matches!(Group::from_number(block.group), Some(Group::OddDay(_)));
        for probe in probes {
            if let Some(check) = rows.check_of(probe.fingerprint.get()) {
                self.keep(probe, if odd { Answer::FoundOdd(check) } else { Answer::Found(check) });
            }
        }
    }

    fn unreadable(&mut self, run: &Run, probes: &[Probe], error: &Unreadable) {
        let group = Group::from_number(run.blocks[probes[0].block].group);
        let hour = group.and_then(|group| group.bucket().hour());
        self.damage.push(RunDamaged {
            file: run.file.clone(),
            hours: hour.into_iter().collect(),
            odd: hour.is_none(),
            reason: error.reason(),
        });
        for probe in probes {
            self.keep(probe, Answer::Unreadable);
        }
    }

    fn keep(&mut self, probe: &Probe, answer: Answer) {
        let kept = self.answers.entry((probe.fingerprint, probe.asked)).or_insert(answer);
        *kept = answer.max(*kept);
    }
}

fn read_rows(
    run: &Run,
    handle: &Result<Box<dyn DiskFile>, Unreadable>,
    block: usize,
) -> Result<Vec<u8>, Unreadable> {
    match handle {
        Ok(handle) => run.read_block(&**handle, block),
        Err(error) => Err(error.again()),
    }
}
