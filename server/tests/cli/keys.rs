//! Keys over starts: what fails first, what the environment gives, what a terminal sees.

use std::process::{Command, Stdio};

use crate::server::{Server, free_port, nilometer, run};

/// Runs until it fails; what it printed and said.
fn failed(command: &mut Command) -> (String, String) {
    let (code, stdout, stderr) = run(command);
    assert_eq!(code, 1, "{stdout}{stderr}");
    (stdout, stderr)
}

#[tokio::test]
async fn a_first_start_that_fails_loses_no_keys_and_says_who_has_the_port() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let serve = |port: u16| {
        let address = format!("127.0.0.1:{port}");
        nilometer(&["serve", "--data-dir", data.to_str().unwrap(), "--listen", &address])
    };
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let (stdout, stderr) = failed(&mut serve(port));
    assert_eq!(stdout, "");
    for told in [format!("process {} (", std::process::id()), "--listen 127.0.0.1:".to_owned()] {
        assert!(stderr.contains(&told), "{told} is not in {stderr}");
    }
    // Later, too: the log's place is taken.
    std::fs::write(data.join("log"), "").unwrap();
    let (stdout, stderr) = failed(&mut serve(free_port()));
    assert!(stdout.is_empty() && stderr.contains("open the log"), "{stderr}");
    std::fs::remove_file(data.join("log")).unwrap();

    let server = Server::start_with(folder, |command| {
        command.stdout(Stdio::piped());
    })
    .await;
    let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
    assert_eq!(list.matches("first start").count(), 3, "{list}");
    let mut server = server;
    let mut stdout = server.take_stdout();
    assert_eq!(server.stop().await, 0);
    let mut printed = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut printed).unwrap();
    for told in ["  write  nw_", "  read   nr_", "  admin  na_", "/#code=nc_"] {
        assert!(printed.contains(told), "{told} is not in {printed}");
    }
}

#[tokio::test]
async fn a_token_of_the_environment_is_in_force_while_it_is_given() {
    let mut folder = tempfile::tempdir().unwrap();
    let mut made = String::new();
    // What is given, and what opens then; the first start makes the others.
    let starts: [(Option<&str>, [u16; 2]); 4] = [
        (Some("given-first"), [200, 401]),
        (Some("given-second"), [401, 200]),
        (Some("given-first"), [200, 401]),
        (None, [401, 401]),
    ];
    for (given, expected) in starts {
        let mut server = Server::start_with(folder, |command| {
            command.stdout(Stdio::piped());
            if let Some(given) = given {
                command.env("NILOMETER_WRITE_KEY", given);
            }
        })
        .await;
        let mut stdout = server.take_stdout();
        if made.is_empty() {
            let (code, key, stderr) = run(&mut server.beside(&["keys", "create", "write"]));
            assert_eq!(code, 0, "{stderr}");
            made = key.trim().to_owned();
            wait_for(&server, &made).await;
        }
        let opens =
            [server.send("given-first", "u-1").await, server.send("given-second", "u-1").await];
        assert_eq!(opens, expected, "{given:?}");
        assert_eq!(server.send(&made, "u-1").await, 200, "what `keys create` made stays");
        let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
        assert_eq!(list.matches("environment").count(), usize::from(given.is_some()), "{list}");
        folder = server.stopped().await;
        let mut printed = String::new();
        std::io::Read::read_to_string(&mut stdout, &mut printed).unwrap();
        assert!(!printed.contains("  write "), "{printed}");
    }
}

async fn wait_for(server: &Server, key: &str) {
    for _ in 0..50 {
        if server.send(key, "u-1").await == 200 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("{key} does not open");
}

/// Catches: a terminal that gets no address to sign in, and a log that gets one at every start.
#[tokio::test]
async fn a_terminal_sees_an_address_to_sign_in_at_every_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for start in 0..2 {
        let typescript = folder.path().join(format!("terminal-{start}"));
        let address = format!("127.0.0.1:{}", free_port());
        let server =
            nilometer(&["serve", "--data-dir", data.to_str().unwrap(), "--listen", &address]);
        let mut line = format!("exec {}", server.get_program().to_str().unwrap());
        for argument in server.get_args() {
            line += &format!(" '{}'", argument.to_str().unwrap());
        }
        let mut terminal = Command::new("script")
            .args(["-qfec", &line])
            .arg(&typescript)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut seen = String::new();
        for _ in 0..600 {
            seen = std::fs::read_to_string(&typescript).unwrap_or_default();
            if seen.contains("/#code=nc_") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let pid = std::fs::read_to_string(data.join("lock")).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        terminal.wait().unwrap();
        assert!(seen.contains(&format!("signed in: http://{address}/#code=nc_")), "{seen}");
        assert_eq!(seen.contains("  admin  na_"), start == 0, "{seen}");
    }
}
