//! The doctor beside a running server, on a stopped folder, and on a damaged one.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::server::{Server, nilometer, run};

type Snapshot = BTreeMap<PathBuf, (Vec<u8>, SystemTime)>;

fn files(folder: &Path, found: &mut Snapshot) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            let changed = path.metadata().unwrap().modified().unwrap();
            found.insert(path.clone(), (std::fs::read(&path).unwrap(), changed));
        }
    }
}

fn snapshot(folder: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    files(folder, &mut found);
    found
}

/// Exit code and the lines that are not `ok`, by their file.
fn examine(data: &Path) -> (i32, BTreeMap<String, Value>) {
    let (code, stdout, stderr) =
        run(&mut nilometer(&["doctor", "--json", "--data-dir", data.to_str().unwrap()]));
    let report: Value =
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
    assert_eq!(report["healthy"], code == 0, "{report}");
    let lines = report["checks"].as_array().unwrap().iter().filter(|line| line["state"] != "ok");
    let name = |line: &Value| line["file"].as_str().unwrap_or_default().to_owned();
    (code, lines.map(|line| (name(line), line.clone())).collect())
}

/// A folder with checkpoints and a base, as the server left it.
async fn stopped() -> Server {
    let mut server = Server::start().await;
    let (code, _, stderr) =
        run(&mut server.beside(&["generate", "--events", "4000", "--rate", "0"]));
    assert_eq!(code, 0, "{stderr}");
    let chunks = server.data().join("rollups/chunks");
    for _ in 0..300 {
        if std::fs::read_dir(&chunks).is_ok_and(|chunks| chunks.count() > 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(server.stop().await, 0, "{}", server.stderr());
    server
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// The largest file below a part of the folder, by the end of its name.
fn largest(data: &Path, part: &str, ending: &str) -> PathBuf {
    let all = snapshot(&data.join(part));
    let fits = all.into_iter().filter(|(path, _)| path.to_str().unwrap().ends_with(ending));
    fits.max_by_key(|(_, (bytes, _))| bytes.len()).unwrap().0
}

#[tokio::test]
async fn a_running_server_is_examined_without_a_finding_and_a_second_one_refused() {
    let server = Server::start().await;
    let mut load =
        server.beside(&["generate", "--seconds", "6", "--rate", "20000"]).spawn().unwrap();
    let mut examined = 0;
    while load.try_wait().unwrap().is_none() {
        let (code, found) = examine(&server.data());
        assert_eq!((code, found), (0, BTreeMap::new()), "examination {examined}");
        examined += 1;
    }
    assert!(examined > 2, "{examined} examinations");
    let data = server.data();
    let data = data.to_str().unwrap();
    let (_, text, _) = run(&mut nilometer(&["doctor", "--data-dir", data]));
    assert!(text.contains(&format!("in use by process {}", server.pid())), "{text}");
    let (code, _, stderr) =
        run(&mut nilometer(&["serve", "--data-dir", data, "--listen", "127.0.0.1:0"]));
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("in use by process {}", server.pid())), "{stderr}");
}

#[tokio::test]
async fn damage_of_every_kind_is_named_and_nothing_is_changed() {
    let server = stopped().await;
    let data = server.data();
    let good = snapshot(&data);
    assert_eq!(examine(&data), (0, BTreeMap::new()));
    assert!(snapshot(&data) == good, "the doctor changed the folder");

    let relative = |path: &Path| path.strip_prefix(&data).unwrap().to_str().unwrap().to_owned();
    let log = largest(&data, "log/user-events", ".log");
    let layer = largest(&data, "checkpoints", "");
    let manifest = largest(&data, "checkpoints/0", "");
    let chunk = largest(&data, "rollups/chunks", "");
    let base = largest(&data, "rollups/manifests", "");
    let plan = largest(&data, "plans", ".json");
    let layout = data.join("log/layout");
    for path in [&log, &layer, &manifest, &chunk, &base, &plan, &layout] {
        let bytes = good[path].0.clone();
        flip(path, bytes.len() / 2);
        let (code, found) = examine(&data);
        let line = found.get(&relative(path));
        assert_eq!(code, 1, "{}", path.display());
        let line = line.unwrap_or_else(|| panic!("{} is not named: {found:?}", path.display()));
        assert_eq!(line["state"], "corrupt", "{line}");
        assert!(line["mend"].as_str().is_some_and(|mend| mend.len() > 10), "{line}");
        std::fs::write(path, bytes).unwrap();
    }
    flip(&log, 80);
    let (_, found) = examine(&data);
    assert!(found[&relative(&log)]["lost_records"].as_u64().unwrap() > 0, "{found:?}");
    let (code, text, _) = run(&mut nilometer(&["doctor", "--data-dir", data.to_str().unwrap()]));
    assert_eq!(code, 1);
    let line = text.lines().find(|line| line.contains(&relative(&log))).unwrap();
    assert!(line.starts_with("corrupt") && line.contains("lost"), "{line}");
    flip(&log, 80);
    assert_eq!(examine(&data).0, 0, "as it was before");

    // Missing whole files, and a log that ends before what checkpoints have read.
    for path in [&log, &layer, &chunk] {
        std::fs::remove_file(path).unwrap();
        let (code, found) = examine(&data);
        assert_eq!(code, 1, "{}: {found:?}", path.display());
        std::fs::write(path, &good[path].0).unwrap();
    }
}

#[tokio::test]
async fn a_wrong_configuration_and_open_secrets_are_said() {
    let server = stopped().await;
    let data = server.data();
    let secret = data.join("keys/identity.key");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, found) = examine(&data);
    assert_eq!(code, 1);
    assert!(found[""]["message"].as_str().unwrap().contains("identity.key"), "{found:?}");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let cases = [
        ("[log]\npartitions = 3\n", "log.partitions = 4"),
        ("[log]\npartition = 3\n", "partition"),
        ("[masking]\ndetectors = [\"(\"]\n", "detector"),
        ("[[metric]]\nname = \"x\"\naggregate = \"sum\"\n", "x"),
        ("[server]\nlisten = \"0.0.0.0:80\"\n", "behind_proxy"),
    ];
    let file = server.folder().join("nilometer.toml");
    for (text, told) in cases {
        std::fs::write(&file, text).unwrap();
        let args =
            ["doctor", "--data-dir", data.to_str().unwrap(), "--config", file.to_str().unwrap()];
        let (code, stdout, _) = run(&mut nilometer(&args));
        assert_eq!(code, 1, "{text}");
        let line = stdout.lines().find(|line| line.starts_with("wrong")).unwrap();
        assert!(line.contains(told), "{text}: {line}");
        assert!(stdout.contains("checkpoints"), "the folder is examined all the same");
    }
}
