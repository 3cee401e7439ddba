//! Keys over starts: what fails first, what the environment gives, what a terminal sees.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::server::{Server, free_port, nilometer, run};

const FIRST: &str = "the-first-of-what-is-given";
const SECOND: &str = "the-second-of-what-is-given";

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

    let mut server = Server::start_with(folder, |command| {
        command.stdout(Stdio::piped());
    })
    .await;
    let mut stdout = server.take_stdout();
    assert_eq!(server.stop().await, 0);
    let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
    assert_eq!(list.matches("first start").count(), 3, "{list}");
    // What may be kept as a log names the file, which is its user's alone.
    let file = server.data().canonicalize().unwrap().join("keys/first-start.txt");
    let written = server.first_start().await;
    let mut printed = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut printed).unwrap();
    assert!(printed.contains(&format!("deleted: {}\n", file.display())), "{printed}");
    assert!(server.stderr().contains(file.to_str().unwrap()), "{}", server.stderr());
    for secret in ["  write  nw_", "  read   nr_", "  admin  na_", "/#code=nc_"] {
        assert!(written.contains(secret), "{secret} is not in {written}");
        let (_, secret) = secret.split_at(secret.len() - 3);
        assert!(!printed.contains(secret) && !server.stderr().contains(secret), "{printed}");
    }
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // Who leaves it there is told.
    let mut server = Server::start_with(server.into_folder(), |_| {}).await;
    assert!(server.stderr().contains("lie here in clear"), "{}", server.stderr());
    assert_eq!(server.stop().await, 0);
    let (_, report, _) = run(&mut server.beside(&["doctor"]));
    assert!(report.contains("keys/first-start.txt holds the keys"), "{report}");
}

#[tokio::test]
async fn a_token_of_the_environment_is_in_force_while_it_is_given() {
    let mut folder = tempfile::tempdir().unwrap();
    let mut made = String::new();
    // What is given, and what opens then; the first start makes the others.
    let starts: [(Option<&str>, [u16; 2]); 4] = [
        (Some(FIRST), [200, 401]),
        (Some(SECOND), [401, 200]),
        (Some(FIRST), [200, 401]),
        (None, [401, 401]),
    ];
    for (given, expected) in starts {
        let server = Server::start_with(folder, |command| {
            command.stdout(Stdio::null());
            if let Some(given) = given {
                command.env("NILOMETER_WRITE_KEY", given);
            }
        })
        .await;
        if made.is_empty() {
            let (code, key, stderr) = run(&mut server.beside(&["keys", "create", "write"]));
            assert_eq!(code, 0, "{stderr}");
            made = key.trim().to_owned();
            wait_for(&server, &made).await;
        }
        let opens = [server.send(FIRST, "u-1").await, server.send(SECOND, "u-1").await];
        assert_eq!(opens, expected, "{given:?}");
        assert_eq!(server.send(&made, "u-1").await, 200, "what `keys create` made stays");
        let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
        assert_eq!(list.matches("environment").count(), usize::from(given.is_some()), "{list}");
        let first_start = server.first_start().await;
        assert!(!first_start.contains("  write ") && first_start.contains("  admin "));
        folder = server.stopped().await;
    }
}

/// What a browser has and asks: its cookie.
async fn asked(server: &Server, method: reqwest::Method, path: &str, cookie: &str) -> u16 {
    let request = server.client.request(method, format!("{}{path}", server.url));
    request.header("cookie", cookie).send().await.unwrap().status().as_u16()
}

async fn signed_in(server: &Server, by: &str) -> Result<String, u16> {
    let request = server.client.post(format!("{}/v1/session", server.url)).body(by.to_owned());
    let answer = request.send().await.unwrap();
    if !answer.status().is_success() {
        return Err(answer.status().as_u16());
    }
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("Max-Age=604800; HttpOnly; SameSite=Strict"), "{cookie}");
    Ok(cookie.split(';').next().unwrap().to_owned())
}

#[tokio::test]
async fn a_browser_stays_signed_in_over_a_restart_until_it_signs_out_or_its_token_is_revoked() {
    use reqwest::Method;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(folder, |command| {
        command.stdout(Stdio::null());
    })
    .await;
    let first_start = server.first_start().await;
    let said = |wanted: &str| {
        let line = first_start.lines().find(|line| line.contains(wanted));
        line.unwrap().rsplit(wanted).next().unwrap().to_owned()
    };
    let (admin, code) = (said("  admin  "), said("/#code="));
    let by_token = format!("{{\"token\":\"{admin}\"}}");
    let by_code = format!("{{\"code\":\"{code}\"}}");
    let first = signed_in(&server, &by_token).await.unwrap();
    let second = signed_in(&server, &by_code).await.unwrap();
    assert_eq!(signed_in(&server, &by_code).await, Err(401), "a code opens once");
    let third = signed_in(&server, &by_token).await.unwrap();
    let reads = |status: [u16; 3]| {
        let cookies = [&first, &second, &third];
        async move |server: &Server| {
            for (cookie, status) in cookies.into_iter().zip(status) {
                let got = asked(server, Method::GET, "/v1/catalog", cookie).await;
                assert_eq!(got, status, "{cookie}");
            }
        }
    };
    reads([200, 200, 200])(&server).await;
    let server = Server::start_with(server.stopped().await, |_| {}).await;
    reads([200, 200, 200])(&server).await;
    assert_eq!(signed_in(&server, &by_code).await, Err(401), "nor after a restart");
    assert_eq!(asked(&server, Method::DELETE, "/v1/session", &first).await, 204);
    reads([401, 200, 200])(&server).await;
    let server = Server::start_with(server.stopped().await, |_| {}).await;
    reads([401, 200, 200])(&server).await;
    let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
    let id =
        list.lines().find_map(|line| line.split_whitespace().find(|it| it.starts_with("admin-")));
    assert_eq!(run(&mut server.beside(&["keys", "revoke", id.unwrap()])).0, 0);
    for _ in 0..50 {
        if asked(&server, Method::GET, "/v1/catalog", &second).await == 401 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    reads([401, 401, 401])(&server).await;
}

async fn wait_for(server: &Server, key: &str) {
    wait_for_status(server, key, 200).await;
}

/// What a changed key answers within 5 seconds.
async fn wait_for_status(server: &Server, key: &str, status: u16) {
    for _ in 0..50 {
        if server.send(key, "u-1").await == status {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("{key} is not answered {status}: {}", server.stderr());
}

/// Commands of the binary on one data directory, all at once: what each printed.
fn all_at_once(data: &Path, commands: &[Vec<&str>]) -> Vec<std::process::Child> {
    let spawn = |words: &Vec<&str>| {
        nilometer(&[&["keys", "--data-dir", data.to_str().unwrap()], words.as_slice()].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    commands.iter().map(spawn).collect()
}

fn printed(children: Vec<std::process::Child>) -> Vec<String> {
    let printed = |child: std::process::Child| {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    children.into_iter().map(printed).collect()
}

/// Catches: writers who read, change and write the book at the same time, the server among them.
#[tokio::test]
async fn a_key_that_was_shown_opens_and_a_revoked_one_does_not_whoever_else_writes() {
    const WRITERS: usize = 12;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let create = vec!["create", "write"];
    // Beside a first start, which makes keys of its own.
    let making = all_at_once(&data, &vec![create.clone(); WRITERS]);
    let server = Server::start_with(folder, |command| {
        command.env("NILOMETER_ADMIN_TOKEN", "cli-test-admin-token-0001").stdout(Stdio::null());
    })
    .await;
    let before = printed(making);
    let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
    let ids: Vec<_> = list.split_whitespace().filter(|word| word.starts_with("write-")).collect();
    assert_eq!(ids.len(), WRITERS, "{list}");
    for key in &before {
        wait_for(&server, key).await;
    }
    // Beside a running server and each other.
    let revoke = ids.iter().map(|id| vec!["revoke", id]);
    let commands: Vec<_> = revoke.flat_map(|revoke| [revoke, create.clone()]).collect();
    let after = printed(all_at_once(&data, &commands));
    for key in after.iter().filter(|printed| !printed.is_empty()) {
        wait_for_status(&server, key, 200).await;
    }
    for key in &before {
        wait_for_status(&server, key, 401).await;
    }
    let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
    assert_eq!(list.matches("revoked").count(), WRITERS, "{list}");
    assert_eq!(list.matches("in force").count(), WRITERS + 1, "{list}");
    // A restart reads what the server had in force.
    let server = Server::start_with(server.stopped().await, |_| {}).await;
    for key in &before {
        assert_eq!(server.send(key, "u-1").await, 401);
    }
    for key in after.iter().filter(|printed| !printed.is_empty()) {
        assert_eq!(server.send(key, "u-1").await, 200);
    }
}

#[tokio::test]
async fn a_damaged_book_is_refused_by_name_until_its_last_good_state_is_put_back() {
    let server = Server::start().await;
    let (_, key, _) = run(&mut server.beside(&["keys", "create", "write"]));
    wait_for(&server, key.trim()).await;
    let (book, copy) =
        (server.data().join("keys/book.json"), server.data().join("keys/book.good.json"));
    std::fs::write(&book, "{\"version\":2,").unwrap();
    for command in [&["create", "write"][..], &["list"], &["revoke", "x"]] {
        let (stdout, stderr) = failed(&mut server.beside(&[&["keys"], command].concat()));
        assert_eq!(stdout, "");
        for told in ["keys/book.json is damaged", "keys/book.good.json"] {
            assert!(stderr.contains(told), "{told} is not in {stderr}");
        }
    }
    let (code, report, _) = run(&mut server.beside(&["doctor"]));
    assert!(code == 1 && report.contains("keys/book.good.json"), "{report}");
    assert_eq!(server.send(key.trim(), "u-1").await, 200, "what was in force stays");
    let folder = server.killed();
    let data = folder.path().join("data");
    let (_, stderr) = failed(&mut nilometer(&["serve", "--data-dir", data.to_str().unwrap()]));
    assert!(stderr.contains("keys/book.json is damaged"), "{stderr}");
    std::fs::copy(copy, book).unwrap();
    let server = Server::start_with(folder, |_| {}).await;
    assert_eq!(server.send(key.trim(), "u-1").await, 200);
}

/// What is answered at this moment to who asks whether the server is ready.
fn readiness(address: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_whitespace().nth(1).map(ToOwned::to_owned)
}

/// Revokes a key as soon as a server starts at this address; whether it was still starting then.
fn revoked_while_starting(address: &str, data: &str, id: &str) -> bool {
    for _ in 0..20_000 {
        if readiness(address).is_some() {
            break;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(1));
    }
    assert_eq!(run(&mut nilometer(&["keys", "--data-dir", data, "revoke", id])).0, 0);
    readiness(address).as_deref() == Some("503")
}

/// Catches: a watcher of the book that knows only what it saw first.
#[tokio::test]
async fn a_key_that_is_revoked_while_the_server_starts_opens_nothing_soon_after() {
    const STARTS: usize = 4;
    fn furnish(command: &mut Command) {
        command
            .env("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "3600")
            .env("NILOMETER_LIMITS__EVENTS_PER_SECOND", "1000000")
            .env("NILOMETER_WRITE_KEY", crate::server::WRITE_KEY)
            .stdout(Stdio::null());
    }
    let mut server = Server::start_with(tempfile::tempdir().unwrap(), furnish).await;
    // Enough that the next starts have something to replay.
    for batch in 0..6 {
        let event = |number| {
            format!(
                "{{\"event_type\":\"view\",\"user_id\":\"{batch}-{number}\",\"timestamp\":0}}\n"
            )
        };
        let body: String = (0..10_000).map(event).collect();
        let request = server.client.post(format!("{}/v1/events", server.url));
        let request = request.bearer_auth(crate::server::WRITE_KEY).body(body);
        let request = request.header("content-type", "application/x-ndjson");
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    let mut caught = 0;
    for _ in 0..STARTS {
        let (_, key, _) = run(&mut server.beside(&["keys", "create", "write", "--label", "next"]));
        let key = key.trim();
        let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
        let line = list.lines().find(|line| line.contains("in force") && line.ends_with("next"));
        let id = line.unwrap().split_whitespace().next().unwrap().to_owned();
        let mut revoking = None;
        server = Server::start_with(server.killed(), |command| {
            furnish(command);
            let words: Vec<_> =
                command.get_args().map(|it| it.to_str().unwrap().to_owned()).collect();
            revoking =
                Some(std::thread::spawn(move || revoked_while_starting(&words[4], &words[2], &id)));
        })
        .await;
        caught += usize::from(revoking.unwrap().join().unwrap());
        wait_for_status(&server, key, 401).await;
    }
    assert!(caught > 0, "every start was over before its key was revoked");
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
