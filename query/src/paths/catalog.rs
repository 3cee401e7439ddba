//! `/v1/catalog`: everything that can be asked for.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use nilometer_event::Granularity;
use nilometer_rollups::cells::OwnedDimValue;
use nilometer_rollups::declare::{DimId, Plan, SetKind};
use nilometer_rollups::{Pinned, ReadError};
use serde::Serialize;
use utoipa::ToSchema;

use super::json;
use super::openapi::ProblemDoc;
use crate::ask::{Member, shown};
use crate::door::{Reader, Refused};
use crate::engine::cubes;
use crate::shelves::member;
use crate::state::QueryState;
use crate::turns::Length;

/// Known values that are listed of a dimension.
const KNOWN_VALUES_MAX: usize = 100;

/// Everything that can be asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Catalog {
    /// In the order of the plan: built-in ones first.
    metrics: Vec<CatalogMetric>,
    /// In the order of the plan: built-in ones first.
    dimensions: Vec<CatalogDimension>,
    /// Which dimensions can be asked for together.
    cubes: CatalogCubes,
    /// Finest first.
    granularities: Vec<CatalogGranularity>,
    /// Changes when a declaration changes results.
    plan: String,
}

/// One metric.
#[derive(Debug, Serialize, ToSchema)]
struct CatalogMetric {
    name: String,
    title: String,
    description: String,
    /// Such as `s`; empty for a plain number.
    unit: String,
    /// `integer`, `number` or `array`.
    #[serde(rename = "type")]
    value_type: &'static str,
    /// `events` or `sessions`.
    counts: &'static str,
    /// How it is read from them, as a declaration says it; `rate` is a count by the second.
    aggregate: &'static str,
    /// True where values may be estimates; `meta.approximate` says it of each answer.
    approximate: bool,
    builtin: bool,
    /// Decimal digits of its values, where its declaration says them (`scale`).
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<u8>,
    /// All events that it counted without their number, because what they carry is no number or
    /// does not fit; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<u64>,
}

/// One dimension.
#[derive(Debug, Serialize, ToSchema)]
struct CatalogDimension {
    name: String,
    description: String,
    #[serde(rename = "type")]
    value_type: &'static str,
    builtin: bool,
    /// The most frequent values of the last 30 days, as filters write them.
    known_values: Vec<Option<String>>,
}

/// Sets of dimensions that have cells together.
#[derive(Debug, Serialize, ToSchema)]
struct CatalogCubes {
    events: Vec<Vec<String>>,
    sessions: Vec<Vec<String>>,
}

/// One granularity.
#[derive(Debug, Serialize, ToSchema)]
struct CatalogGranularity {
    name: &'static str,
    /// The first window that is kept; null for good.
    kept_from: Option<String>,
}

/// Lists metrics and dimensions with their types, descriptions and known values.
#[utoipa::path(
    get, path = "/v1/catalog", tag = "reading",
    responses((status = 200, body = Catalog), (status = 401, body = ProblemDoc)),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn get_catalog(
    State(state): State<QueryState>,
    Reader(caller): Reader,
) -> Result<Response, Refused> {
    let store = Arc::clone(state.store());
    let read = state.status_reads().run(&caller, Length::Short, move || catalog(&store.pin()));
    let catalog = read.await?;
    Ok(json(&catalog)?)
}

fn catalog(pinned: &Pinned) -> Catalog {
    let plan = &pinned.plan;
    let unread = pinned.moment().unread();
    let metrics = plan.metrics.iter().map(|metric| CatalogMetric {
        name: metric.name.clone(),
        title: metric.title.clone(),
        description: metric.description.clone(),
        unit: metric.unit.clone(),
        value_type: metric.value_type(),
        counts: match metric.domain {
            SetKind::Events => "events",
            SetKind::Sessions => "sessions",
        },
        aggregate: metric.aggregate(),
        approximate: metric.slots().distincts | metric.slots().histograms != 0,
        builtin: metric.builtin,
        scale: metric.digits,
        unread: unread.get(&metric.name).copied(),
    });
    let mut known = known_values(pinned).into_iter();
    let dimensions = plan.dimensions.iter().map(|dimension| CatalogDimension {
        name: dimension.name.clone(),
        description: dimension.description.clone(),
        value_type: "string",
        builtin: dimension.builtin,
        known_values: known.next().unwrap_or_default(),
    });
    let granularities = Granularity::ALL.into_iter().map(|granularity| CatalogGranularity {
        name: granularity.name(),
        kept_from: (granularity != Granularity::Day)
            .then(|| pinned.kept_from(granularity).to_string()),
    });
    Catalog {
        metrics: metrics.collect(),
        dimensions: dimensions.collect(),
        cubes: cubes_of(plan),
        granularities: granularities.collect(),
        plan: plan.id.to_string(),
    }
}

fn cubes_of(plan: &Plan) -> CatalogCubes {
    CatalogCubes { events: cubes(plan, SetKind::Events), sessions: cubes(plan, SetKind::Sessions) }
}

/// Of each dimension of the plan. Values are a help for writing filters: where they cannot be read
/// there are none.
fn known_values(pinned: &Pinned) -> Vec<Vec<Option<String>>> {
    let plan = &pinned.plan;
    let ids = plan.dimensions.iter().filter_map(|dimension| plan.dimension(&dimension.name));
    let known = pinned.known_values(&ids.collect::<Vec<DimId>>(), KNOWN_VALUES_MAX);
    let of_dimension = |values: Result<Vec<OwnedDimValue>, ReadError>| {
        let values = values.unwrap_or_else(|error| {
            tracing::warn!(%error, "known values could not be read");
            Vec::new()
        });
        values.into_iter().map(as_written).collect()
    };
    known.into_iter().map(of_dimension).collect()
}

fn as_written(value: OwnedDimValue) -> Option<String> {
    match member(value) {
        Member::Text(text) => Some(shown(&text).into_owned()),
        Member::Other => Some("__other__".to_owned()),
        Member::Null => None,
    }
}
