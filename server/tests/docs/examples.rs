//! Every example, as a newcomer runs it: in an empty folder, from top to bottom.

use std::path::Path;

use serde_json::Value;

use crate::page::Page;
use crate::run::{Request, Run, Step, is_as_shown};

#[test]
fn the_readmes_examples_run_in_a_fresh_folder_as_a_newcomer_runs_them() {
    check(&Run::of(&Page::read("README.md"), ""), 8);
}

#[test]
fn the_interfaces_examples_run_and_their_answers_fit_the_openapi_document() {
    let run = Run::of(&Page::read("docs/api.md"), "nilometer serve >/dev/null");
    // For the validator that is not ours: ./test openapi.
    let published = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openapi.json");
    std::fs::write(published, run.openapi.to_string()).unwrap();
    check(&run, 12);
}

#[test]
fn the_operators_examples_run() {
    check(&Run::of(&Page::read("docs/operations.md"), ""), 5);
}

fn check(run: &Run, steps_min: usize) {
    assert!(run.steps.len() >= steps_min, "{} steps were found", run.steps.len());
    for (index, step) in run.steps.iter().enumerate() {
        let Step { place, commands, stdout, .. } = step;
        if let Some(shown) = &step.shown {
            assert!(
                is_as_shown(shown, stdout),
                "{place}\n{commands}\nshown    {shown}\nanswered {stdout}"
            );
        }
        for request in &step.requests {
            fits(run, step, request);
        }
        // A block of JSON after the last stretch of a block shows its form.
        let is_last = run.steps.get(index + 1).is_none_or(|next| next.place != *place);
        if is_last && let Some(shown) = json_after(run, place) {
            let answered: Value =
                serde_json::from_str(stdout).unwrap_or_else(|_| panic!("{place}: {stdout}"));
            contains(place, &shown, &answered);
        }
    }
}

/// The JSON block that follows the shell block at `place`.
fn json_after(run: &Run, place: &str) -> Option<Value> {
    let line: usize = place.rsplit_once(':')?.1.parse().ok()?;
    let at = run.blocks.iter().position(|block| block.line == line)?;
    let next = run.blocks.get(at + 1)?;
    let text_between = next.line - (line + run.blocks[at].text.lines().count());
    let is_next = next.language == "json" && text_between <= 3;
    is_next.then(|| serde_json::from_str(&next.text).unwrap())
}

/// Every member that the page shows is there, in the same type.
fn contains(place: &str, shown: &Value, answered: &Value) {
    match (shown, answered) {
        // Nothing is approximate in a house that is new.
        (Value::Object(_), Value::Object(answered)) if answered.is_empty() => {}
        (Value::Object(shown), Value::Object(answered)) => {
            for (name, value) in shown {
                let there = answered
                    .get(name)
                    .unwrap_or_else(|| panic!("{place}: no {name} in {answered:?}"));
                contains(place, value, there);
            }
        }
        (Value::Array(shown), Value::Array(answered)) => {
            if let (Some(shown), Some(answered)) = (shown.first(), answered.first()) {
                contains(place, shown, answered);
            }
        }
        (Value::Null, _) | (_, Value::Null) => {}
        (shown, answered) => {
            let same = std::mem::discriminant(shown) == std::mem::discriminant(answered);
            assert!(same, "{place}: {shown} is shown, {answered} was answered");
        }
    }
}

/// The status and the type are declared, and the body fits its schema.
fn fits(run: &Run, step: &Step, request: &Request) {
    let Request { method, path, status, kind, .. } = request;
    let place = format!("{} {method} {path} {status} {kind}", step.place);
    assert_ne!(*status, 0, "{place}: no answer");
    let shows_refusal = step.shown.as_ref().is_some_and(|shown| shown.contains("\"status\":"));
    assert!(*status < 400 || shows_refusal, "{place}: {}", step.stdout);
    let paths = run.openapi["paths"].as_object().unwrap();
    let same = |template: &str| {
        let (template, path): (Vec<_>, Vec<_>) =
            (template.split('/').collect(), path.split('/').collect());
        template.len() == path.len()
            && template
                .iter()
                .zip(&path)
                .all(|(part, given)| part == given || part.starts_with('{'))
    };
    let item = paths
        .get(path)
        .or_else(|| paths.iter().find(|(template, _)| same(template)).map(|(_, item)| item));
    let operation = &item.unwrap_or_else(|| panic!("{place}: no such path"))[method.to_lowercase()];
    let mut response = &operation["responses"][status.to_string()];
    if let Some(reference) = response["$ref"].as_str() {
        response = run.openapi.pointer(reference.trim_start_matches('#')).unwrap();
    }
    assert!(response.is_object(), "{place}: not declared");
    if let Some(sent) = &request.body {
        let mut taken = &operation["requestBody"];
        if let Some(reference) = taken["$ref"].as_str() {
            taken = run.openapi.pointer(reference.trim_start_matches('#')).unwrap();
        }
        is_valid(run, &place, &taken["content"]["application/json"]["schema"], sent);
    }
    let sole = step.requests.len() == 1 && step.stdout.trim_start().starts_with('{');
    if !sole || !kind.contains("json") {
        return;
    }
    let body: Value = serde_json::from_str(&step.stdout).unwrap();
    is_valid(run, &place, &response["content"][kind.as_str()]["schema"], &body);
}

fn is_valid(run: &Run, place: &str, schema: &Value, body: &Value) {
    assert!(schema.is_object(), "{place}: no schema");
    let mut whole = schema.clone();
    whole["components"] = run.openapi["components"].clone();
    let validator = jsonschema::validator_for(&whole).unwrap();
    let faults: Vec<String> = validator
        .iter_errors(body)
        .map(|fault| format!("{fault} at {}", fault.instance_path))
        .collect();
    assert!(faults.is_empty(), "{place}: {faults:?}\n{body}");
}
