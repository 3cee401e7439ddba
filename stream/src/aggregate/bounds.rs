//! Minima or maxima of many cells.

/// What stands for no value where all fit into 64 bits.
const NOTHING: i64 = i64::MIN;

/// A column of bounds, each the least or greatest value of its cell, or none.
///
/// Where all fit into 64 bits they take 8 bytes each: decoded blocks lie in caches, and an
/// `Option<i128>` takes 32.
#[derive(Clone, Debug)]
pub struct Bounds(Column);

#[derive(Clone, Debug)]
enum Column {
    Narrow(Vec<i64>),
    Wide(Vec<Option<i128>>),
}

const fn narrow(bound: Option<i128>) -> Option<i64> {
    const LEAST: i128 = NOTHING as i128 + 1;
    const GREATEST: i128 = i64::MAX as i128;
    match bound {
        None => Some(NOTHING),
        #[expect(clippy::cast_possible_truncation, reason = "compared above")]
        Some(value @ LEAST..=GREATEST) => Some(value as i64),
        Some(_) => None,
    }
}

fn wide(bound: i64) -> Option<i128> {
    (bound != NOTHING).then(|| i128::from(bound))
}

impl Default for Bounds {
    fn default() -> Self {
        Self(Column::Narrow(Vec::new()))
    }
}

impl Bounds {
    /// With room for so many.
    #[must_use]
    pub fn with_capacity(cells: usize) -> Self {
        Self(Column::Narrow(Vec::with_capacity(cells)))
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        match &self.0 {
            Column::Narrow(bounds) => bounds.len(),
            Column::Wide(bounds) => bounds.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that they take.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        match &self.0 {
            Column::Narrow(bounds) => size_of::<i64>() * bounds.capacity(),
            Column::Wide(bounds) => size_of::<Option<i128>>() * bounds.capacity(),
        }
    }

    /// Appends one.
    pub fn push(&mut self, bound: Option<i128>) {
        match (&mut self.0, narrow(bound)) {
            (Column::Narrow(bounds), Some(bound)) => bounds.push(bound),
            (Column::Narrow(bounds), None) => {
                let bounds = bounds.iter().map(|&bound| wide(bound)).chain([bound]);
                self.0 = Column::Wide(bounds.collect());
            }
            (Column::Wide(bounds), _) => bounds.push(bound),
        }
    }

    /// The bound at a place.
    ///
    /// # Panics
    ///
    /// Past the end.
    #[inline]
    #[must_use]
    pub fn get(&self, place: usize) -> Option<i128> {
        match &self.0 {
            Column::Narrow(bounds) => wide(bounds[place]),
            Column::Wide(bounds) => bounds[place],
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Option<i128>> + '_ {
        (0..self.len()).map(|place| self.get(place))
    }
}

impl FromIterator<Option<i128>> for Bounds {
    fn from_iter<T: IntoIterator<Item = Option<i128>>>(bounds: T) -> Self {
        let bounds = bounds.into_iter();
        let mut own = Self::with_capacity(bounds.size_hint().0);
        bounds.for_each(|bound| own.push(bound));
        own
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bound() -> impl Strategy<Value = Option<i128>> {
        let edges = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX].map(i128::from);
        let past = [edges[0] - 1, edges[5] + 1, i128::MIN, i128::MAX];
        prop_oneof![
            4 => prop::option::of(any::<i64>().prop_map(i128::from)),
            2 => prop::sample::select(edges.to_vec()).prop_map(Some),
            1 => prop::sample::select(past.to_vec()).prop_map(Some),
        ]
    }

    proptest! {
        #[test]
        fn what_is_pushed_is_what_is_there(bounds in prop::collection::vec(bound(), 0..40)) {
            let own: Bounds = bounds.iter().copied().collect();
            prop_assert_eq!(own.len(), bounds.len());
            prop_assert_eq!(own.iter().collect::<Vec<_>>(), bounds);
        }
    }

    #[test]
    fn what_fits_64_bits_takes_8_bytes() {
        let mut own: Bounds = [None, Some(3), Some(i128::from(i64::MAX))].into_iter().collect();
        assert_eq!(own.memory_bytes(), 3 * 8);
        own.push(Some(i128::from(i64::MIN)));
        assert!(own.memory_bytes() >= 4 * 32);
    }
}
