//! What looks like an address and is none: names of files, versions, remotes; and which fields
//! hold versions.

use super::email::Label;

/// Endings of files that are no top-level domains (IANA's list of 2026); `zip`, `sh` or `rs`
/// are some and do not stand here.
pub(super) const FILE_ENDINGS: [&str; 100] = [
    "png", "jpg", "jpeg", "gif", "webp", "svg", "avif", "ico", "bmp", "tif", "tiff", "heic",
    "heif", "psd", "css", "scss", "sass", "less", "js", "mjs", "cjs", "jsx", "ts", "tsx", "vue",
    "json", "jsonl", "ndjson", "html", "htm", "xhtml", "xml", "txt", "rtf", "csv", "tsv", "yml",
    "yaml", "toml", "ini", "conf", "cfg", "log", "lock", "php", "asp", "aspx", "jsp", "exe", "dll",
    "msi", "dmg", "apk", "ipa", "jar", "war", "class", "gz", "tgz", "bz2", "xz", "zst", "rar",
    "7z", "tar", "iso", "deb", "rpm", "whl", "gem", "pdf", "doc", "docx", "xls", "xlsx", "ppt",
    "pptx", "odt", "mp3", "mp4", "m4a", "m4v", "wav", "ogg", "ogv", "oga", "webm", "flac", "aac",
    "avi", "mkv", "woff", "woff2", "ttf", "otf", "eot", "wasm", "min", "bundle", "chunk",
];

/// Those of them that may be written about an address, or kept for one: `203.0.113.9.log`.
const KEPT_ENDINGS: [&str; 41] = [
    "json", "jsonl", "ndjson", "html", "htm", "xhtml", "xml", "txt", "rtf", "csv", "tsv", "yml",
    "yaml", "toml", "ini", "conf", "cfg", "log", "lock", "php", "asp", "aspx", "jsp", "gz", "tgz",
    "bz2", "xz", "zst", "rar", "7z", "tar", "iso", "pdf", "doc", "docx", "xls", "xlsx", "ppt",
    "pptx", "odt", "class",
];

/// What a version goes on with behind its numbers.
const PRE_RELEASES: [&str; 12] = [
    "alpha", "beta", "rc", "dev", "pre", "post", "final", "release", "snapshot", "canary",
    "nightly", "next",
];

/// Those of them that follow four numbers; hosts, methods and verbs have names like the others.
const FOUR_NUMBER_RELEASES: [&str; 4] = ["alpha", "beta", "rc", "snapshot"];

/// Words of a field's name that say that it holds a version.
const VERSION_WORDS: [&str; 3] = ["version", "ver", "firmware"];

/// Words that may follow them.
const VERSION_KINDS: [&str; 7] = ["name", "code", "number", "no", "string", "full", "id"];

/// Words that say so where one of the second list follows: a build may have an address.
const NUMBERED_WORDS: [&str; 2] = ["build", "release"];
const NUMBER_KINDS: [&str; 3] = ["code", "number", "no"];

/// Users under which remotes of repositories are reached.
const REMOTE_USERS: [&str; 3] = ["git", "hg", "svn"];

/// Where the domain ends that these labels are; `None` where they are none.
pub(super) fn domain_end(labels: &[Label<'_>]) -> Option<usize> {
    if labels.len() < 2 {
        return None;
    }
    let named = |label: &Label<'_>| label.letters >= 2;
    let is_ending = |label: &Label<'_>| {
        FILE_ENDINGS.iter().any(|ending| label.text.eq_ignore_ascii_case(ending))
    };
    let filled = labels.iter().rposition(|label| !label.text.is_empty())? + 1;
    let endings = labels[..filled].iter().rev().take_while(|label| is_ending(label)).count();
    let labels = &labels[..filled - endings];
    // logo@2x.dark.png
    if endings > 0 && labels.iter().take(2).any(|label| is_scale(label.text)) {
        return None;
    }
    // The last label that can be a top-level domain; no address ends with its first.
    let (first, others) = labels.split_first()?;
    let last = others.iter().rev().find(|label| named(label))?;
    (!is_version(first, others)).then_some(last.end)
}

/// `2x`: for screens of twice as many dots.
fn is_scale(label: &str) -> bool {
    label.strip_suffix(['x', 'X']).is_some_and(is_number)
}

/// `18.2.0-rc.final`, `1.0.beta2`: two numbers, and then what a version goes on with.
fn is_version(first: &Label<'_>, others: &[Label<'_>]) -> bool {
    let Some((second, rest)) = others.split_first() else { return false };
    let first = first.text.strip_prefix(['v', 'V']).unwrap_or(first.text);
    let goes_on = |label: &Label<'_>| {
        is_pre_release(label.text)
            || label.text.split_once('-').is_some_and(|(number, _)| is_number(number))
    };
    is_number(first) && is_number(second.text) && rest.iter().any(goes_on)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether `text` begins like what follows the numbers of a version.
fn is_pre_release(text: &str) -> bool {
    begins_with_one(&PRE_RELEASES, text)
}

/// Whether `text` begins with one of these words.
fn begins_with_one(words: &[&str], text: &str) -> bool {
    words.iter().any(|word| {
        text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
            && !text[word.len()..].starts_with(|char: char| char.is_ascii_alphabetic())
    })
}

/// Whether what follows four numbers makes a version of them: `1.2.3.4-rc1`.
pub(super) fn is_suffixed(after: &[u8]) -> bool {
    let rest = match after {
        [b'-' | b'+', rest @ ..] => rest,
        _ => return false,
    };
    let end = rest.iter().take(16).take_while(|byte| byte.is_ascii_alphanumeric()).count();
    std::str::from_utf8(&rest[..end]).is_ok_and(|rest| begins_with_one(&FOUR_NUMBER_RELEASES, rest))
}

/// Whether what follows four numbers makes the name of a picture, a film, a sound, a font, code or
/// a program of them: `192.168.1.1.mp4`.
pub(super) fn is_file(after: &[u8]) -> bool {
    let [b'.', rest @ ..] = after else { return false };
    let end = rest.iter().take(16).take_while(|byte| byte.is_ascii_alphanumeric()).count();
    let is_in = |list: &[&str]| {
        list.iter().any(|ending| ending.as_bytes().eq_ignore_ascii_case(&rest[..end]))
    };
    let goes_on = match &rest[end..] {
        [b'-' | b'_' | b'@', ..] => true,
        [b'.', next, ..] => next.is_ascii_alphanumeric(),
        [next, ..] => !next.is_ascii(),
        [] => false,
    };
    is_in(&FILE_ENDINGS) && !is_in(&KEPT_ENDINGS) && !goes_on
}

/// Whether the local part is no person but the door of a repository.
pub(super) fn is_remote_user(local: &str) -> bool {
    REMOTE_USERS.iter().any(|user| local.eq_ignore_ascii_case(user))
}

/// Whether what stands around `git@host` makes a remote of it: `ssh://git@host/path`,
/// `git@host:path`. A sentence goes on with white space.
pub(super) fn is_remote(before: &str, after: &str) -> bool {
    let path = after.strip_prefix([':', '/']);
    before.ends_with("://")
        || path.is_some_and(|path| path.starts_with(|char: char| !char.is_whitespace()))
}

/// Whether a field of that name holds a version: `app_version`, `osVersion`, `build-number`.
pub(super) fn is_version_field(name: &str) -> bool {
    let is_one_of =
        |words: &[&str], word: &str| words.iter().any(|one| word.eq_ignore_ascii_case(one));
    let (rest, word) = last_word(name);
    let before = || last_word(rest).1;
    is_one_of(&VERSION_WORDS, word)
        || (is_one_of(&VERSION_KINDS, word) && is_one_of(&VERSION_WORDS, before()))
        || (is_one_of(&NUMBER_KINDS, word) && is_one_of(&NUMBERED_WORDS, before()))
}

/// Where the numbers begin, four or more, of a text that as a whole is written as versions are:
/// `v5.2.0.1`, `5.2.0.1-beta.2`, `5.2.0.1 (77)`.
pub(super) fn version_start(text: &str) -> Option<usize> {
    let start = usize::from(text.starts_with(['v', 'V']));
    let rest = text[start..].trim_start_matches(|char: char| char.is_ascii_digit() || char == '.');
    let mut numbers = text[start..text.len() - rest.len()].split('.');
    let are_numbers = numbers.clone().count() >= 4 && numbers.all(is_number);
    (are_numbers && is_version_rest(rest)).then_some(start)
}

/// What a version has behind its numbers.
fn is_version_rest(rest: &str) -> bool {
    let is_part = |char: char| char.is_ascii_alphanumeric() || "._+-".contains(char);
    let in_parentheses = |rest: &str| {
        let inner = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        inner.is_some_and(|inner| inner.chars().all(|char| is_part(char) || char == ' '))
    };
    rest.chars().all(is_part) || in_parentheses(rest.strip_prefix(' ').unwrap_or(rest))
}

/// The last word of a name in whatever case it is written, and what stands before it.
fn last_word(name: &str) -> (&str, &str) {
    let bytes = name.as_bytes();
    let mut start = name.len();
    while start > 0 {
        let byte = bytes[start - 1];
        if !byte.is_ascii_alphanumeric() {
            break;
        }
        start -= 1;
        let begins_word =
            byte.is_ascii_uppercase() && start > 0 && !bytes[start - 1].is_ascii_uppercase();
        if begins_word {
            break;
        }
    }
    let rest = name[..start].trim_end_matches(|char: char| !char.is_alphanumeric());
    (rest, &name[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_named_like_a_version_holds_one() {
        for name in [
            "app_version",
            "appVersion",
            "AppVersion",
            "version",
            "VERSION",
            "os-version",
            "device.osVersion",
            "sdk_ver",
            "version_name",
            "versionCode",
            "buildNumber",
            "build_no",
            "releaseNumber",
            "firmware",
            "ns:version",
        ] {
            assert!(is_version_field(name), "{name}");
        }
        for name in [
            "",
            "ip",
            "conversion",
            "versioned_by",
            "server",
            "version_host",
            "rebuild",
            "id",
            "client_version_ip",
            "día",
            // These may hold anything.
            "build",
            "build_id",
            "build_name",
            "pressRelease",
            "release_id",
            "oid",
            "versions",
        ] {
            assert!(!is_version_field(name), "{name}");
        }
    }

    #[test]
    fn a_version_is_known_by_all_of_its_text() {
        for text in [
            "5.2.0.1",
            "5.2.0.1.7",
            "5.2.0.1-beta.2",
            "5.2.0.1rc1+a.b_c",
            "5.2.0.1 (build 77)",
            "5.2.0.1(77)",
            "5.2.0.1-203.0.113.9",
        ] {
            assert_eq!(version_start(text), Some(0), "{text}");
            assert_eq!(version_start(&format!("v{text}")), Some(1), "v{text}");
        }
        for text in [
            "5.2.0",
            "5.2.0.1.",
            "5.2..0.1",
            ".5.2.0.1",
            " 5.2.0.1",
            "vv5.2.0.1",
            "5.2.0.1 from jane@mail.com",
            "5.2.0.1 via proxy",
            "5.2.0.1:443",
            "5.2.0.1 (a:b)",
            "5.2.0.1 (a",
            "built on 203.0.113.9",
            "",
        ] {
            assert_eq!(version_start(text), None, "{text}");
        }
    }
}
