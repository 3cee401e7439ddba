//! deploy/nilometer.service: what it takes from the server, and that the server can do without.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::server::{ADMIN_TOKEN, READ_TOKEN, Server, WRITE_KEY};

const UNIT: &str = include_str!("../../../deploy/nilometer.service");
/// What `systemd-analyze security` may find at most, in tenths.
const EXPOSURE_MAX: &str = "20";

/// A system command in the environment that the tests are run in; `None` where there is none.
#[expect(clippy::print_stderr, reason = "what was skipped")]
fn system(program: &str, args: &[&str]) -> Option<(bool, String)> {
    match Command::new(program).args(args).stdin(Stdio::null()).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8(said).unwrap()))
        }
        Err(error) => {
            eprintln!("skipped: {program} cannot be started ({error})");
            None
        }
    }
}

/// The values of a setting, in the unit's order.
fn values(setting: &str) -> Vec<&'static str> {
    let start = format!("{setting}=");
    UNIT.lines().filter_map(|line| line.strip_prefix(start.as_str())).collect()
}

/// The system calls of a set or of one's own name, as this machine's systemd knows them.
fn calls(name: &str, into: &mut BTreeSet<String>) -> Option<()> {
    if !name.starts_with('@') {
        into.insert(name.to_owned());
        return Some(());
    }
    let (known, said) = system("systemd-analyze", &["--no-pager", "syscall-filter", name])?;
    assert!(known, "{said}");
    for line in said.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#')) {
        calls(line, into)?;
    }
    Some(())
}

/// What the unit's filter lets through: lists add up, those that begin with `~` take away.
fn allowed() -> Option<BTreeSet<String>> {
    let mut allowed = BTreeSet::new();
    for list in values("SystemCallFilter") {
        let (taken, list) = list.strip_prefix('~').map_or((false, list), |list| (true, list));
        let mut named = BTreeSet::new();
        for name in list.split_whitespace() {
            calls(name, &mut named)?;
        }
        if taken {
            allowed.retain(|call| !named.contains(call));
        } else {
            allowed.append(&mut named);
        }
    }
    Some(allowed)
}

/// The server behind strace, which would outlive it.
struct Traced(u32);

impl Traced {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0).unwrap()).unwrap();
        // It may have ended.
        let _ended = rustix::process::kill_process(pid, signal);
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The first child of a process that runs.
fn child_of(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Names in the table that `strace -c` leaves, whose last column but for errors they are.
fn names(table: &str) -> BTreeSet<String> {
    let rows = table.lines().filter(|line| {
        line.split_whitespace().next().is_some_and(|first| first.parse::<f64>().is_ok())
    });
    let last = rows.filter_map(|row| row.split_whitespace().last());
    last.filter(|name| *name != "total").map(str::to_owned).collect()
}

#[test]
fn systemd_finds_little_that_the_unit_leaves_open() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("nilometer.service");
    std::fs::write(&unit, UNIT).unwrap();
    let path = unit.to_str().unwrap();
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let args = ["security", "--no-pager", "--offline=yes", &threshold, path];
    let Some((passed, said)) = system("systemd-analyze", &args) else { return };
    assert!(passed, "{said}");
    assert!(said.contains("Overall exposure level"), "{said}");
}

#[tokio::test]
async fn the_units_filter_lets_through_each_system_call_of_a_server_that_works() {
    let Some(allowed) = allowed() else { return };
    assert!(allowed.contains("setpriority") && allowed.contains("fdatasync"), "{allowed:?}");
    assert!(!allowed.contains("sched_setscheduler") && !allowed.contains("mount"));
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("calls");
    if system("strace", &["-V"]).is_none() {
        return;
    }
    let mut server = Server::start_with(folder, |command| {
        let mut traced = Command::new("strace");
        traced.args(["-f", "-qq", "-c", "-o"]).arg(&table);
        traced.arg(command.get_program()).args(command.get_args()).env_clear();
        traced
            .env("NILOMETER_WRITE_KEY", WRITE_KEY)
            .env("NILOMETER_READ_TOKEN", READ_TOKEN)
            .env("NILOMETER_ADMIN_TOKEN", ADMIN_TOKEN)
            .env("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1")
            .env("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(table.with_file_name("stderr")).unwrap());
        *command = traced;
    })
    .await;
    let traced = Traced(child_of(server.pid()).unwrap());
    for user in 0..200 {
        assert_eq!(server.send(WRITE_KEY, &format!("user-{user}")).await, 200);
    }
    // Over a checkpoint and a fold.
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.json("/v1/query?metrics=events&last=1h&granularity=total").await;
    traced.signal(Signal::TERM);
    assert_eq!(server.ended().await, 0, "{}", server.stderr());
    let used = names(&std::fs::read_to_string(table).unwrap());
    // A shard that is up to date goes first, as LimitNICE= lets it.
    assert!(used.contains("setpriority") && used.contains("accept4"), "{used:?}");
    let refused: Vec<_> = used.difference(&allowed).collect();
    assert!(refused.is_empty(), "SystemCallFilter= of deploy/nilometer.service: {refused:?}");
}
