//! A data directory is its user's alone, and holds files, not links, pipes and devices.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::server::{Server, WRITE_KEY, nilometer, run};

/// Everything in a folder, and the folder.
fn all_in(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(all_in(&path));
        } else {
            all.push(path);
        }
    }
    all
}

/// Catches: events, hashes and secrets that every user of the machine can read.
#[tokio::test]
async fn what_a_server_makes_or_finds_is_closed_to_other_users() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let (_, report, _) = run(&mut nilometer(&["doctor", "--data-dir", data.to_str().unwrap()]));
    assert!(report.contains("is open to other users (mode 755)"), "{report}");
    let server = Server::start_with(folder, |command| {
        command
            .env("NILOMETER_WRITE_KEY", WRITE_KEY)
            .env("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1")
            .env("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "1")
            .stdout(Stdio::null());
    })
    .await;
    assert_eq!(server.send(WRITE_KEY, "u-1").await, 200);
    assert_eq!(run(&mut server.beside(&["keys", "create", "read"])).0, 0);
    let folder = server.stopped().await;
    let all = all_in(&folder.path().join("data"));
    for part in ["log", "checkpoints", "plans", "keys/book.json", "keys/book.good.json"] {
        assert!(all.contains(&data.join(part)), "{part} is missing");
    }
    for path in all {
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
}

#[tokio::test]
async fn links_are_not_followed_and_pipes_not_waited_for() {
    let server = Server::start().await;
    let folder = server.stopped().await;
    let data = folder.path().join("data");
    let elsewhere = folder.path().join("elsewhere");
    fs::write(&elsewhere, "untouched").unwrap();
    fs::remove_file(data.join("lock")).unwrap();
    symlink(&elsewhere, data.join("lock")).unwrap();
    let on_data = |words: &[&str]| {
        run(&mut nilometer(&[words, &["--data-dir", data.to_str().unwrap()]].concat()))
    };
    assert_eq!(on_data(&["serve"]).0, 1);
    fs::remove_file(data.join("keys/lock")).unwrap();
    symlink(&elsewhere, data.join("keys/lock")).unwrap();
    assert_eq!(on_data(&["keys", "create"]).0, 1);
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "untouched");
    // Whatever lies in the place of a file, it is looked at and told.
    let files = all_in(&data).into_iter().filter(|path| path.is_file());
    for file in files {
        fs::remove_file(&file).unwrap();
        mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    let (code, report, stderr) = on_data(&["doctor"]);
    assert_eq!(code, 1, "{report}{stderr}");
    for file in ["keys/book.json", "keys/identity.key", ".log"] {
        assert!(report.contains(file), "{file} is not in {report}");
    }
    assert_eq!(on_data(&["keys", "list"]).0, 1);
}
