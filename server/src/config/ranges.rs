//! What each number of the settings may be: checked at the start, printed with every default.

use anyhow::{Context, Result, ensure};

use super::Settings;

/// The settings that are numbers, in the order of `defaults.toml`, with the least and the most
/// that each may be.
const RANGES: &[(&str, u64, u64)] = &[
    ("server.memory_limit_mib", 128, 1 << 20),
    ("server.shutdown_timeout_s", 1, 600),
    ("gateway.body_bytes_max", 1 << 10, 1 << 30),
    ("gateway.server_body_bytes_max", 1 << 10, 1 << 30),
    ("gateway.inflated_bytes_max", 1 << 10, 1 << 30),
    ("gateway.inflate_ratio_max", 1, 100_000),
    ("gateway.batch_events_max", 1, 1_000_000),
    ("gateway.event_bytes_max", 256, 16 << 20),
    ("gateway.depth_max", 1, 100),
    ("gateway.properties_max", 1, 1 << 20),
    ("gateway.string_bytes_max", 1, 16 << 20),
    ("gateway.header_timeout_ms", 10, 3_600_000),
    ("gateway.body_timeout_ms", 10, 3_600_000),
    ("limits.connections_max", 1, 10_000),
    ("limits.subscriptions_max", 1, 1_000_000),
    ("limits.queries_per_second", 1, 1_000_000),
    ("limits.events_per_second", 1, 1_000_000_000),
    ("log.partitions", 1, 1024),
    ("log.retention_h", 1, 876_000),
    ("log.retention_bytes", 0, 1 << 60),
    ("log.dead_letter_bytes_max", 1 << 16, 1 << 60),
    ("log.segment_bytes", 1 << 16, 1 << 31),
    ("log.queue_bytes_max", 1 << 20, 1 << 34),
    ("stream.checkpoint_interval_s", 0, 3600),
    ("stream.lateness_min", 0, 10_080),
    ("stream.horizon_days", 1, 3650),
    ("stream.hot_ids_max", 1, 1 << 32),
    ("stream.entry_events_max", 1, 1 << 22),
    ("stream.entry_interval_ms", 10, 10_000),
    ("stream.dimension_values_max", 1, 1 << 24),
    ("stream.window_cells_max", 1, 1 << 24),
    ("rollups.fold_interval_s", 1, 86_400),
    ("rollups.retention_1m_days", 1, 36_500),
    ("rollups.retention_5m_days", 1, 36_500),
    ("rollups.retention_30m_days", 1, 36_500),
    ("rollups.retention_1h_days", 1, 36_500),
    ("rollups.cache_mib", 1, 1 << 20),
    ("query.cache_entries_max", 1, 1 << 20),
    ("query.concurrency", 1, 256),
];

/// The least and the most that a setting may be; `None` where it is no number.
pub(super) fn range(key: &str) -> Option<(u64, u64)> {
    RANGES.iter().find(|(name, ..)| *name == key).map(|(_, least, most)| (*least, *most))
}

/// A range as people read it: `1 to 1,024`.
pub(super) fn shown((least, most): (u64, u64)) -> String {
    format!("{} to {}", grouped(least), grouped(most))
}

/// Checks every number.
///
/// # Errors
///
/// The first one that is out of its range, with the range.
pub(super) fn check(settings: &Settings) -> Result<()> {
    let values = serde_json::to_value(settings).context("write the settings")?;
    for (key, least, most) in RANGES {
        let pointer = format!("/{}", key.replace('.', "/"));
        let value = values.pointer(&pointer).and_then(serde_json::Value::as_u64);
        let value = value.with_context(|| format!("{key} is no number among the settings"))?;
        ensure!(
            (*least..=*most).contains(&value),
            "configuration: {key} = {value} is out of range, expected {least} to {most}"
        );
    }
    Ok(())
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_number_of_the_settings_has_a_range_and_every_range_a_number() {
        let defaults: toml_edit::DocumentMut = super::super::DEFAULTS.parse().unwrap();
        let mut numbers = BTreeSet::new();
        for (section, keys) in defaults.iter() {
            for (key, value) in keys.as_table().unwrap().iter() {
                if value.is_integer() {
                    numbers.insert(format!("{section}.{key}"));
                }
            }
        }
        let ranges: BTreeSet<String> = RANGES.iter().map(|(key, ..)| (*key).to_owned()).collect();
        assert_eq!(ranges, numbers);
    }

    #[test]
    fn both_ends_of_every_range_are_taken_and_what_is_beyond_is_refused_with_the_range() {
        let settings = super::super::load(&crate::cli::Sources::default()).unwrap();
        let with = |key: &str, value: u64| {
            let mut values = serde_json::to_value(&settings).unwrap();
            *values.pointer_mut(&format!("/{}", key.replace('.', "/"))).unwrap() = value.into();
            serde_json::from_value::<Settings>(values)
        };
        for (key, least, most) in RANGES {
            for end in [*least, *most] {
                check(&with(key, end).unwrap()).unwrap_or_else(|error| panic!("{error:#}"));
            }
            for beyond in [least.checked_sub(1), Some(most + 1)].into_iter().flatten() {
                // A type may be narrower than its range: serde refuses then.
                if let Ok(settings) = with(key, beyond) {
                    let error = check(&settings).unwrap_err().to_string();
                    assert!(error.contains(key) && error.contains(&most.to_string()), "{error}");
                }
            }
        }
        assert_eq!(shown((0, 1_048_576)), "0 to 1,048,576");
    }
}
