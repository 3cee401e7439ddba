//! A declared metric: its fields checked, its slots found.

use super::compile::{Compiler, check_name, field_names, taken};
use super::error::DeclareError;
use super::filter::Filter;
use super::metric::{Metric, MetricKind, Operand};
use super::plan::Dimension;
use super::raw::{AggregateDecl, MetricDecl};
use super::sets::SetKind;
use super::slot::{Measure, SlotKind};
use super::source::{NumberSource, Source};

/// Decimal digits of a scaled number.
const SCALE_MAX: u8 = 9;
/// Decimal digits where a declaration says none.
const SCALE_DEFAULT: u8 = 6;
/// Values that a top-k shows at most.
const TOP_K_MAX: u32 = 1_000;

impl Compiler<'_> {
    pub(super) fn declared(&mut self, raw: &MetricDecl) -> Result<(), DeclareError> {
        let declaration = format!("metric {:?}", raw.name);
        check_name(&declaration, &raw.name)?;
        let column = |known: &Dimension| known.name == raw.name;
        if self.metrics.iter().any(|known| known.name == raw.name)
            || self.dimensions.iter().any(column)
        {
            return Err(taken(&declaration));
        }
        refuse_idle_fields(&declaration, raw)?;
        let kind = self.declared_kind(&declaration, raw)?;
        self.push(Metric {
            name: raw.name.clone(),
            title: raw.title.clone().unwrap_or_else(|| raw.name.clone()),
            description: raw.description.clone(),
            unit: raw.unit.clone(),
            digits: raw.scale,
            kind,
            domain: SetKind::Events,
            definition: 0,
            builtin: false,
        });
        Ok(())
    }

    fn declared_kind(
        &mut self,
        declaration: &str,
        raw: &MetricDecl,
    ) -> Result<MetricKind, DeclareError> {
        let filter = match &raw.filter {
            Some(text) => self.filter(declaration, "filter", text)?,
            None => Filter::default(),
        };
        let scale = scale(declaration, raw)?;
        let number = |measure: fn(NumberSource, u8) -> Measure| {
            number_source(declaration, raw).map(|source| measure(source, scale))
        };
        Ok(match raw.aggregate {
            AggregateDecl::Count => {
                let measure = match &raw.field {
                    None => Measure::Events,
                    Some(_) => carries(declaration, raw, scale)?,
                };
                MetricKind::Count { slot: self.events(SlotKind::Count, measure, filter)? }
            }
            AggregateDecl::Sum => MetricKind::Sum {
                slot: self.events(SlotKind::Sum, number(Measure::Number)?, filter)?,
                scale,
            },
            AggregateDecl::Avg => MetricKind::Avg {
                sum: self.events(SlotKind::Sum, number(Measure::Number)?, filter.clone())?,
                count: self.events(SlotKind::Count, number(Measure::CarriesNumber)?, filter)?,
                scale,
            },
            AggregateDecl::Min => MetricKind::Min {
                slot: self.events(SlotKind::Min, number(Measure::Number)?, filter)?,
                scale,
            },
            AggregateDecl::Max => MetricKind::Max {
                slot: self.events(SlotKind::Max, number(Measure::Number)?, filter)?,
                scale,
            },
            AggregateDecl::Distinct => {
                let measure = match &raw.field {
                    None => Measure::User,
                    Some(_) => Measure::Text(text_source(declaration, raw)?),
                };
                MetricKind::Distinct { slot: self.events(SlotKind::Distinct, measure, filter)? }
            }
            AggregateDecl::Quantile => {
                let parts = quantile(declaration, raw)?;
                let measure = number(Measure::Number)?;
                MetricKind::Quantile {
                    slot: self.events(SlotKind::Histogram, measure, filter)?,
                    parts,
                    scale,
                }
            }
            AggregateDecl::Ratio => MetricKind::Ratio {
                numerator: self.operand(declaration, "numerator", raw.numerator.as_deref())?,
                denominator: self.operand(
                    declaration,
                    "denominator",
                    raw.denominator.as_deref(),
                )?,
            },
            AggregateDecl::TopK => {
                let measure = Measure::Text(text_source(declaration, raw)?);
                let k = top_k(declaration, raw)?;
                MetricKind::TopK { slot: self.events(SlotKind::Top, measure, filter)?, k }
            }
        })
    }

    fn filter(
        &self,
        declaration: &str,
        field: &'static str,
        text: &str,
    ) -> Result<Filter, DeclareError> {
        let resolve = |name: &str| {
            let known = self.dimensions.iter().find(|dimension| dimension.name == name)?;
            Some(known.source.clone())
        };
        Filter::parse(text, self.grammar, resolve).map_err(|problem| {
            DeclareError::new(
                declaration,
                field,
                problem,
                "write clauses such as event_type:purchase,refund country:DE",
            )
        })
    }

    fn operand(
        &mut self,
        declaration: &str,
        field: &'static str,
        text: Option<&str>,
    ) -> Result<Operand, DeclareError> {
        let remedy = "name a count, sum or distinct metric of events declared above, or a filter";
        let Some(text) = text else {
            return Err(DeclareError::new(declaration, field, "it is missing", remedy));
        };
        if text.contains(':') {
            let filter = self.filter(declaration, field, text)?;
            return self.events(SlotKind::Count, Measure::Events, filter).map(Operand::Count);
        }
        let named = self.metrics.iter().find(|metric| metric.name == text);
        match named.filter(|metric| metric.domain == SetKind::Events).map(|metric| metric.kind) {
            Some(MetricKind::Count { slot }) => Ok(Operand::Count(slot)),
            Some(MetricKind::Sum { slot, scale }) => Ok(Operand::Sum(slot, scale)),
            Some(MetricKind::Distinct { slot }) => Ok(Operand::Distinct(slot)),
            _ => Err(DeclareError::new(
                declaration,
                field,
                format!("{text:?} is no such metric"),
                remedy,
            )),
        }
    }
}

/// A field that the aggregate does not read is a mistake, not a decoration.
fn refuse_idle_fields(declaration: &str, raw: &MetricDecl) -> Result<(), DeclareError> {
    use AggregateDecl as A;
    let a = raw.aggregate;
    let numeric = matches!(a, A::Sum | A::Avg | A::Min | A::Max | A::Quantile);
    let given = [
        ("field", raw.field.is_some(), a != A::Ratio),
        ("scale", raw.scale.is_some(), numeric),
        ("quantile", raw.quantile.is_some(), a == A::Quantile),
        ("k", raw.k.is_some(), a == A::TopK),
        ("filter", raw.filter.is_some(), a != A::Ratio),
        ("numerator", raw.numerator.is_some(), a == A::Ratio),
        ("denominator", raw.denominator.is_some(), a == A::Ratio),
    ];
    match given.into_iter().find(|(_, given, read)| *given && !read) {
        None => Ok(()),
        Some((field, ..)) => Err(DeclareError::new(
            declaration,
            field,
            format!("aggregate {} does not read it", a.name()),
            "leave it out or choose another aggregate",
        )),
    }
}

fn scale(declaration: &str, raw: &MetricDecl) -> Result<u8, DeclareError> {
    let scale = raw.scale.unwrap_or(SCALE_DEFAULT);
    if scale <= SCALE_MAX {
        return Ok(scale);
    }
    Err(DeclareError::new(
        declaration,
        "scale",
        format!("{scale} decimal digits, where at most {SCALE_MAX} can be"),
        "choose the digits that the numbers really carry",
    ))
}

fn quantile(declaration: &str, raw: &MetricDecl) -> Result<u32, DeclareError> {
    match raw.quantile {
        Some(q) if q > 0.0 && q <= 1.0 =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "between 0 and a million")]
            #[expect(clippy::cast_sign_loss, reason = "between 0 and a million")]
            Ok((q * 1e6).round() as u32)
        }
        other => Err(DeclareError::new(
            declaration,
            "quantile",
            other.map_or("it is missing".to_owned(), |q| format!("{q} is out of range")),
            "give a number over 0 and at most 1, such as 0.95",
        )),
    }
}

fn top_k(declaration: &str, raw: &MetricDecl) -> Result<usize, DeclareError> {
    let k = raw.k.unwrap_or(10);
    if (1..=TOP_K_MAX).contains(&k) {
        return Ok(k as usize);
    }
    Err(DeclareError::new(
        declaration,
        "k",
        format!("{k} values, where 1 to {TOP_K_MAX} can be"),
        "ask for fewer",
    ))
}

fn carries(declaration: &str, raw: &MetricDecl, scale: u8) -> Result<Measure, DeclareError> {
    let text = raw.field.as_deref().unwrap_or_default();
    if text == "session_duration_sec" {
        return Ok(Measure::CarriesNumber(NumberSource::SessionDuration, scale));
    }
    text_source(declaration, raw).map(Measure::CarriesText)
}

fn text_source(declaration: &str, raw: &MetricDecl) -> Result<Source, DeclareError> {
    let text = raw.field.as_deref().unwrap_or_default();
    Source::parse(text).ok_or_else(|| {
        DeclareError::new(
            declaration,
            "field",
            format!("{text:?} is no text field of an event"),
            format!("use properties.<path>, completed, or one of {}", field_names()),
        )
    })
}

fn number_source(declaration: &str, raw: &MetricDecl) -> Result<NumberSource, DeclareError> {
    let text = raw.field.as_deref().unwrap_or_default();
    NumberSource::parse(text).ok_or_else(|| {
        DeclareError::new(
            declaration,
            "field",
            format!("{text:?} is no number of an event"),
            "use session_duration_sec or properties.<path>",
        )
    })
}
