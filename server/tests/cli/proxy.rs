//! nginx in front, by the file that docs/operations.md shows.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, COOKIE, ORIGIN, SET_COOKIE};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::server::{READ_TOKEN, Server, WRITE_KEY};

const CONF: &str = include_str!("../../../deploy/nginx.conf");

/// nginx in the foreground, on a folder of its own; killed when dropped.
struct Nginx {
    child: Child,
    port: u16,
}

impl Nginx {
    /// Runs `site` in front of `server` over plain HTTP; `None` where there is no nginx.
    #[expect(clippy::print_stderr, reason = "what was skipped")]
    async fn start(server: &Server, site: &str, folder: &Path) -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let upstream = server.url.strip_prefix("http://").unwrap();
        let site: String = site
            .replace("server 127.0.0.1:8080;", &format!("server {upstream};"))
            .replace("listen 443 ssl;", &format!("listen 127.0.0.1:{port};"))
            .lines()
            .filter(|line| !line.contains("ssl_certificate"))
            .map(|line| format!("{line}\n"))
            .collect();
        std::fs::create_dir_all(folder).unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .concat();
        let whole = format!(
            "pid nginx.pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\naccess_log off;\n{temporary}{site}}}\n"
        );
        std::fs::write(folder.join("nginx.conf"), whole).unwrap();
        let child = Command::new("nginx")
            .arg("-p")
            .arg(folder)
            .args(["-c", "nginx.conf", "-g", "daemon off; master_process off;"])
            .env("PATH", "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/bin")
            .stdin(Stdio::null())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: nginx cannot be started ({error}); ./test installs it");
                return None;
            }
        };
        for _ in 0..200 {
            assert!(child.try_wait().unwrap().is_none(), "nginx refuses deploy/nginx.conf");
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(Self { child, port });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nginx does not listen");
    }

    fn url(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.port)
    }

    fn origin(&self) -> String {
        self.url("")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A server that stands behind a proxy.
async fn proxied() -> Server {
    Server::start_with(tempfile::tempdir().unwrap(), |command| {
        command
            .env("NILOMETER_WRITE_KEY", WRITE_KEY)
            .env("NILOMETER_READ_TOKEN", READ_TOKEN)
            .env("NILOMETER_SERVER__BEHIND_PROXY", "true")
            .stdout(Stdio::null());
    })
    .await
}

/// A sign-in as a page of `origin` sends it.
async fn sign_in(
    nginx: &Nginx,
    origin: &str,
    more: &[(&str, &str)],
) -> (StatusCode, String, Value) {
    let client = reqwest::Client::new();
    let mut request = client
        .post(nginx.url("/v1/session"))
        .header(ORIGIN, origin)
        .body(json!({"token": READ_TOKEN}).to_string());
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let cookie = answer.headers().get(SET_COOKIE).map(|cookie| cookie.to_str().unwrap().to_owned());
    let status = answer.status();
    let body = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    (status, cookie.unwrap_or_default(), body)
}

#[tokio::test]
async fn behind_the_nginx_of_the_docs_a_browser_signs_in_reads_live_and_sends() {
    let server = proxied().await;
    let Some(nginx) = Nginx::start(&server, CONF, &server.folder().join("nginx")).await else {
        return;
    };
    let (status, cookie, body) = sign_in(&nginx, &nginx.origin(), &[]).await;
    assert_eq!((status.as_u16(), &body["signed_in"]), (200, &json!(true)), "{body}");
    assert!(cookie.contains("; Secure"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let (status, _, body) = sign_in(&nginx, "https://evil.example", &[]).await;
    assert_eq!((status.as_u16(), &body["code"]), (403, &json!("origin_not_allowed")));

    // The live page's WebSocket.
    let mut request =
        nginx.url("/v1/live").replace("http://", "ws://").into_client_request().unwrap();
    request.headers_mut().insert(COOKIE, cookie.parse().unwrap());
    request.headers_mut().insert(ORIGIN, nginx.origin().parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let query = json!({"metrics": ["events"], "last": "1h", "granularity": "total"});
    let subscribe = json!({"type": "subscribe", "id": "q", "query": query, "interval_ms": 1000});
    socket.send(Message::text(subscribe.to_string())).await.unwrap();
    let said = loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => break serde_json::from_str::<Value>(&text).unwrap(),
            _ => continue,
        }
    };
    assert_eq!(said["type"], "snapshot", "{said}");
    drop(socket);

    // Limits are the server's, and so are its words; a connection is used again.
    let client = reqwest::Client::new();
    for (bytes, expected) in [(100, 200), (2 << 20, 413), (100, 200)] {
        let filler = "x".repeat(bytes);
        let event = json!({"event_type": "view", "user_id": "u", "timestamp": 0, "filler": filler});
        let request = client.post(nginx.url("/v1/events")).bearer_auth(WRITE_KEY);
        let request = request.header(CONTENT_TYPE, "application/json").body(event.to_string());
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), expected);
        let kind = answer.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        let own = if expected == 200 { "application/json" } else { "application/problem+json" };
        assert_eq!(kind, own);
    }
    let signed_out = client.delete(nginx.url("/v1/session")).header(COOKIE, cookie);
    let answer = signed_out.header(ORIGIN, nginx.origin()).send().await.unwrap();
    assert_eq!(answer.status(), 204);
}

#[tokio::test]
async fn a_proxy_that_hides_the_host_is_told_so_and_harms_no_browser_that_names_its_page() {
    let server = proxied().await;
    let hiding: String = CONF
        .lines()
        .filter(|line| !line.contains("_header Host"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(hiding, CONF);
    let folder = server.folder().join("nginx");
    let Some(nginx) = Nginx::start(&server, &hiding, &folder).await else { return };
    let (status, _, body) = sign_in(&nginx, &nginx.origin(), &[]).await;
    assert_eq!((status.as_u16(), &body["code"]), (403, &json!("origin_not_allowed")));
    assert!(body["detail"].as_str().unwrap().contains("proxy_set_header Host"), "{body}");
    let own = [("Sec-Fetch-Site", "same-origin")];
    let (status, _, body) = sign_in(&nginx, &nginx.origin(), &own).await;
    assert_eq!(status, 200, "{body}");
    let (status, ..) =
        sign_in(&nginx, "https://evil.example", &[("Sec-Fetch-Site", "cross-site")]).await;
    assert_eq!(status, 403);
}

#[test]
fn docs_show_the_nginx_file_that_is_tested() {
    let page = include_str!("../../../docs/operations.md");
    assert!(
        page.contains(&format!("```nginx\n{CONF}```\n")),
        "docs/operations.md: deploy/nginx.conf"
    );
}
