//! What is wrong with a setting, in our words: which key, what was expected, what was found, and
//! where it was written.

use figment::Error;
use figment::error::{Actual, Kind};

use super::{DEFAULTS, ranges};

/// Reads what the settings' reader says of one file or variable.
pub(super) fn words(error: Error) -> String {
    let faults: Vec<String> = error.into_iter().map(|fault| of_one(&fault)).collect();
    format!("configuration: {}", faults.join("; "))
}

fn of_one(error: &Error) -> String {
    let path: Vec<String> = error.path.iter().map(|part| part.to_lowercase()).collect();
    let key = key(&path);
    let source = source(error, &path);
    match &error.kind {
        Kind::UnknownField(name, known) => unknown(&key, &name.to_lowercase(), known, &source),
        Kind::InvalidType(found, said) | Kind::InvalidValue(found, said) => {
            format!("{key}: expected {}, found {}{source}", expected(&path, said), shown(found))
        }
        Kind::Unsupported(found) => format!("{key}: {} does not fit{source}", shown(found)),
        Kind::ISizeOutOfRange(number) => format!("{key}: {number} is out of range{source}"),
        Kind::USizeOutOfRange(number) => format!("{key}: {number} is out of range{source}"),
        Kind::UnknownVariant(found, known) => {
            format!("{key}: expected one of {}, found {found:?}{source}", known.join(", "))
        }
        Kind::MissingField(name) => format!("{key}: {name} is missing{source}"),
        Kind::DuplicateField(name) => format!("{key}: {name} stands twice{source}"),
        Kind::InvalidLength(length, _) => format!("{key}: {length} values do not fit{source}"),
        Kind::UnsupportedKey(found, _) => format!("{key}: {} is no key{source}", shown(found)),
        // What TOML says of a file that is none: with the place, and the line itself.
        Kind::Message(text) if key.is_empty() => format!("{}{source}", text.trim_end()),
        Kind::Message(text) => format!("{key}: {}{source}", text.trim_end()),
    }
}

/// `log.partitions`; `[[metric]] number 2, filter` for a declaration.
fn key(path: &[String]) -> String {
    let [list, index, rest @ ..] = path else { return path.join(".") };
    match index.parse::<usize>() {
        Ok(index) => {
            let inner: String = rest.iter().map(|part| format!(", {part}")).collect();
            format!("[[{list}]] number {}{inner}", index + 1)
        }
        Err(_no_list) => path.join("."),
    }
}

/// ` (file nilometer.toml)` or ` (NILOMETER_LOG__PARTITIONS)`; empty for a flag.
fn source(error: &Error, path: &[String]) -> String {
    let Some(metadata) = &error.metadata else { return String::new() };
    match &metadata.source {
        Some(figment::Source::File(file)) => format!(" (file {})", file.display()),
        _ if metadata.name.contains("environment") => {
            format!(" (NILOMETER_{})", path.join("__").to_uppercase())
        }
        _ => String::new(),
    }
}

fn unknown(key: &str, name: &str, known: &[&str], source: &str) -> String {
    let near = known.iter().map(|known| (strsim::damerau_levenshtein(name, known), known)).min();
    let hint = match near {
        Some((far, near)) if far <= 1 + name.len() / 4 => format!("did you mean {near}?"),
        _ => format!("there are {}", known.join(", ")),
    };
    let place = match key.rsplit_once('.').map_or(key, |(section, _)| section) {
        "" | "default" => "of the configuration".to_owned(),
        section if section == name => "of the configuration".to_owned(),
        section => format!("of {section}"),
    };
    format!("`{name}` is no setting {place}; {hint}{source}")
}

/// What a setting is, by its default.
fn expected(path: &[String], said: &str) -> String {
    let key = path.join(".");
    if let Some(range) = ranges::range(&key) {
        return format!("a whole number from {}", ranges::shown(range));
    }
    let defaults: toml_edit::DocumentMut = DEFAULTS.parse().unwrap_or_default();
    let default = match path {
        [section, name] => defaults.get(section).and_then(|section| section.get(name)),
        _ => None,
    };
    let kind = match default {
        Some(default) if default.is_bool() => "true or false",
        Some(default) if default.is_array() => "a list, such as [\"a\", \"b\"]",
        Some(_) => "text",
        None => of_type(said),
    };
    kind.to_owned()
}

/// A type of ours as people call it; of declarations, which have no defaults.
fn of_type(said: &str) -> &'static str {
    match said.trim_start_matches("a ").trim_start_matches("an ") {
        "string" | "str" => "text",
        "sequence" | "seq" => "a list, such as [\"a\", \"b\"]",
        "boolean" | "bool" => "true or false",
        "f32" | "f64" => "a number",
        said if said.starts_with('u') || said.starts_with('i') => "a whole number",
        _ => "a table of keys",
    }
}

fn shown(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Str(text) => format!("{text:?}"),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        _ => "something else".to_owned(),
    }
}
