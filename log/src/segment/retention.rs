//! What may go: sealed segments, oldest first over all places, never past a hold.
//!
//! What goes is decided from all places alike by whoever asks; each writer removes what is its
//! own, so that nobody waits for another's files.

use std::sync::atomic::Ordering;

use nilometer_event::{Offset, ReceiveTime, Topic};

use super::place::{Place, index_file};
use super::write::{Desk, remove_if_there};

/// How far one place's segments go.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Going {
    /// Segments that end here or before.
    until: u64,
    /// Of these the ones up to here are too old; the others go before their time, for room.
    old_until: u64,
}

/// A sealed segment that nothing holds and that is not too old.
struct Spare {
    /// Its newest record's time, or of one before it: what goes is a place's begin.
    newest: i64,
    place: usize,
    /// Where it ends.
    next: u64,
    bytes: u64,
    is_letters: bool,
}

/// What goes and what stays, as far as it is decided.
struct Plan<'d> {
    desk: &'d Desk,
    now: ReceiveTime,
    going: Vec<Going>,
    spare: Vec<Spare>,
    /// Bytes that stay.
    bytes: u64,
    letter_bytes: u64,
}

/// What goes of each place, so that nothing is too old and the log has room: first dead letters
/// over their own bound, then whatever is oldest.
pub(super) fn plan(desk: &Desk, now: ReceiveTime) -> Vec<Going> {
    let going = vec![Going::default(); desk.places.len()];
    let mut plan = Plan { desk, now, going, spare: Vec::new(), bytes: 0, letter_bytes: 0 };
    for place in 0..desk.places.len() {
        plan.look(place);
    }
    plan.make_room(desk.settings.dead_letter_bytes(), desk.settings.retention_bytes);
    plan.going
}

impl Plan<'_> {
    /// Finds what is too old of one place, and what may go for room.
    fn look(&mut self, at: usize) {
        let place = &*self.desk.places[at];
        let hold = *place.hold.lock();
        let age_ms =
            i64::try_from(self.desk.settings.retention_age.as_millis()).unwrap_or(i64::MAX);
        // Late events are kept for a later release, while there is room.
        let ages = place.topic != Topic::LateEvents;
        let is_letters = place.topic == Topic::DeadLetters;
        let mut newest = i64::MIN;
        let segments = place.segments.read();
        for (number, segment) in segments.iter().enumerate() {
            let tip = segment.tip.read();
            newest = newest.max(tip.max_timestamp);
            let next = segments.get(number + 1).map(|next| next.base);
            let free = next.filter(|&next| hold.is_some_and(|hold| Offset::new(next) <= hold));
            let is_old = ages && age_ms < self.now.since(ReceiveTime::from_ms(newest));
            if let Some(next) = free.filter(|_| is_old) {
                self.going[at] = Going { until: next, old_until: next };
                continue;
            }
            self.bytes += tip.len;
            self.letter_bytes += if is_letters { tip.len } else { 0 };
            if let Some(next) = free {
                self.spare.push(Spare { newest, place: at, next, bytes: tip.len, is_letters });
            }
        }
    }

    fn make_room(&mut self, letter_bytes_max: u64, bytes_max: u64) {
        let mut spare = std::mem::take(&mut self.spare);
        spare.sort_unstable_by_key(|one| (one.newest, one.place, one.next));
        for one in spare.iter().filter(|one| one.is_letters) {
            if self.letter_bytes <= letter_bytes_max {
                break;
            }
            self.let_go(one);
        }
        for one in &spare {
            if self.bytes <= bytes_max {
                break;
            }
            if self.going[one.place].until < one.next {
                self.let_go(one);
            }
        }
    }

    fn let_go(&mut self, one: &Spare) {
        self.bytes -= one.bytes;
        self.letter_bytes -= if one.is_letters { one.bytes } else { 0 };
        self.going[one.place].until = one.next;
    }
}

/// Removes what goes of a place: one segment at a time, each removal durable before the next, so
/// that no crash leaves a gap.
pub(super) fn apply(desk: &Desk, place: &Place, going: Going) {
    loop {
        if let Err(error) = finish_removal(desk, place) {
            tracing::warn!(dir = place.dir, %error, "retention could not remove a segment");
            return;
        }
        if !let_go(desk, place, going) {
            return;
        }
    }
}

/// Takes the oldest segment away from readers, if it goes.
fn let_go(desk: &Desk, place: &Place, going: Going) -> bool {
    let mut segments = place.segments.write();
    let [oldest, next, ..] = segments.as_slice() else { return false };
    let (base, start) = (oldest.base, next.base);
    if going.until < start {
        return false;
    }
    place.set_start(start);
    let oldest = segments.remove(0);
    *place.removing.lock() = Some(oldest.file.clone());
    desk.removed_segments.fetch_add(1, Ordering::Relaxed);
    if going.old_until < start {
        let early = match place.topic {
            Topic::DeadLetters => &desk.removed_early_letters,
            _ => &desk.removed_early,
        };
        early.fetch_add(start - base, Ordering::Relaxed);
    }
    true
}

fn finish_removal(desk: &Desk, place: &Place) -> std::io::Result<()> {
    let mut removing = place.removing.lock();
    if let Some(file) = removing.as_deref() {
        remove_if_there(&*desk.disk, file)?;
        desk.disk.sync_dir(&place.dir)?;
        remove_if_there(&*desk.disk, &index_file(file))?;
        *removing = None;
    }
    Ok(())
}
