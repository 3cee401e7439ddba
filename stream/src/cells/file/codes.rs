//! A file's codes of dimension values: ranks among its sorted texts, from 2.

use super::texts::Texts;
use crate::cells::dictionary::{NULL, OTHER};
use crate::cells::filter::WantedCodes;
use crate::cells::source::{DimValue, OwnedDimValue, ScanRequest};

pub(super) fn wanted_codes(request: &ScanRequest, texts: &[&Texts]) -> Vec<Option<WantedCodes>> {
    let code = |texts: &Texts, value: &OwnedDimValue| match value {
        OwnedDimValue::Null => Some(NULL),
        OwnedDimValue::Other => Some(OTHER),
        OwnedDimValue::Text(text) => {
            let rank = texts.find(text)?;
            u32::try_from(rank).ok()?.checked_add(2)
        }
    };
    request
        .filter
        .iter()
        .zip(texts)
        .map(|(filter, texts)| {
            let named = |value: &OwnedDimValue| code(texts, value);
            let value = |code| value_of(texts, code);
            Some(WantedCodes::of(filter.as_ref()?, named, texts.len() + 2, value))
        })
        .collect()
}

/// Whether the codes of a cell are wanted, dimension by dimension.
pub(super) fn passes(wanted: &[Option<WantedCodes>], code: impl Fn(usize) -> u32) -> bool {
    let one = |(place, wanted): (usize, &Option<WantedCodes>)| {
        wanted.as_ref().is_none_or(|codes| codes.contain(code(place)))
    };
    wanted.iter().enumerate().all(one)
}

pub(super) fn value_of(texts: &Texts, code: u32) -> DimValue<'_> {
    match code {
        NULL => DimValue::Null,
        OTHER => DimValue::Other,
        text => texts.get(text as usize - 2).map_or(DimValue::Other, DimValue::Text),
    }
}
