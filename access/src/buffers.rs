//! Memory on loan to clients. Where there is none, whoever has kept us waiting longest, and for a
//! while, loses what he holds; where nobody does, the request is refused, which costs none.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// So long everybody may keep us waiting: a flood that comes faster than an honest body is read
/// would take its memory each time.
const PATIENCE: Duration = Duration::from_millis(250);
/// Who lost his share to others has given it back by then, and whoever came before us has had our
/// patience.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(1);
/// How often those are looked for who have had it.
const LOOK: Duration = Duration::from_millis(50);

/// So many bytes for all requests of all rooms.
#[derive(Clone, Debug)]
pub struct Buffers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes_max: usize,
    lent: Mutex<Lent>,
    given_back: Notify,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Lent {
    free: usize,
    next: u64,
    /// Shares whose clients are waited for, the oldest first.
    waiting: BTreeMap<u64, Waiting>,
    /// What these hold.
    waiting_bytes: usize,
    /// What those hold who have lost it, until they give it back.
    going_bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    bytes: usize,
    since: Instant,
    gone: CancellationToken,
}

/// Why a share does not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoRoom {
    /// Others give back what is needed, or will have had our patience.
    Yet,
    Ever,
}

impl Buffers {
    /// Buffers of so many bytes in all.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let lent = Mutex::new(Lent { free: bytes_max, ..Lent::default() });
        let (given_back, lost) = (Notify::new(), AtomicU64::new(0));
        Self(Arc::new(Inner { bytes_max, lent, given_back, lost }))
    }

    /// A share of the memory, empty at first.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { buffers: self.clone(), bytes: 0, place: None }
    }

    /// All that there is: no body can be larger.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// Bytes that nobody holds.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.lock().free
    }

    /// Bytes that somebody holds.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.bytes_max() - self.free_bytes()
    }

    /// How many have lost their share to others since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Lent> {
        // Nothing panics while the lock is held.
        self.0.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lent {
    /// Lets those go who are waited for longest, but for `own` and who came lately, until they leave
    /// room for so many bytes; how many. `None` where all of them would not do, and nobody goes.
    fn make_room(&mut self, bytes: usize, own: Option<u64>) -> Option<u64> {
        let own_bytes = own.and_then(|own| self.waiting.get(&own)).map_or(0, |own| own.bytes);
        if self.free + self.going_bytes + self.waiting_bytes - own_bytes < bytes {
            return None;
        }
        let (mut lost, now) = (0, Instant::now());
        while self.free + self.going_bytes < bytes {
            let mut others = self.waiting.iter().filter(|(place, _)| Some(**place) != own);
            let had_it = |waiting: &Waiting| now.duration_since(waiting.since) >= PATIENCE;
            let Some(oldest) = others.next().filter(|(_, oldest)| had_it(oldest)) else { break };
            let oldest = *oldest.0;
            if let Some(waiting) = self.waiting.remove(&oldest) {
                self.waiting_bytes -= waiting.bytes;
                self.going_bytes += waiting.bytes;
                waiting.gone.cancel();
                lost += 1;
            }
        }
        Some(lost)
    }

    /// Whoever has this place is waited for no more; false where he has lost it.
    fn take_out(&mut self, place: u64) -> bool {
        let waiting = self.waiting.remove(&place);
        self.waiting_bytes -= waiting.as_ref().map_or(0, |waiting| waiting.bytes);
        waiting.is_some()
    }
}

/// What one request holds of the memory; given back when dropped.
#[derive(Debug)]
pub struct Share {
    buffers: Buffers,
    bytes: usize,
    /// Among those who are waited for.
    place: Option<u64>,
}

impl Share {
    /// Takes `bytes` more; false where there is no room now, or this share was lost.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        self.take(bytes).is_ok()
    }

    /// As [`Share::grow`], once others have given back what they have to.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    #[must_use]
    pub async fn grow_soon(&mut self, bytes: usize) -> bool {
        let taken = async {
            loop {
                let buffers = self.buffers.clone();
                let mut given_back = std::pin::pin!(buffers.0.given_back.notified());
                // From before the look: what is given back after it is not missed.
                given_back.as_mut().enable();
                match self.take(bytes) {
                    Ok(()) => return true,
                    Err(NoRoom::Ever) => return false,
                    Err(NoRoom::Yet) => drop(timeout(LOOK, given_back).await),
                }
            }
        };
        timeout(GIVEN_BACK_WITHIN, taken).await.unwrap_or(false)
    }

    fn take(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let mut lent = self.buffers.lock();
        if self.place.is_some_and(|place| !lent.waiting.contains_key(&place)) {
            return Err(NoRoom::Ever);
        }
        if lent.free < bytes {
            let lost = lent.make_room(bytes, self.place).ok_or(NoRoom::Ever)?;
            self.buffers.0.lost.fetch_add(lost, Ordering::Relaxed);
            return Err(NoRoom::Yet);
        }
        lent.free -= bytes;
        self.bytes += bytes;
        if let Some(waiting) = self.place.and_then(|place| lent.waiting.get_mut(&place)) {
            waiting.bytes += bytes;
            lent.waiting_bytes += bytes;
        }
        Ok(())
    }

    /// From here on the client is waited for: he may lose the share to others, which cancels
    /// `gone`, and then gives it back. Whoever waits already goes on waiting.
    pub fn wait(&mut self, gone: CancellationToken) {
        if self.place.is_some() {
            return;
        }
        let mut lent = self.buffers.lock();
        let place = lent.next;
        lent.next += 1;
        lent.waiting.insert(place, Waiting { bytes: self.bytes, since: Instant::now(), gone });
        lent.waiting_bytes += self.bytes;
        self.place = Some(place);
    }

    /// The client has done his part: nobody can take the share any more. False where somebody did.
    #[must_use]
    pub fn settle(&mut self) -> bool {
        let Some(place) = self.place else { return true };
        let mut lent = self.buffers.lock();
        let is_kept = lent.take_out(place);
        drop(lent);
        if is_kept {
            self.place = None;
        }
        is_kept
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut lent = self.buffers.lock();
        if let Some(place) = self.place
            && !lent.take_out(place)
        {
            lent.going_bytes -= self.bytes;
        }
        lent.free += self.bytes;
        drop(lent);
        self.buffers.0.given_back.notify_waiters();
    }
}

/// Says of an answer (as an extension) that its memory is in an account already, or is nobody's own.
#[derive(Clone, Copy, Debug)]
pub struct Accounted;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_never_hold_more_than_there_is_and_give_everything_back() {
        let buffers = Buffers::new(8 << 10);
        let (mut one, mut two) = (buffers.share(), buffers.share());
        assert!(one.grow(1) && one.grow(1_023) && one.grow(4_096));
        assert_eq!(buffers.free_bytes(), 3 << 10);
        assert!(!two.grow(4_096));
        assert!(two.grow(3_072));
        drop((one, two));
        assert_eq!(buffers.free_bytes(), 8 << 10);
        assert!(Buffers::new(1_500).share().grow(1_500), "the largest body has room when alone");
    }

    /// Catches: slow bodies that keep all others out for as long as they may take.
    #[tokio::test(start_paused = true)]
    async fn who_is_waited_for_longest_makes_room_and_who_is_not_keeps_what_he_holds() {
        let buffers = Buffers::new(100);
        let waits = |bytes| {
            let (mut share, gone) = (buffers.share(), CancellationToken::new());
            share.wait(gone.clone());
            assert!(share.grow(bytes));
            (share, gone)
        };
        let (mut first, first_gone) = waits(40);
        let (mut second, second_gone) = waits(40);
        let mut whole = buffers.share();
        assert!(!whole.grow(30) && !first_gone.is_cancelled(), "he came only now");
        tokio::time::advance(PATIENCE).await;
        assert!(!whole.grow(30), "it is not given back yet");
        assert!(first_gone.is_cancelled() && !second_gone.is_cancelled());
        assert!(!first.grow(1) && !first.settle(), "what was lost is not had");
        let giving = tokio::spawn(async move { drop(first) });
        assert!(whole.grow_soon(30).await);
        giving.await.unwrap();
        assert!(second.settle());
        assert!(!whole.grow_soon(31).await, "nobody is waited for");
        assert_eq!((buffers.free_bytes(), buffers.lost()), (30, 1));
        // Nobody takes from himself, nor takes what would not do, nor waits for ever.
        let (mut third, third_gone) = waits(20);
        tokio::time::advance(PATIENCE).await;
        assert!(!third.grow(20) && !whole.grow(31) && !third_gone.is_cancelled());
        assert!(!whole.grow_soon(30).await && third_gone.is_cancelled());
        drop((second, third, whole));
        assert_eq!(buffers.free_bytes(), 100);
    }

    proptest! {
        #[test]
        fn what_is_free_is_what_nobody_holds(
            steps in prop::collection::vec((0..5_u8, 0..8_usize, 1..60_usize), 1..300),
        ) {
            let buffers = Buffers::new(100);
            // Each with what it holds by our own count, and whether it is waited for.
            let mut model: Vec<(Share, usize, Option<CancellationToken>)> = Vec::new();
            for (step, at, bytes) in steps {
                let at = at % model.len().max(1);
                let free: usize = 100 - model.iter().map(|own| own.1).sum::<usize>();
                match (step, model.get_mut(at)) {
                    (0, _) => model.push((buffers.share(), 0, None)),
                    (1, Some((share, held, waits))) => {
                        let lost = waits.as_ref().is_some_and(CancellationToken::is_cancelled);
                        let grows = share.grow(bytes);
                        prop_assert_eq!(grows, !lost && bytes <= free);
                        *held += if grows { bytes } else { 0 };
                    }
                    (2, Some((share, _, waits))) if waits.is_none() => {
                        let gone = CancellationToken::new();
                        share.wait(gone.clone());
                        *waits = Some(gone);
                    }
                    (3, Some((share, _, waits))) => {
                        let lost = waits.as_ref().is_some_and(CancellationToken::is_cancelled);
                        prop_assert_eq!(share.settle(), !lost);
                        *waits = waits.take().filter(|_| lost);
                    }
                    (4, Some(_)) => drop(model.remove(at)),
                    _ => {}
                }
                let held: usize = model.iter().map(|own| own.1).sum();
                prop_assert_eq!(buffers.free_bytes(), 100 - held);
            }
            drop(model);
            prop_assert_eq!(buffers.free_bytes(), 100);
        }
    }
}
