//! Which numbers lack something because the cardinality guard folded values into the rest.
//!
//! A shard folds a value for a whole UTC day or not at all, and says which it folded none of. So a
//! number is whole where nothing was folded in its window, or where no shard folded what it is
//! about on that day. A cell of the rest is the sign that something was folded in a window: scans
//! ask for it beside what the filters want.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_rollups::cells::{Admission, DimValue, FoldedDays, GuardKeys};
use nilometer_rollups::declare::{Plan, SetId};

use super::question::Source;
use super::table::{grouped, happened};
use super::version::{Cell, Scan, Windows};
use crate::ask::{Member, Rule};

#[cfg(test)]
mod tests;

/// Combinations of a filter's values that are looked at; of more it is said that they may lack
/// something.
const COMBINATIONS_MAX: usize = 64;

/// Cells of one scan that the filters want, and the rows that may lack something.
pub(super) struct Told {
    pub(super) cells: Vec<Cell>,
    pub(super) lost: Vec<Lost>,
}

/// A row that may lack something, all over a window.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) window: TimeRange,
    pub(super) members: Arc<[Member]>,
    /// False where no cell of the window is of this row.
    pub(super) is_row: bool,
}

/// The rest of one scan, and what it says about rows that come one after the other.
pub(super) struct Rest<'a> {
    judge: Judge<'a>,
    windows: BTreeMap<EventTime, InWindow>,
}

/// What the judge says of one window.
struct InWindow {
    window: TimeRange,
    days: (i64, i64),
    combinations: bool,
    is_known: bool,
    rest: Judged,
}

impl<'a> Rest<'a> {
    /// `rest` are window and members of the cells with folded values.
    pub(super) fn of(
        plan: &Plan,
        source: &'a Source,
        scan: &Scan,
        rest: &[(EventTime, Arc<[Member]>)],
        shards: &'a [Arc<FoldedDays>],
    ) -> Self {
        let mut by_window: BTreeMap<EventTime, Vec<Arc<[Member]>>> = BTreeMap::new();
        for (window, members) in rest {
            by_window.entry(*window).or_default().push(Arc::clone(members));
        }
        let judge = Judge::new(plan, scan.set, source, shards);
        let judged = |(start, rest): (EventTime, Vec<Arc<[Member]>>)| {
            let window = window_of(scan, start);
            let at = judge.at(window);
            let At { days, combinations, is_known, .. } = at;
            (start, InWindow { window, days, combinations, is_known, rest: at.judged(&rest) })
        };
        let windows = by_window.into_iter().map(judged).collect();
        Self { judge, windows }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// The rows that may lack something wherever they are, be there cells of them or not.
    pub(super) fn named(&self) -> Vec<Lost> {
        let of_window = |at: &InWindow| {
            let (named, window) = (self.at(at).named_rows(&at.rest), at.window);
            named.into_iter().map(move |members| Lost { window, members, is_row: false })
        };
        self.windows.values().flat_map(of_window).collect()
    }

    /// Where a row of this window may lack something.
    pub(super) fn lost_at(&self, window: EventTime, members: &Arc<[Member]>) -> Option<Lost> {
        let at = self.windows.get(&window)?;
        let is_lost = self.at(at).is_row_lossy(members, &at.rest);
        let members = Arc::clone(members);
        is_lost.then_some(Lost { window: at.window, members, is_row: true })
    }

    const fn at(&self, own: &InWindow) -> At<'_> {
        let InWindow { days, combinations, is_known, .. } = *own;
        At { judge: &self.judge, days, combinations, is_known }
    }
}

/// The window of a scan's cells that starts there.
const fn window_of(scan: &Scan, start: EventTime) -> TimeRange {
    let end = match scan.windows {
        Windows::Every(granularity) => start.plus_ms(granularity.ms()),
        Windows::Total => scan.range.end,
    };
    TimeRange { start, end }
}

/// Which values a filter cares for that may lie in the rest.
#[derive(Clone, Debug)]
enum Suspects {
    /// None: there is no filter, or it names the rest itself.
    Nothing,
    /// Some that it does not name.
    Any,
    These(Vec<Member>),
}

impl Suspects {
    fn of(rule: Option<&Rule>) -> Self {
        let Some(rule) = rule else { return Self::Nothing };
        let admits_rest = rule.admits(&Member::Other);
        let values = match &rule.any_of {
            // It wants some, which may be in the rest.
            Some(wanted) if !admits_rest => wanted,
            // It wants everything but some, which may be in the rest.
            None if admits_rest => &rule.none_of,
            _ => return Self::Nothing,
        };
        if !values.prefixes.is_empty() {
            return Self::Any;
        }
        let texts = values.members.iter().filter(|member| matches!(member, Member::Text(_)));
        Self::These(texts.cloned().collect())
    }
}

/// The filters of a scan, with the rest beside what they want.
pub(super) fn with_the_rest(rules: &[Option<Rule>]) -> Vec<Option<Rule>> {
    let with = |rule: &Option<Rule>| {
        let mut rule = rule.clone()?;
        if let (false, Some(wanted)) =
            (rule.none_of.members.contains(&Member::Other), &mut rule.any_of)
            && !wanted.members.contains(&Member::Other)
        {
            wanted.members.push(Member::Other);
        }
        Some(rule)
    };
    rules.iter().map(with).collect()
}

/// Tells the cells that the filters want from the rest, and which rows may lack something by what
/// the shards say.
pub(super) fn told(
    plan: &Plan,
    source: &Source,
    scan: &Scan,
    cells: Vec<Cell>,
    shards: &[Arc<FoldedDays>],
) -> Told {
    let mut rest: BTreeMap<EventTime, Vec<Arc<[Member]>>> = BTreeMap::new();
    for cell in cells.iter().filter(|cell| happened(source, &cell.aggregates)) {
        if cell.members.contains(&Member::Other) {
            rest.entry(cell.window).or_default().push(Arc::clone(&cell.members));
        }
    }
    let cells: Vec<Cell> = cells.into_iter().filter(|cell| source.admits(&cell.members)).collect();
    let mut rows: HashMap<EventTime, HashSet<Arc<[Member]>>> = HashMap::new();
    for cell in cells.iter().filter(|cell| rest.contains_key(&cell.window)) {
        rows.entry(cell.window).or_default().insert(grouped(source, &cell.members));
    }
    let judge = Judge::new(plan, scan.set, source, shards);
    let mut lost = Vec::new();
    for (start, rest) in rest {
        let window = window_of(scan, start);
        let rows = rows.remove(&start).unwrap_or_default();
        for members in judge.at(window).lossy(&rest, &rows) {
            let is_row = rows.contains(&members);
            lost.push(Lost { window, members, is_row });
        }
    }
    Told { cells, lost }
}

struct Judge<'a> {
    source: &'a Source,
    shards: &'a [Arc<FoldedDays>],
    keys: GuardKeys,
    /// By place in the set's dimensions.
    suspects: Vec<Suspects>,
}

impl<'a> Judge<'a> {
    fn new(plan: &Plan, set: SetId, source: &'a Source, shards: &'a [Arc<FoldedDays>]) -> Self {
        let suspects = source.rules().iter().map(|rule| Suspects::of(rule.as_ref())).collect();
        Self { source, shards, keys: GuardKeys::of(plan, set), suspects }
    }

    fn at(&self, window: TimeRange) -> At<'_> {
        let day = |moment: EventTime| moment.ms().div_euclid(Granularity::Day.ms());
        let days = (day(window.start), day(window.end.minus_ms(1)));
        let closed = |admission: Admission| admission != Admission::Open;
        let any = |ask: &dyn Fn(&FoldedDays) -> Admission| {
            self.shards.iter().any(|shard| closed(ask(shard)))
        };
        let combinations = any(&|shard| shard.combination(&self.keys, days, None));
        let places = 0..self.suspects.len();
        let values = places.map(|place| any(&|shard| shard.value(&self.keys, place, days, None)));
        let values: Vec<bool> = values.collect();
        // Nobody says that he folded what is folded here: then it may be anything.
        let is_known = combinations || values.contains(&true);
        At { judge: self, days, combinations, is_known }
    }
}

/// What the rest of a window says about its rows.
struct Judged {
    /// What its cells are grouped by, each with whether a value that a filter cares for may be
    /// among what it folded.
    groups: HashMap<Arc<[Member]>, bool>,
    /// Whether folded combinations may be of any row.
    combinations: bool,
}

/// The judge of one window.
struct At<'a> {
    judge: &'a Judge<'a>,
    /// UTC days that the window touches, first and last.
    days: (i64, i64),
    /// Whether combinations were folded.
    combinations: bool,
    is_known: bool,
}

impl At<'_> {
    /// The rows that may lack something, of `rows` and of those that the filters name; `rest` are
    /// the cells with folded values.
    fn lossy(
        &self,
        rest: &[Arc<[Member]>],
        rows: &HashSet<Arc<[Member]>>,
    ) -> HashSet<Arc<[Member]>> {
        let judged = self.judged(rest);
        let mut lossy = self.named_rows(&judged);
        lossy.extend(rows.iter().filter(|row| self.is_row_lossy(row, &judged)).cloned());
        lossy
    }

    fn judged(&self, rest: &[Arc<[Member]>]) -> Judged {
        let all_other = rest.iter().any(|cell| cell.iter().all(|member| *member == Member::Other));
        let combinations = all_other && (self.combinations || !self.is_known);
        Judged { groups: self.by_group(rest), combinations }
    }

    /// The rows that the rest or the filters name and that may lack something.
    fn named_rows(&self, judged: &Judged) -> HashSet<Arc<[Member]>> {
        let mut lossy: HashSet<Arc<[Member]>> = HashSet::new();
        for (group, &filter_is_lossy) in &judged.groups {
            lossy.extend(self.named(group, filter_is_lossy));
        }
        let named = if judged.combinations { self.named_by_filters() } else { Vec::new() };
        lossy.extend(named.into_iter().filter(|row| self.is_row_lossy(row, judged)));
        lossy
    }

    fn is_row_lossy(&self, row: &Arc<[Member]>, judged: &Judged) -> bool {
        self.is_lossy(row, &judged.groups)
            || (judged.combinations && self.may_lack_combination(row))
    }

    /// What the cells of the rest are grouped by, each with whether a value that a filter cares for
    /// may be among what it folded.
    fn by_group(&self, rest: &[Arc<[Member]>]) -> HashMap<Arc<[Member]>, bool> {
        let source = self.judge.source;
        let mut groups: HashMap<Arc<[Member]>, bool> = HashMap::new();
        for cell in rest {
            let filtered = (0..cell.len()).filter(|place| !source.places.contains(place));
            let folded: Vec<usize> =
                filtered.filter(|&place| cell[place] == Member::Other).collect();
            let lossy: Vec<bool> =
                folded.iter().map(|&place| self.suspects_are_lossy(place)).collect();
            let mut told = folded.iter().zip(&lossy);
            // Nothing in it is what the filters want.
            if told.any(|(&place, lossy)| !lossy && !source.admits_at(place, &Member::Other)) {
                continue;
            }
            *groups.entry(grouped(source, cell)).or_default() |= lossy.contains(&true);
        }
        groups
    }

    /// The rows that a cell of the rest is about by itself: its group, where a filter's value may
    /// be in it, and the values that the filter of a grouped dimension names.
    fn named(&self, group: &Arc<[Member]>, filter_is_lossy: bool) -> Vec<Arc<[Member]>> {
        let mut rows: Vec<(Vec<Member>, bool)> = vec![(Vec::new(), filter_is_lossy)];
        for (member, &place) in group.iter().zip(&self.judge.source.places) {
            let mut choices = Vec::new();
            if self.judge.source.admits_at(place, member) {
                choices.push((member.clone(), false));
            }
            if let (Member::Other, Suspects::These(these)) = (member, &self.judge.suspects[place]) {
                let lossy = these.iter().filter(|one| self.value(place, Some(one)));
                let wanted = lossy.filter(|one| self.judge.source.admits_at(place, one));
                choices.extend(wanted.map(|one| (one.clone(), true)));
            }
            let extended = rows.iter().flat_map(|(row, lossy)| {
                choices.iter().map(move |(member, chosen)| {
                    let row: Vec<Member> = row.iter().cloned().chain([member.clone()]).collect();
                    (row, *lossy || *chosen)
                })
            });
            rows = extended.collect();
        }
        rows.into_iter().filter(|(_, lossy)| *lossy).map(|(row, _)| row.into()).collect()
    }

    /// The rows that the filters name one by one, where they do.
    fn named_by_filters(&self) -> Vec<Arc<[Member]>> {
        let mut rows: Vec<Vec<Member>> = vec![Vec::new()];
        for &place in &self.judge.source.places {
            let Suspects::These(these) = &self.judge.suspects[place] else { return Vec::new() };
            if !self.judge.source.is_any_of(place) || rows.len() * these.len() > COMBINATIONS_MAX {
                return Vec::new();
            }
            let extended = rows.iter().flat_map(|row| {
                these.iter().map(|member| [row.as_slice(), std::slice::from_ref(member)].concat())
            });
            rows = extended.collect();
        }
        rows.into_iter().map(Into::into).collect()
    }

    /// Whether some of a row's values may be folded in a cell of the rest.
    fn is_lossy(&self, row: &[Member], groups: &HashMap<Arc<[Member]>, bool>) -> bool {
        let places = &self.judge.source.places;
        let folded: Vec<usize> =
            (0..row.len()).filter(|&at| self.value(places[at], Some(&row[at]))).collect();
        (0_u32..1 << folded.len()).any(|chosen| {
            let mut key = row.to_vec();
            for (bit, &at) in folded.iter().enumerate() {
                if chosen >> bit & 1 == 1 {
                    key[at] = Member::Other;
                }
            }
            groups.get(key.as_slice()).is_some_and(|filter_is_lossy| chosen > 0 || *filter_is_lossy)
        })
    }

    /// Whether combinations of a row's values may have been folded.
    fn may_lack_combination(&self, row: &[Member]) -> bool {
        if !self.is_known {
            return true;
        }
        let mut choices: Vec<Vec<Member>> = vec![Vec::new()];
        for (place, suspects) in self.judge.suspects.iter().enumerate() {
            let grouped = self.judge.source.places.iter().position(|own| *own == place);
            let members = match (grouped, suspects) {
                (Some(at), _) => std::slice::from_ref(&row[at]),
                (None, Suspects::These(these)) if self.judge.source.is_any_of(place) => these,
                // The row is about values that no filter names.
                (None, _) => return true,
            };
            if choices.len() * members.len() > COMBINATIONS_MAX {
                return true;
            }
            let extended = choices.iter().flat_map(|choice| {
                members
                    .iter()
                    .map(|member| [choice.as_slice(), std::slice::from_ref(member)].concat())
            });
            choices = extended.collect();
        }
        choices.iter().any(|choice| {
            let values: Vec<DimValue<'_>> = choice.iter().map(value_of).collect();
            let folded = |shard: &Arc<FoldedDays>| {
                let asked = shard.combination(&self.judge.keys, self.days, Some(&values));
                asked == Admission::Folded
            };
            self.judge.shards.iter().any(folded)
        })
    }

    fn suspects_are_lossy(&self, place: usize) -> bool {
        match &self.judge.suspects[place] {
            Suspects::Nothing => false,
            Suspects::Any => self.value(place, None),
            Suspects::These(these) => these.iter().any(|one| self.value(place, Some(one))),
        }
    }

    /// Whether a value of a dimension, `None` for any, may have been folded.
    fn value(&self, place: usize, member: Option<&Member>) -> bool {
        if matches!(member, Some(Member::Null | Member::Other)) {
            return false;
        }
        let asked = |shard: &Arc<FoldedDays>| {
            shard.value(&self.judge.keys, place, self.days, member.map(value_of))
        };
        !self.is_known || self.judge.shards.iter().any(|shard| asked(shard) == Admission::Folded)
    }
}

fn value_of(member: &Member) -> DimValue<'_> {
    match member {
        Member::Text(text) => DimValue::Text(text),
        Member::Other => DimValue::Other,
        Member::Null => DimValue::Null,
    }
}
