//! Every command: its help, its exit code, its answer.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::server::{ADMIN_TOKEN, READ_TOKEN, Server, WRITE_KEY, nilometer, run};

#[test]
fn every_command_has_help_that_names_its_flags() {
    let sources = ["--config", "--data-dir"];
    let target = ["--url", "--write-key"];
    let cases: [(&str, &[&str]); 8] = [
        ("serve", &["--listen", "--roles"]),
        ("demo", &["--listen", "--rate", "--users", "--days", "--seed"]),
        (
            "generate",
            &["--rate", "--events", "--users", "--duplicates", "--late", "--invalid", "--seed"],
        ),
        ("import", &["--map", "--time-unit", "--event-type", "--name", "--dry-run", "--restart"]),
        ("keys", &["create", "list", "revoke"]),
        ("doctor", &["--json"]),
        ("config", &["--markdown"]),
        ("completions", &["bash", "zsh", "fish"]),
    ];
    let (code, top, _) = run(&mut nilometer(&["--help"]));
    assert_eq!(code, 0);
    for (command, flags) in cases {
        assert!(top.contains(command), "{command} is not in --help");
        let (code, help, stderr) = run(&mut nilometer(&[command, "--help"]));
        assert_eq!((code, stderr.as_str()), (0, ""), "{command}");
        let common: &[&str] = match command {
            "serve" | "keys" | "doctor" | "config" => &sources,
            "generate" | "import" => &target,
            _ => &[],
        };
        for flag in flags.iter().chain(common) {
            assert!(help.contains(flag), "{command} --help does not name {flag}");
        }
    }
}

#[test]
fn wrong_usage_is_2_and_says_what_is_meant() {
    let cases: [(&[&str], &str); 9] = [
        (&[], "Usage"),
        (&["sevre"], "serve"),
        (&["serve", "--lisen", "x"], "--listen"),
        (&["serve", "--roles", "gateway"], "all"),
        (&["generate"], "--write-key"),
        (&["generate", "--write-key", "k", "--duplicates", "2"], "a share from 0 to 1"),
        (&["import", "--write-key", "k"], "FILE"),
        (&["import", "rows.csv"], "--write-key"),
        (&["keys", "create", "guest"], "write"),
    ];
    for (args, told) in cases {
        let (code, stdout, stderr) = run(&mut nilometer(args));
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains(told), "{args:?}: {stderr}");
    }
}

#[test]
fn what_fails_is_1_with_one_json_line_on_a_stderr_that_is_no_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none");
    let missing = missing.to_str().unwrap();
    let cases: [(&[&str], &str); 6] = [
        (&["config", "--config", missing], "does not exist"),
        (&["keys", "list", "--data-dir", missing], "does not exist"),
        (&["doctor", "--data-dir", missing], "wrong"),
        (&["serve", "--listen", "0.0.0.0:80", "--data-dir", missing], "behind_proxy"),
        (&["serve", "--listen", "nowhere", "--data-dir", missing], "ADDRESS:PORT"),
        (&["import", "--dry-run", missing], missing),
    ];
    for (args, told) in cases {
        let (code, _, stderr) = run(&mut nilometer(args));
        assert_eq!(code, 1, "{args:?}: {stderr}");
        let line: Value = serde_json::from_str(stderr.trim_end()).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert!(line["message"].as_str().unwrap().contains(told), "{args:?}: {stderr}");
    }
    assert!(!std::path::Path::new(missing).exists(), "a command that fails makes no folder");
}

#[test]
fn completions_are_printed_for_each_shell() {
    for (shell, sign) in [("bash", "complete -F"), ("zsh", "#compdef"), ("fish", "complete -c")] {
        let (code, script, _) = run(&mut nilometer(&["completions", shell]));
        assert_eq!(code, 0, "{shell}");
        assert!(script.contains(sign) && script.contains("doctor"), "{shell}");
    }
}

#[test]
fn config_prints_what_is_in_force_and_unknown_variables_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nilometer.toml");
    std::fs::write(&file, "[server]\nmemory_limit_mib = 300\n[log]\npartitions = 2\n").unwrap();
    let file = file.to_str().unwrap();
    // Flags over variables over the file over defaults.
    let (code, text, _) = run(nilometer(&["config", "--data-dir", "/srv/flag"])
        .env("NILOMETER_CONFIG", file)
        .env("NILOMETER_SERVER__DATA_DIR", "/srv/variable")
        .env("NILOMETER_LOG__PARTITIONS", "3")
        .env("NILOMETER_WRITE_KEY", "a-key-that-is-no-setting")
        .env("NILOMETER_READ_TOKEN", "a-token-that-is-no-setting")
        .env("NILOMETER_ADMIN_TOKEN", "another-token-that-is-no-setting")
        .env("NILOMETER_URL", "http://elsewhere"));
    assert_eq!(code, 0);
    for line in ["data_dir = \"/srv/flag\"", "partitions = 3", "memory_limit_mib = 300"] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(text.contains("# Partitions of every topic"), "every value with its comment");
    assert!(!text.contains("no-setting"), "secrets are not printed");
    // What is printed can be used as a file.
    let printed = folder.path().join("printed.toml");
    std::fs::write(&printed, &text).unwrap();
    let (code, again, _) = run(&mut nilometer(&["config", "--config", printed.to_str().unwrap()]));
    assert_eq!((code, again), (0, text));
    for (name, told) in [
        ("NILOMETER_LOG__PARTITION", "partition"),
        ("NILOMETER_LOGS__PARTITIONS", "logs"),
        ("NILOMETER_PORT", "port"),
    ] {
        let (code, _, stderr) = run(nilometer(&["config"]).env(name, "3"));
        assert_eq!(code, 1, "{name}");
        assert!(stderr.contains(&format!("`{told}`")), "{name}: {stderr}");
    }
    let (code, _, stderr) = run(nilometer(&["config"]).env("NILOMETER_LOG__PARTITIONS", "many"));
    assert_eq!(code, 1);
    let told = "log.partitions: expected a whole number from 1 to 1,024, found \\\"many\\\"";
    assert!(stderr.contains(told) && stderr.contains("NILOMETER_LOG__PARTITIONS"), "{stderr}");
}

#[tokio::test]
async fn keys_work_beside_a_running_server_and_a_revoked_one_is_refused_within_5_s() {
    let server = Server::start().await;
    // A label that would write a line of its own, backwards.
    let label = "\nshop\u{202e}";
    let (code, key, _) = run(&mut server.beside(&["keys", "create", "--label", label]));
    assert_eq!(code, 0, "a write key, where nothing else is said");
    let key = key.trim();
    let mut status = 401;
    for _ in 0..50 {
        status = server.send(key, "u-1").await;
        if status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status, 200, "a new key opens within 5 s");
    let (code, list, _) = run(&mut server.beside(&["keys", "list"]));
    assert_eq!(code, 0);
    let row = list.lines().find(|line| line.ends_with(" \\u000ashop\\u202e")).unwrap();
    assert!(row.contains("write") && row.contains("in force"), "{row}");
    assert!(!list.contains(key), "a list shows no secret");
    let id = row.split_whitespace().next().unwrap();
    assert_eq!(run(&mut server.beside(&["keys", "revoke", id])).0, 0);
    for _ in 0..50 {
        status = server.send(key, "u-1").await;
        if status == 401 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status, 401, "a revoked key is refused within 5 s");
    assert_eq!(server.send(WRITE_KEY, "u-1").await, 200, "the others go on");
    let (code, _, stderr) = run(&mut server.beside(&["keys", "revoke", "no-such-id"]));
    assert_eq!(code, 1, "{stderr}");
    let (code, _, stderr) =
        run(&mut server.beside(&["keys", "create", "read", "--origin", "https://a.example"]));
    assert_eq!((code, stderr.contains("write keys only")), (1, true));
}

#[tokio::test]
async fn generate_tallies_what_it_sent_and_the_server_counted_the_same() {
    let server = Server::start().await;
    let args = ["generate", "--events", "5000", "--rate", "0", "--users", "300", "--seed", "7"];
    let (code, stdout, stderr) = run(&mut server.beside(&args));
    assert_eq!(code, 0, "{stderr}");
    let tally: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(tally["sent"], 5000);
    assert!(tally["duplicates"].as_u64().unwrap() > 20, "{tally}");
    let totals = settled(&server, 5000).await;
    assert_eq!(totals["unique"], tally["unique"]);
    assert_eq!(totals["duplicate"], tally["duplicates"]);
    assert_eq!(totals["dead_lettered"], tally["invalid"]);
    assert_eq!(tally["rejected"], tally["invalid"]);
    let (code, _, stderr) = run(nilometer(&["generate", "--events", "10", "--url", &server.url])
        .env("NILOMETER_WRITE_KEY", "not-a-key"));
    assert_eq!(code, 1);
    assert!(stderr.contains("unauthorized") || stderr.contains("401"), "{stderr}");
}

/// The same folder and address, for the demo.
fn as_demo(serve: &Command) -> Command {
    let args: Vec<_> = serve.get_args().skip(1).map(|arg| arg.to_str().unwrap()).collect();
    let demo = ["demo", "--rate", "0.2", "--days", "1", "--users", "100"];
    let mut command = nilometer(&[&demo[..], &args].concat());
    let folder = std::path::Path::new(args[1]).parent().unwrap();
    let log = std::fs::File::create(folder.join("stderr")).unwrap();
    command.env("NILOMETER_READ_TOKEN", READ_TOKEN).stdout(Stdio::null()).stderr(log);
    command
}

#[tokio::test]
async fn a_demo_that_is_started_again_has_its_history_once() {
    let before_hour = |ms: i64| ms - ms.rem_euclid(3_600_000);
    let to_ms = before_hour(jiff::Timestamp::now().as_millisecond());
    let path = format!(
        "/v1/query?metrics=events&granularity=1h&from={}&to={to_ms}",
        to_ms - 48 * 3_600_000
    );
    let events = async |server: &Server| -> u64 {
        let answer = server.json(&path).await;
        answer["rows"].as_array().unwrap().iter().filter_map(|row| row["events"].as_u64()).sum()
    };
    let mut folder = tempfile::tempdir().unwrap();
    let mut counts = Vec::new();
    // The first one is killed while its history comes in.
    for start in 0..3 {
        let server = Server::start_with(folder, |command| *command = as_demo(command)).await;
        let mut tries = 0;
        while !(start == 0 && events(&server).await > 100
            || server.stderr().contains("history sent"))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
            tries += 1;
            assert!(tries < 3_000, "{}", server.stderr());
        }
        if start == 0 {
            folder = server.killed();
            continue;
        }
        let mut pipeline = Value::Null;
        while pipeline["totals"]["in_flight"] != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            pipeline = server.json("/v1/pipeline").await;
        }
        counts.push(events(&server).await);
        assert_eq!(
            (&pipeline["residual"], &pipeline["totals"]["conflicts"]),
            (&0.into(), &0.into())
        );
        folder = server.stopped().await;
    }
    assert!(counts[0] > 5_000, "{counts:?}");
    assert_eq!(counts[0], counts[1]);
}

/// Catches: a demo that ends, as by a crash, where nobody can sign in.
#[tokio::test]
async fn a_demo_without_an_admin_token_says_so_goes_on_and_stops_well() {
    // Then it plays, and a stop is heard.
    let plays = async |server: &Server| {
        for _ in 0..600 {
            if server.stderr().contains("history sent") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{}", server.stderr());
    };
    let server = Server::start_with(tempfile::tempdir().unwrap(), |command| {
        *command = as_demo(command);
        command.env("NILOMETER_ADMIN_TOKEN", ADMIN_TOKEN);
    })
    .await;
    plays(&server).await;
    // The book has a key of its own: no start makes others.
    assert_eq!(run(&mut server.beside(&["keys", "create", "write"])).0, 0);
    let mut server = Server::start_with(server.stopped().await, |command| {
        *command = as_demo(command);
        command.stdout(Stdio::piped());
    })
    .await;
    let mut stdout = server.take_stdout();
    plays(&server).await;
    assert_eq!(server.stop().await, 0, "{}", server.stderr());
    assert!(server.stderr().contains("no admin token is in force"), "{}", server.stderr());
    assert!(server.stderr().contains("server stopped"), "{}", server.stderr());
    let mut printed = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut printed).unwrap();
    let open = format!("Nilometer's demo is open:  {}\n", server.url);
    assert!(printed.contains(&open), "{printed}");
}

/// The pipeline's totals once `received` events are in and none is in flight.
async fn settled(server: &Server, received: u64) -> Value {
    let mut pipeline = Value::Null;
    for _ in 0..200 {
        pipeline = server.json("/v1/pipeline").await;
        let totals = &pipeline["totals"];
        if totals["received"] == received && totals["in_flight"] == 0 {
            assert_eq!(pipeline["residual"], 0);
            return totals.clone();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{received} events were awaited: {pipeline}");
}

#[tokio::test]
async fn an_import_is_tried_dry_names_bad_rows_and_adds_nothing_the_second_time() {
    let server = Server::start().await;
    let file = server.folder().join("clicks.csv");
    let mut rows = String::from("ts,who,page,note\n");
    for row in 0..100 {
        let second = 1_300_000_000 + row * 60;
        rows += &format!("{second},user-{},page-{row},\"a, b\"\n", row % 9);
    }
    rows += "yesterday,user-1,page-1,bad\n";
    std::fs::write(&file, rows).unwrap();
    let flags = ["--map", "ts=timestamp", "--map", "who=user_id", "--map", "page=content_id"];
    let flags = [&flags[..], &["--event-type", "click", "--time-unit", "s"]].concat();
    let args = |more: &[&'static str]| -> Vec<&str> {
        [&["import", file.to_str().unwrap()][..], &flags, more].concat()
    };
    // Without a key: nothing is sent.
    let (code, shown, stderr) = run(&mut nilometer(&args(&["--dry-run"])));
    assert_eq!(code, 0, "{stderr}");
    let first: Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    assert_eq!((&first["user_id"], &first["event_type"]), (&"user-0".into(), &"click".into()));
    assert_eq!(first["properties"]["note"], "a, b");
    assert!(stderr.contains("row would be rejected"), "{stderr}");

    let (code, stdout, stderr) = run(&mut server.beside(&args(&[])));
    assert_eq!(code, 1, "a rejected row is a failure: {stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["accepted"], &report["rejected"]), (&100.into(), &1.into()));
    assert!(stderr.contains("\"row\":101") && stderr.contains("schema_violation"), "{stderr}");
    let once = settled(&server, 101).await;
    assert_eq!((&once["unique"], &once["dead_lettered"]), (&100.into(), &1.into()));

    let (_, stdout, _) = run(&mut server.beside(&args(&["--restart"])));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["accepted"], 100, "a repeat is accepted");
    let twice = settled(&server, 202).await;
    assert_eq!((&twice["unique"], &twice["duplicate"]), (&100.into(), &100.into()));
}

#[tokio::test]
async fn a_killed_import_goes_on_where_it_was_and_every_row_counts_once() {
    let server = Server::start().await;
    let file = server.folder().join("long.ndjson");
    let rows: String = (0..60_000)
        .map(|row| {
            let time = 1_300_000_000_000_u64 + row * 1000;
            format!(
                "{{\"event_type\":\"view\",\"user_id\":\"u-{}\",\"timestamp\":{time}}}\n",
                row % 99
            )
        })
        .collect();
    std::fs::write(&file, rows).unwrap();
    let args = ["import", file.to_str().unwrap(), "--time-unit", "ms", "--connections", "2"];
    let mut first = server.beside(&args).stdout(Stdio::null()).spawn().unwrap();
    let states = server.folder().join("state/nilometer/imports");
    let done = || {
        let state = std::fs::read_dir(&states).ok()?.next()?.ok()?;
        std::fs::read_to_string(state.path()).ok()?.parse::<u64>().ok()
    };
    while done().is_none_or(|rows| rows == 0) {
        assert!(first.try_wait().unwrap().is_none(), "it ended before it could be killed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let (code, stdout, stderr) = run(&mut server.beside(&args));
    assert_eq!(code, 0, "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let skipped = report["skipped"].as_u64().unwrap();
    assert!(skipped >= 2_000, "{report}");
    assert_eq!(report["accepted"].as_u64().unwrap() + skipped, 60_000);
    for _ in 0..400 {
        let pipeline = server.json("/v1/pipeline").await;
        if pipeline["totals"]["unique"] == 60_000 && pipeline["totals"]["in_flight"] == 0 {
            assert_eq!(pipeline["residual"], 0);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{}", server.json("/v1/pipeline").await);
}
