//! What is seen of a house that is not open yet.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ORIGIN, RETRY_AFTER,
};

use super::*;

const SHOP: &str = "https://shop.example";
const BOARD: &str = "https://board.example";

/// What a closed house whose board may read answers to a page of `origin`.
async fn seen(method: Method, path: &str, origin: &str) -> Response<Body> {
    let mut settings = config::load(&Sources::default()).unwrap();
    settings.server.allowed_origins = vec![BOARD.to_owned()];
    let door = front_door(&settings, &Arc::default(), Buffers::new(1 << 20));
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    request.headers_mut().insert(ORIGIN, origin.parse().unwrap());
    let asked = "authorization,content-type,traceparent".parse().unwrap();
    request.headers_mut().insert(http::header::ACCESS_CONTROL_REQUEST_HEADERS, asked);
    answer(door, request).await
}

/// Catches: a page that sees a failed network where the server asks it to come back.
#[tokio::test]
async fn a_page_that_sends_while_the_server_starts_is_told_to_come_back() {
    for path in ["/v1/events", "/v1/events?write_key=k", "/v1/imports/a/events"] {
        let asked = seen(Method::OPTIONS, path, SHOP).await;
        assert_eq!(asked.status(), 204, "{path}");
        let allowed = asked.headers()[ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
        assert!(allowed.contains("content-type") && allowed.contains("traceparent"), "{allowed}");
        let sent = seen(Method::POST, path, SHOP).await;
        assert_eq!(sent.status(), 503, "{path}");
        assert_eq!(sent.headers()[RETRY_AFTER], "1");
        assert_eq!(sent.headers()[ACCESS_CONTROL_EXPOSE_HEADERS], "retry-after");
        for answer in [asked, sent] {
            assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], SHOP, "{path}");
            assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        }
    }
}

#[tokio::test]
async fn a_page_that_may_read_is_told_so_too_and_another_learns_nothing() {
    for path in ["/v1/query?metrics=events", "/v1/snapshot", "/readyz"] {
        let asked = seen(Method::OPTIONS, path, BOARD).await;
        assert_eq!(asked.status(), 204, "{path}");
        let allowed = asked.headers()[ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
        assert!(allowed.contains("authorization"), "{allowed}");
        let read = seen(Method::GET, path, BOARD).await;
        assert_eq!(read.status(), 503);
        assert_eq!(read.headers()[RETRY_AFTER], "1");
        for answer in [asked, read] {
            assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], BOARD, "{path}");
        }
        for method in [Method::OPTIONS, Method::GET] {
            let answer = seen(method, path, SHOP).await;
            assert!(!answer.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), "{path}");
        }
    }
    let alive = seen(Method::GET, "/healthz", BOARD).await;
    assert_eq!(alive.status(), 200);
    let body = axum::body::to_bytes(alive.into_body(), 1 << 10).await.unwrap();
    assert_eq!(body, r#"{"status":"ok"}"#.as_bytes());
}
