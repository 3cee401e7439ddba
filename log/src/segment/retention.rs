//! What may go: old sealed segments, oldest first, never past a hold.

use nilometer_event::{Offset, ReceiveTime};

use super::place::{Place, index_file};
use super::write::{Desk, remove_if_there};

/// Removes the segments that are too old or too many; returns how many.
///
/// One at a time, each removal durable before the next, so that no crash leaves a gap.
pub(super) fn apply(desk: &Desk, place: &Place, now: ReceiveTime) -> u64 {
    let mut removed = 0;
    loop {
        if let Err(error) = finish_removal(desk, place) {
            tracing::warn!(dir = place.dir, %error, "retention could not remove a segment");
            return removed;
        }
        if !let_go(desk, place, now) {
            return removed;
        }
        removed += 1;
    }
}

/// Takes the oldest segment away from readers, if it may go.
fn let_go(desk: &Desk, place: &Place, now: ReceiveTime) -> bool {
    let Some(hold) = *place.hold.lock() else { return false };
    let (bytes, _count) = place.size();
    let mut segments = place.segments.write();
    let [oldest, next, ..] = segments.as_slice() else { return false };
    let newest = ReceiveTime::from_ms(oldest.tip.read().max_timestamp);
    let age_ms = i64::try_from(desk.settings.retention_age.as_millis()).unwrap_or(i64::MAX);
    let start = next.base;
    let is_due = age_ms < now.since(newest) || desk.settings.retention_bytes < bytes;
    if !is_due || hold < Offset::new(start) {
        return false;
    }
    place.set_start(start);
    let oldest = segments.remove(0);
    *place.removing.lock() = Some(oldest.file.clone());
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
