//! Runs the shell blocks of a page from top to bottom in one shell, in an empty folder, with the
//! real binary. Stand-ins are made for what a test may not touch: the system's folders and its
//! services, a build of the release, and a server that would hold the shell up.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use regex::Regex;
use serde_json::Value;

use crate::page::{Block, Page, root};

/// What a stretch of a block did, up to a comment that shows its answer.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) place: String,
    pub(crate) commands: String,
    /// The answer as the page shows it, with … for what differs from run to run.
    pub(crate) shown: Option<String>,
    pub(crate) stdout: String,
    pub(crate) requests: Vec<Request>,
}

/// A request that curl made.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) kind: String,
    /// The JSON that was sent, where it stands in the command.
    pub(crate) body: Option<Value>,
}

pub(crate) struct Run {
    pub(crate) steps: Vec<Step>,
    pub(crate) blocks: Vec<Block>,
    /// What the server published while it ran.
    pub(crate) openapi: Value,
}

/// Folders of the system, which the pages name and a test has its own of.
const SYSTEM_FOLDERS: [&str; 4] =
    ["/var/lib/nilometer", "/usr/local/bin", "/etc/systemd/system", "/etc/nilometer"];

const NILOMETER: &str = r#"#!/bin/bash
# A server is started on the test's port and left running; its output is shown once it is ready.
if [ "$1" = serve ] || [ "$1" = demo ]; then
  if [ -f "$RUN/pid" ]; then kill "$(cat "$RUN/pid")" && tail --pid="$(cat "$RUN/pid")" -f /dev/null; fi
  "$BINARY" "$@" --listen "127.0.0.1:$PORT" >>"$RUN/serve.out" 2>>"$RUN/serve.err" &
  echo $! >"$RUN/pid"
  for _ in $(seq 300); do
    "$CURL" -fs "http://127.0.0.1:$PORT/readyz" >/dev/null && { cat "$RUN/serve.out"; exit 0; }
    kill -0 "$(cat "$RUN/pid")" 2>/dev/null || break
    sleep 0.1
  done
  cat "$RUN/serve.err" >&2
  exit 1
fi
exec "$BINARY" "$@"
"#;

const CURL: &str = r#"#!/bin/bash
# What was asked and answered, and the JSON that was sent, go to stderr.
before=
for argument in "$@"; do
  case "$before $argument" in
    "-d {"* | "-d ["*) printf '@@body %s\n' "$(tr -d '\n' <<<"$argument")" >&2 ;;
  esac
  before=$argument
  # Who reads the page is slower than a script: what was sent before is counted by then.
  [[ $argument == */v1/query\?* ]] && sleep 2
done
exec "$CURL" --silent --show-error --write-out '%{stderr}@@ %{method} %{url_effective} %{http_code} %{content_type}\n' "$@"
"#;

const CARGO: &str = r#"#!/bin/bash
[ "$1 $2" = "run --release" ] && [ "$3" = -- ] && { shift 3; exec nilometer "$@"; }
[ "$1 $2" = "build --release" ] && { mkdir -p target/release && ln -sf "$BINARY" target/release/nilometer; exit 0; }
echo "the test knows no cargo $*" >&2
exit 2
"#;

/// The value that a page leaves open: a key of the first start, whose file the server names, or the
/// id of one.
const SHOWN: &str = r#"#!/bin/bash
case "$1" in
  *WRITE_KEY) pattern='nw_[A-Za-z0-9_-]+' ;;
  *READ_TOKEN) pattern='nr_[A-Za-z0-9_-]+' ;;
  *ADMIN_TOKEN) pattern='na_[A-Za-z0-9_-]+' ;;
  ID) "$BINARY" keys --data-dir "$2" list | awk '$2 == "write" && $4 == "in" {print $1; exit}'; exit ;;
esac
# The server is ready a moment before it prints.
for _ in $(seq 100); do
  files=$(sed -n 's/^The keys of this first start.*deleted: //p' "$RUN/serve.out")
  [ -n "$pattern" ] && grep -hoE "$pattern" $files /dev/null 2>/dev/null | tail -n 1 | grep . && exit
  sleep 0.1
done
echo "the page leaves $1 open, and no start made it" | tee -a "$RUN/failed" >&2
exit 1
"#;

const IDLE: &str = "#!/bin/bash\nexit 0\n";

/// Where a page is run: an empty folder, with the stand-ins beside it.
struct Place {
    folder: tempfile::TempDir,
    port: u16,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let place = Self { folder, port };
        for name in ["work", "out", "bin"] {
            fs::create_dir(place.path(name)).unwrap();
        }
        for system in SYSTEM_FOLDERS {
            let own = place.path(system.trim_start_matches('/'));
            fs::create_dir_all(own.parent().unwrap()).unwrap();
            // The server makes its own.
            if system != "/var/lib/nilometer" {
                fs::create_dir_all(own).unwrap();
            }
        }
        symlink(root().join("deploy"), place.path("work/deploy")).unwrap();
        place.program("work/test", IDLE);
        place.program("bin/nilometer", NILOMETER);
        place.program("bin/curl", CURL);
        place.program("bin/cargo", CARGO);
        place.program("bin/shown", SHOWN);
        for idle in ["useradd", "systemctl", "journalctl", "apt-get"] {
            place.program(&format!("bin/{idle}"), IDLE);
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The commands with this place's addresses and folders.
    fn local(&self, commands: &str) -> String {
        let text = commands.replace("127.0.0.1:8080", &format!("127.0.0.1:{}", self.port));
        let text = SYSTEM_FOLDERS.iter().fold(text, |text, system| {
            text.replace(system, &format!("{}{system}", self.folder.path().display()))
        });
        filled_in(&text)
    }

    fn out(&self, name: &str) -> String {
        fs::read_to_string(self.path("out").join(name)).unwrap_or_default()
    }

    /// Runs the script to its end; true where its last command went well.
    fn run(&self, script: &str) -> bool {
        let system = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
        let status = Command::new("bash")
            .args(["-c", script])
            .env_clear()
            .env("PATH", format!("{}:{system}", self.path("bin").display()))
            .env("HOME", self.folder.path())
            .env("RUN", self.path("out"))
            .env("PORT", self.port.to_string())
            .env("NILOMETER_URL", format!("http://127.0.0.1:{}", self.port))
            .env("CURL", "/usr/bin/curl")
            .env("BINARY", env!("CARGO_BIN_EXE_nilometer"))
            .current_dir(self.path("work"))
            .stdin(Stdio::null())
            .status();
        status.unwrap().success()
    }
}

/// What is run after a page: the document is read, and the server stopped.
const AFTER: &str = r#"
trap - ERR
"$CURL" -fs -H "Authorization: Bearer $(shown READ_TOKEN)" "http://127.0.0.1:$PORT/openapi.json" >"$RUN/openapi.json"
kill "$(cat "$RUN/pid")" && tail --pid="$(cat "$RUN/pid")" -f /dev/null
"#;

impl Run {
    /// Runs every shell block of `page`; `before` is run first.
    pub(crate) fn of(page: &Page, before: &str) -> Self {
        let (place, blocks) = (Place::new(), page.blocks());
        let mut steps = Vec::new();
        let mut script = format!("trap 'echo \"$BASH_COMMAND\" >>\"$RUN/failed\"' ERR\n{before}\n");
        for block in &blocks {
            if let Some(name) = file_of(block) {
                writeln!(script, "cat >{name} <<'THE END'\n{}THE END", block.text).unwrap();
            }
            if block.language != "sh" {
                continue;
            }
            for (commands, shown) in stretches(&block.text) {
                let (number, commands) = (steps.len(), place.local(&commands));
                let into = format!(">\"$RUN/{number}.out\" 2>\"$RUN/{number}.err\"");
                writeln!(script, "{{\n{commands}\n}} {into}").unwrap();
                let at = format!("{}:{}", page.name, block.line);
                let (stdout, requests) = (String::new(), Vec::new());
                steps.push(Step { place: at, commands, shown, stdout, requests });
            }
        }
        let is_done = place.run(&format!("{script}{AFTER}"));
        let mut said = String::new();
        for (number, step) in steps.iter_mut().enumerate() {
            step.stdout = place.out(&format!("{number}.out"));
            let stderr = place.out(&format!("{number}.err"));
            step.requests = Request::all(&stderr);
            write!(said, "{}\n{}{}{stderr}", step.place, step.commands, step.stdout).unwrap();
        }
        let failed = place.out("failed");
        let log = place.out("serve.err");
        assert!(failed.is_empty() && is_done, "failed: {failed}\n{said}{log}");
        let openapi = serde_json::from_str(&place.out("openapi.json")).unwrap();
        Self { steps, blocks, openapi }
    }
}

/// A block of TOML that begins with its file's name is that file.
fn file_of(block: &Block) -> Option<&str> {
    let name = block.text.strip_prefix("# ")?.lines().next()?;
    let is_file = name.ends_with(".toml") && !name.contains(['/', ' ']);
    (block.language == "toml" && is_file).then_some(name)
}

impl Request {
    fn all(stderr: &str) -> Vec<Self> {
        let (mut requests, mut body) = (Vec::new(), None);
        for line in stderr.lines() {
            if let Some(sent) = line.strip_prefix("@@body ") {
                // What is no JSON is text, which no schema of a body admits.
                body = Some(serde_json::from_str(sent).unwrap_or_else(|_| sent.into()));
            } else if let Some(request) = Self::read(line) {
                requests.push(Self { body: body.take(), ..request });
            }
        }
        requests
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("@@ ")?.split(' ');
        let (method, url) = (words.next()?.to_owned(), words.next()?);
        let path = url.split_once("://")?.1;
        let path = path[path.find('/')?..].split('?').next()?.to_owned();
        let status = words.next()?.parse().ok()?;
        let kind = words.next().unwrap_or_default().trim_end_matches(';').to_owned();
        Some(Self { method, path, status, kind, body: None })
    }
}

/// The block's commands, each stretch up to a comment that shows what it answered.
fn stretches(text: &str) -> Vec<(String, Option<String>)> {
    let mut stretches = Vec::new();
    let mut commands = String::new();
    for line in text.lines() {
        let shown = line
            .strip_prefix("# ")
            .filter(|shown| shown.starts_with(['{', '[']) || shown.parse::<u16>().is_ok());
        match shown {
            Some(shown) => {
                // What follows three spaces is said about the answer.
                let shown = shown.split("   ").next().unwrap_or(shown).to_owned();
                stretches.push((std::mem::take(&mut commands), Some(shown)));
            }
            None => {
                commands += line;
                commands.push('\n');
            }
        }
    }
    if !commands.trim().is_empty() {
        stretches.push((commands, None));
    }
    stretches
}

/// `NAME=…` becomes what the server printed, and `ID` the id of a key.
fn filled_in(commands: &str) -> String {
    let open = Regex::new(r"\b([A-Z_]+)=…").unwrap();
    let commands = open.replace_all(commands, "$1=\"$$(shown $1)\"");
    let id = Regex::new(r"(?m)(--data-dir (\S+) (?:revoke|set)) ID\b").unwrap();
    id.replace_all(&commands, "$1 \"$$(shown ID $2)\"").into_owned()
}

/// Whether `text` is what the page shows, where … stands for anything.
pub(crate) fn is_as_shown(shown: &str, text: &str) -> bool {
    let pattern: Vec<String> = shown.trim().split('…').map(regex::escape).collect();
    let pattern = Regex::new(&format!("(?s)^{}$", pattern.join(".*"))).unwrap();
    pattern.is_match(text.trim())
}

#[test]
fn a_stretch_ends_with_the_answer_that_it_shows() {
    let block = "a\nb  # words\n# {\"x\":1}   it is done\nc\n# 304\nd\n";
    let (one, two) = (Some("{\"x\":1}".to_owned()), Some("304".to_owned()));
    let expected =
        [("a\nb  # words\n".to_owned(), one), ("c\n".to_owned(), two), ("d\n".to_owned(), None)];
    assert_eq!(stretches(block), expected);
    assert!(is_as_shown("{\"a\":…,\"b\":2}", "{\"a\":[1,{}],\"b\":2}\n"));
    assert!(!is_as_shown("{\"a\":…,\"b\":2}", "{\"a\":1,\"b\":3}"));
    assert_eq!(filled_in("export A_KEY=…  B=c"), "export A_KEY=\"$(shown A_KEY)\"  B=c");
}
