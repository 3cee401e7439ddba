//! What one dimension of a cell must be: any of some values, and none of others.

use super::source::{DimValue, OwnedDimValue};

/// Which values of a dimension a reader wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DimFilter {
    /// `None` for anything.
    any_of: Option<DimValues>,
    none_of: DimValues,
}

/// Some values of a dimension: by name, or by how their texts begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DimValues {
    /// Ascending.
    exact: Vec<OwnedDimValue>,
    /// Ascending; none begins with another.
    prefixes: Vec<Box<str>>,
}

impl DimValues {
    /// These values, and every text that begins with one of `prefixes`.
    #[must_use]
    pub fn new(
        exact: impl IntoIterator<Item = OwnedDimValue>,
        prefixes: impl IntoIterator<Item = Box<str>>,
    ) -> Self {
        let mut exact: Vec<OwnedDimValue> = exact.into_iter().collect();
        exact.sort_unstable();
        exact.dedup();
        let mut prefixes: Vec<Box<str>> = prefixes.into_iter().collect();
        prefixes.sort_unstable();
        prefixes.dedup_by(|longer, shorter| longer.starts_with(&**shorter));
        Self { exact, prefixes }
    }

    fn contain(&self, value: DimValue<'_>) -> bool {
        if self.exact.binary_search_by(|own| own.as_ref().cmp(&value)).is_ok() {
            return true;
        }
        let DimValue::Text(text) = value else { return false };
        // A prefix of the text stands last among those that are not after it.
        let after = self.prefixes.partition_point(|prefix| **prefix <= *text);
        after.checked_sub(1).is_some_and(|last| text.starts_with(&*self.prefixes[last]))
    }
}

impl DimFilter {
    /// Any of `any_of` (`None` for anything) that is none of `none_of`.
    #[must_use]
    pub const fn new(any_of: Option<DimValues>, none_of: DimValues) -> Self {
        Self { any_of, none_of }
    }

    /// Any of these values.
    #[must_use]
    pub fn any_of(values: impl IntoIterator<Item = OwnedDimValue>) -> Self {
        Self::new(Some(DimValues::new(values, [])), DimValues::default())
    }

    /// Whether a cell with this value is wanted.
    #[must_use]
    pub fn admits(&self, value: DimValue<'_>) -> bool {
        self.any_of.as_ref().is_none_or(|values| values.contain(value))
            && !self.none_of.contain(value)
    }

    /// The wanted values, where they can be named one by one.
    pub(super) fn named(&self) -> Option<impl Iterator<Item = &OwnedDimValue>> {
        let values = self.any_of.as_ref().filter(|values| values.prefixes.is_empty())?;
        Some(values.exact.iter().filter(|value| !self.none_of.contain(value.as_ref())))
    }
}

/// What a filter admits, in the codes of one source.
#[derive(Clone, Debug)]
pub(super) enum WantedCodes {
    /// These, ascending.
    Named(Vec<u32>),
    /// By code.
    Marked(Vec<bool>),
}

impl WantedCodes {
    /// `code` names a value of the source that has one; `value` is its inverse below `codes`.
    pub(super) fn of<'a>(
        filter: &DimFilter,
        code: impl Fn(&OwnedDimValue) -> Option<u32>,
        codes: usize,
        value: impl Fn(u32) -> DimValue<'a>,
    ) -> Self {
        if let Some(named) = filter.named() {
            let mut codes: Vec<u32> = named.filter_map(code).collect();
            codes.sort_unstable();
            return Self::Named(codes);
        }
        Self::Marked((0..).take(codes).map(|code| filter.admits(value(code))).collect())
    }

    pub(super) fn contain(&self, code: u32) -> bool {
        match self {
            Self::Named(codes) => codes.binary_search(&code).is_ok(),
            Self::Marked(marks) => marks.get(code as usize).is_some_and(|wanted| *wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = OwnedDimValue> {
        prop_oneof![
            Just(OwnedDimValue::Null),
            Just(OwnedDimValue::Other),
            "[ab]{0,3}".prop_map(|text| OwnedDimValue::Text(text.into())),
        ]
    }

    proptest! {
        #[test]
        fn a_filter_admits_what_looking_at_each_of_its_values_does(
            any_of in prop::option::of((
                prop::collection::vec(value(), 0..4), prop::collection::vec("[ab]{0,3}", 0..4),
            )),
            none_of in (prop::collection::vec(value(), 0..4), prop::collection::vec("[ab]{0,3}", 0..4)),
            asked in value(),
        ) {
            let contain = |(exact, prefixes): &(Vec<OwnedDimValue>, Vec<String>)| {
                let begins = |prefix: &String| {
                    matches!(&asked, OwnedDimValue::Text(text) if text.starts_with(prefix))
                };
                exact.contains(&asked) || prefixes.iter().any(begins)
            };
            let expected = any_of.as_ref().is_none_or(contain) && !contain(&none_of);
            let values = |(exact, prefixes): (Vec<OwnedDimValue>, Vec<String>)| {
                DimValues::new(exact, prefixes.into_iter().map(Into::into))
            };
            let filter = DimFilter::new(any_of.map(values), values(none_of));
            prop_assert_eq!(filter.admits(asked.as_ref()), expected, "{:?}", filter);
            if let Some(mut named) = filter.named() {
                prop_assert_eq!(named.any(|one| *one == asked), expected);
            }
        }
    }
}
