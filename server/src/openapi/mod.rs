//! `/openapi.json` of the whole house: the reading room's document, and the front door's beside it.

#[cfg(any(test, feature = "failpoints"))]
mod declared;
mod refusals;

#[cfg(feature = "failpoints")]
pub(crate) use declared::watch::watched;

use anyhow::{Context, Result};
use serde_json::Value;

/// The front door's paths, schemas and security, which its room does not describe by itself.
const INGEST: &str = include_str!("ingest.json");
/// What the rooms' own documents leave to the house: the page, preflights, the forms of bodies.
const HOUSE: &str = include_str!("house.json");

/// The document as it is sent.
///
/// # Errors
///
/// When a part of it is no JSON, which is a defect of ours.
pub(crate) fn document() -> Result<String> {
    let reading = nilometer_query::openapi(env!("CARGO_PKG_VERSION"))
        .to_json()
        .context("write the reading room's document")?;
    let mut document: Value = serde_json::from_str(&reading).context("read the document")?;
    merge(&mut document, serde_json::from_str(INGEST).context("read ingest.json")?);
    merge(&mut document, serde_json::from_str(HOUSE).context("read house.json")?);
    refusals::complete(&mut document);
    Ok(document.to_string())
}

/// Adds the members of `more`; where both have an object its members are added in turn.
fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                match into.get_mut(&name) {
                    Some(own) => merge(own, value),
                    None => {
                        into.insert(name, value);
                    }
                }
            }
        }
        (into, more) => *into = more,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_path_of_the_interface_is_in_the_document_with_what_it_refers_to() {
        let text = document().unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        for (path, methods) in [
            ("/v1/events", &["post"][..]),
            ("/v1/imports/{name}/events", &["post"]),
            ("/v1/query", &["get", "post"]),
            ("/v1/catalog", &["get"]),
            ("/v1/live", &["get"]),
            ("/v1/snapshot", &["get"]),
            ("/v1/events/{event_id}/trace", &["get"]),
            ("/v1/dead-letters", &["get"]),
            ("/v1/dead-letters/replay", &["post"]),
            ("/v1/pipeline", &["get"]),
            ("/v1/dimensions/{table}", &["get", "put"]),
            ("/v1/session", &["get", "post", "delete"]),
            ("/", &["get"]),
            ("/healthz", &["get"]),
            ("/readyz", &["get"]),
            ("/metrics", &["get"]),
            ("/openapi.json", &["get"]),
        ] {
            for method in methods {
                let operation = &document["paths"][path][method];
                assert!(operation["responses"].is_object(), "{method} {path}");
            }
        }
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let schemes = document["components"]["securitySchemes"].as_object().unwrap();
        for scheme in ["token", "session", "write_key", "write_key_in_query"] {
            assert!(schemes.contains_key(scheme), "{scheme}");
        }
        let referred: BTreeSet<&str> =
            text.split("\"#/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(referred.len() > 3);
        for reference in referred {
            assert!(
                !document.pointer(&format!("/{reference}")).unwrap_or(&Value::Null).is_null(),
                "{reference}"
            );
        }
    }
}
