//! Memory of answers, from when they are made until nobody shows them any more.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

/// So many bytes for the answers of all keys, and of one key at most three quarters of them: who
/// takes what there is leaves the others something.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes_max: usize,
    held: Mutex<HeldBytes>,
    /// `query_answer_bytes`
    gauge: Gauge,
}

#[derive(Debug, Default)]
struct HeldBytes {
    all: usize,
    by_key: HashMap<Arc<str>, usize>,
}

/// Why there is no room now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// All keys together hold too much.
    OfAll,
    /// This key does.
    OfKey,
}

/// Bytes of a key, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Budget,
    key: Arc<str>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize, gauge: Gauge) -> Self {
        Self(Arc::new(Inner { bytes_max, held: Mutex::default(), gauge }))
    }

    /// What one key may hold.
    pub(crate) fn key_max(&self) -> usize {
        self.0.bytes_max / 4 * 3
    }

    /// Takes so many bytes; what is larger than all that a key may hold takes just that, so that
    /// there is never more than one such.
    pub(crate) fn hold(&self, key: &Arc<str>, bytes: usize) -> Result<Held, NoRoom> {
        let bytes = bytes.min(self.key_max());
        let mut held = self.0.held.lock();
        if held.by_key.get(key).unwrap_or(&0) + bytes > self.key_max() {
            return Err(NoRoom::OfKey);
        }
        if held.all + bytes > self.0.bytes_max {
            return Err(NoRoom::OfAll);
        }
        held.all += bytes;
        *held.by_key.entry(Arc::clone(key)).or_default() += bytes;
        self.show(&held);
        Ok(Held { budget: self.clone(), key: Arc::clone(key), bytes })
    }

    fn show(&self, held: &HeldBytes) {
        self.0.gauge.set(i64::try_from(held.all).unwrap_or(i64::MAX));
    }
}

impl Held {
    pub(crate) fn is_of(&self, key: &str) -> bool {
        *self.key == *key
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.budget.0.held.lock();
        held.all -= self.bytes;
        let left = held.by_key.get_mut(&self.key).map(|bytes| {
            *bytes -= self.bytes;
            *bytes
        });
        if left == Some(0) {
            held.by_key.remove(&self.key);
        }
        self.budget.show(&held);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_key_never_holds_all_that_there_is() {
        let budget = Budget::new(1_000, Gauge::default());
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let held = budget.hold(&one, 700).unwrap();
        assert_eq!(budget.hold(&one, 51).err(), Some(NoRoom::OfKey));
        let small = budget.hold(&other, 250).unwrap();
        assert_eq!(budget.hold(&other, 51).err(), Some(NoRoom::OfAll));
        drop(held);
        let whole = budget.hold(&one, 5_000).expect("what is too large takes what a key may hold");
        assert_eq!(budget.hold(&one, 1).err(), Some(NoRoom::OfKey));
        drop((small, whole));
        assert!(budget.0.held.lock().by_key.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_held_is_what_was_taken_and_not_given_back(
            steps in prop::collection::vec((0..3_usize, 1..600_usize, any::<bool>()), 1..200),
        ) {
            let budget = Budget::new(1_000, Gauge::default());
            let keys: [Arc<str>; 3] = ["a".into(), "b".into(), "c".into()];
            let mut model: Vec<(usize, usize, Held)> = Vec::new();
            for (key, bytes, gives_back) in steps {
                if gives_back && !model.is_empty() {
                    model.remove(bytes % model.len());
                    continue;
                }
                let of_key: usize =
                    model.iter().filter(|own| own.0 == key).map(|own| own.1).sum();
                let all: usize = model.iter().map(|own| own.1).sum();
                let fits = of_key + bytes <= 750 && all + bytes <= 1_000;
                let held = budget.hold(&keys[key], bytes);
                prop_assert_eq!(held.is_ok(), fits);
                if let Ok(held) = held {
                    model.push((key, bytes, held));
                }
                let all: usize = model.iter().map(|own| own.1).sum();
                prop_assert_eq!(budget.0.gauge.get(), i64::try_from(all).unwrap());
            }
        }
    }
}
