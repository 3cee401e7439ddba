//! Blocking work with two bounds: how much at once, and how much may wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nilometer_access::{Problem, Status};
use tokio::sync::Semaphore;

/// A gate to the runtime's blocking threads.
///
/// When full, work waits; when too much waits, it is refused with 503 at once.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    name: &'static str,
    permits: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    waiting_max: usize,
}

/// Counts one that waits, also when its future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pool {
    pub(crate) fn new(name: &'static str, at_once: usize, waiting_max: usize) -> Self {
        let permits = Arc::new(Semaphore::new(at_once.max(1)));
        Self { name, permits, waiting: Arc::default(), waiting_max }
    }

    /// Runs `work` on a blocking thread.
    ///
    /// Cancel safe before it has begun; work that has begun runs to its end.
    ///
    /// # Errors
    ///
    /// 503 `busy` where too much waits already, 500 where the work panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let waiting = Waiting(&self.waiting);
        if before >= self.waiting_max {
            return Err(busy(self.name));
        }
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_closed| busy(self.name))?;
        drop(waiting);
        let task = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        });
        task.await.map_err(|failed| Problem::internal(format!("{} failed: {failed}", self.name)))
    }
}

fn busy(name: &str) -> Problem {
    Problem::new(
        Status::Unavailable,
        "busy",
        "the server is busy",
        format!("too many {name} wait already; try again"),
    )
    .after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_would_wait_too_long_is_refused_at_once() {
        let pool = Pool::new("queries", 1, 1);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let running = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(move || held.recv().is_ok()).await }
        });
        while pool.permits.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(|| true).await }
        });
        while pool.waiting.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(|| true).await.unwrap_err().code, "busy");
        release.send(()).unwrap();
        assert!(running.await.unwrap().unwrap());
        assert!(waiting.await.unwrap().unwrap());
        assert!(pool.run(|| true).await.unwrap());
    }
}
