//! What time it is in the house, decided from two clocks and read from none.
//!
//! The *steady* clock cannot be set, and goes on while a machine sleeps; the *wall* clock can. They
//! differ by an offset that changes only when somebody sets the wall clock. The house follows the
//! wall clock wherever it is believed, and the steady one from there on while it is not.

/// The wall clock is followed at once where it is ahead by at most so much.
pub const AHEAD_MS_MAX: i64 = 5 * 60_000;

/// A wall clock that is further ahead is followed once it has stood there for so long.
pub const STOOD_MS: i64 = 10 * 60_000;

/// Behind the wall clock by more than this the house does not stand still until that has caught
/// up, but goes at half speed: what happens meanwhile is shown.
pub const BEHIND_MS_MAX: i64 = 60 * 60_000;

/// Offsets so near to each other are the same.
const SAME_MS: i64 = 60_000;

/// Both clocks at one moment, in milliseconds: since 1970, and since whenever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) wall_ms: i64,
    pub(super) steady_ms: i64,
}

/// How the house clock stands to the wall clock; all 0 where they agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The wall clock is behind by so much, because it was set back; the house clock never is.
    pub behind_ms: i64,
    /// True where the house clock goes at half speed until the wall clock has caught up.
    pub is_slow: bool,
    /// The wall clock has jumped ahead by so much, and is not followed.
    pub ahead_ms: i64,
    /// In so long it is, if it stays there.
    pub follows_in_ms: i64,
}

/// Decides. Starts by believing the wall clock.
#[derive(Debug, Default)]
pub(super) struct Judge {
    latest_ms: i64,
    /// Twice the time that the house has gone at half speed, less what it was told of it.
    half_ms: i64,
    before: Option<Before>,
    standing: Standing,
}

/// What the reading before left.
#[derive(Clone, Copy, Debug)]
struct Before {
    steady_ms: i64,
    /// The offset that is believed.
    believed_ms: i64,
    /// The offset at which the wall clock stands, and since when.
    stands_ms: i64,
    since_ms: i64,
}

impl Judge {
    /// From now on never before `floor_ms`.
    pub(super) fn not_before(&mut self, floor_ms: i64) {
        self.latest_ms = self.latest_ms.max(floor_ms);
    }

    /// The house's time.
    pub(super) fn now_ms(&mut self, reading: Reading) -> i64 {
        let Reading { wall_ms, steady_ms } = reading;
        let offset_ms = wall_ms.saturating_sub(steady_ms);
        let mut before = self.before.unwrap_or(Before {
            steady_ms,
            believed_ms: offset_ms,
            stands_ms: offset_ms,
            since_ms: steady_ms,
        });
        let passed_ms = steady_ms.saturating_sub(before.steady_ms).max(0);
        if offset_ms.saturating_sub(before.stands_ms).saturating_abs() > SAME_MS {
            (before.stands_ms, before.since_ms) = (offset_ms, steady_ms);
        }
        let stood_ms = steady_ms.saturating_sub(before.since_ms);
        if stood_ms >= STOOD_MS {
            before.believed_ms = offset_ms;
        }
        before.steady_ms = before.steady_ms.max(steady_ms);
        self.before = Some(before);
        let has_jumped = offset_ms.saturating_sub(before.believed_ms) > AHEAD_MS_MAX;
        if has_jumped && self.latest_ms < wall_ms {
            self.go(passed_ms);
            self.latest_ms = self.latest_ms.min(wall_ms);
            let ahead_ms = wall_ms.saturating_sub(self.latest_ms);
            let follows_in_ms = STOOD_MS - stood_ms;
            self.standing = Standing { ahead_ms, follows_in_ms, ..Standing::default() };
        } else {
            self.follow(wall_ms, passed_ms);
        }
        self.latest_ms
    }

    /// Believes the wall clock, wherever it stands.
    pub(super) fn believe(&mut self, reading: Reading) {
        if let Some(before) = &mut self.before {
            before.believed_ms = reading.wall_ms.saturating_sub(reading.steady_ms);
        }
    }

    pub(super) const fn standing(&self) -> Standing {
        self.standing
    }

    /// Goes on by itself.
    fn go(&mut self, passed_ms: i64) {
        self.latest_ms = self.latest_ms.saturating_add(passed_ms);
    }

    /// Follows the wall clock forward at once, and backward by standing still, or slowly.
    fn follow(&mut self, wall_ms: i64, passed_ms: i64) {
        if wall_ms >= self.latest_ms {
            self.latest_ms = wall_ms;
            (self.standing, self.half_ms) = (Standing::default(), 0);
            return;
        }
        // What was slow stays so until the wall clock is there.
        let is_slow = self.standing.is_slow || self.latest_ms - wall_ms > BEHIND_MS_MAX;
        if is_slow {
            self.half_ms += passed_ms;
            self.go(self.half_ms / 2);
            self.half_ms %= 2;
        }
        let behind_ms = self.latest_ms - wall_ms;
        self.standing = Standing { behind_ms, is_slow, ..Standing::default() };
    }
}

#[cfg(test)]
mod tests;
