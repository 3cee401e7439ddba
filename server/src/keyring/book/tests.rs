//! The book's file when it is damaged, lost, or changed while nobody looks.

use nilometer_access::KeyKind;

use super::*;

fn keyring(folder: &tempfile::TempDir) -> Arc<Keyring> {
    Arc::new(Keyring::open(folder.path()).unwrap())
}

/// Makes a key beside whoever runs; its id and token.
fn created(keyring: &Arc<Keyring>) -> (String, String) {
    let mut edit = keyring.edit().unwrap();
    let (record, token) = edit.book.create(KeyKind::Write, "", 1).unwrap();
    edit.keep().unwrap();
    (record.id, token.expose().to_owned())
}

fn revoke(keyring: &Arc<Keyring>, id: &str) {
    let mut edit = keyring.edit().unwrap();
    edit.book.revoke(id, 2).unwrap();
    edit.keep().unwrap();
}

fn started(keyring: &Arc<Keyring>) -> (Arc<Keys>, InForce) {
    let keys = Arc::new(Keys::new(KeyBook::new()));
    let in_force = keyring.at_start(Arc::clone(&keys), &Secrets::default(), 1).unwrap();
    (keys, in_force)
}

/// Catches: a watcher that compares with what it saw first.
#[test]
fn what_changes_between_the_start_and_the_first_look_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = keyring(&folder);
    let (id, token) = created(&keyring);
    let (keys, in_force) = started(&keyring);
    assert!(!in_force.refresh().unwrap());
    assert!(keys.authenticate(&token).is_some());
    let (keys, in_force) = started(&keyring);
    revoke(&keyring, &id);
    assert!(keys.authenticate(&token).is_some());
    assert!(in_force.refresh().unwrap());
    assert!(keys.authenticate(&token).is_none());
    assert!(!in_force.refresh().unwrap(), "once");
}

#[test]
fn a_damaged_book_stays_as_it_is_until_its_copy_is_put_there() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = keyring(&folder);
    let (_, token) = created(&keyring);
    let (keys, in_force) = started(&keyring);
    let (book, copy) = (folder.path().join(BOOK), folder.path().join(GOOD_COPY));
    let good = std::fs::read(&book).unwrap();
    assert_eq!(std::fs::read(&copy).unwrap(), good);
    std::fs::write(&book, &good[..good.len() / 2]).unwrap();
    let refused = [
        keyring.edit().map(drop).unwrap_err(),
        keyring.book().map(drop).unwrap_err(),
        in_force.refresh().map(drop).unwrap_err(),
    ];
    for error in refused.map(|error| format!("{error:#}")) {
        for told in ["keys/book.json is damaged", "keys/book.good.json", "cannot be read"] {
            assert!(error.contains(told), "{error}");
        }
    }
    assert_eq!(std::fs::read(&book).unwrap().len(), good.len() / 2, "untouched");
    assert!(keys.authenticate(&token).is_some(), "what was in force stays");
    std::fs::remove_file(&book).unwrap();
    let error = keyring.edit().map(drop).unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains(GOOD_COPY), "{error}");
    assert!(in_force.refresh().is_err() && keys.authenticate(&token).is_some());
    std::fs::copy(&copy, &book).unwrap();
    assert!(keyring.book().unwrap().authenticate(&token).is_some());
    created(&keyring);
    std::fs::write(&book, "{}").unwrap();
    std::fs::write(&copy, "{}").unwrap();
    let error = format!("{:#}", keyring.edit().map(drop).unwrap_err());
    assert!(error.contains("restore it from a backup"), "{error}");
}

#[test]
fn what_a_killed_writer_left_is_swept_and_links_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = keyring(&folder);
    let elsewhere = folder.path().join("elsewhere");
    std::fs::write(&elsewhere, "untouched").unwrap();
    let left = folder.path().join("keys/book.abc.tmp");
    std::os::unix::fs::symlink(&elsewhere, &left).unwrap();
    created(&keyring);
    assert!(!left.exists());
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "untouched");
    let mut names = keyring.disk.list(FOLDER).unwrap();
    names.retain(|name| name.starts_with("book"));
    assert_eq!(names, ["book.good.json", "book.json"]);
}
