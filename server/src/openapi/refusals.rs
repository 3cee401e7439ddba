//! What every path may answer besides what it is for: refusals, in one form.

use serde_json::{Map, Value, json};

/// What any path may answer: over a number at once, a defect of ours, busy or starting.
const ANY: [&str; 3] = ["429", "500", "503"];
/// What a path behind a key may answer, too.
const BEHIND_A_KEY: [&str; 2] = ["401", "403"];

/// What a path that reads a body may answer, too: it came too slowly.
const WITH_A_BODY: &str = "408";

/// Gives every answer a description, and every refusal its content type.
pub(super) fn complete(document: &mut Value) {
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else { return };
    let operations = paths.values_mut().filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    for operation in operations.filter_map(Value::as_object_mut) {
        let keys = operation.get("security").map_or(0, to_sign_in);
        if keys > 0 && operation["tags"][0] != "ingest" {
            operation.insert("security".to_owned(), json!([{"token": []}, {"session": []}]));
        }
        let has_body = operation.contains_key("requestBody");
        let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else {
            continue;
        };
        let mut common = ANY.to_vec();
        if keys > 0 {
            common.extend(BEHIND_A_KEY);
        }
        if has_body {
            common.push(WITH_A_BODY);
        }
        for status in common {
            responses.entry(status).or_insert(Value::Null);
        }
        for (status, response) in responses {
            finish(status, response);
        }
    }
}

/// How many ways there are to show who one is; none where anybody may come in.
fn to_sign_in(security: &Value) -> usize {
    security.as_array().map_or(0, |ways| {
        let open = ways.iter().any(|way| way.as_object().is_none_or(Map::is_empty));
        if open { 0 } else { ways.len() }
    })
}

fn finish(status: &str, response: &mut Value) {
    let is_refusal = status.starts_with('4') || status.starts_with('5');
    if response.get("$ref").is_some() {
        return;
    }
    let said = response.get("description").and_then(Value::as_str).unwrap_or_default();
    if is_refusal && said.is_empty() {
        let kind = if matches!(status, "429" | "503") { "Wait" } else { "Problem" };
        *response = json!({"$ref": format!("#/components/responses/{kind}")});
        return;
    }
    let said = if said.is_empty() { "The answer." } else { said }.to_owned();
    response["description"] = said.into();
    if is_refusal {
        response["content"] = json!({
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDoc"}}
        });
    }
}
