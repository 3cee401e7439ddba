//! What each key has had of the processor, so that one with cheap questions does not wait for as
//! many of another's that cost a hundred times as much.
//!
//! Start-time fair queuing (Goyal, Vin, Cheng 1996), by what work turns out to have cost: whoever
//! has had least goes next, and who comes anew begins where those are that are served.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Expected of a key's first work.
const FIRST_US: u64 = 1_000;
/// So much weighs what was expected before, in work.
const BEFORE: u64 = 3;
/// From so much on a key's work is dear: it leaves a place to others.
const DEAR_US: u64 = 20_000;
/// Keys are remembered that nobody works for, as long as they are no more.
const IDLE_MAX: usize = 64;

/// Of each key that waits, works, or has had more than others.
#[derive(Debug, Default)]
pub(super) struct Shares {
    keys: HashMap<Arc<str>, Share>,
    /// What those had had that were served last.
    now_us: u64,
}

#[derive(Clone, Copy, Debug)]
struct Share {
    used_us: u64,
    /// What its next work will cost, about.
    each_us: u64,
    waiting: usize,
    running: usize,
}

impl Shares {
    /// One more of the key's waits.
    pub(super) fn enter(&mut self, key: &Arc<str>) {
        let now_us = self.now_us;
        let share = self.keys.entry(Arc::clone(key)).or_insert(Share {
            used_us: now_us,
            each_us: FIRST_US,
            waiting: 0,
            running: 0,
        });
        // Whatever of its work goes on since long ago, it did not wait meanwhile.
        if share.waiting == 0 {
            share.used_us = share.used_us.max(now_us);
        }
        share.waiting += 1;
    }

    /// One of the key's waits no longer.
    pub(super) fn leave(&mut self, key: &str) {
        if let Some(share) = self.keys.get_mut(key) {
            share.waiting -= 1;
        }
        self.forget_idle();
    }

    /// How much waits of the key.
    pub(super) fn waiting_of(&self, key: &str) -> usize {
        self.keys.get(key).map_or(0, |share| share.waiting)
    }

    /// What the key has had; the least goes next.
    pub(super) fn used_us(&self, key: &str) -> u64 {
        self.keys.get(key).map_or(self.now_us, |share| share.used_us)
    }

    /// Whether the key may have one more of `places`: of several one is left to others by whoever's
    /// work is dear.
    pub(super) fn may(&self, key: &str, places: usize) -> bool {
        let most = if places >= 4 { places - 1 } else { places };
        self.keys.get(key).is_none_or(|share| share.each_us < DEAR_US || share.running < most)
    }

    /// One that waited works from now on, and is charged what it is expected to cost.
    pub(super) fn begin(&mut self, key: &str) {
        let Some(share) = self.keys.get_mut(key) else { return };
        self.now_us = self.now_us.max(share.used_us);
        share.used_us = share.used_us.saturating_add(share.each_us);
        share.waiting -= 1;
        share.running += 1;
    }

    /// Work has ended, and cost so much, where that is known.
    pub(super) fn end(&mut self, key: &str, cost: Option<Duration>) {
        let Some(share) = self.keys.get_mut(key) else { return };
        share.running -= 1;
        if let Some(cost) = cost {
            let cost_us = u64::try_from(cost.as_micros()).unwrap_or(u64::MAX);
            // What was charged may have been another expectation: by and by that evens out.
            share.used_us = share.used_us.saturating_sub(share.each_us).saturating_add(cost_us);
            share.each_us = (share.each_us * BEFORE + cost_us) / (BEFORE + 1);
        }
        self.forget_idle();
    }

    /// Whoever has had no more than others begins anew where they are, remembered or not.
    fn forget_idle(&mut self) {
        if self.keys.len() > IDLE_MAX {
            let now_us = self.now_us;
            self.keys.retain(|_, own| own.waiting + own.running > 0 || own.used_us > now_us);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both always have work that waits; how often each was served while the processor worked for
    /// `seconds`.
    fn served(costs_ms: [u64; 2], seconds: u64) -> [u64; 2] {
        let mut shares = Shares::default();
        let keys: [Arc<str>; 2] = ["a".into(), "b".into()];
        keys.iter().for_each(|key| shares.enter(key));
        let (mut worked_ms, mut served) = (0, [0; 2]);
        while worked_ms < seconds * 1_000 {
            let next = usize::from(shares.used_us(&keys[1]) < shares.used_us(&keys[0]));
            shares.begin(&keys[next]);
            shares.enter(&keys[next]);
            shares.end(&keys[next], Some(Duration::from_millis(costs_ms[next])));
            worked_ms += costs_ms[next];
            served[next] += 1;
        }
        served
    }

    #[test]
    fn keys_have_the_same_share_of_the_processor_whatever_their_work_costs() {
        let [cheap, dear] = served([2, 200], 60);
        assert!((cheap * 2).abs_diff(dear * 200) <= 1_000, "{cheap} and {dear}");
        assert_eq!(served([5, 5], 10), [1_000, 1_000]);
    }

    #[test]
    fn whoever_was_away_has_saved_nothing_and_owes_nothing() {
        let mut shares = Shares::default();
        let (old, new): (Arc<str>, Arc<str>) = ("old".into(), "new".into());
        for _ in 0..100 {
            shares.enter(&old);
            shares.begin(&old);
            shares.end(&old, Some(Duration::from_millis(10)));
        }
        shares.enter(&old);
        shares.enter(&new);
        assert!(shares.used_us(&old).abs_diff(shares.used_us(&new)) <= 20_000);
    }

    #[test]
    fn whose_work_is_dear_leaves_a_place_to_others() {
        let mut shares = Shares::default();
        let key: Arc<str> = "dear".into();
        (0..5).for_each(|_| shares.enter(&key));
        shares.begin(&key);
        shares.end(&key, Some(Duration::from_secs(1)));
        shares.begin(&key);
        // Where there are few places there is none to leave.
        assert!(shares.may(&key, 2));
        (0..2).for_each(|_| shares.begin(&key));
        assert!(!shares.may(&key, 4) && shares.may(&key, 5) && shares.may("another", 4));
    }

    #[test]
    fn keys_that_nobody_works_for_are_forgotten() {
        let mut shares = Shares::default();
        for number in 0..1_000 {
            let key: Arc<str> = format!("key-{number}").into();
            shares.enter(&key);
            shares.begin(&key);
            shares.end(&key, Some(Duration::ZERO));
        }
        assert!(shares.keys.len() <= IDLE_MAX + 1, "{}", shares.keys.len());
    }
}
