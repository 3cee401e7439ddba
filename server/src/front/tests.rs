//! Answers through the front, as clients of every kind see them.

use std::io::Read;

use axum::routing::get;
use http::header::ACCESS_CONTROL_REQUEST_HEADERS;
use tower::ServiceExt;

use super::*;

const ORIGIN_ALLOWED: &str = "https://board.example";

fn app() -> Router {
    let long = "{\"rows\":".to_owned() + &"[1,2,3]".repeat(400) + "}";
    let json = |body: String| ([(CONTENT_TYPE, "application/json"), (ETAG, "\"7\"")], body);
    let short = json("{}".to_owned());
    let large = json(format!("[{}0]", "123456789,".repeat(40_000)));
    let long = json(long);
    let packed = [(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "br")];
    let page = [(CONTENT_SECURITY_POLICY, "default-src 'self'"), (CACHE_CONTROL, "no-cache")];
    let rooms = Router::new()
        .route("/long", get(move || async move { long }))
        .route("/short", get(move || async move { short }))
        .route("/large", get(move || async move { large }))
        .route("/packed", get(move || async move { (packed, "x".repeat(5_000)) }))
        .route("/known", get(|| async { (StatusCode::NOT_MODIFIED, [(ETAG, "W/\"7\"")]) }))
        .route("/asset", get(|| async { (StatusCode::NOT_MODIFIED, [(ETAG, "\"7-br\"")]) }))
        .route("/page", get(move || async move { (page, "y".repeat(5_000)) }));
    before(last_word(rooms), vec![format!("{ORIGIN_ALLOWED}/")], Buffers::new(64 << 20))
}

async fn ask(method: Method, path: &str, headers: &[(HeaderName, &str)]) -> (Response, Vec<u8>) {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let (parts, body) = app().oneshot(request).await.unwrap().into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    (Response::from_parts(parts, Body::empty()), bytes.to_vec())
}

#[tokio::test]
async fn long_json_is_compressed_as_the_client_takes_it_and_reads_back() {
    for path in ["/long", "/large"] {
        let (answer, plain) = ask(Method::GET, path, &[]).await;
        assert!(!answer.headers().contains_key(CONTENT_ENCODING));
        let cases = [
            ("gzip, deflate, br", Some("gzip")),
            ("gzip, zstd;q=0.5", Some("zstd")),
            ("zstd;q=0, gzip;q=0.1", Some("gzip")),
            ("gzip;q=0", None),
            ("br", None),
        ];
        for (accepted, coding) in cases {
            let (answer, body) = ask(Method::GET, path, &[(ACCEPT_ENCODING, accepted)]).await;
            let found = answer.headers().get(CONTENT_ENCODING).map(|it| it.to_str().unwrap());
            assert_eq!(found, coding, "{accepted}");
            let read = match coding {
                Some("zstd") => zstd::decode_all(&*body).unwrap(),
                Some(_) => {
                    let mut read = Vec::new();
                    flate2::read::GzDecoder::new(&*body).read_to_end(&mut read).unwrap();
                    read
                }
                None => body.clone(),
            };
            assert_eq!(read, plain, "{accepted}");
            assert!(coding.is_none() || body.len() * 4 < plain.len());
            assert_eq!(answer.headers()[VARY], "origin");
            assert!(answer.headers().get_all(VARY).iter().any(|it| it == "accept-encoding"));
            assert_eq!(answer.headers()[ETAG], "W/\"7\"", "one tag for every encoding is weak");
        }
    }
}

#[tokio::test]
async fn what_the_client_has_already_varies_as_what_it_has() {
    for (path, tag, varies) in [("/known", "W/\"7\"", true), ("/asset", "\"7-br\"", false)] {
        let (answer, _) = ask(Method::GET, path, &[(ACCEPT_ENCODING, "gzip, zstd")]).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()[ETAG]),
            (304, &tag.parse().unwrap())
        );
        let mut vary = answer.headers().get_all(VARY).iter();
        assert_eq!(vary.any(|it| it == "accept-encoding"), varies, "{path}");
    }
}

#[tokio::test]
async fn short_answers_pages_and_what_is_compressed_already_stay_as_they_are() {
    for path in ["/short", "/page", "/packed"] {
        let (_, plain) = ask(Method::GET, path, &[]).await;
        let (answer, body) = ask(Method::GET, path, &[(ACCEPT_ENCODING, "gzip, zstd")]).await;
        assert_eq!(body, plain, "{path}");
        assert_eq!(answer.headers().contains_key(CONTENT_ENCODING), path == "/packed");
    }
}

#[tokio::test]
async fn every_answer_is_dressed_and_pages_keep_their_own_policy() {
    for (path, policy, cache) in [
        ("/short", "default-src 'none'; frame-ancestors 'none'", "no-store"),
        ("/nothing", "default-src 'none'; frame-ancestors 'none'", "no-store"),
        ("/page", "default-src 'self'", "no-cache"),
    ] {
        let (answer, _) = ask(Method::GET, path, &[]).await;
        assert_eq!(answer.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
        assert_eq!(answer.headers()[CONTENT_SECURITY_POLICY], policy, "{path}");
        assert_eq!(answer.headers()[CACHE_CONTROL], cache, "{path}");
        assert_eq!(answer.headers()[RESOURCE_POLICY], "same-origin", "{path}");
    }
}

#[tokio::test]
async fn what_is_not_here_is_a_problem_that_repeats_no_address() {
    let (answer, body) = ask(Method::GET, "/look/jane@example.org/10.1.2.3", &[]).await;
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json");
    let text = String::from_utf8(body).unwrap();
    assert!(text.contains("\"code\":\"not_found\""), "{text}");
    assert!(!text.contains("jane@example.org") && !text.contains("10.1.2.3"), "{text}");
    let (answer, body) = ask(Method::POST, "/page", &[]).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()[ALLOW]),
        (405, &"GET,HEAD".parse().unwrap())
    );
    assert!(String::from_utf8(body).unwrap().contains("method_not_allowed"));
}

#[tokio::test]
async fn options_says_what_a_path_takes_and_admits_allowed_origins_alone() {
    let (answer, body) = ask(Method::OPTIONS, "/short", &[]).await;
    assert_eq!((answer.status().as_u16(), body.len()), (204, 0));
    assert_eq!(answer.headers()[ALLOW], "GET,HEAD");
    assert!(!answer.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    let (answer, _) = ask(Method::OPTIONS, "/short", &[(ORIGIN, ORIGIN_ALLOWED)]).await;
    assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], ORIGIN_ALLOWED);
    assert!(
        answer.headers()[ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().contains("authorization")
    );
    // A page that is allowed may be traced, too.
    let asked = [
        (ORIGIN, ORIGIN_ALLOWED),
        (ACCESS_CONTROL_REQUEST_HEADERS, "authorization,traceparent,x-datadog-trace-id"),
    ];
    let (answer, _) = ask(Method::OPTIONS, "/short", &asked).await;
    let allowed = answer.headers()[ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
    assert!(allowed.contains("traceparent") && allowed.contains("x-datadog-trace-id"), "{allowed}");
    assert!(!answer.headers().contains_key("access-control-allow-credentials"));
    for method in [Method::OPTIONS, Method::GET] {
        let (answer, _) = ask(method, "/short", &[(ORIGIN, "https://evil.example")]).await;
        assert!(!answer.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    }
    let (answer, _) = ask(Method::OPTIONS, "/nothing", &[]).await;
    assert_eq!(answer.status(), 404);
}

#[tokio::test]
async fn head_has_the_headers_and_no_body() {
    let (answer, body) = ask(Method::HEAD, "/long", &[(ACCEPT_ENCODING, "gzip")]).await;
    assert_eq!((answer.status().as_u16(), body.len()), (200, 0));
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
}
