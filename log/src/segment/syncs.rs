//! Syncing the files of one commit: beside each other, by threads that stay.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use nilometer_event::Partition;
use tokio::time::Instant;

use super::write::PlaceWriter;

/// Files that a partition syncs beside the one on its writer's own thread. A commit of live events
/// touches three at most: events of users, those of services or what was refused, and the journal.
/// More of them wait for each other.
const BESIDE: usize = 2;

/// Whether files are synced beside each other.
#[derive(Debug)]
pub(super) enum Syncs {
    /// In topic order, for the simulator.
    InTurn,
    /// At once: 6 ms against 230 ms for 50 files (DEPENDENCIES.md).
    AtOnce([Syncer; BESIDE]),
}

/// A sync that was done.
#[derive(Debug)]
pub(super) struct Synced {
    pub(super) result: io::Result<()>,
    pub(super) took: Duration,
}

/// A thread that syncs for one partition. It ends when this is dropped.
///
/// A thread for each sync cost a third of the writers' processor time, and a pool whose idle
/// threads look for work cost more than all the rest (rayon, at 20,000 events/s).
#[derive(Debug)]
pub(super) struct Syncer {
    lent: Sender<PlaceWriter>,
    given_back: Receiver<(PlaceWriter, Synced)>,
}

impl Syncs {
    /// Threads for the syncs of a partition.
    pub(super) fn at_once(partition: Partition) -> io::Result<Self> {
        Ok(Self::AtOnce([Syncer::start(partition)?, Syncer::start(partition)?]))
    }

    /// Syncs every place that was written to; by place, `None` where there was nothing.
    pub(super) fn sync(&self, places: &mut [PlaceWriter]) -> Vec<Option<Synced>> {
        let mut synced: Vec<Option<Synced>> = places.iter().map(|_| None).collect();
        let dirty: Vec<usize> = (0..places.len()).filter(|&at| places[at].is_dirty()).collect();
        let (own, beside) = match self {
            Self::InTurn => (dirty.as_slice(), Vec::new()),
            // The first is synced here, so that nothing is handed over where it is the only one.
            Self::AtOnce(syncers) => {
                let (own, beside) = dirty.split_at(dirty.len().min(1));
                (own, beside.iter().copied().zip(syncers.iter().cycle()).collect())
            }
        };
        for &(at, syncer) in &beside {
            syncer.lend(&mut places[at]);
        }
        for &at in own {
            synced[at] = Some(sync(&mut places[at]));
        }
        for (at, syncer) in beside {
            synced[at] = Some(syncer.take_back(&mut places[at]));
        }
        synced
    }
}

fn sync(place: &mut PlaceWriter) -> Synced {
    let begun = Instant::now();
    let result = place.sync();
    Synced { result, took: begun.elapsed() }
}

impl Syncer {
    fn start(partition: Partition) -> io::Result<Self> {
        let (lent, places) = channel::<PlaceWriter>();
        let (back, given_back) = channel();
        // Ends when the writer drops its side; a sync under way is finished first.
        let _detached =
            std::thread::Builder::new().name(format!("log-sync-{partition}")).spawn(move || {
                for mut place in places {
                    let synced = sync(&mut place);
                    if back.send((place, synced)).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Self { lent, given_back })
    }

    /// Has a place synced; until [`Self::take_back`], in the same order, an empty one stands there.
    fn lend(&self, place: &mut PlaceWriter) {
        let stand_in = place.stand_in();
        // Where the thread is gone, `take_back` says so.
        let _gone = self.lent.send(std::mem::replace(place, stand_in));
    }

    /// What was lent. Of a thread that panicked nothing was synced: the segment is given up as
    /// after any error, for the stand-in begins a new one.
    fn take_back(&self, place: &mut PlaceWriter) -> Synced {
        match self.given_back.recv() {
            Ok((given_back, synced)) => {
                *place = given_back;
                synced
            }
            Err(_gone) => {
                let result = Err(io::Error::other("the thread that syncs has panicked"));
                Synced { result, took: Duration::ZERO }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nilometer_event::Topic;

    use super::*;
    use crate::segment::place::Place;

    fn places() -> Vec<PlaceWriter> {
        let place = |topic| Arc::new(Place::new(topic, Partition::new(0), Vec::new()));
        Topic::ALL.into_iter().map(|topic| PlaceWriter::new(place(topic), None, 0)).collect()
    }

    #[test]
    fn places_that_wait_for_one_thread_come_back_to_where_they_were() {
        let syncer = Syncer::start(Partition::new(0)).unwrap();
        let mut places = places();
        let before: Vec<_> = places.iter().map(|writer| Arc::clone(&writer.place)).collect();
        places.iter_mut().for_each(|place| syncer.lend(place));
        for (place, before) in places.iter_mut().zip(&before) {
            assert!(syncer.take_back(place).result.is_ok());
            assert!(Arc::ptr_eq(&place.place, before));
        }
    }

    #[test]
    fn what_a_thread_that_panicked_was_to_sync_is_not_durable() {
        let (lent, places_of_it) = channel();
        let (back, given_back) = channel();
        let syncer = Syncer { lent, given_back };
        let panicked = std::thread::spawn(move || {
            let (_places, _back) = (places_of_it, back);
            panic!("as a broken disk would");
        });
        assert!(panicked.join().is_err());
        for place in &mut places() {
            let before = Arc::clone(&place.place);
            syncer.lend(place);
            assert!(syncer.take_back(place).result.is_err());
            assert!(!place.is_dirty() && Arc::ptr_eq(&place.place, &before));
        }
    }
}
