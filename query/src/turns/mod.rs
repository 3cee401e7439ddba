//! Blocking work in turns: so much at once, by key and connection, short work beside long.

mod line;
mod shares;

use std::sync::Arc;
use std::time::Duration;

use nilometer_access::{Problem, Status};
use nilometer_log::{cpu_time, step_back};
use parking_lot::Mutex;
use tokio::sync::oneshot;

pub(crate) use line::{Caller, Length, Limits};
use line::{Full, Line, Ticket};

/// A gate to the runtime's blocking threads.
///
/// When full, work waits for its turn; when too much waits, it is refused with 503 at once.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: &'static str,
    line: Mutex<Line<Waiter>>,
}

/// Where a turn is sent to, and whose it is.
#[derive(Debug)]
struct Waiter {
    key: Arc<str>,
    sender: oneshot::Sender<Turn>,
}

/// The right to work now; whoever is next has it when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Inner>,
    key: Arc<str>,
    length: Length,
    /// What the work has cost; unknown while it is done, and where it panicked.
    cost: Option<Duration>,
}

/// One that waits; it leaves when its future is dropped.
struct Waiting<'a> {
    turns: &'a Inner,
    caller: &'a Caller,
    length: Length,
    /// Until it has its turn.
    ticket: Option<Ticket>,
}

impl Turns {
    pub(crate) fn new(name: &'static str, limits: Limits) -> Self {
        Self(Arc::new(Inner { name, line: Mutex::new(Line::new(limits)) }))
    }

    /// Waits for a turn.
    ///
    /// # Errors
    ///
    /// 503 `busy` where too much waits already.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: whoever goes leaves the line.
    pub(crate) async fn take(&self, caller: &Caller, length: Length) -> Result<Turn, Problem> {
        let (sender, receiver) = oneshot::channel();
        let entered = {
            let mut line = self.0.line.lock();
            let waiter = Waiter { key: Arc::clone(&caller.key), sender };
            line.enter(caller, length, waiter).map_err(|full| (full, *line.limits()))
        };
        let ticket = entered.map_err(|(full, limits)| self.busy(full, &limits))?;
        let mut waiting = Waiting { turns: &self.0, caller, length, ticket: Some(ticket) };
        Inner::hand_out(&self.0);
        let turn = receiver.await;
        waiting.ticket = None;
        turn.map_err(|_closed| Problem::internal(format!("the line of {} has ended", self.0.name)))
    }

    /// Runs `work` on a blocking thread, in its turn.
    ///
    /// Cancel safe before it has begun; work that has begun runs to its end.
    ///
    /// # Errors
    ///
    /// 503 `busy` where too much waits already, 500 where the work panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        caller: &Caller,
        length: Length,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        self.take(caller, length).await?.run(work).await
    }

    /// Of these the one that waits for least.
    pub(crate) fn least_waiting<'a>(&self, callers: &'a [Caller]) -> Option<&'a Caller> {
        let line = self.0.line.lock();
        callers.iter().min_by_key(|caller| line.waiting_of(&caller.key))
    }

    fn busy(&self, full: Full, limits: &Limits) -> Problem {
        let name = self.0.name;
        let detail = match full {
            Full::OfAll => format!("{} {name} wait already; try again", limits.waiting_max),
            Full::OfKey => format!(
                "{} {name} of this key wait already; ask for fewer at once, or less often",
                limits.key_waiting_max
            ),
        };
        Problem::new(Status::Unavailable, "busy", "the server is busy", detail)
            .after(Duration::from_secs(1))
    }
}

impl Inner {
    /// Gives free places to whoever is next.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let next = self.line.lock().next();
            let Some((Waiter { key, sender }, length)) = next else { return };
            let (turns, cost) = (Arc::clone(self), Some(Duration::ZERO));
            // Whoever is gone gives it back.
            drop(sender.send(Turn { turns, key, length, cost }));
        }
    }
}

impl Turn {
    pub(crate) const fn length(&self) -> Length {
        self.length
    }

    /// Runs `work` on a blocking thread; the turn ends with it. Long work steps back for all else
    /// that waits for a processor.
    ///
    /// # Errors
    ///
    /// 500 where the work panicked, or where there is no thread for it.
    pub(crate) async fn run<T: Send + 'static>(
        mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (name, length) = (self.turns.name, self.length);
        let work = move || {
            let before = cpu_time();
            self.cost = None;
            let done = work();
            self.cost = Some(cpu_time().saturating_sub(before));
            drop(self);
            done
        };
        let done = match length {
            Length::Short => tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string()),
            Length::Long => stepping_back(work).await,
        };
        done.map_err(|failed| Problem::internal(format!("{name} failed: {failed}")))
    }
}

/// Runs `work` on a thread of its own, for one that has stepped back stays there.
async fn stepping_back<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("query-long".to_owned());
    let spawned = thread.spawn(move || {
        step_back();
        // Whoever is gone needs it no more.
        drop(sender.send(work()));
    });
    spawned.map_err(|error| error.to_string())?;
    receiver.await.map_err(|_panicked| "it panicked".to_owned())
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.line.lock().done(&self.key, self.length, self.cost);
        Inner::hand_out(&self.turns);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.turns.line.lock().leave(self.caller, self.length, ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(key: &str) -> Caller {
        Caller { key: key.into(), connection: 0 }
    }

    fn turns(waiting_max: usize) -> Turns {
        let limits =
            Limits { at_once: 1, long_at_once: 1, waiting_max, key_waiting_max: waiting_max };
        Turns::new("queries", limits)
    }

    fn waiting(turns: &Turns) -> usize {
        turns.0.line.lock().waiting()
    }

    #[tokio::test]
    async fn what_would_wait_too_long_is_refused_at_once() {
        let (turns, own) = (turns(1), caller("a"));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let turn = turns.take(&own, Length::Short).await.unwrap();
        let running = tokio::spawn(turn.run(move || held.recv().is_ok()));
        let waits = tokio::spawn({
            let (turns, own) = (turns.clone(), own.clone());
            async move { turns.run(&own, Length::Short, || true).await }
        });
        while waiting(&turns) == 0 {
            tokio::task::yield_now().await;
        }
        let refused = turns.run(&own, Length::Short, || true).await;
        assert_eq!(refused.unwrap_err().code, "busy");
        release.send(()).unwrap();
        assert!(running.await.unwrap().unwrap());
        assert!(waits.await.unwrap().unwrap());
        assert!(turns.run(&own, Length::Long, || true).await.unwrap());
    }

    #[tokio::test]
    async fn whoever_goes_leaves_the_line_and_its_turn_to_others() {
        let turns = turns(10);
        let turn = turns.take(&caller("a"), Length::Short).await.unwrap();
        for key in ["a", "b"] {
            let (own, line) = (caller(key), turns.clone());
            let gone = tokio::spawn(async move { drop(line.take(&own, Length::Short).await) });
            while waiting(&turns) == 0 {
                tokio::task::yield_now().await;
            }
            gone.abort();
            assert!(gone.await.is_err());
            assert_eq!(waiting(&turns), 0);
        }
        drop(turn);
        assert!(turns.run(&caller("c"), Length::Short, || true).await.unwrap());
    }

    #[tokio::test]
    async fn a_panic_ends_the_turn() {
        let turns = turns(10);
        let broken = turns.run(&caller("a"), Length::Short, || panic!("on purpose")).await;
        let broken: Result<(), Problem> = broken;
        assert_eq!(broken.unwrap_err().code, "internal");
        assert!(turns.run(&caller("a"), Length::Short, || true).await.unwrap());
    }
}
