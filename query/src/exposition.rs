//! How `/metrics` reads: OpenMetrics for whoever accepts it, else Prometheus' older text format.
//!
//! Rooms count in milliseconds where they think in them; scrapers want base units. So a gauge
//! `…_ms` is shown as `…_seconds`. OpenMetrics has the old name beside it for this release, as
//! every scraper has read it until now.

use std::fmt::Write;

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};
use prometheus_client::registry::Registry;

const OPEN_METRICS: &str = "application/openmetrics-text";
const PLAIN: &str = "text/plain";

/// A format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
    OpenMetrics,
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4.
    Text,
}

impl Exposition {
    /// What the scraper would rather have: OpenMetrics only where it names it.
    #[must_use]
    pub fn accepted(headers: &HeaderMap) -> Self {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let (mut open, mut plain) = (0.0, 0.0);
        for kind in values.flat_map(|value| value.split(',')) {
            let mut parts = kind.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.trim().parse().ok());
            let weight: f32 = weight.unwrap_or(1.0);
            if name.eq_ignore_ascii_case(OPEN_METRICS) {
                open = weight.max(open);
            } else if name.eq_ignore_ascii_case(PLAIN) {
                plain = weight.max(plain);
            }
        }
        if open > 0.0 && open >= plain { Self::OpenMetrics } else { Self::Text }
    }

    /// Its media type, with the version.
    #[must_use]
    pub const fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        })
    }

    /// Every metric of `registry` in this format.
    ///
    /// # Errors
    ///
    /// When a collector fails.
    pub fn encode(self, registry: &Registry) -> Result<String, std::fmt::Error> {
        let mut encoded = String::new();
        prometheus_client::encoding::text::encode(&mut encoded, registry)?;
        Ok(self.of(&encoded))
    }

    /// `encoded`, which is OpenMetrics text, in this format.
    fn of(self, encoded: &str) -> String {
        let mut out = String::with_capacity(encoded.len() + encoded.len() / 4);
        let mut family = Family::default();
        for line in encoded.lines() {
            let begins = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '));
            if let Some((name, help)) = begins {
                self.push(&mut out, &family);
                family = Family { name, help, kind: "unknown", samples: Vec::new() };
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                family.kind = rest.rsplit(' ').next().unwrap_or(family.kind);
            } else if !line.starts_with('#') {
                family.samples.push(line);
            }
        }
        self.push(&mut out, &family);
        if self == Self::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }

    fn push(self, out: &mut String, family: &Family<'_>) {
        let Family { name, help, kind, samples } = family;
        if name.is_empty() {
            return;
        }
        let in_seconds = name.strip_suffix("_ms").filter(|_| *kind == "gauge");
        if let Some(stem) = in_seconds {
            head(out, &format!("{stem}_seconds"), help, kind);
            for sample in samples {
                let labels = &sample[name.len()..];
                if let Some((labels, ms)) = labels.rsplit_once(' ') {
                    write_line(out, format_args!("{stem}_seconds{labels} {}", seconds(ms)));
                }
            }
        }
        match (self, in_seconds) {
            (Self::OpenMetrics, Some(stem)) => {
                let help = format!("Old name of {stem}_seconds, in milliseconds; goes.");
                head(out, name, &help, kind);
            }
            (Self::OpenMetrics, None) => head(out, name, help, kind),
            (Self::Text, Some(_)) => return,
            // There a counter's family is named like its sample.
            (Self::Text, None) if *kind == "counter" => {
                head(out, &format!("{name}_total"), help, kind);
            }
            (Self::Text, None) if *kind == "unknown" => head(out, name, help, "untyped"),
            (Self::Text, None) => head(out, name, help, kind),
        }
        for sample in samples {
            write_line(out, format_args!("{sample}"));
        }
    }
}

/// The lines of one metric, as OpenMetrics has them.
#[derive(Default)]
struct Family<'t> {
    name: &'t str,
    help: &'t str,
    kind: &'t str,
    samples: Vec<&'t str>,
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    write_line(out, format_args!("# HELP {name} {help}"));
    write_line(out, format_args!("# TYPE {name} {kind}"));
}

fn write_line(out: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(out, "{line}").expect("a string takes any text");
}

/// Milliseconds as seconds, exactly.
fn seconds(ms: &str) -> String {
    let (sign, digits) = match ms.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", ms),
    };
    let padded = format!("{digits:0>4}");
    let (whole, rest) = padded.split_at(padded.len() - 3);
    match rest.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        rest => format!("{sign}{whole}.{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENCODED: &str = "\
# HELP house_folds Folds.
# TYPE house_folds counter
house_folds_total 7
# HELP house_age_ms Age of the last one.
# TYPE house_age_ms gauge
house_age_ms{partition=\"0\"} 1500
house_age_ms{partition=\"1 ms\"} -20
# HELP house_step_seconds Steps.
# TYPE house_step_seconds histogram
house_step_seconds_sum 0.5
house_step_seconds_count 1
house_step_seconds_bucket{le=\"1.0\"} 1
# HELP house_empty Nothing is known.
# TYPE house_empty gauge
# EOF
";

    #[test]
    fn the_older_format_names_counters_whole_and_has_base_units_alone() {
        let text = "\
# HELP house_folds_total Folds.
# TYPE house_folds_total counter
house_folds_total 7
# HELP house_age_seconds Age of the last one.
# TYPE house_age_seconds gauge
house_age_seconds{partition=\"0\"} 1.5
house_age_seconds{partition=\"1 ms\"} -0.02
# HELP house_step_seconds Steps.
# TYPE house_step_seconds histogram
house_step_seconds_sum 0.5
house_step_seconds_count 1
house_step_seconds_bucket{le=\"1.0\"} 1
# HELP house_empty Nothing is known.
# TYPE house_empty gauge
";
        assert_eq!(Exposition::Text.of(ENCODED), text);
    }

    #[test]
    fn openmetrics_has_the_old_names_beside_the_new_ones() {
        let text = Exposition::OpenMetrics.of(ENCODED);
        for line in [
            "# TYPE house_folds counter",
            "house_age_seconds{partition=\"0\"} 1.5",
            "# HELP house_age_ms Old name of house_age_seconds, in milliseconds; goes.",
            "house_age_ms{partition=\"0\"} 1500",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn milliseconds_are_told_in_seconds_exactly() {
        for (ms, text) in [
            ("0", "0"),
            ("7", "0.007"),
            ("10", "0.01"),
            ("1000", "1"),
            ("-1", "-0.001"),
            ("1795291200123", "1795291200.123"),
            ("9223372036854775807", "9223372036854775.807"),
        ] {
            assert_eq!(seconds(ms), text);
        }
    }

    #[test]
    fn a_scraper_gets_openmetrics_where_it_asks_for_it_and_text_else() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            (prometheus, Exposition::OpenMetrics),
            ("application/openmetrics-text", Exposition::OpenMetrics),
            ("text/plain, Application/OpenMetrics-Text", Exposition::OpenMetrics),
            ("*/*", Exposition::Text),
            ("", Exposition::Text),
            ("text/plain;version=0.0.4", Exposition::Text),
            ("text/plain;version=0.0.4,application/openmetrics-text;q=0.5", Exposition::Text),
            ("application/openmetrics-text;q=0", Exposition::Text),
            ("text/html,application/json", Exposition::Text),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(Exposition::accepted(&headers), format, "{accept}");
        }
        assert_eq!(Exposition::accepted(&HeaderMap::new()), Exposition::Text);
    }
}
