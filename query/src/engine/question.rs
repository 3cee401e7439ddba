//! A question with its names looked up: which metrics, which dimension sets, which order.

use nilometer_access::{Problem, Status};
use nilometer_event::TimeRange;
use nilometer_rollups::aggregate::SlotMask;
use nilometer_rollups::declare::{DimId, Metric, MetricKind, Plan, SetId, SetKind};

use super::folds::with_the_rest;
use super::version::{Distincts, Scan, Windows};
use crate::answer::SortKey;
use crate::ask::{Ask, Compare, Direction, Member, Rule};
use crate::door::unknown;

/// A question that the catalogue can answer.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) ask: &'a Ask,
    pub(crate) plan: &'a Plan,
    /// In the order asked for.
    pub(crate) metrics: Vec<&'a Metric>,
    pub(crate) order: Vec<(SortKey, Direction)>,
    group_by: Vec<DimId>,
    filters: Vec<(DimId, &'a Rule)>,
    events: Option<Source>,
    sessions: Option<Source>,
}

/// The dimension set that metrics of one kind are read from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) set: SetId,
    /// Where in the set's dimensions each dimension of `group_by` is.
    pub(crate) places: Vec<usize>,
    /// The count that says whether a cell holds anything: of events, or of sessions.
    pub(crate) presence: usize,
    /// For each dimension of the set, what it must be.
    members: Vec<Option<Rule>>,
}

impl Source {
    pub(crate) fn scan(&self, windows: Windows, range: TimeRange, want: SlotMask) -> Scan {
        let (members, distincts) = (with_the_rest(&self.members), Distincts::Counters);
        Scan { set: self.set, windows, range, members, want, distincts }
    }

    /// For each dimension of the set, what it must be.
    pub(crate) fn rules(&self) -> &[Option<Rule>] {
        &self.members
    }

    /// Whether a cell is wanted.
    pub(crate) fn admits(&self, members: &[Member]) -> bool {
        members.iter().enumerate().all(|(place, member)| self.admits_at(place, member))
    }

    /// Whether a value of the dimension at `place` is wanted.
    pub(crate) fn admits_at(&self, place: usize, member: &Member) -> bool {
        self.members[place].as_ref().is_none_or(|rule| rule.admits(member))
    }

    /// Whether the filter of the dimension at `place` names what it wants.
    pub(crate) fn is_any_of(&self, place: usize) -> bool {
        self.members[place].as_ref().is_some_and(|rule| rule.any_of.is_some())
    }

    /// The same for cells that have just the members of `group_by`, in that order.
    pub(crate) fn flat(&self) -> Self {
        Self { places: (0..self.places.len()).collect(), ..self.clone() }
    }

    /// Whether every cell is a row of its own: all its dimensions are grouped by, or filtered to
    /// one member.
    pub(crate) fn is_one_to_one(&self) -> bool {
        self.members.iter().enumerate().all(|(place, members)| {
            self.places.contains(&place) || members.as_ref().is_some_and(Rule::is_single)
        })
    }
}

impl<'a> Question<'a> {
    /// Looks every name up.
    ///
    /// # Errors
    ///
    /// 400 `unknown_metric`, `unknown_dimension`, `unknown_column` with near names;
    /// `no_such_cube` where the dimensions have no cells together.
    pub(crate) fn resolve(ask: &'a Ask, plan: &'a Plan) -> Result<Self, Problem> {
        let mut metrics = Vec::with_capacity(ask.metrics.len());
        for name in &ask.metrics {
            let known = || plan.metrics.iter().map(|metric| metric.name.as_str());
            let metric = plan.metric(name);
            metrics
                .push(metric.ok_or_else(|| unknown("unknown_metric", "metrics", name, known()))?);
        }
        let mut group_by = Vec::with_capacity(ask.group_by.len());
        for name in &ask.group_by {
            group_by.push(dimension(plan, "group_by", name)?);
        }
        let mut filters = Vec::with_capacity(ask.filters.len());
        for filter in &ask.filters {
            let dim = dimension(plan, "filter", &filter.dimension)?;
            filters.push((dim, &filter.rule));
        }
        let mut question = Self {
            ask,
            plan,
            metrics,
            order: order(ask, plan)?,
            group_by,
            filters,
            events: None,
            sessions: None,
        };
        for kind in [SetKind::Events, SetKind::Sessions] {
            if question.metrics.iter().any(|metric| metric.domain == kind) {
                let source = question.source_of(kind)?;
                match kind {
                    SetKind::Events => question.events = Some(source),
                    SetKind::Sessions => question.sessions = Some(source),
                }
            }
        }
        Ok(question)
    }

    /// The set that metrics of this kind are read from.
    pub(crate) const fn source(&self, kind: SetKind) -> Option<&Source> {
        match kind {
            SetKind::Events => self.events.as_ref(),
            SetKind::Sessions => self.sessions.as_ref(),
        }
    }

    pub(crate) const fn uses(&self, kind: SetKind) -> bool {
        self.source(kind).is_some()
    }

    fn dims(&self) -> Vec<DimId> {
        let filtered = self.filters.iter().map(|(dim, _)| *dim);
        let mut dims: Vec<DimId> = self.group_by.iter().copied().chain(filtered).collect();
        dims.sort_unstable();
        dims.dedup();
        dims
    }

    fn source_of(&self, kind: SetKind) -> Result<Source, Problem> {
        let dims = self.dims();
        let set = self.plan.set_for(kind, &dims).ok_or_else(|| self.no_such_cube(kind, &dims))?;
        let of_set = &self.plan.set(set).dims;
        if !self.plan.set(set).distinct
            && let Some(metric) = self.metrics.iter().find(|metric| needs_distinct(metric, kind))
        {
            return Err(self.no_distinct(metric, &dims));
        }
        let places = self
            .group_by
            .iter()
            .filter_map(|dim| of_set.iter().position(|other| other == dim))
            .collect();
        let members = of_set
            .iter()
            .map(|dim| {
                let filter = self.filters.iter().find(|(filtered, _)| filtered == dim);
                filter.map(|(_, rule)| (*rule).clone())
            })
            .collect();
        Ok(Source { set, places, presence: presence(self.plan, kind)?, members })
    }

    fn no_such_cube(&self, kind: SetKind, dims: &[DimId]) -> Problem {
        let names = self.names(dims);
        let counted = match kind {
            SetKind::Events => "events",
            SetKind::Sessions => "sessions",
        };
        let metric = self.metrics.iter().find(|metric| metric.domain == kind);
        let metric = metric.map_or("", |metric| metric.name.as_str());
        let remedy = match kind {
            SetKind::Events => format!("declare it in nilometer.toml: {}", declaration(&names)),
            SetKind::Sessions => format!(
                "session metrics go by {}, each by itself; group or filter by one of these, or ask for metrics of events",
                self.names(&self.plan.session_dims).join(", ")
            ),
        };
        let detail = format!(
            "{metric} needs cells of {counted} by ({}), which are not kept; {remedy}",
            names.join(", ")
        );
        let problem = Problem::new(
            Status::BadRequest,
            "no_such_cube",
            "these dimensions have no cells together",
            detail,
        )
        .with("dimensions", names.clone())
        .with("metric", metric);
        match kind {
            SetKind::Events => problem.with("declare", declaration(&names)),
            SetKind::Sessions => problem,
        }
    }

    fn no_distinct(&self, metric: &Metric, dims: &[DimId]) -> Problem {
        let names = self.names(dims);
        let detail = format!(
            "{} counts users, which the cube ({}) does not; declare it with distinct = true: {} distinct = true",
            metric.name,
            names.join(", "),
            declaration(&names)
        );
        Problem::new(Status::BadRequest, "no_such_cube", "the cube counts no users", detail)
            .with("dimensions", names)
            .with("metric", metric.name.as_str())
    }

    fn names(&self, dims: &[DimId]) -> Vec<String> {
        dims.iter().map(|dim| self.plan.dimensions[dim.index()].name.clone()).collect()
    }
}

/// The dimensions that can be asked for together, by kind, for the catalogue.
pub(crate) fn cubes(plan: &Plan, kind: SetKind) -> Vec<Vec<String>> {
    let sets = plan.sets.iter().filter(|set| set.kind == kind);
    sets.map(|set| set.dims.iter().map(|dim| plan.dimensions[dim.index()].name.clone()).collect())
        .collect()
}

fn presence(plan: &Plan, kind: SetKind) -> Result<usize, Problem> {
    let name = match kind {
        SetKind::Events => "events",
        SetKind::Sessions => "sessions",
    };
    match plan.metric(name).map(|metric| metric.kind) {
        Some(MetricKind::Count { slot }) => Ok(slot),
        _ => Err(Problem::internal(format!("the plan has no count named {name}"))),
    }
}

fn needs_distinct(metric: &Metric, kind: SetKind) -> bool {
    metric.domain == kind && metric.slots().distincts != 0
}

fn declaration(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("[[cube]] dimensions = [{}]", quoted.join(", "))
}

fn dimension(plan: &Plan, parameter: &str, name: &str) -> Result<DimId, Problem> {
    let known = || plan.dimensions.iter().map(|dimension| dimension.name.as_str());
    plan.dimension(name).ok_or_else(|| unknown("unknown_dimension", parameter, name, known()))
}

/// Looks the columns of `order_by` up among those of the answer.
fn order(ask: &Ask, plan: &Plan) -> Result<Vec<(SortKey, Direction)>, Problem> {
    let width = match ask.compare {
        Compare::Nothing => 1,
        Compare::PreviousPeriod => 2,
    };
    let mut keys = Vec::with_capacity(ask.order_by.len());
    for order in &ask.order_by {
        let name = order.column.as_str();
        let metric = |name: &str| ask.metrics.iter().position(|metric| metric == name);
        let previous = || {
            let base = name.strip_suffix("_previous").filter(|_| width == 2)?;
            metric(base).map(|place| place * width + 1)
        };
        let is_sliding = ask.window_ms.is_some();
        let key = if name == "window_start" || (is_sliding && name == "window_end") {
            Some(SortKey::Window)
        } else if let Some(place) = ask.group_by.iter().position(|dimension| dimension == name) {
            Some(SortKey::Member(place))
        } else {
            metric(name).map(|place| place * width).or_else(previous).map(SortKey::Value)
        };
        keys.push((key.ok_or_else(|| no_column(ask, plan, name))?, order.direction));
    }
    Ok(keys)
}

/// Why rows cannot be ordered by `name`: it is no column of this answer, though it could be.
fn no_column(ask: &Ask, plan: &Plan, name: &str) -> Problem {
    let asked = |metric: &str| ask.metrics.iter().any(|asked| asked == metric);
    let columns = ask.group_by.iter().chain(&ask.metrics).map(String::as_str);
    let known = columns.chain(["window_start"]).chain(ask.window_ms.map(|_| "window_end"));
    let detail = if plan.metric(name).is_some() {
        format!("{name} is a metric that is not asked for; add it to metrics")
    } else if plan.dimension(name).is_some() {
        format!("{name} is a dimension that rows are not grouped by; add it to group_by")
    } else if name == "window_end" {
        "window_end is a column of sliding windows; give window".to_owned()
    } else if let Some(metric) = name.strip_suffix("_previous").filter(|name| asked(name)) {
        format!("{metric} is not compared with anything; add compare=previous_period")
    } else {
        return unknown("unknown_column", "order_by", name, known);
    };
    let known: Vec<&str> = known.collect();
    Problem::new(
        Status::BadRequest,
        "unknown_column",
        "rows cannot be ordered by what is no column",
        format!("order_by: {detail}"),
    )
    .with("parameter", "order_by")
    .with("known", known)
}
