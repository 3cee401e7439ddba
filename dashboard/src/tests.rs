//! The pages from outside: what a browser gets, and that it is what the sources say.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::response::Response;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS,
};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};
use tower::ServiceExt as _;

use crate::asset::{Asset, FILES, INDEX, hex};
use crate::negotiate::Encoding;
use crate::{PAGES, router};

/// What decides the built bytes. Keep in step with `SOURCES` in `web/tools/stamp.mjs`.
const SOURCES: [&str; 8] = [
    "index.html",
    "package.json",
    "package-lock.json",
    "vite.config.ts",
    "tsconfig.json",
    "src",
    "public",
    "tools/stamp.mjs",
];

/// Budget of all JavaScript, compressed: a page that opens at once on a phone.
const SCRIPT_GZIP_BYTES_MAX: usize = 60 * 1024;

async fn ask(path: &str, headers: &[(HeaderName, &str)]) -> Response {
    let request = headers
        .iter()
        .fold(Request::get(path), |request, (name, value)| request.header(name, *value))
        .body(Body::empty())
        .unwrap();
    router().oneshot(request).await.unwrap()
}

async fn body(response: Response) -> Vec<u8> {
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

fn header(response: &Response, name: HeaderName) -> String {
    response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

fn every_asset() -> impl Iterator<Item = &'static Asset> {
    FILES.iter().chain([&INDEX])
}

fn collect(path: &Path, into: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), into);
        }
    } else {
        into.push(path.to_owned());
    }
}

#[test]
fn built_assets_are_those_of_the_sources() {
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    let web = room.join("web");
    let mut paths = Vec::new();
    for name in SOURCES {
        collect(&web.join(name), &mut paths);
    }
    let mut lines: Vec<(String, String)> = paths
        .iter()
        .map(|path| {
            let name = path.strip_prefix(&web).unwrap().to_str().unwrap().replace('\\', "/");
            (name, hex(&Sha256::digest(fs::read(path).unwrap())))
        })
        .collect();
    lines.sort();
    let text: String = lines.iter().map(|(name, hash)| format!("{hash}  {name}\n")).collect();
    let stamp = fs::read_to_string(room.join("assets/sources.sha256")).unwrap();
    assert_eq!(
        hex(&Sha256::digest(text)),
        stamp.trim(),
        "dashboard/assets is older than dashboard/web: run `npm ci && npm run build` in dashboard/web"
    );
}

#[test]
fn compressed_files_hold_the_plain_ones() {
    for asset in every_asset() {
        let plain = asset.bytes(Encoding::Identity);
        let mut unzipped = Vec::new();
        flate2::read::GzDecoder::new(asset.bytes(Encoding::Gzip))
            .read_to_end(&mut unzipped)
            .unwrap();
        assert!(unzipped == plain, "{}.gz is another file", asset.path);
        let mut inflated = Vec::new();
        brotli::Decompressor::new(asset.bytes(Encoding::Brotli), 4096)
            .read_to_end(&mut inflated)
            .unwrap();
        assert!(inflated == plain, "{}.br is another file", asset.path);
    }
}

#[test]
fn script_stays_within_its_budget() {
    let bytes: usize = FILES
        .iter()
        .filter(|asset| asset.content_type.starts_with("text/javascript"))
        .map(|asset| asset.bytes(Encoding::Gzip).len())
        .sum();
    assert!(0 < bytes && bytes <= SCRIPT_GZIP_BYTES_MAX, "{bytes} bytes of gzip");
}

#[test]
fn the_page_holds_no_inline_script_or_style_and_loads_nothing_from_elsewhere() {
    let page = std::str::from_utf8(INDEX.bytes(Encoding::Identity)).unwrap();
    assert!(!page.contains("<style") && !page.contains(" style="), "{page}");
    assert!(!page.contains("http://") && !page.contains("https://"), "{page}");
    for script in page.split("<script").skip(1) {
        let (tag, rest) = script.split_once('>').unwrap();
        assert!(tag.contains("src=\"/") && rest.starts_with("</script>"), "inline: {script}");
    }
}

#[test]
fn the_page_names_the_versions_that_are_compiled_in() {
    let page = std::str::from_utf8(INDEX.bytes(Encoding::Identity)).unwrap();
    for path in ["/app.js", "/app.css"] {
        let asset = FILES.iter().find(|asset| asset.path == path).unwrap();
        let link = format!("\"{path}?v={}\"", asset.version());
        assert!(page.contains(&link), "{link} is not in the page");
    }
}

#[tokio::test]
async fn every_deep_link_opens_the_page_under_a_strict_policy() {
    for path in PAGES {
        let response = ask(path, &[(ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8")]).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(header(&response, CONTENT_TYPE), "text/html; charset=utf-8");
        assert_eq!(header(&response, X_CONTENT_TYPE_OPTIONS), "nosniff");
        assert_eq!(header(&response, CACHE_CONTROL), "no-cache");
        let policy = header(&response, CONTENT_SECURITY_POLICY);
        assert!(policy.starts_with("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.ends_with("require-trusted-types-for 'script'; trusted-types 'none'"));
        for kind in ["cross-origin-opener-policy", "cross-origin-resource-policy"] {
            assert_eq!(header(&response, HeaderName::from_static(kind)), "same-origin", "{kind}");
        }
        assert_eq!(body(response).await, INDEX.bytes(Encoding::Identity));
    }
}

/// Catches: `curl …/events`, without /v1, that is answered with a page and 200.
#[tokio::test]
async fn a_program_that_asks_for_a_deep_link_is_told_that_there_is_no_such_path() {
    for path in PAGES {
        let expected = if path == "/" { StatusCode::OK } else { StatusCode::NOT_FOUND };
        for headers in [&[][..], &[(ACCEPT, "*/*")], &[(ACCEPT, "application/json")]] {
            assert_eq!(ask(path, headers).await.status(), expected, "{path} {headers:?}");
        }
    }
}

#[tokio::test]
async fn other_paths_are_left_to_the_house() {
    for path in ["/v1/query", "/live/x", "/index.htm", "/app.js.gz", "/sources.sha256"] {
        assert_eq!(ask(path, &[]).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_client_gets_the_encoding_it_reads() {
    for (accept, encoding) in
        [("gzip, br", Encoding::Brotli), ("gzip", Encoding::Gzip), ("identity", Encoding::Identity)]
    {
        let response = ask("/app.js", &[(ACCEPT_ENCODING, accept)]).await;
        assert_eq!(header(&response, CONTENT_ENCODING), encoding.token().unwrap_or(""));
        assert_eq!(body(response).await, FILES[0].bytes(encoding), "{accept}");
    }
}

#[tokio::test]
async fn an_unchanged_file_is_not_sent_again() {
    let first = ask("/app.css", &[(ACCEPT_ENCODING, "gzip")]).await;
    let tag = header(&first, ETAG);
    let again = ask("/app.css", &[(ACCEPT_ENCODING, "gzip"), (IF_NONE_MATCH, &tag)]).await;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(header(&again, ETAG), tag);
    assert_eq!(body(again).await, b"");
    let other = ask("/app.css", &[(ACCEPT_ENCODING, "br"), (IF_NONE_MATCH, &tag)]).await;
    assert_eq!(other.status(), StatusCode::OK, "another encoding has another tag");
}

#[tokio::test]
async fn only_the_version_that_is_served_is_kept_forever() {
    let version = FILES[0].version();
    let named = ask(&format!("/app.js?v={version}"), &[]).await;
    assert!(header(&named, CACHE_CONTROL).contains("immutable"));
    let older = ask("/app.js?v=0123456789abcdef", &[]).await;
    assert_eq!(header(&older, CACHE_CONTROL), "no-cache");
}
