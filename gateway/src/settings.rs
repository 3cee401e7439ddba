//! What an operator may write about the gateway, and the checked plan that is made of it.

use regex::Regex;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::parse::TextField;

/// Depth past which the checks would need more stack than a thread surely has.
const DEPTH_MAX_MAX: u32 = 100;

/// Limits on bodies and events; each is named in the error that it causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Body on the wire, from a public write key.
    pub body_bytes_max: usize,
    /// Body on the wire, from a server key.
    pub server_body_bytes_max: usize,
    /// Body after decompression.
    pub inflated_bytes_max: usize,
    /// How many times larger than on the wire a body may become.
    pub inflation_ratio_max: usize,
    /// Events in one body.
    pub batch_events_max: usize,
    /// JSON text of one event.
    pub event_bytes_max: usize,
    /// Nesting of objects and arrays within one event, itself included.
    pub depth_max: u32,
    /// Members of `properties`.
    pub properties_max: usize,
    /// UTF-8 bytes of one text, names included.
    pub string_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 1 << 20,
            server_body_bytes_max: 16 << 20,
            inflated_bytes_max: 16 << 20,
            inflation_ratio_max: 100,
            batch_events_max: 10_000,
            event_bytes_max: 64 << 10,
            depth_max: 32,
            properties_max: 256,
            string_bytes_max: 8 << 10,
        }
    }
}

/// What happens to an IP address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressMasking {
    /// It becomes a keyed token.
    #[default]
    Tokenise,
    /// It keeps its network: /24 of IPv4, /48 of IPv6.
    Truncate,
    /// It stays. Only where the law of the house allows.
    Off,
}

/// One more thing to look for in every text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detector {
    /// What its tokens begin with: lower-case letters.
    pub name: String,
    /// A regular expression of the `regex` crate; what it matches becomes a token.
    pub pattern: String,
}

/// What is masked before anything is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskingSettings {
    /// Whether email addresses become tokens.
    pub emails: bool,
    /// What happens to IP addresses.
    pub addresses: AddressMasking,
    /// Fields, and members of `properties` at any depth, whose whole value becomes a token.
    pub tokenise_fields: Vec<String>,
    /// Fields, and members of `properties` at any depth, whose value is removed (null).
    pub drop_fields: Vec<String>,
    /// Fields, and members of `properties` at any depth, whose value stays as it is.
    pub exempt_fields: Vec<String>,
    /// Further detectors.
    pub detectors: Vec<Detector>,
}

impl MaskingSettings {
    /// Nothing is masked.
    #[must_use]
    pub fn off() -> Self {
        Self { emails: false, addresses: AddressMasking::Off, ..Self::default() }
    }
}

impl Default for MaskingSettings {
    fn default() -> Self {
        Self {
            emails: true,
            addresses: AddressMasking::default(),
            tokenise_fields: Vec::new(),
            drop_fields: Vec::new(),
            exempt_fields: Vec::new(),
            detectors: Vec::new(),
        }
    }
}

/// What programs make of a user whom they do not know, by language.
const NO_USER_IDS: [&str; 8] =
    ["undefined", "null", "nan", "none", "nil", "(null)", "<nil>", "[object Object]"];

/// What an operator may write about the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewaySettings {
    /// Limits on bodies and events.
    pub limits: Limits,
    /// What is masked.
    pub masking: MaskingSettings,
    /// Event types whose events are content views; compared without regard to case.
    pub view_types: Vec<String>,
    /// Bodies in memory at once, on the wire and inflated; past it the answer is 503.
    pub buffer_bytes_max: usize,
    /// How far past the receive time an event time may lie before it is corrected.
    pub future_ms_max: u64,
    /// Texts that stand for no user: as `user_id` or `anonymous_id` they are rejected, whatever
    /// their case and white space around them. White space alone always is.
    pub no_user_ids: Vec<String>,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        let view_types = ["page_view", "content_view", "play_start", "view"];
        Self {
            limits: Limits::default(),
            masking: MaskingSettings::default(),
            view_types: view_types.map(str::to_owned).to_vec(),
            buffer_bytes_max: 64 << 20,
            future_ms_max: 5 * 60 * 1_000,
            no_user_ids: NO_USER_IDS.map(str::to_owned).to_vec(),
        }
    }
}

/// Why settings are no plan.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A limit outside its range.
    #[error("gateway.{name} is {value}; it must be {range}")]
    Range {
        /// The setting.
        name: &'static str,
        /// What was written.
        value: u64,
        /// What may be written.
        range: &'static str,
    },
    /// A detector's expression that cannot be read.
    #[error("gateway.masking.detectors: the pattern of {name} is no regular expression")]
    Pattern {
        /// The detector.
        name: String,
        /// What the expression lacks.
        source: Box<regex::Error>,
    },
    /// A detector's name that cannot be a token's prefix.
    #[error("gateway.masking.detectors: {name:?} is no name; use 1 to 16 lower-case letters")]
    Name {
        /// The name.
        name: String,
    },
    /// A field that is to stay as it is and to be hidden.
    #[error("gateway.masking.exempt_fields: {field} stands in {list}, too; which shall hold?")]
    Both {
        /// The other list.
        list: &'static str,
        /// The field.
        field: String,
    },
    /// A field that an event cannot lack, or whose value cannot be a token.
    #[error("gateway.masking.{list}: {field} cannot be masked so; an event needs its value")]
    Field {
        /// The list.
        list: &'static str,
        /// The field.
        field: String,
    },
}

/// Checked settings: all that the gateway sees.
#[derive(Clone, Debug)]
pub struct GatewayPlan {
    pub(crate) limits: Limits,
    pub(crate) masking: MaskingPlan,
    pub(crate) view_types: Vec<String>,
    pub(crate) buffer_bytes_max: usize,
    pub(crate) future_ms_max: i64,
    pub(crate) no_user_ids: Vec<String>,
}

impl GatewayPlan {
    /// True for a text that is no user's id: one of the list, or nothing that can be seen.
    pub(crate) fn names_nobody(&self, id: &str) -> bool {
        let id = id.trim_matches(crate::mask::is_blank);
        id.is_empty() || self.no_user_ids.iter().any(|known| known.eq_ignore_ascii_case(id))
    }
}

/// Checked masking settings.
#[derive(Clone, Debug)]
pub(crate) struct MaskingPlan {
    pub(crate) emails: bool,
    pub(crate) addresses: AddressMasking,
    pub(crate) tokenise_fields: Vec<String>,
    pub(crate) drop_fields: Vec<String>,
    pub(crate) exempt_fields: Vec<String>,
    pub(crate) detectors: Vec<(String, Regex)>,
}

impl TryFrom<GatewaySettings> for GatewayPlan {
    type Error = SettingsError;

    fn try_from(settings: GatewaySettings) -> Result<Self, SettingsError> {
        let limits = settings.limits;
        let at_least_one = [
            ("limits.body_bytes_max", limits.body_bytes_max),
            ("limits.server_body_bytes_max", limits.server_body_bytes_max),
            ("limits.inflated_bytes_max", limits.inflated_bytes_max),
            ("limits.inflation_ratio_max", limits.inflation_ratio_max),
            ("limits.batch_events_max", limits.batch_events_max),
            ("limits.event_bytes_max", limits.event_bytes_max),
            ("limits.properties_max", limits.properties_max),
            ("limits.string_bytes_max", limits.string_bytes_max),
            ("buffer_bytes_max", settings.buffer_bytes_max),
        ];
        for (name, value) in at_least_one {
            // Sizes travel as 32-bit permits and Avro lengths.
            check_range(name, u64::try_from(value).unwrap_or(u64::MAX), 1, 1 << 31, "1 to 2^31")?;
        }
        let depth = u64::from(limits.depth_max);
        check_range("limits.depth_max", depth, 1, u64::from(DEPTH_MAX_MAX), "1 to 100")?;
        let hour = 3_600_000;
        check_range("future_ms_max", settings.future_ms_max, 0, 24 * hour, "at most a day")?;
        Ok(Self {
            limits,
            masking: settings.masking.try_into()?,
            view_types: settings.view_types,
            buffer_bytes_max: settings.buffer_bytes_max,
            future_ms_max: i64::try_from(settings.future_ms_max).unwrap_or(i64::MAX),
            no_user_ids: settings.no_user_ids.iter().map(|id| id.trim().to_owned()).collect(),
        })
    }
}

impl TryFrom<MaskingSettings> for MaskingPlan {
    type Error = SettingsError;

    fn try_from(settings: MaskingSettings) -> Result<Self, SettingsError> {
        let numbers = ["timestamp", "sent_at", "session_duration_sec", "completed"];
        let needed = ["event_id", "event_type", "properties"];
        for field in &settings.tokenise_fields {
            if numbers.contains(&field.as_str()) || field == "properties" {
                return Err(SettingsError::Field { list: "tokenise_fields", field: field.clone() });
            }
        }
        for field in &settings.drop_fields {
            let key = TextField::from_name(field).is_some_and(TextField::is_user_key);
            if key || field == "timestamp" || needed.contains(&field.as_str()) {
                return Err(SettingsError::Field { list: "drop_fields", field: field.clone() });
            }
        }
        let hidden = [
            ("tokenise_fields", &settings.tokenise_fields),
            ("drop_fields", &settings.drop_fields),
        ];
        for (list, fields) in hidden {
            let is_exempt = |field: &&String| {
                settings.exempt_fields.iter().any(|exempt| exempt.eq_ignore_ascii_case(field))
            };
            if let Some(field) = fields.iter().find(is_exempt) {
                return Err(SettingsError::Both { list, field: field.clone() });
            }
        }
        let mut detectors = Vec::new();
        for Detector { name, pattern } in settings.detectors {
            let fits = (1..=16).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_lowercase());
            if !fits {
                return Err(SettingsError::Name { name });
            }
            match Regex::new(&pattern) {
                Ok(regex) => detectors.push((name, regex)),
                Err(source) => {
                    return Err(SettingsError::Pattern { name, source: Box::new(source) });
                }
            }
        }
        Ok(Self {
            emails: settings.emails,
            addresses: settings.addresses,
            tokenise_fields: settings.tokenise_fields,
            drop_fields: settings.drop_fields,
            exempt_fields: settings.exempt_fields,
            detectors,
        })
    }
}

fn check_range(
    name: &'static str,
    value: u64,
    min: u64,
    max: u64,
    range: &'static str,
) -> Result<(), SettingsError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(SettingsError::Range { name, value, range })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_a_plan() {
        GatewayPlan::try_from(GatewaySettings::default()).unwrap();
    }

    #[test]
    fn an_unknown_setting_and_a_senseless_one_are_refused_by_name() {
        let unknown = serde_json::from_str::<GatewaySettings>(r#"{"body_max":1}"#).unwrap_err();
        assert!(unknown.to_string().contains("body_max"));
        let check = |change: fn(&mut GatewaySettings), name: &str| {
            let mut settings = GatewaySettings::default();
            change(&mut settings);
            let error = GatewayPlan::try_from(settings).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        };
        check(|settings| settings.limits.depth_max = 5_000, "limits.depth_max");
        check(|settings| settings.limits.batch_events_max = 0, "limits.batch_events_max");
        check(|settings| settings.masking.drop_fields = vec!["user_id".to_owned()], "user_id");
        check(
            |settings| settings.masking.tokenise_fields = vec!["completed".to_owned()],
            "completed",
        );
        check(
            |settings| {
                settings.masking.exempt_fields = vec!["Phone".to_owned()];
                settings.masking.tokenise_fields = vec!["phone".to_owned()];
            },
            "tokenise_fields",
        );
        let detector = |name: &str, pattern: &str| {
            vec![Detector { name: name.to_owned(), pattern: pattern.to_owned() }]
        };
        let mut settings = MaskingSettings { detectors: detector("x", "("), ..Default::default() };
        assert!(MaskingPlan::try_from(settings.clone()).is_err());
        settings.detectors = detector("No Name", "a");
        assert!(MaskingPlan::try_from(settings).is_err());
    }
}
