//! Whether the document declares an answer. Builds for tests look at every answer that they give,
//! and end at one that it does not: so every end-to-end test is one of the document, too.

use http::{HeaderMap, Method, StatusCode, header};
use serde_json::Value;

/// Checks one answer to `method` of `path`.
///
/// # Errors
///
/// What the document says instead.
pub(super) fn declared(
    document: &Value,
    method: &Method,
    path: &str,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<(), String> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let given = given.map(|kind| kind.split(';').next().unwrap_or(kind).trim());
    let told = |what: &str| {
        Err(format!("{method} {path} answered {} ({given:?}): {what}", status.as_u16()))
    };
    let name = if *method == Method::HEAD { "get" } else { &method.as_str().to_lowercase() };
    let operation = template(document, path).map(|item| &item[name]).filter(|it| it.is_object());
    let Some(operation) = operation else {
        // A page's files, what browsers ask before they read, and paths that are not there.
        let is_file = !path.starts_with("/v1") && !status.is_server_error();
        let refused = status.is_client_error() || status.is_server_error();
        return match (is_file || *method == Method::OPTIONS, refused) {
            (_, true) if given == Some(nilometer_access::PROBLEM_TYPE) => Ok(()),
            (_, true) => told("a refusal is a problem"),
            (true, false) => Ok(()),
            (false, false) => told("the document has no such operation"),
        };
    };
    let response = resolved(document, &operation["responses"][status.as_str()]);
    if !response.is_object() {
        return told("the operation does not declare the status");
    }
    let kinds: Vec<&str> = response["content"]
        .as_object()
        .map(|content| content.keys().map(String::as_str).collect())
        .unwrap_or_default();
    match given {
        Some(given) if kinds.contains(&given) => Ok(()),
        None if kinds.is_empty() => Ok(()),
        // The page's 304 repeats the type of what is not sent.
        Some(_) if status == StatusCode::NOT_MODIFIED => Ok(()),
        _ => told(&format!("the status is declared with {kinds:?}")),
    }
}

/// What the document has for `path`: by its own name first, then by one with parameters.
fn template<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    let paths = document["paths"].as_object()?;
    paths
        .get(path)
        .or_else(|| paths.iter().find(|(template, _)| fits(template, path)).map(|(_, item)| item))
}

fn fits(template: &str, path: &str) -> bool {
    let (mut template, mut path) = (template.split('/'), path.split('/'));
    loop {
        match (template.next(), path.next()) {
            (None, None) => return true,
            (Some(part), Some(given)) if part == given => {}
            (Some(part), Some(given)) if part.starts_with('{') && !given.is_empty() => {}
            _ => return false,
        }
    }
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).unwrap_or(&Value::Null),
        None => value,
    }
}

#[cfg(feature = "failpoints")]
pub(super) mod watch {
    use std::sync::OnceLock;

    use axum::Router;
    use axum::extract::Request;
    use axum::middleware::{Next, from_fn};
    use axum::response::Response;
    use serde_json::Value;

    static DOCUMENT: OnceLock<Value> = OnceLock::new();

    /// Ends the process at the first answer that the document does not declare.
    pub(crate) fn watched(router: Router) -> Router {
        router.layer(from_fn(watch))
    }

    async fn watch(request: Request, next: Next) -> Response {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = next.run(request).await;
        let document = DOCUMENT.get_or_init(|| {
            let text = super::super::document(None).unwrap_or_default();
            serde_json::from_str(&text).unwrap_or_default()
        });
        let (status, headers) = (response.status(), response.headers());
        if let Err(told) = super::declared(document, &method, &path, status, headers) {
            tracing::error!("openapi.json: {told}");
            crate::logging::flush();
            std::process::abort();
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(method: &str, path: &str, status: u16, kind: &str) -> Result<(), String> {
        let document = json!({
            "paths": {
                "/v1/a": {
                    "get": {"responses": {
                        "200": {"content": {"application/json": {}}},
                        "304": {"description": "unchanged"},
                        "400": {"$ref": "#/components/responses/Problem"},
                    }},
                },
                "/v1/{x}/b": {"get": {"responses": {"204": {"description": "done"}}}},
            },
            "components": {"responses": {"Problem": {"content": {"application/problem+json": {}}}}},
        });
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        declared(&document, &method.parse().unwrap(), path, status, &headers)
    }

    #[test]
    fn what_is_declared_passes_and_another_status_type_or_operation_does_not() {
        let problem = "application/problem+json";
        for (method, path, status, kind) in [
            ("GET", "/v1/a", 200, "application/json; charset=utf-8"),
            ("HEAD", "/v1/a", 200, "application/json"),
            ("GET", "/v1/a", 304, ""),
            ("GET", "/v1/a", 400, problem),
            ("GET", "/v1/1/b", 204, ""),
            ("POST", "/v1/a", 405, problem),
            ("GET", "/v1/no", 404, problem),
            ("OPTIONS", "/v1/a", 204, ""),
            ("GET", "/app.js", 200, "text/javascript"),
        ] {
            assert_eq!(told(method, path, status, kind), Ok(()), "{method} {path} {status}");
        }
        for (method, path, status, kind) in [
            ("GET", "/v1/a", 201, "application/json"),
            ("GET", "/v1/a", 200, "text/plain"),
            ("GET", "/v1/a", 200, ""),
            ("GET", "/v1/a", 400, "application/json"),
            ("GET", "/v1/1/b", 204, "text/plain"),
            ("POST", "/v1/a", 200, "application/json"),
            ("GET", "/v1/no", 404, "text/plain"),
            ("GET", "/v1//b", 204, ""),
            ("GET", "/app.js", 404, "text/plain"),
        ] {
            assert!(told(method, path, status, kind).is_err(), "{method} {path} {status}");
        }
    }
}
