//! The naive model: every number by brute force, from the definitions of docs/api.md.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::log_reader::{Identity, Stored};

/// Days behind the watermark beyond which an event is kept in late-events and not counted.
const HORIZON_MS: i64 = 90 * 86_400_000;
const SESSION_GAP_MS: i64 = 30 * 60_000;

const VIEWS: [&str; 4] = ["page_view", "content_view", "play_start", "view"];
const CLICKS: [&str; 2] = ["click", "content_clicked"];
const CONVERSIONS: [&str; 3] = ["purchase", "signup", "subscribe"];

fn is_one_of(types: &[&str], event: &Stored) -> bool {
    types.iter().any(|kind| kind.eq_ignore_ascii_case(&event.event_type))
}

/// The value of a dimension.
pub(crate) fn dimension(event: &Stored, name: &str) -> Option<String> {
    match name {
        "event_type" => Some(event.event_type.clone()),
        "country" => event.country.clone(),
        "device_type" => event.device_type.clone(),
        "content_category" => event.content_category.clone(),
        "content_id" => event.content_id.clone(),
        "app_version" => event.app_version.clone(),
        "subscription_tier" => event.subscription_tier.clone(),
        "cohort" => event.cohort.clone(),
        "channel" => event.channel.clone(),
        "service_name" => event.service_name.clone(),
        other => panic!("no dimension {other}"),
    }
}

/// One cell: what happened in a window for a combination of dimension values.
#[derive(Default)]
pub(crate) struct Cell {
    pub(crate) events: u64,
    pub(crate) users: HashSet<u32>,
    pub(crate) duration_us: i128,
    pub(crate) durations: Vec<f64>,
    pub(crate) completed: u64,
    pub(crate) completions: u64,
    pub(crate) views: u64,
    pub(crate) clicks: u64,
    pub(crate) impressions: u64,
}

/// One session cell.
#[derive(Default)]
pub(crate) struct SessionCell {
    pub(crate) sessions: u64,
    pub(crate) duration_ms: i128,
    pub(crate) durations_s: Vec<f64>,
    pub(crate) bounces: u64,
    pub(crate) engaged: u64,
}

/// A window's start and the values of the dimensions.
pub(crate) type Key = (i64, Vec<Option<String>>);

/// The events that count.
pub(crate) struct Model {
    events: Vec<(Stored, u32)>,
    /// Records beyond the first of their identity.
    pub(crate) duplicates: usize,
    /// Different events beyond the horizon, and their copies: each record is kept.
    pub(crate) beyond_horizon: usize,
}

impl Model {
    /// From all records, each partition in log order.
    pub(crate) fn new(records: Vec<Stored>) -> Self {
        let mut seen = HashSet::new();
        let mut users: HashMap<String, u32> = HashMap::new();
        let mut model = Self { events: Vec::new(), duplicates: 0, beyond_horizon: 0 };
        for record in records {
            if !record.imported && record.timestamp < record.received_at - HORIZON_MS {
                model.beyond_horizon += 1;
                continue;
            }
            if !seen.insert(record.identity()) {
                model.duplicates += 1;
                continue;
            }
            let next = users.len() as u32;
            let user = *users.entry(record.user_key()).or_insert(next);
            model.events.push((record, user));
        }
        model
    }

    pub(crate) fn unique(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn identities(&self) -> HashSet<Identity> {
        self.events.iter().map(|(event, _)| event.identity()).collect()
    }

    /// Events whose timestamp was corrected: their windows depend on when they arrived.
    pub(crate) fn corrected(&self) -> usize {
        self.events.iter().filter(|(event, _)| event.timestamp != event.sent_timestamp).count()
    }

    pub(crate) fn cells(&self, dimensions: &[&str], granularity_ms: i64) -> BTreeMap<Key, Cell> {
        let mut cells: HashMap<Key, Cell> = HashMap::new();
        for (event, user) in &self.events {
            let window = event.timestamp.div_euclid(granularity_ms) * granularity_ms;
            let values = dimensions.iter().map(|name| dimension(event, name)).collect();
            let cell = cells.entry((window, values)).or_default();
            cell.events += 1;
            if event.is_user() {
                cell.users.insert(*user);
            }
            if let Some(duration) = event.session_duration_sec {
                cell.duration_us += (duration * 1e6).round() as i128;
                cell.durations.push(duration);
            }
            if let Some(completed) = event.completed {
                cell.completed += 1;
                cell.completions += u64::from(completed);
            }
            let is_view = is_one_of(&VIEWS, event);
            cell.views += u64::from(is_view);
            cell.clicks += u64::from(is_one_of(&CLICKS, event));
            cell.impressions += u64::from(is_view || is_one_of(&["impression"], event));
        }
        cells.into_iter().collect()
    }

    /// Sessions by brute force: sort each user's events, split on gaps.
    pub(crate) fn session_cells(
        &self,
        dimensions: &[&str],
        granularity_ms: i64,
    ) -> BTreeMap<Key, SessionCell> {
        let mut by_user: BTreeMap<u32, Vec<&Stored>> = BTreeMap::new();
        for (event, user) in self.events.iter().filter(|(event, _)| event.is_user()) {
            by_user.entry(*user).or_default().push(event);
        }
        let mut cells: BTreeMap<Key, SessionCell> = BTreeMap::new();
        for events in by_user.values_mut() {
            events.sort_by_key(|event| event.timestamp);
            let chains =
                events.chunk_by(|one, two| two.timestamp - one.timestamp <= SESSION_GAP_MS);
            for session in chains {
                let (first, last) = (session[0].timestamp, session[session.len() - 1].timestamp);
                let earliest = session.iter().filter(|event| event.timestamp == first);
                let values = dimensions
                    .iter()
                    .map(|name| earliest.clone().filter_map(|event| dimension(event, name)).min())
                    .collect();
                let window = first.div_euclid(granularity_ms) * granularity_ms;
                let cell = cells.entry((window, values)).or_default();
                let views = session.iter().filter(|event| is_one_of(&VIEWS, event)).count();
                let converts = session.iter().any(|event| is_one_of(&CONVERSIONS, event));
                cell.sessions += 1;
                cell.duration_ms += i128::from(last - first);
                cell.durations_s.push((last - first) as f64 / 1000.0);
                cell.bounces += u64::from(session.len() == 1);
                cell.engaged += u64::from(last - first >= 10_000 || views >= 2 || converts);
            }
        }
        cells
    }

    /// Distinct users of the `days` days that end with each day in reach of any event.
    pub(crate) fn rolling_users(&self, days: i64) -> BTreeMap<i64, usize> {
        const DAY_MS: i64 = 86_400_000;
        let mut by_day: BTreeMap<i64, HashSet<u32>> = BTreeMap::new();
        for (event, user) in self.events.iter().filter(|(event, _)| event.is_user()) {
            by_day.entry(event.timestamp.div_euclid(DAY_MS)).or_default().insert(*user);
        }
        let ends: BTreeSet<i64> = by_day.keys().flat_map(|&day| day..day + days).collect();
        ends.into_iter()
            .map(|end| {
                let users: HashSet<u32> = by_day
                    .range(end - days + 1..=end)
                    .flat_map(|(_, users)| users.iter().copied())
                    .collect();
                (end * DAY_MS, users.len())
            })
            .collect()
    }
}
