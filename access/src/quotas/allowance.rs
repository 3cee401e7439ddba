//! A leaky bucket in whole numbers: what one client owes, and how long until it may go on.

use std::num::NonZeroU32;
use std::time::Duration;

/// One charge, in the unit of what is owed: it is paid off at `rate` of these a nanosecond, so
/// that nothing is ever rounded.
const ONE: u64 = 1_000_000_000;

/// A rate, and how much may come at once after a rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Charges that are paid off in a second.
    pub(super) rate: NonZeroU32,
    /// Charges that may be owed.
    pub(super) burst: NonZeroU32,
}

impl Terms {
    fn pays(self, owed: u64) -> Duration {
        Duration::from_nanos(owed.div_ceil(u64::from(self.rate.get())))
    }
}

/// What one client owes. Call [`Account::settle`] before anything else.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// In parts of [`ONE`]. A charge is at most 2^32 and follows at most a burst, another 2^32:
    /// 64 bits hold it.
    owed: u64,
    settled: Duration,
    /// A charge that was refused keeps the door closed until it would be admitted.
    closed_until: Duration,
}

impl Account {
    /// Pays off what time has paid off.
    pub(super) fn settle(&mut self, terms: Terms, now: Duration) {
        let elapsed = now.saturating_sub(self.settled).as_nanos();
        let elapsed_ns = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let paid = elapsed_ns.saturating_mul(u64::from(terms.rate.get()));
        self.owed = self.owed.saturating_sub(paid);
        self.settled = self.settled.max(now);
    }

    /// How long until a charge of `cost` is admitted; zero is now. What is larger than the
    /// burst needs all of it: it goes through once nothing is owed.
    pub(super) fn wait(&self, terms: Terms, now: Duration, cost: u32) -> Duration {
        let burst = terms.burst.get();
        let needed = u64::from(cost.min(burst)) * ONE;
        let over = (self.owed + needed).saturating_sub(u64::from(burst) * ONE);
        terms.pays(over).max(self.closed_until.saturating_sub(now))
    }

    /// How long until a charge of any size is admitted.
    pub(super) fn rest(&self, terms: Terms, now: Duration) -> Duration {
        self.wait(terms, now, u32::MAX)
    }

    /// Charges what [`Account::wait`] admits.
    pub(super) fn charge(&mut self, cost: u32) {
        self.owed += u64::from(cost) * ONE;
    }

    /// Takes back what is still owed of a charge of `cost`. Whatever was refused since is admitted
    /// so much sooner.
    pub(super) fn refund(&mut self, terms: Terms, cost: u32) {
        let back = self.owed.min(u64::from(cost) * ONE);
        self.owed -= back;
        self.closed_until = self.closed_until.saturating_sub(terms.pays(back));
    }

    /// Refuses every charge until `until`.
    pub(super) fn close(&mut self, until: Duration) {
        self.closed_until = self.closed_until.max(until);
    }

    /// Whether forgetting the account changes nothing.
    pub(super) fn is_rested(&self, now: Duration) -> bool {
        self.owed == 0 && self.closed_until <= now
    }
}
