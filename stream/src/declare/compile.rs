//! From declarations to a plan: names resolved, subsets closed, slots shared.

use std::fmt::Write as _;

use nilometer_event::Field;
use xxhash_rust::xxh3::xxh3_64;

use super::builtin::{self, DURATION_SCALE, Reading};
use super::error::DeclareError;
use super::filter::{Filter, Grammar};
use super::metric::{Metric, MetricKind, Operand};
use super::plan::{DimId, Dimension, Plan, PlanId};
use super::raw::{CubeDecl, Declarations, DimensionDecl, GuardLimits, NumberRules};
use super::sets::{Cube, SetKind, close};
use super::slot::{Measure, SLOTS_MAX, SessionFact, SlotKind, Slots};
use super::source::{NumberSource, Source, TypeList};

/// Dimensions of a plan, built-in ones included.
const DIMENSIONS_MAX: usize = 64;
/// Dimensions of one cube: it has 2^n sets.
pub(crate) const CUBE_DIMENSIONS_MAX: usize = 4;
/// Declared cubes.
const CUBES_MAX: usize = 64;
/// Declared metrics.
const METRICS_MAX: usize = 256;
/// Characters of a name.
const NAME_CHARS_MAX: usize = 64;

/// Raised whenever the engine counts the same plan otherwise.
const ENGINE_RESULTS: u32 = 1;

pub(super) fn compile(declarations: &Declarations, grammar: Grammar) -> Result<Plan, DeclareError> {
    let dimensions = dimensions(&declarations.dimensions)?;
    let cubes = cubes(&declarations.cubes, &dimensions)?;
    let mut compiler = Compiler {
        declarations,
        grammar,
        dimensions: &dimensions,
        metrics: Vec::new(),
        event_slots: Slots::default(),
        session_slots: Slots::default(),
    };
    for builtin in builtin::METRICS {
        compiler.builtin(builtin)?;
    }
    if declarations.metrics.len() > METRICS_MAX {
        return Err(too_many("metrics", METRICS_MAX));
    }
    for metric in &declarations.metrics {
        compiler.declared(metric)?;
    }
    let Compiler { metrics, event_slots, session_slots, .. } = compiler;
    let sets = close(&cubes, &dimensions);
    let session_dims =
        builtin::SESSION_DIMENSIONS.iter().filter_map(|&field| field_dim(field)).collect();
    let mut plan = Plan {
        id: PlanId::new(0),
        sets,
        metrics,
        event_slots,
        session_slots,
        session_dims,
        view_types: TypeList::new(&declarations.view_types),
        conversion_types: TypeList::new(&declarations.conversion_types),
        guard: declarations.guard,
        numbers: declarations.numbers,
        dimensions,
    };
    plan.id = identify(&plan);
    Ok(plan)
}

/// Everything that decides results, as one text; its hash is the plan's id.
fn identify(plan: &Plan) -> PlanId {
    let mut text = format!("engine {ENGINE_RESULTS}\n");
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for dimension in &plan.dimensions {
        line(format!("dimension {:016x}", dimension.definition));
    }
    for set in &plan.sets {
        // The parent and the granularities kept decide cost, not results.
        line(format!("set {:?} {:?} distinct {}", set.kind, set.dims, set.distinct));
    }
    for slots in [&plan.event_slots, &plan.session_slots] {
        for list in slots.lists() {
            line(list.iter().fold("slots".to_owned(), |mut text, slot| {
                let _infallible = write!(text, " {:016x}", slot.definition);
                text
            }));
        }
    }
    for metric in &plan.metrics {
        line(format!("metric {:?} {:016x}", metric.name, metric.definition));
    }
    line(format!("views {:?}", plan.view_types.names()));
    line(format!("conversions {:?}", plan.conversion_types.names()));
    let GuardLimits {
        values_max,
        combinations_max,
        entries_max,
        kept_percent,
        watched_max,
        combinations_per_value,
    } = plan.guard;
    // As the first release wrote it: its plans keep their ids.
    line(format!(
        "guard GuardLimits {{ values_max: {values_max}, combinations_max: {combinations_max}, \
         entries_max: {entries_max} }}"
    ));
    if kept_percent > 0 {
        line(format!("guard keeps {kept_percent}"));
    }
    if watched_max > 0 {
        line(format!("guard watches {watched_max}"));
    }
    if combinations_per_value > 0 {
        line(format!("guard gives a key {combinations_per_value} combinations for each value"));
    }
    // Plans of the first releases keep their ids.
    if plan.numbers != NumberRules::Doubles {
        line(format!("numbers {:?}", plan.numbers));
    }
    PlanId::new(xxh3_64(text.as_bytes()))
}

fn dimensions(declared: &[DimensionDecl]) -> Result<Vec<Dimension>, DeclareError> {
    let mut dimensions: Vec<Dimension> = Field::ALL
        .into_iter()
        .map(|field| dimension(field.name(), builtin::describe(field), Source::Field(field), true))
        .collect();
    for raw in declared {
        let declaration = format!("dimension {:?}", raw.name);
        check_name(&declaration, &raw.name)?;
        if dimensions.iter().any(|known| known.name == raw.name)
            || builtin::METRICS.iter().any(|(metric, ..)| *metric == raw.name)
        {
            return Err(taken(&declaration));
        }
        let source = Source::parse(&raw.source).ok_or_else(|| {
            DeclareError::new(
                &declaration,
                "source",
                format!("{:?} is no text field of an event", raw.source),
                format!("use properties.<path>, completed, or one of {}", field_names()),
            )
        })?;
        dimensions.push(dimension(&raw.name, &raw.description, source, false));
    }
    if dimensions.len() > DIMENSIONS_MAX {
        return Err(too_many("dimensions", DIMENSIONS_MAX));
    }
    Ok(dimensions)
}

fn dimension(name: &str, description: &str, source: Source, builtin: bool) -> Dimension {
    let definition = xxh3_64(format!("{name}={source}").as_bytes());
    Dimension {
        name: name.to_owned(),
        description: description.to_owned(),
        source,
        builtin,
        definition,
    }
}

/// Built-in dimensions come first, in the order of [`Field::ALL`].
fn field_dim(field: Field) -> Option<DimId> {
    Field::ALL.iter().position(|&known| known == field).and_then(DimId::from_index)
}

fn cubes(declared: &[CubeDecl], dimensions: &[Dimension]) -> Result<Vec<Cube>, DeclareError> {
    let cube = |kind, distinct, mut dims: Vec<DimId>| {
        dims.sort_unstable();
        Cube { dims, kind, distinct }
    };
    let events = builtin::CUBES.iter().map(|fields| {
        cube(SetKind::Events, true, fields.iter().filter_map(|&field| field_dim(field)).collect())
    });
    let sessions = builtin::SESSION_DIMENSIONS
        .iter()
        .map(|&field| cube(SetKind::Sessions, false, field_dim(field).into_iter().collect()));
    let mut cubes: Vec<Cube> = events.chain(sessions).collect();
    // A declared dimension can be asked for by itself.
    for (index, _) in dimensions.iter().enumerate().skip(Field::ALL.len()) {
        cubes.push(cube(SetKind::Events, true, DimId::from_index(index).into_iter().collect()));
    }
    if declared.len() > CUBES_MAX {
        return Err(too_many("cubes", CUBES_MAX));
    }
    for raw in declared {
        let declaration = format!("cube ({})", raw.dimensions.join(", "));
        let mut dims = Vec::new();
        for name in &raw.dimensions {
            let place = dimensions.iter().position(|known| known.name == *name);
            let dim = place.and_then(DimId::from_index).ok_or_else(|| {
                DeclareError::new(
                    &declaration,
                    "dimensions",
                    format!("there is no dimension {name:?}"),
                    "declare it by [[dimension]] or correct the name",
                )
            })?;
            if dims.contains(&dim) {
                return Err(DeclareError::new(
                    &declaration,
                    "dimensions",
                    format!("{name:?} stands there twice"),
                    "name each dimension once",
                ));
            }
            dims.push(dim);
        }
        if dims.is_empty() || dims.len() > CUBE_DIMENSIONS_MAX {
            return Err(DeclareError::new(
                &declaration,
                "dimensions",
                format!("{} dimensions, where 1 to {CUBE_DIMENSIONS_MAX} can be", dims.len()),
                "declare several smaller cubes",
            ));
        }
        cubes.push(cube(SetKind::Events, raw.distinct, dims));
    }
    Ok(cubes)
}

pub(super) struct Compiler<'a> {
    declarations: &'a Declarations,
    pub(super) grammar: Grammar,
    pub(super) dimensions: &'a [Dimension],
    pub(super) metrics: Vec<Metric>,
    event_slots: Slots,
    session_slots: Slots,
}

impl Compiler<'_> {
    fn builtin(
        &mut self,
        (name, title, unit, reading, description): builtin::Builtin,
    ) -> Result<(), DeclareError> {
        let domain = match reading {
            Reading::Sessions
            | Reading::SessionAvg
            | Reading::SessionQuantile(_)
            | Reading::BounceRate
            | Reading::EngagementRate => SetKind::Sessions,
            _ => SetKind::Events,
        };
        let kind = match domain {
            SetKind::Sessions => self.session_kind(reading)?,
            SetKind::Events => self.event_kind(reading)?,
        };
        self.push(Metric {
            name: name.to_owned(),
            title: title.to_owned(),
            description: description.to_owned(),
            unit: unit.to_owned(),
            digits: None,
            kind,
            domain,
            definition: 0,
            builtin: true,
        });
        Ok(())
    }

    fn event_kind(&mut self, reading: Reading) -> Result<MetricKind, DeclareError> {
        let all = Filter::default;
        let duration = || Measure::Number(NumberSource::SessionDuration, DURATION_SCALE);
        let scale = DURATION_SCALE;
        Ok(match reading {
            Reading::EventsPerSecond => MetricKind::PerSecond {
                slot: self.events(SlotKind::Count, Measure::Events, all())?,
            },
            Reading::Users => MetricKind::Distinct {
                slot: self.events(SlotKind::Distinct, Measure::User, all())?,
            },
            Reading::ActiveNow => MetricKind::ActiveNow {
                slot: self.events(SlotKind::Distinct, Measure::User, all())?,
            },
            Reading::Rolling(days) => MetricKind::RollingDistinct {
                slot: self.events(SlotKind::Distinct, Measure::User, all())?,
                days,
            },
            Reading::DurationSum => {
                MetricKind::Sum { slot: self.events(SlotKind::Sum, duration(), all())?, scale }
            }
            Reading::DurationAvg => {
                let carries = Measure::CarriesNumber(NumberSource::SessionDuration, scale);
                MetricKind::Avg {
                    sum: self.events(SlotKind::Sum, duration(), all())?,
                    count: self.events(SlotKind::Count, carries, all())?,
                    scale,
                }
            }
            Reading::DurationQuantile(parts) => MetricKind::Quantile {
                slot: self.events(SlotKind::Histogram, duration(), all())?,
                parts,
                scale,
            },
            Reading::Completions => MetricKind::Count { slot: self.completions()? },
            Reading::CompletionRate => {
                let carries = Measure::CarriesText(Source::Completed);
                let known = self.events(SlotKind::Count, carries, all())?;
                ratio(self.completions()?, known)
            }
            Reading::Views => {
                let views = Filter::types(&self.declarations.view_types);
                MetricKind::Count { slot: self.events(SlotKind::Count, Measure::Events, views)? }
            }
            Reading::ClickThroughRate => {
                let clicks = Filter::types(&self.declarations.click_types);
                let shown: Vec<_> = [
                    self.declarations.impression_types.as_slice(),
                    self.declarations.view_types.as_slice(),
                ]
                .concat();
                let clicked = self.events(SlotKind::Count, Measure::Events, clicks)?;
                ratio(
                    clicked,
                    self.events(SlotKind::Count, Measure::Events, Filter::types(&shown))?,
                )
            }
            _ => MetricKind::Count { slot: self.events(SlotKind::Count, Measure::Events, all())? },
        })
    }

    fn completions(&mut self) -> Result<usize, DeclareError> {
        let completed = Filter::parse("completed:true", Grammar::Written, |_| None)
            .map_err(|problem| DeclareError::new("completions", "filter", problem, "none"))?;
        self.events(SlotKind::Count, Measure::Events, completed)
    }

    fn session_kind(&mut self, reading: Reading) -> Result<MetricKind, DeclareError> {
        let deciding = format!(
            "{:?}",
            (
                TypeList::new(&self.declarations.view_types),
                TypeList::new(&self.declarations.conversion_types),
            )
        );
        let mut slot = |kind, fact| {
            self.session_slots
                .intern(kind, Measure::Session(fact), Filter::default())
                .ok_or_else(|| too_many("slots of one kind", SLOTS_MAX))
        };
        let sessions = slot(SlotKind::Count, SessionFact::Sessions)?;
        // The sum and the quantiles are in milliseconds: scale 3.
        Ok(match reading {
            Reading::SessionAvg => MetricKind::Avg {
                sum: slot(SlotKind::Sum, SessionFact::DurationMs)?,
                count: sessions,
                scale: 3,
            },
            Reading::SessionQuantile(parts) => MetricKind::Quantile {
                slot: slot(SlotKind::Histogram, SessionFact::DurationMs)?,
                parts,
                scale: 3,
            },
            Reading::BounceRate => ratio(slot(SlotKind::Count, SessionFact::Bounced)?, sessions),
            Reading::EngagementRate => {
                ratio(slot(SlotKind::Count, SessionFact::Engaged(deciding))?, sessions)
            }
            _ => MetricKind::Count { slot: sessions },
        })
    }

    pub(super) fn events(
        &mut self,
        kind: SlotKind,
        measure: Measure,
        filter: Filter,
    ) -> Result<usize, DeclareError> {
        self.event_slots
            .intern(kind, measure, filter)
            .ok_or_else(|| too_many("slots of one kind", SLOTS_MAX))
    }

    pub(super) fn push(&mut self, mut metric: Metric) {
        metric.definition = self.definition(&metric);
        self.metrics.push(metric);
    }

    /// Hash of everything that decides the metric's values, by its slots' own hashes.
    fn definition(&self, metric: &Metric) -> u64 {
        let slots = match metric.domain {
            SetKind::Events => &self.event_slots,
            SetKind::Sessions => &self.session_slots,
        };
        let operand = |operand| match operand {
            Operand::Count(slot) => slots.counts[slot].definition,
            Operand::Sum(slot, _) => slots.sums[slot].definition,
            Operand::Distinct(slot) => slots.distincts[slot].definition,
        };
        let text = match metric.kind {
            MetricKind::Count { slot } => format!("count {}", slots.counts[slot].definition),
            MetricKind::Sum { slot, scale } => {
                format!("sum {} e{scale}", slots.sums[slot].definition)
            }
            MetricKind::Avg { sum, count, scale } => {
                let (sum, count) = (slots.sums[sum].definition, slots.counts[count].definition);
                format!("avg {sum} {count} e{scale}")
            }
            MetricKind::Min { slot, scale } => {
                format!("min {} e{scale}", slots.mins[slot].definition)
            }
            MetricKind::Max { slot, scale } => {
                format!("max {} e{scale}", slots.maxs[slot].definition)
            }
            MetricKind::Ratio { numerator, denominator } => {
                format!("ratio {} {}", operand(numerator), operand(denominator))
            }
            MetricKind::Distinct { slot } => {
                format!("distinct {}", slots.distincts[slot].definition)
            }
            MetricKind::Quantile { slot, parts, scale } => {
                format!("quantile {} {parts} e{scale}", slots.histograms[slot].definition)
            }
            MetricKind::TopK { slot, k } => format!("top {} {k}", slots.tops[slot].definition),
            MetricKind::PerSecond { slot } => {
                format!("per second {}", slots.counts[slot].definition)
            }
            MetricKind::ActiveNow { slot } => {
                format!("active now {}", slots.distincts[slot].definition)
            }
            MetricKind::RollingDistinct { slot, days } => {
                format!("rolling {} {days}", slots.distincts[slot].definition)
            }
        };
        xxh3_64(text.as_bytes())
    }
}

const fn ratio(numerator: usize, denominator: usize) -> MetricKind {
    MetricKind::Ratio {
        numerator: Operand::Count(numerator),
        denominator: Operand::Count(denominator),
    }
}

pub(super) fn field_names() -> String {
    Field::ALL.map(Field::name).join(", ")
}

pub(super) fn check_name(declaration: &str, name: &str) -> Result<(), DeclareError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    let reserved = ["window_start", "total", "null"];
    if starts_well
        && name.chars().all(plain)
        && name.len() <= NAME_CHARS_MAX
        && !name.ends_with("_previous")
        && !reserved.contains(&name)
    {
        return Ok(());
    }
    Err(DeclareError::new(
        declaration,
        "name",
        format!("{name:?} cannot be a column's name"),
        format!(
            "begin with a letter, use a-z, 0-9 and _, at most {NAME_CHARS_MAX} characters, \
             not ending in _previous and none of {}",
            reserved.join(", ")
        ),
    ))
}

pub(super) fn taken(declaration: &str) -> DeclareError {
    DeclareError::new(declaration, "name", "it is taken already", "choose another name")
}

fn too_many(what: &str, limit: usize) -> DeclareError {
    DeclareError::new(
        "configuration",
        "declarations",
        format!("more than {limit} {what}"),
        "declare fewer",
    )
}
