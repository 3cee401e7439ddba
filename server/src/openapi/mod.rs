//! `/openapi.json` of the whole house: the reading room's document, and the front door's beside it.

#[cfg(any(test, feature = "failpoints"))]
mod declared;
mod refusals;

#[cfg(feature = "failpoints")]
pub(crate) use declared::watch::watched;

use anyhow::{Context, Result};
use nilometer_stream::declare::Plan;
use serde_json::Value;

/// The front door's paths, schemas and security, which its room does not describe by itself.
const INGEST: &str = include_str!("ingest.json");
/// What the reading room's own document leaves to the house: forms of bodies and of parameters,
/// headers, and which answer leads to which request.
const READING: &str = include_str!("reading.json");
/// What is said of a parameter wherever it stands: utoipa keeps none of it beside a schema that is
/// named.
const PARAMETERS: &str = include_str!("parameters.json");
/// The page, preflights, and what is no JSON.
const HOUSE: &str = include_str!("house.json");

/// The document as it is sent, with the names of `plan` where there is one.
///
/// # Errors
///
/// When a part of it is no JSON, which is a defect of ours.
pub(crate) fn document(plan: Option<&Plan>) -> Result<String> {
    let reading = nilometer_query::openapi(env!("CARGO_PKG_VERSION"))
        .to_json()
        .context("write the reading room's document")?;
    let mut document: Value = serde_json::from_str(&reading).context("read the document")?;
    merge(&mut document, serde_json::from_str(INGEST).context("read ingest.json")?);
    merge(&mut document, serde_json::from_str(READING).context("read reading.json")?);
    merge(&mut document, serde_json::from_str(HOUSE).context("read house.json")?);
    let said = serde_json::from_str(PARAMETERS).context("read parameters.json")?;
    say_of_parameters(&mut document, &said);
    refusals::complete(&mut document);
    if let Some(plan) = plan {
        let schemas = &mut document["components"]["schemas"];
        schemas["MetricName"]["enum"] =
            plan.metrics.iter().map(|metric| metric.name.as_str()).collect();
        schemas["DimensionName"]["enum"] =
            plan.dimensions.iter().map(|dimension| dimension.name.as_str()).collect();
    }
    Ok(document.to_string())
}

/// Gives every parameter of a URL what `said` has under its name.
fn say_of_parameters(document: &mut Value, said: &Value) {
    let paths = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    let operations = paths.filter_map(Value::as_object_mut).flat_map(|item| item.values_mut());
    let parameters = operations
        .filter_map(|operation| operation.get_mut("parameters").and_then(Value::as_array_mut));
    for parameter in parameters.flatten().filter(|parameter| parameter["in"] == "query") {
        let name = parameter["name"].as_str().unwrap_or_default();
        if let Some(more) = said.get(name).cloned() {
            merge(parameter, more);
        }
    }
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
        let text = document(None).unwrap();
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

    fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
        let paths = document["paths"].as_object().unwrap().iter();
        paths.flat_map(|(path, item)| {
            let own = item.as_object().unwrap().iter();
            own.map(move |(method, operation)| (format!("{method} {path}"), operation))
        })
    }

    fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
        let reference = value["$ref"].as_str().and_then(|text| text.strip_prefix('#'));
        reference.map_or(value, |pointer| document.pointer(pointer).unwrap())
    }

    #[test]
    fn every_operation_names_each_refusal_who_may_come_in_and_where_its_answers_lead() {
        let document: Value = serde_json::from_str(&document(None).unwrap()).unwrap();
        let ids: BTreeSet<&str> = operations(&document)
            .map(|(name, operation)| operation["operationId"].as_str().expect(&name))
            .collect();
        let (mut seen, mut links) = (BTreeSet::new(), 0);
        for (name, operation) in operations(&document) {
            let ways: Vec<BTreeSet<&str>> = operation["security"]
                .as_array()
                .unwrap_or_else(|| panic!("{name} does not say who may come in"))
                .iter()
                .map(|way| way.as_object().unwrap().keys().map(String::as_str).collect())
                .collect();
            let is_ingest = operation["tags"][0] == "ingest";
            let is_closed = !ways.is_empty() && !ways.contains(&BTreeSet::new());
            if is_closed && !is_ingest {
                assert_eq!(
                    ways,
                    [BTreeSet::from(["token"]), BTreeSet::from(["session"])],
                    "{name}"
                );
            }
            let mut wanted = vec!["400", "408", "414", "429", "431", "500", "503"];
            wanted.extend(is_closed.then_some(["401", "403"]).into_iter().flatten());
            wanted.extend((!operation["requestBody"].is_null()).then_some("413"));
            let responses = operation["responses"].as_object().unwrap();
            for status in wanted {
                assert!(responses.contains_key(status), "{name} does not name {status}");
            }
            assert!(responses.keys().any(|status| status.as_str() < "400"), "{name}");
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let parameter = resolved(&document, parameter);
                let is_said = parameter["description"].is_string() || name == "get /v1/live";
                assert!(is_said, "{name}: {parameter}");
            }
            for (status, response) in responses {
                let response = resolved(&document, response);
                assert!(response["description"].is_string(), "{name} {status}");
                for link in response["links"].as_object().into_iter().flat_map(|all| all.values()) {
                    assert!(ids.contains(link["operationId"].as_str().unwrap()), "{name}: {link}");
                    links += 1;
                }
                if status.as_str() >= "400" {
                    let content = response["content"].as_object().unwrap();
                    assert_eq!(content.len(), 1, "{name} {status}");
                    let schema = &content[nilometer_access::PROBLEM_TYPE]["schema"];
                    let parts = resolved(&document, schema)["allOf"].as_array().unwrap();
                    let told = &parts.last().unwrap()["properties"];
                    assert_eq!(told["status"]["const"].to_string(), *status, "{name}");
                    seen.insert(told["code"]["enum"].to_string());
                }
                if matches!(status.as_str(), "429" | "503") {
                    assert!(response["headers"]["Retry-After"].is_object(), "{name} {status}");
                }
            }
        }
        assert!(links >= 15, "{links} links");
        // A method that a path does not know is no operation of it.
        let of_operations = nilometer_access::CODES.iter().filter(|(status, _)| *status != 405);
        assert_eq!(seen.len(), of_operations.count(), "{seen:?}");
    }

    #[test]
    fn a_question_has_the_same_bounds_in_a_body_as_in_a_url() {
        let document: Value = serde_json::from_str(&document(None).unwrap()).unwrap();
        let parameters = document["paths"]["/v1/query"]["get"]["parameters"].as_array().unwrap();
        let required: Vec<&Value> = parameters
            .iter()
            .filter(|one| one["required"] == true)
            .map(|one| &one["name"])
            .collect();
        assert_eq!(required, ["metrics"]);
        let body = &document["components"]["schemas"]["QueryBody"]["properties"];
        for (name, kind, bounds) in [
            ("metrics", "array", &["minItems", "maxItems", "items"][..]),
            ("group_by", "array", &["minItems", "maxItems", "items"]),
            ("order_by", "array", &["minItems", "maxItems", "items"]),
            ("limit", "integer", &["minimum", "maximum"]),
        ] {
            let url = &parameters.iter().find(|one| one["name"] == name).unwrap()["schema"];
            let ways = body[name]["anyOf"].as_array().unwrap();
            let json = ways.iter().find(|way| way["type"] == kind).unwrap();
            for bound in bounds {
                assert_eq!(url[*bound], json[*bound], "{bound} of {name}");
            }
        }
    }
}
