//! Which numbers lack something because the cardinality guard folded values into the rest.
//!
//! A shard folds a value for a whole UTC day or not at all, and says which it folded none of. So a
//! number is whole where nothing was folded in its window, or where no shard folded what it is
//! about on that day. A cell of the rest is the sign that something was folded in a window: scans
//! ask for it beside what the filters want.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_rollups::cells::{DimValue, FoldedDays, FoldedOf, FoldedOn, text_hash};
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
/// Verdicts on values that are remembered, some 8 MiB; past them all are asked again.
const VERDICTS_MAX: usize = 1 << 18;

/// The rest of one scan, and what it says about rows, be there cells of them in its windows or not.
pub(super) struct Rest<'a> {
    judge: Judge<'a>,
    windows: BTreeMap<EventTime, InWindow<'a>>,
}

/// What the judge says of one window.
struct InWindow<'a> {
    window: TimeRange,
    on: Rc<OnDays<'a>>,
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
            let rest = at.judged(&rest);
            (start, InWindow { window, on: at.on, rest })
        };
        let windows = by_window.into_iter().map(judged).collect();
        Self { judge, windows }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Window and members of the rows that may lack something and of which there may be no cell.
    pub(super) fn named(&self) -> Vec<(EventTime, Arc<[Member]>)> {
        let of_window = |(&window, own): (&EventTime, &InWindow<'a>)| {
            let named = self.at(own).named_rows(&own.rest);
            named.into_iter().map(move |members| (window, members))
        };
        self.windows.iter().flat_map(of_window).collect()
    }

    /// Whether a row may lack something of this window.
    pub(super) fn lacks_at(&self, window: EventTime, members: &Arc<[Member]>) -> bool {
        let own = self.windows.get(&window);
        own.is_some_and(|own| self.at(own).is_row_lossy(members, &own.rest))
    }

    /// The windows of which rows with these members may lack something, ascending.
    pub(super) fn lacking(&self, members: &Arc<[Member]>) -> Vec<TimeRange> {
        let lacks = |own: &&InWindow<'a>| self.at(own).is_row_lossy(members, &own.rest);
        self.windows.values().filter(lacks).map(|own| own.window).collect()
    }

    fn at(&self, own: &InWindow<'a>) -> At<'_, 'a> {
        At { judge: &self.judge, on: Rc::clone(&own.on) }
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

/// Tells the cells that the filters want from the rest.
pub(super) fn told<'a>(
    plan: &Plan,
    source: &'a Source,
    scan: &Scan,
    cells: Vec<Cell>,
    shards: &'a [Arc<FoldedDays>],
) -> (Vec<Cell>, Rest<'a>) {
    let folded = cells.iter().filter(|cell| cell.members.contains(&Member::Other));
    let folded = folded.filter(|cell| happened(source, &cell.aggregates));
    let rest: Vec<_> = folded.map(|cell| (cell.window, Arc::clone(&cell.members))).collect();
    let wanted = cells.into_iter().filter(|cell| source.admits(&cell.members)).collect();
    (wanted, Rest::of(plan, source, scan, &rest, shards))
}

struct Judge<'a> {
    source: &'a Source,
    folded: FoldedOf<'a>,
    /// By place in the set's dimensions.
    suspects: Vec<Suspects>,
    /// By first and last day.
    days: RefCell<BTreeMap<(i64, i64), Rc<OnDays<'a>>>>,
    verdicts: RefCell<Verdicts>,
}

/// What was folded on a run of days.
struct OnDays<'a> {
    /// Which of the runs it is.
    run: usize,
    folded: FoldedOn<'a>,
}

/// What the shards said of values: rows of many windows have them.
#[derive(Default)]
struct Verdicts {
    /// By run of days, place in the set's dimensions and hash.
    known: HashMap<(usize, usize, u64), bool>,
    #[cfg(test)]
    looked_up: usize,
}

impl Verdicts {
    fn of(&mut self, on: &OnDays<'_>, place: usize, hash: u64) -> bool {
        let key = (on.run, place, hash);
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        if self.known.len() >= VERDICTS_MAX {
            self.known.clear();
        }
        #[cfg(test)]
        {
            self.looked_up += 1;
        }
        let verdict = on.folded.value(place, hash);
        self.known.insert(key, verdict);
        verdict
    }
}

impl<'a> Judge<'a> {
    fn new(plan: &Plan, set: SetId, source: &'a Source, shards: &'a [Arc<FoldedDays>]) -> Self {
        let suspects = source.rules().iter().map(|rule| Suspects::of(rule.as_ref())).collect();
        let folded = FoldedOf::new(plan, set, shards);
        Self { source, folded, suspects, days: RefCell::default(), verdicts: RefCell::default() }
    }

    fn at(&self, window: TimeRange) -> At<'_, 'a> {
        let day = |moment: EventTime| moment.ms().div_euclid(Granularity::Day.ms());
        let days = (day(window.start), day(window.end.minus_ms(1)));
        let mut known = self.days.borrow_mut();
        let run = known.len();
        let on = known
            .entry(days)
            .or_insert_with(|| Rc::new(OnDays { run, folded: self.folded.on(days) }));
        At { judge: self, on: Rc::clone(on) }
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
struct At<'j, 'a> {
    judge: &'j Judge<'a>,
    /// The UTC days that the window touches.
    on: Rc<OnDays<'a>>,
}

impl At<'_, '_> {
    fn judged(&self, rest: &[Arc<[Member]>]) -> Judged {
        let all_other = rest.iter().any(|cell| cell.iter().all(|member| *member == Member::Other));
        let combinations = all_other && (self.on.folded.any_combination() || !self.is_known());
        Judged { groups: self.by_group(rest), combinations }
    }

    /// Where nobody says that he folded what is folded here, it may be anything.
    fn is_known(&self) -> bool {
        !self.on.folded.is_empty()
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
                let lossy = these.iter().filter(|one| self.value(place, one));
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
        if groups.get(row).is_some_and(|filter_is_lossy| *filter_is_lossy) {
            return true;
        }
        let folded: Vec<usize> =
            (0..row.len()).filter(|&at| self.value(places[at], &row[at])).collect();
        (1_u32..1 << folded.len()).any(|chosen| {
            let mut key = row.to_vec();
            for (bit, &at) in folded.iter().enumerate() {
                if chosen >> bit & 1 == 1 {
                    key[at] = Member::Other;
                }
            }
            groups.contains_key(key.as_slice())
        })
    }

    /// Whether combinations of a row's values may have been folded: as they are, or with the rest
    /// in the place of those that a shard folded by themselves. A place that is kept for the values
    /// as they are says nothing of the latter.
    fn may_lack_combination(&self, row: &[Member]) -> bool {
        if !self.is_known() {
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
            let folded = members.iter().any(|member| self.value(place, member));
            let members: Vec<&Member> =
                members.iter().chain(folded.then_some(&Member::Other)).collect();
            if choices.len() * members.len() > COMBINATIONS_MAX {
                return true;
            }
            let extended = choices.iter().flat_map(|choice| {
                members.iter().map(|&member| [choice, std::slice::from_ref(member)].concat())
            });
            choices = extended.collect();
        }
        choices.iter().any(|choice| {
            let values: Vec<DimValue<'_>> = choice.iter().map(value_of).collect();
            self.on.folded.combination(&values)
        })
    }

    fn suspects_are_lossy(&self, place: usize) -> bool {
        match &self.judge.suspects[place] {
            Suspects::Nothing => false,
            Suspects::Any => !self.is_known() || self.on.folded.any_value(place),
            Suspects::These(these) => these.iter().any(|one| self.value(place, one)),
        }
    }

    /// Whether a value of a dimension may have been folded; null and the rest itself never are.
    fn value(&self, place: usize, member: &Member) -> bool {
        let Member::Text(text) = member else { return false };
        let hash = text_hash(text);
        !self.is_known() || self.judge.verdicts.borrow_mut().of(&self.on, place, hash)
    }
}

fn value_of(member: &Member) -> DimValue<'_> {
    match member {
        Member::Text(text) => DimValue::Text(text),
        Member::Other => DimValue::Other,
        Member::Null => DimValue::Null,
    }
}
