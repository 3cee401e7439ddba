//! What every path may answer besides what it is for: refusals, in one form. Their codes are those
//! of `nilometer_access::CODES`, so that a new one is in the document by itself.

use nilometer_access::{CODES, PROBLEM_TYPE};
use serde_json::{Map, Value, json};

/// What any path may answer: before it is known what is asked for, over a number at once, a defect
/// of ours, busy or starting.
const ANY: [&str; 7] = ["400", "408", "414", "429", "431", "500", "503"];
/// What a path behind a key may answer, too.
const BEHIND_A_KEY: [&str; 2] = ["401", "403"];
/// What a path that reads a body may answer, too.
const WITH_A_BODY: [&str; 1] = ["413"];

/// What a refusal of each status says.
const WORDS: [(u16, &str); 13] = [
    (400, "The request cannot be read, or asks for what there is not."),
    (401, "No key, or one that opens nothing (any more)."),
    (403, "A good key without the right, or a page of an origin that may not."),
    (404, "There is no such thing."),
    (405, "The path does not know this method."),
    (408, "The head of the request, or its body, came too slowly."),
    (413, "A body, or a batch, over a limit, which is named with its value."),
    (414, "The address is too long: send a long query as the body of POST /v1/query."),
    (415, "A content type, or an encoding, that the path does not read."),
    (
        429,
        "Over a limit of this client: wait for Retry-After. Without one no time helps: something \
           of the client's has to end first.",
    ),
    (431, "Headers too large, or too many."),
    (500, "A defect of ours; the server's log says more."),
    (503, "The server cannot now: the same request again is safe, after Retry-After."),
];

/// Gives every operation the refusals that it has beside its own, and every refusal its form.
pub(super) fn complete(document: &mut Value) {
    for (status, codes) in CODES {
        let (response, schema) = forms(status, codes);
        let name = format!("Problem{status}");
        document["components"]["responses"][&name] = response;
        document["components"]["schemas"][&name] = schema;
    }
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else { return };
    let operations = paths.values_mut().filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    for operation in operations.filter_map(Value::as_object_mut) {
        // Whoever may come in without a key: the document says so in words.
        let security = operation.entry("security").or_insert_with(|| json!([]));
        let (is_closed, has_body) = (needs_key(security), operation.contains_key("requestBody"));
        let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else {
            continue;
        };
        let own = if is_closed { &BEHIND_A_KEY[..] } else { &[] };
        let of_body = if has_body { &WITH_A_BODY[..] } else { &[] };
        for status in ANY.iter().chain(own).chain(of_body) {
            responses.entry(*status).or_insert(Value::Null);
        }
        for (status, response) in responses {
            finish(status, response);
        }
    }
}

/// Whether nobody comes in without a key: no way of signing in is the empty one.
fn needs_key(security: &Value) -> bool {
    let ways = security.as_array().map(Vec::as_slice).unwrap_or_default();
    !ways.is_empty() && ways.iter().all(|way| way.as_object().is_some_and(|way| !way.is_empty()))
}

/// The response of a status, and the schema of its body.
fn forms(status: u16, codes: &[&str]) -> (Value, Value) {
    let words =
        WORDS.iter().find(|(own, _)| *own == status).map_or("A refusal.", |(_, words)| words);
    let schema = format!("#/components/schemas/Problem{status}");
    let mut response = json!({
        "description": words,
        "content": {PROBLEM_TYPE: {"schema": {"$ref": schema}}},
    });
    let header = match status {
        401 => Some("WWW-Authenticate"),
        429 | 503 => Some("Retry-After"),
        _ => None,
    };
    if let Some(name) = header {
        response["headers"] = json!({name: {"$ref": format!("#/components/headers/{name}")}});
    }
    let schema = json!({
        "allOf": [
            {"$ref": "#/components/schemas/ProblemDoc"},
            {"properties": {"status": {"const": status}, "code": {"enum": codes}}},
        ],
    });
    (response, schema)
}

/// A refusal is the one of its status, with words of its own where the operation has some.
fn finish(status: &str, response: &mut Value) {
    if response.get("$ref").is_some() {
        return;
    }
    let is_refusal = status.starts_with('4') || status.starts_with('5');
    let said = response.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    if is_refusal {
        *response = json!({"$ref": format!("#/components/responses/Problem{status}")});
        if !said.is_empty() {
            response["description"] = said.into();
        }
    } else if said.is_empty() {
        response["description"] = "The answer.".into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_a_refusal_has_words() {
        for ((status, _), (told, _)) in CODES.into_iter().zip(WORDS) {
            assert_eq!(status, told);
        }
    }
}
