//! Output whose reader is gone ends no server, no task and no key, and a command quietly.

use std::io::{BufRead, BufReader, PipeReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};

use crate::server::{ADMIN_TOKEN, READ_TOKEN, Server, WRITE_KEY, nilometer, run};

/// A pipe that nobody reads.
fn nobody() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A pipe that is full, and whose reader does not read.
fn stuck() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer.into())
}

/// A server that says much, to a reader who is stuck.
async fn talkative() -> (PipeReader, Server) {
    let (reader, stderr) = stuck();
    let server = Server::start_with(tempfile::tempdir().unwrap(), |command| {
        command
            .env("RUST_LOG", "debug,hyper=trace")
            .env("NILOMETER_WRITE_KEY", WRITE_KEY)
            .env("NILOMETER_READ_TOKEN", READ_TOKEN)
            .env("NILOMETER_ADMIN_TOKEN", ADMIN_TOKEN)
            .env("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1")
            .env("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "1")
            .stdout(Stdio::null())
            .stderr(stderr);
    })
    .await;
    (reader, server)
}

/// Asks until log lines are lost; every request is answered.
async fn ask_much(server: &Server) {
    for round in 0..500 {
        for asked in 0..20 {
            let user = format!("u-{round}-{asked}");
            assert_eq!(server.send(WRITE_KEY, &user).await, 200);
            assert_eq!(server.get("/v1/no-such-path", READ_TOKEN).await.status(), 404);
        }
        let metrics = server.get("/metrics", READ_TOKEN).await.text().await.unwrap();
        let lost = metrics
            .lines()
            .find_map(|line| line.strip_prefix("nilometer_process_log_lines_lost_total "));
        if lost.unwrap().parse::<f64>().unwrap() > 0.0 {
            return;
        }
    }
    panic!("nothing was lost");
}

/// The command with file descriptor 1 or 2 closed, as a shell closes it.
fn closing(descriptor: u8, command: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("exec \"$0\" \"$@\" {descriptor}>&-")]);
    shell.arg(command.get_program()).args(command.get_args()).env_clear().stdin(Stdio::null());
    shell
}

fn listed(data: &Path) -> Vec<String> {
    let (code, list, stderr) =
        run(&mut nilometer(&["keys", "list", "--data-dir", data.to_str().unwrap()]));
    assert_eq!(code, 0, "{stderr}");
    list.lines().skip(1).map(str::to_owned).collect()
}

/// The server is ready a moment before it prints.
async fn until_withdrawn(server: &Server) {
    for _ in 0..300 {
        if server.stderr().contains("withdrawn") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nothing was withdrawn: {}", server.stderr());
}

/// The keys that a first start made: write, read, admin.
fn keys_of(text: &str) -> Vec<String> {
    let token = |line: &str| {
        let (kind, token) = line.strip_prefix("  ")?.split_once(' ')?;
        ["write", "read", "admin"].contains(&kind).then(|| token.trim().to_owned())
    };
    text.lines().filter_map(token).collect()
}

#[tokio::test]
async fn a_reader_who_is_gone_ends_a_command_quietly_and_well() {
    let server = Server::start().await;
    let rows = server.folder().join("rows.ndjson");
    let row = "{\"event_type\":\"view\",\"user_id\":\"u-1\",\"timestamp\":1300000000000}\n";
    std::fs::write(&rows, row.repeat(9)).unwrap();
    let rows = rows.to_str().unwrap();
    let cases: [&[&str]; 9] = [
        &["config"],
        &["config", "--markdown"],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["keys", "list"],
        &["doctor"],
        &["doctor", "--json"],
        &["generate", "--events", "10", "--rate", "0"],
        &["import", "--dry-run", "--time-unit", "ms", rows],
    ];
    for args in cases {
        let (code, _, stderr) = run(server.beside(args).stdout(nobody()));
        assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
    }
    // What was to be done is done.
    let (code, _, stderr) =
        run(server.beside(&["import", "--time-unit", "ms", rows]).stdout(nobody()));
    assert_eq!((code, stderr.contains("panicked")), (0, false), "{stderr}");
    // Wrong is wrong, whoever listens; help needs nobody.
    let (code, ..) = run(server.beside(&["doctor", "--config", "none.toml"]).stdout(nobody()));
    assert_eq!(code, 1);
    for (args, expected) in [(["config", "--help"], 0), (["config", "--none"], 2)] {
        let (code, ..) = run(server.beside(&args).stdout(nobody()).stderr(nobody()));
        assert_eq!(code, expected, "{args:?}");
    }
    // A disk that is full is no reader who went.
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (code, _, stderr) = run(server.beside(&["config"]).stdout(full()));
    assert_eq!((code, stderr.contains("No space left")), (1, true), "{stderr}");
    let (code, ..) = run(server.beside(&["config"]).stderr(full()));
    assert_eq!(code, 0);
}

#[tokio::test]
async fn a_key_that_nobody_saw_is_not_kept() {
    let server = Server::start().await;
    let before = listed(&server.data());
    let create = server.beside(&["keys", "create", "read"]);
    let data = server.data();
    let closed = {
        let mut command = closing(1, &create);
        command.env("NILOMETER_SERVER__DATA_DIR", &data);
        command
    };
    let mut unseen = [server.beside(&["keys", "create", "read"]), create, closed];
    unseen[0].stdout(nobody());
    unseen[1].stdout(Stdio::null());
    for command in &mut unseen {
        let (code, _, stderr) = run(command);
        assert_eq!((code, stderr.contains("not kept")), (1, true), "{stderr}");
    }
    assert_eq!(listed(&data), before);
    // Nobody needs to read the log for it.
    let (code, token, _) = run(server.beside(&["keys", "create", "read"]).stderr(nobody()));
    assert_eq!((code, token.starts_with("nr_")), (0, true));
    assert_eq!(listed(&data).len(), before.len() + 1);
}

/// Catches: keys of a first start that nobody could have seen, and ones that a log keeps.
#[tokio::test]
async fn whoever_reads_stdout_first_keys_are_in_a_file_or_made_anew_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data/keys/first-start.txt");
    // Where no file can be, nobody can see them.
    std::fs::create_dir_all(&file).unwrap();
    let server = Server::start_with(folder, |command| {
        command.stdout(Stdio::null());
    })
    .await;
    until_withdrawn(&server).await;
    assert_eq!(listed(&server.data()), [""; 0]);
    let (code, report, _) = run(&mut server.beside(&["doctor"]));
    assert_eq!((code, report.contains("there are no keys")), (1, true), "{report}");
    let mut folder = server.stopped().await;
    std::fs::remove_dir(file).unwrap();
    for (case, stdout) in
        [("nobody", Some(nobody())), ("null", Some(Stdio::null())), ("closed", None)]
    {
        let server = Server::start_with(folder, |command| match stdout {
            Some(stdout) => drop(command.stdout(stdout)),
            None => {
                *command = closing(1, command);
                command.stderr(Stdio::null());
            }
        })
        .await;
        let keys = keys_of(&server.first_start().await);
        assert_eq!(keys.len(), 3, "{case}");
        assert_eq!(server.send(&keys[0], "u-1").await, 200, "{case}");
        let server = Server::start_with(server.stopped().await, |_| {}).await;
        assert_eq!(server.send(&keys[0], "u-1").await, 200, "{case}: they stay");
        assert_eq!(listed(&server.data()).len(), 3, "{case}");
        server.stopped().await;
        folder = tempfile::tempdir().unwrap();
    }
}

#[tokio::test]
async fn a_server_whose_output_nobody_reads_revokes_its_keys_and_ends_well() {
    for is_closed in [false, true] {
        let server = tempfile::tempdir().unwrap();
        let mut server = Server::start_with(server, |command| {
            if is_closed {
                *command = closing(2, command);
            } else {
                command.stderr(nobody());
            }
            command.stdout(nobody());
        })
        .await;
        let keys = keys_of(&server.first_start().await);
        let [write, read, _admin] = keys.as_slice() else { panic!("{keys:?}") };
        assert_eq!(server.send(write, "u-1").await, 200);
        assert_eq!(server.get("/v1/catalog", read).await.status(), 200);
        // They are kept a moment after they were written.
        let mut ids = Vec::new();
        while ids.len() < 3 {
            ids = listed(&server.data());
        }
        for line in &ids {
            let id = line.split_whitespace().next().unwrap();
            assert_eq!(run(&mut server.beside(&["keys", "revoke", id])).0, 0);
        }
        let mut statuses = (0, 0);
        for _ in 0..50 {
            let reading = server.get("/v1/catalog", read).await.status().as_u16();
            statuses = (server.send(write, "u-1").await, reading);
            if statuses == (401, 401) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(statuses, (401, 401), "revoked keys are refused within 5 s");
        assert_eq!(server.stop().await, 0);
    }
}

/// Waits until a key is good for this.
async fn until_status(server: &Server, key: &str, expected: u16) {
    let mut status = 0;
    for _ in 0..50 {
        status = server.get("/v1/catalog", key).await.status().as_u16();
        if status == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{status} after 5 s, not {expected}");
}

#[tokio::test]
async fn a_log_reader_who_is_stuck_holds_up_no_request_no_fold_no_key_and_no_stop() {
    let (reader, mut server) = talkative().await;
    ask_much(&server).await;
    let create = ["keys", "create", "read", "--label", "passing"];
    let (code, key, stderr) = run(&mut server.beside(&create));
    assert_eq!(code, 0, "{stderr}");
    until_status(&server, key.trim(), 200).await;
    let made = listed(&server.data()).into_iter().find(|line| line.contains("passing")).unwrap();
    let id = made.split_whitespace().next().unwrap();
    assert_eq!(run(&mut server.beside(&["keys", "revoke", id])).0, 0);
    until_status(&server, key.trim(), 401).await;
    assert_eq!(server.stop().await, 0);
    drop(reader);
}

#[tokio::test]
async fn a_log_that_is_read_again_says_what_was_lost_and_goes_on_to_its_end() {
    let (reader, mut server) = talkative().await;
    ask_much(&server).await;
    let (lines, log) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        for line in BufReader::new(reader).lines() {
            lines.send(line.unwrap()).unwrap();
        }
    });
    let told = log.iter().find(|line| line.contains("log lines were lost")).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(told["lost"].as_u64() > Some(0), "{told}");
    assert_eq!(server.stop().await, 0);
    assert!(log.iter().any(|line| line.contains("server stopped")), "the end is missing");
    reading.join().unwrap();
}

/// Waits until it ends by itself, for half a minute; the exit code.
async fn end(command: &mut Command) -> Option<i32> {
    let mut child = command.spawn().unwrap();
    let mut status = None;
    for _ in 0..300 {
        status = child.try_wait().unwrap();
        if status.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    status.and_then(|status| status.code())
}

#[tokio::test]
async fn a_start_that_fails_ends_though_its_log_reader_is_stuck() {
    let (_reader, stderr) = stuck();
    let mut serve = nilometer(&["serve", "--config", "none.toml"]);
    assert_eq!(end(serve.stdout(Stdio::null()).stderr(stderr)).await, Some(1));
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_thread_that_panics_is_told_where_the_log_is_read_and_hangs_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let (_reader, stderr) = stuck();
    let log = folder.path().join("stderr");
    for stderr in [std::fs::File::create(&log).unwrap().into(), stderr] {
        let data = folder.path().join("data");
        let mut serve = nilometer(&["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
        // Each shard, as it starts.
        serve.arg(data).env("FAILPOINTS", "before-fold=panic").env("RUST_LOG", "nilometer=error");
        assert_eq!(end(serve.stdout(Stdio::null()).stderr::<Stdio>(stderr)).await, Some(1));
    }
    let log = std::fs::read_to_string(log).unwrap();
    for told in ["thread 'stream-0' panicked at", "failpoint before-fold panic", "start the stream"]
    {
        assert!(log.contains(told), "{told} is not in {log}");
    }
}

#[tokio::test]
async fn a_stuck_reader_of_stdout_holds_up_neither_the_first_keys_nor_the_server() {
    let (reader, stdout) = stuck();
    let server = Server::start_with(tempfile::tempdir().unwrap(), |command| {
        command.stdout(stdout);
    })
    .await;
    let keys = keys_of(&server.first_start().await);
    assert_eq!(server.send(&keys[0], "u-1").await, 200);
    let folder = server.stopped().await;
    drop(reader);
    // Who asks it to stop before it has printed is heard, too.
    let (_reader, stdout) = stuck();
    let mut server = Server::start_with(folder, |command| {
        command.stdout(stdout);
    })
    .await;
    assert_eq!(server.stop().await, 0, "{}", server.stderr());
}
