//! Output whose reader is gone ends no server, no task and no key, and a command quietly.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::server::{Server, nilometer, run};

/// A pipe that nobody reads.
fn nobody() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
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

/// The keys that a start printed: write, read, admin.
fn printed(text: &str) -> Vec<String> {
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

#[tokio::test]
async fn first_keys_that_nobody_saw_are_made_anew_at_the_next_start() {
    let mut folder = tempfile::tempdir().unwrap();
    for (case, stdout) in [("nobody", nobody()), ("null", Stdio::null())] {
        let server = Server::start_with(folder, |command| {
            command.stdout(stdout);
        })
        .await;
        assert_eq!(listed(&server.data()), [""; 0], "{case}");
        assert!(server.stderr().contains("withdrawn"), "{case}");
        let (code, report, _) = run(&mut server.beside(&["doctor"]));
        assert_eq!((code, report.contains("there are no keys")), (1, true), "{report}");
        folder = server.stopped().await;
    }
    let server = Server::start_with(folder, |command| {
        let mut shell = closing(1, command);
        let log = std::fs::File::create("/dev/null").unwrap();
        shell.stderr(log);
        *command = shell;
    })
    .await;
    assert_eq!(listed(&server.data()), [""; 0], "closed");
    folder = server.stopped().await;
    let mut server = Server::start_with(folder, |command| {
        command.stdout(Stdio::piped());
    })
    .await;
    let mut stdout = server.take_stdout();
    let mut seen = vec![0; 4096];
    let length = stdout.read(&mut seen).unwrap();
    seen.truncate(length);
    let keys = printed(&String::from_utf8(seen).unwrap());
    assert_eq!((keys.len(), listed(&server.data()).len()), (3, 3));
    assert_eq!(server.send(&keys[0], "u-1").await, 200);
    folder = server.stopped().await;
    let mut server = Server::start_with(folder, |command| {
        command.stdout(Stdio::piped());
    })
    .await;
    let mut first = String::new();
    BufReader::new(server.take_stdout()).read_line(&mut first).unwrap();
    assert!(first.starts_with("Nilometer listens on http://127.0.0.1:"), "{first}");
    assert_eq!(server.send(&keys[0], "u-1").await, 200, "they stay");
    assert_eq!(listed(&server.data()).len(), 3);
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
            command.stdout(Stdio::piped());
        })
        .await;
        let mut seen = Vec::new();
        let mut lines = BufReader::new(server.take_stdout()).lines();
        while seen.len() < 6 {
            seen.push(lines.next().unwrap().unwrap());
        }
        drop(lines);
        let keys = printed(&seen.join("\n"));
        let [write, read, _admin] = keys.as_slice() else { panic!("{seen:?}") };
        assert_eq!(server.send(write, "u-1").await, 200);
        assert_eq!(server.get("/v1/catalog", read).await.status(), 200);
        let ids: Vec<_> = listed(&server.data());
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
