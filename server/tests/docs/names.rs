//! Every name and figure of the pages is one that exists, and every one that exists is told.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use regex::Regex;
use serde_json::Value;

use crate::page::{Page, in_code, root};

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// What a command of the binary prints.
fn printed(args: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_nilometer")).args(args).env_clear().output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The production code of these rooms: what stands before a file's tests.
fn code_of(rooms: &[&str]) -> String {
    fn collect(dir: &Path, code: &mut String) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, code);
            } else if !path.ends_with("tests.rs") && !path.ends_with("codes.rs") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                code.push_str(text.split("#[cfg(test)]\nmod ").next().unwrap());
            }
        }
    }
    let mut code = String::new();
    for room in rooms {
        collect(&root().join(room).join("src"), &mut code);
    }
    code
}

/// A server on a folder of its own; killed when dropped.
struct Server(std::process::Child, String, tempfile::TempDir);

const TOKEN: &str = "docs-test-read-token-0001";
const WRITE_KEY: &str = "docs-test-write-key-0001";

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new(env!("CARGO_BIN_EXE_nilometer"))
            .args(["serve", "--listen", &address, "--data-dir"])
            .arg(folder.path().join("data"))
            .env_clear()
            .env("NILOMETER_READ_TOKEN", TOKEN)
            .env("NILOMETER_WRITE_KEY", WRITE_KEY)
            .env("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1")
            .env("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "1")
            .env("NILOMETER_ADMIN_TOKEN", "docs-test-admin-token-0001")
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let server = Self(child, format!("http://{address}"), folder);
        for _ in 0..600 {
            if reqwest::get(format!("{}/readyz", server.1))
                .await
                .is_ok_and(|answer| answer.status() == 200)
            {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{}", std::fs::read_to_string(server.2.path().join("stderr")).unwrap());
    }

    async fn get(&self, path: &str) -> String {
        let request = reqwest::Client::new().get(format!("{}{path}", self.1)).bearer_auth(TOKEN);
        request.send().await.unwrap().text().await.unwrap()
    }

    /// What is scraped once each labelled metric has been counted at least once.
    async fn busy(&self) -> String {
        let bodies = [
            // A clock that is two hours off, a mail address, and an event that is none.
            r#"{"sent_at":"2026-11-01T12:00:00Z","events":[{"event_type":"view","user_id":"u-1",
                "timestamp":"2026-11-01T12:00:00Z","properties":{"mail":"jane@mail.com"}}]}"#,
            r#"{"event_type":7}"#,
        ];
        for body in bodies {
            let request = reqwest::Client::new().post(format!("{}/v1/events", self.1));
            let request = request.bearer_auth(WRITE_KEY).header("content-type", "application/json");
            assert_eq!(request.body(body).send().await.unwrap().status(), 200);
        }
        self.get("/v1/query?metrics=events").await;
        // What a checkpoint and a fold took is not there before the first one.
        for _ in 0..600 {
            let text = self.get("/metrics").await;
            if ["rollups_fold_took", "stream_checkpoint_took"]
                .iter()
                .all(|name| text.contains(name))
            {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{}", std::fs::read_to_string(self.2.path().join("stderr")).unwrap());
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn every_code_of_a_refusal_is_in_the_table_under_its_status_and_in_the_code() {
    let api = Page::read("docs/api.md");
    let mut told = Vec::new();
    for row in api.table("| status | codes |") {
        let status: u16 = row[0].parse().unwrap();
        told.extend(in_code(&row[1]).into_iter().map(|code| (status, code)));
    }
    let known: Vec<(u16, String)> = nilometer_access::CODES
        .iter()
        .flat_map(|(status, codes)| codes.iter().map(|code| (*status, (*code).to_owned())))
        .collect();
    let sorted = |mut codes: Vec<(u16, String)>| {
        codes.sort();
        codes
    };
    assert_eq!(sorted(told), sorted(known.clone()));
    let code = code_of(&["access", "gateway", "query", "server"]);
    for (_, name) in known {
        assert!(code.contains(&format!("\"{name}\"")), "nothing refuses with {name}");
    }
}

#[test]
fn every_code_of_a_rejected_event_is_told() {
    let code = std::fs::read_to_string(root().join("gateway/src/refusal.rs")).unwrap();
    let code = code.split("#[cfg(test)]").next().unwrap();
    let constant = Regex::new("const [A-Z_0-9]+: &str = \"([a-z_0-9]+)\";").unwrap();
    let known = names(constant.captures_iter(code).map(|found| found.get(1).unwrap().as_str()));
    assert!(known.len() >= 8, "{known:?}");
    let api = Page::read("docs/api.md");
    let line =
        api.text.lines().find(|line| line.starts_with("A rejected event has one of these codes"));
    // A sentence, up to its full stop.
    let told = in_code(line.unwrap().split(". ").next().unwrap());
    assert_eq!(told, known);
    let ingest: Value =
        serde_json::from_str(include_str!("../../src/openapi/ingest.json")).unwrap();
    let listed = &ingest["components"]["schemas"]["EventError"]["properties"]["code"]["enum"];
    let listed = names(listed.as_array().unwrap().iter().map(|code| code.as_str().unwrap()));
    assert_eq!(listed, known, "server/src/openapi/ingest.json");
}

#[tokio::test]
async fn every_path_parameter_metric_and_dimension_is_told_and_there() {
    let server = Server::start().await;
    let (document, catalog) =
        (server.json("/openapi.json").await, server.json("/v1/catalog").await);
    let metrics_page = server.busy().await;
    let api = Page::read("docs/api.md");
    paths(&document);
    parameters(&document, &api);

    let own = |kind: &str| {
        names(catalog[kind].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()))
    };
    let told: BTreeSet<String> =
        api.table("| metric | is |").iter().flat_map(|row| in_code(&row[0])).collect();
    assert_eq!(told, own("metrics"), "docs/api.md: metrics");
    let line = api.text.lines().find(|line| line.starts_with("Dimensions: ")).unwrap();
    assert_eq!(
        in_code(line.split(". ").next().unwrap()),
        own("dimensions"),
        "docs/api.md: dimensions"
    );

    scraped(&metrics_page);
}

/// Paths that the pages name are in the document, and the other way round.
fn paths(document: &Value) {
    let methods = ["get", "post", "put", "delete"];
    let mut known = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let own = item.as_object().unwrap().keys().filter(|name| methods.contains(&name.as_str()));
        known.extend(own.map(|method| format!("{} {path}", method.to_uppercase())));
    }
    let named = Regex::new(r"^(GET|POST|PUT|DELETE) (/[^\s?…]*)").unwrap();
    let mut told = BTreeSet::new();
    for page in Page::all() {
        for span in page.spans() {
            if let Some(found) = named.captures(&span) {
                let name = format!("{} {}", &found[1], &found[2]);
                assert!(known.contains(&name), "{}: {name} is not in openapi.json", page.name);
                told.insert(name);
            }
        }
    }
    let missing: Vec<_> = known.difference(&told).collect();
    assert!(missing.is_empty(), "no page names {missing:?}");
}

fn parameters(document: &Value, api: &Page) {
    let known = document["paths"]["/v1/query"]["get"]["parameters"].as_array().unwrap();
    let known = names(known.iter().map(|parameter| parameter["name"].as_str().unwrap()));
    let told: BTreeSet<String> =
        api.table("| parameter | is |").iter().flat_map(|row| in_code(&row[0])).collect();
    assert_eq!(told, known, "docs/api.md: parameters of a query");
    let body = document["components"]["schemas"]["QueryBody"]["properties"].as_object().unwrap();
    assert_eq!(names(body.keys().map(String::as_str)), known, "QueryBody");
}

/// Metrics that docs/operations.md names are there, and the other way round.
fn scraped(text: &str) {
    let mut known = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        known.insert(match kind {
            "counter" if !name.ends_with("_total") => format!("{name}_total"),
            _ => name.to_owned(),
        });
    }
    assert!(known.len() > 50, "{text}");
    let page = Page::read("docs/operations.md");
    let name = Regex::new(r"nilometer_[a-z0-9_]+").unwrap();
    // A filter of the log names rooms.
    let spans: Vec<String> =
        page.spans().into_iter().filter(|span| !span.starts_with("RUST_LOG")).collect();
    let spans = spans.join(" ");
    // A name that ends in _ is the beginning of several.
    let told = names(
        name.find_iter(&spans).map(|found| found.as_str()).filter(|name| !name.ends_with('_')),
    );
    let unknown: Vec<_> = told.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "docs/operations.md names {unknown:?}, which /metrics does not have"
    );
    let missing: Vec<_> = known.difference(&told).collect();
    assert!(missing.is_empty(), "docs/operations.md does not name {missing:?}");
}

const COMMANDS: [&str; 7] = ["serve", "demo", "generate", "import", "keys", "doctor", "config"];

#[test]
fn every_flag_that_a_page_names_is_one_of_a_command() {
    let mut help = printed(&["--help"]);
    for command in COMMANDS {
        help += &printed(&[command, "--help"]);
    }
    for action in ["create", "list", "revoke"] {
        help += &printed(&["keys", action, "--help"]);
    }
    let flag = Regex::new(r"--[a-z][a-z-]*").unwrap();
    let known = names(flag.find_iter(&help).map(|found| found.as_str()));
    for page in Page::all() {
        let blocks = page.blocks().into_iter().filter(|block| block.language == "sh");
        // A command may go on in the next line.
        let commands: Vec<String> = blocks
            .flat_map(|block| {
                block.text.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .filter(|line| {
                line.trim_start().starts_with("nilometer ") || line.contains("| nilometer ")
            })
            .chain(
                page.spans()
                    .into_iter()
                    .filter(|span| span.starts_with("--") || span.starts_with("nilometer ")),
            )
            .collect();
        for command in &commands {
            for found in flag.find_iter(command).map(|found| found.as_str()) {
                // What a container is started with is docker's.
                let is_known = known.contains(found) || found == "--cap-add";
                assert!(is_known, "{}: {found} in {command}", page.name);
            }
        }
    }
}

#[test]
fn every_setting_and_variable_that_a_page_names_exists_with_that_default() {
    let reference = Page::read("docs/configuration.md");
    let variable = Regex::new(r"NILOMETER_[A-Z0-9_]+").unwrap();
    let mut variables = names(variable.find_iter(&reference.text).map(|found| found.as_str()));
    let more = ["CONFIG", "URL", "WRITE_KEY", "READ_TOKEN", "ADMIN_TOKEN"];
    variables.extend(more.map(|name| format!("NILOMETER_{name}")));
    let defaults: toml_edit::DocumentMut = printed(&["config"]).parse().unwrap();
    let key = Regex::new(
        r"`(server|gateway|limits|masking|log|stream|rollups|query|types)\.([a-z0-9_]+)( = [0-9]+)?`(?: \(([0-9]+)( s)?\))?",
    )
    .unwrap();
    for page in Page::all() {
        for found in variable.find_iter(&page.text).map(|found| found.as_str()) {
            assert!(found.ends_with("__") || variables.contains(found), "{}: {found}", page.name);
        }
        for found in key.captures_iter(&page.text) {
            let value = defaults.get(&found[1]).and_then(|section| section.get(&found[2]));
            let value = value.unwrap_or_else(|| panic!("{}: {}", page.name, &found[0]));
            if let Some(told) = found.get(4) {
                let told: i64 = told.as_str().parse().unwrap();
                let unit =
                    if found.get(5).is_some() && found[2].ends_with("_ms") { 1000 } else { 1 };
                assert_eq!(value.as_integer(), Some(told * unit), "{}: {}", page.name, &found[0]);
            }
        }
    }
}

#[test]
fn the_limits_of_a_batch_are_told_as_they_are() {
    let defaults: toml_edit::DocumentMut = printed(&["config"]).parse().unwrap();
    let gateway = |key: &str| defaults["gateway"][key].as_integer().unwrap();
    let kib = |key: &str| gateway(key) / 1024;
    let mib = |key: &str| kib(key) / 1024;
    let told = format!(
        "Defaults: {} MiB a body ({} MiB for server keys), {} MiB inflated, {},000 events a batch, \
         {} KiB an event, depth {}, {} properties, {} KiB a string.",
        mib("body_bytes_max"),
        mib("server_body_bytes_max"),
        mib("inflated_bytes_max"),
        gateway("batch_events_max") / 1000,
        kib("event_bytes_max"),
        gateway("depth_max"),
        gateway("properties_max"),
        kib("string_bytes_max"),
    );
    assert!(Page::read("docs/api.md").text.contains(&told), "docs/api.md: {told}");
}

#[test]
fn every_kind_of_key_is_told() {
    let help = printed(&["keys", "create", "--help"]);
    let kind = Regex::new(r"(?m)^\s+- ([a-z]+):").unwrap();
    let known = names(kind.captures_iter(&help).map(|found| found.get(1).unwrap().as_str()));
    assert_eq!(known.len(), 4, "{help}");
    let told = names(
        Page::read("docs/api.md").table("| key | may |").iter().map(|row| row[0].trim_matches('`')),
    );
    assert_eq!(told, known);
}

#[test]
fn every_message_of_a_live_connection_is_told() {
    let code = code_of(&["query"]);
    let ours = Regex::new(r#""type": "([a-z_]+)""#).unwrap();
    let mut known = names(ours.captures_iter(&code).map(|found| found.get(1).unwrap().as_str()));
    known.extend(names(["error", "snapshot", "delta", "auth", "subscribe", "unsubscribe", "ping"]));
    for name in &known {
        assert!(code.contains(&format!("\"{name}\"")), "no code sends or takes {name}");
    }
    let api = Page::read("docs/api.md");
    let told = Regex::new(r#""type":"([a-z_]+)""#).unwrap();
    let told =
        names(told.captures_iter(api.section("Live")).map(|found| found.get(1).unwrap().as_str()));
    assert_eq!(told, known);
}

/// What a declaration takes, as its reader says where it does not know a key.
fn keys_of<T: serde::de::DeserializeOwned>() -> BTreeSet<String> {
    let Err(error) = serde_json::from_str::<T>(r#"{"no such key":1}"#) else {
        panic!("a key was taken")
    };
    let text = error.to_string();
    let (_, known) = text.split_once("expected ").unwrap();
    in_code(known)
}

#[test]
fn every_key_of_a_declaration_and_every_aggregate_is_told() {
    use nilometer_stream::declare::{AggregateDecl, CubeDecl, DimensionDecl, MetricDecl};
    let page = Page::read("docs/configuration.md");
    let told = |head: &str| -> BTreeSet<String> {
        page.table(head).iter().flat_map(|row| in_code(&row[0])).collect()
    };
    assert_eq!(told("| key of `[[dimension]]` |"), keys_of::<DimensionDecl>());
    assert_eq!(told("| key of `[[metric]]` |"), keys_of::<MetricDecl>());
    assert_eq!(told("| key of `[[cube]]` |"), keys_of::<CubeDecl>());
    let error = serde_json::from_str::<AggregateDecl>("\"none such\"").unwrap_err().to_string();
    assert_eq!(
        told("| `aggregate` | is | takes |"),
        in_code(error.split_once("expected ").unwrap().1)
    );
}

/// The doctor's report as the page shows it: its checks, and the figures of a new house.
#[tokio::test]
async fn the_doctors_report_is_shown_as_it_is() {
    let server = Server::start().await;
    let data = server.2.path().join("data");
    let report = printed(&["doctor", "--json", "--data-dir", data.to_str().unwrap()]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let line = |check: &Value| check["check"].as_str().unwrap().to_owned();
    let checks = report["checks"].as_array().unwrap();
    let blocks = Page::read("docs/operations.md").blocks();
    let shown = blocks.iter().find(|block| block.text.starts_with("ok       configuration"));
    let shown: Vec<&str> =
        shown.unwrap().text.lines().filter(|line| !line.starts_with(' ')).collect();
    let told: Vec<String> = shown.iter().map(|line| line[9..23].trim().to_owned()).collect();
    assert_eq!(told, checks.iter().map(line).collect::<Vec<_>>());
    for name in ["configuration", "keys"] {
        let check = checks.iter().find(|check| check["check"] == name).unwrap();
        let message = check["message"].as_str().unwrap();
        assert!(shown.iter().any(|line| line.ends_with(message)), "{name}: {message}");
    }
}

#[test]
fn every_field_of_an_event_is_told() {
    let code = std::fs::read_to_string(root().join("gateway/src/parse/draft.rs")).unwrap();
    let arm = Regex::new(r#"b"([a-z_]+)" => Self::"#).unwrap();
    let mut known = names(arm.captures_iter(&code).map(|found| found.get(1).unwrap().as_str()));
    let ingest: Value =
        serde_json::from_str(include_str!("../../src/openapi/ingest.json")).unwrap();
    let schema = ingest["components"]["schemas"]["Event"]["properties"].as_object().unwrap();
    let mut schema = names(schema.keys().map(String::as_str));
    // The client's clock is of the batch; an event that comes alone may carry it, too.
    known.remove("sent_at");
    schema.remove("sent_at");
    assert_eq!(schema, known, "server/src/openapi/ingest.json");
    let api = Page::read("docs/api.md");
    let line = |start: &str| api.text.lines().find(|line| line.starts_with(start)).unwrap();
    let required = line("- **Required:**").split(". ").next().unwrap();
    let optional = line("- **Optional:**").split(". ").next().unwrap();
    let told: BTreeSet<String> = in_code(required).into_iter().chain(in_code(optional)).collect();
    assert_eq!(told, known);
}

/// A constant of the code, as people write it: 100,000.
fn constant(file: &str, name: &str) -> String {
    let code = std::fs::read_to_string(root().join(file)).unwrap();
    let found = Regex::new(&format!(r"const {name}: \w+ = ([0-9_]+);")).unwrap();
    let found = found.captures(&code).unwrap_or_else(|| panic!("{file}: {name}"));
    found[1].replace('_', ",")
}

#[test]
fn the_bounds_of_questions_are_told_as_they_are() {
    let ask = |name| constant("query/src/ask/mod.rs", name);
    let live = |name| constant("query/src/live/message.rs", name);
    let api = Page::read("docs/api.md");
    for told in [
        format!("| `limit` | {}, at most {};", ask("LIMIT_DEFAULT"), ask("LIMIT_MAX")),
        format!(
            "at most {} values, over at most {} dimensions",
            ask("FILTER_VALUES_MAX"),
            ask("DIMENSIONS_MAX")
        ),
        format!(
            "`interval_ms` is {} to {}, {} where it is not given",
            live("INTERVAL_MS_MIN"),
            live("INTERVAL_MS_MAX"),
            live("INTERVAL_MS_DEFAULT")
        ),
    ] {
        assert!(api.text.contains(&told), "docs/api.md: {told}");
    }
}

#[test]
fn the_bound_of_what_retention_tells_apart_is_told_as_it_is() {
    let ranges = constant("rollups/src/dropped.rs", "DROPPED_RANGES_MAX");
    let told = format!("Up to {ranges} stretches of such windows are told apart");
    assert!(Page::read("docs/operations.md").text.contains(&told), "docs/operations.md: {told}");
}
