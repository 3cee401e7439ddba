//! The alarms of docs/operations.md, "What to watch", read and judged as Prometheus would.

use std::collections::BTreeMap;

const DOCS: &str = include_str!("../../../docs/operations.md");

/// One expression that people are told to alarm on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alarm {
    pub(crate) expression: String,
    /// All have to hold.
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    left: Side,
    is_above: bool,
    right: Side,
}

/// What is compared: a factor, and the metric that it is of, or how much that has grown.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Side {
    factor: String,
    metric: Option<Metric>,
    grows: bool,
}

/// A metric, and a status's beginning, where it is one by status.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Metric {
    name: String,
    status: Option<String>,
}

/// What `GET /metrics` said: value by series.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    pub(crate) fn of(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let pair = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(series.filter_map(pair).collect())
    }

    fn series(&self, metric: &Metric) -> BTreeMap<&str, f64> {
        let own = |name: &str| {
            let (base, labels) = name.split_once('{').unwrap_or((name, ""));
            let status = metric.status.as_ref().map(|first| format!("status=\"{first}"));
            base == metric.name && status.is_none_or(|status| labels.contains(&status))
        };
        let all = self.0.iter().filter(|(name, _)| own(name));
        all.map(|(name, value)| (name.as_str(), *value)).collect()
    }
}

impl Side {
    fn read(text: &str) -> Self {
        let (factor, rest) = text.split_once(" * ").unwrap_or(("1", text));
        if rest.parse::<f64>().is_ok() {
            return Self { factor: rest.to_owned(), metric: None, grows: false };
        }
        let grown = rest.strip_prefix("increase(").and_then(|rest| rest.strip_suffix("[10m])"));
        let (name, labels) = match grown.unwrap_or(rest).split_once('{') {
            Some((name, labels)) => (name, Some(labels)),
            None => (grown.unwrap_or(rest), None),
        };
        let is_name = |letter: char| letter.is_ascii_lowercase() || "_0123456789".contains(letter);
        assert!(
            !name.is_empty() && name.chars().all(is_name),
            "no expression that is known: {text}"
        );
        let status = labels.map(|labels| {
            let first = labels.strip_prefix("status=~\"").and_then(|it| it.strip_suffix("..\"}"));
            first.unwrap_or_else(|| panic!("no labels that are known: {text}")).to_owned()
        });
        let metric = Some(Metric { name: name.to_owned(), status });
        Self { factor: factor.to_owned(), metric, grows: grown.is_some() }
    }

    /// By series; a number has one without a name.
    fn values(&self, before: &Scrape, now: &Scrape) -> Vec<f64> {
        let factor: f64 = self.factor.parse().expect("a number before the star");
        let Some(metric) = &self.metric else { return vec![factor] };
        let old = before.series(metric);
        // A series that was not there has not grown, whatever it begins with.
        let grown = |name: &str, value: f64| Some(value - old.get(name)?);
        let value = |(name, value): (&str, f64)| {
            let value = if self.grows { grown(name, value) } else { Some(value) };
            value.map(|value| factor * value)
        };
        now.series(metric).into_iter().filter_map(value).collect()
    }
}

impl Condition {
    fn read(text: &str) -> Self {
        let (left, right, is_above) = match (text.split_once(" > "), text.split_once(" < ")) {
            (Some((left, right)), None) => (left, right, true),
            (None, Some((left, right))) => (left, right, false),
            _ => panic!("no comparison: {text}"),
        };
        Self { left: Side::read(left), is_above, right: Side::read(right) }
    }

    fn holds(&self, before: &Scrape, now: &Scrape) -> bool {
        let limits = self.right.values(before, now);
        self.left.values(before, now).iter().any(|value| {
            limits.iter().any(|limit| if self.is_above { value > limit } else { value < limit })
        })
    }
}

impl Alarm {
    fn read(expression: &str) -> Self {
        let conditions = expression.split(" and on() ").map(Condition::read).collect();
        Self { expression: expression.to_owned(), conditions }
    }

    /// Whether it holds at the second scrape.
    pub(crate) fn fires(&self, before: &Scrape, now: &Scrape) -> bool {
        self.conditions.iter().all(|condition| condition.holds(before, now))
    }

    /// The names of the metrics that it reads.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = &str> {
        let sides = self.conditions.iter().flat_map(|one| [&one.left, &one.right]);
        sides.filter_map(|side| side.metric.as_ref()).map(|metric| metric.name.as_str())
    }
}

/// Every alarm of the table.
pub(crate) fn documented() -> Vec<Alarm> {
    let (_, table) = DOCS.split_once("| alarm on | because |\n").expect("the table of alarms");
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let firsts = rows.filter_map(|row| row.trim_matches('|').split(" | ").next());
    // Between back quotes is code.
    firsts.flat_map(|first| first.split('`').skip(1).step_by(2)).map(Alarm::read).collect()
}

/// Every metric of the list below it.
pub(crate) fn documented_metrics() -> Vec<&'static str> {
    let (_, list) = DOCS.split_once("| metric | is |\n").expect("the list of metrics");
    let rows = list.lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| row.split('`').nth(1)).collect()
}
