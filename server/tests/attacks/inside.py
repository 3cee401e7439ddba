"""7, 8, 9, 10: whoever is on the machine: keys at once, links and pipes, weak tokens, files."""

import base64
import gzip
import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

from cases import Cases

CASES = Cases()


@CASES.each(7, "keys made and revoked at once, {}", [
    ("by {} processes".format(16), "admin", False),
    ("and some of these killed", "admin", True),
], seconds=10, calm=15)
def books(attack, kills):
    server = attack.server

    def begin(*words):
        return subprocess.Popen(
            [server.binary, "keys", *words], env=server.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )

    made, gone, wrong = [], [], []
    for turn in range(attack.dose(4, 2)):
        begun = [(begin("create", "read", "--label", f"k-{kills}-{turn}-{n}"), None) for n in range(8)]
        begun += [(begin("revoke", key_id(server, token)), token) for token in made[-4:]]
        if kills:
            time.sleep(0.02)
            for process, _ in begun[::3]:
                process.send_signal(signal.SIGKILL)
        for process, token in begun:
            out, error = process.communicate(timeout=60)
            attack.tried()
            if process.returncode == 0 and token:
                gone.append(token)
                made.remove(token)
            elif process.returncode == 0:
                made.append(out.split()[-1])
            elif process.returncode != -signal.SIGKILL:
                wrong.append(error[-200:])
    attack.expect(not wrong, f"commands failed: {wrong[:2]}")
    time.sleep(5)
    shut = [token for token in made if server.status("GET", "/v1/catalog", token=token)[0] != 200]
    # What was killed in the middle may have been revoked, or not.
    attack.expect(not shut or kills, f"{len(shut)} of {len(made)} keys that were shown open nothing")
    still = [token for token in gone if server.status("GET", "/v1/catalog", token=token)[0] != 401]
    attack.expect(not still, f"{len(still)} of {len(gone)} revoked keys are in force")
    return f"{len(made)} keys in force, {len(gone)} revoked"


def key_id(server, token):
    digest = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).decode().rstrip("=")
    book = json.loads((server.data / "keys/book.json").read_text())
    return next(key["id"] for key in book["keys"] if key["hash"] == digest)


@CASES.of(8, "what the server has made, by its modes", role="admin", seconds=2,
          settings={"NILOMETER_STREAM__CHECKPOINT_INTERVAL_S": "1", "NILOMETER_ROLLUPS__FOLD_INTERVAL_S": "1"})
def modes(attack):
    server = attack.server
    server.command("keys", "create", "read")
    time.sleep(2)
    open_to_others = []
    for at, folders, files in os.walk(server.data):
        for path in [at, *(os.path.join(at, name) for name in files)]:
            attack.tried()
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                continue
            if stat.S_IMODE(mode) & 0o077:
                open_to_others.append(f"{path} {stat.S_IMODE(mode):o}")
    attack.expect(not open_to_others, f"open to others: {open_to_others[:3]}")


# Where a file of the server's is, or is made for a moment.
PLACES = [
    "lock", "keys/book.json", "keys/book.good.json", "keys/lock", "keys/sessions.key",
    "keys/signed-out.json", "keys/identity.key", "sent-today.json", "keys/first-start.txt",
]


@CASES.each(8, "{} in the place of each file", [
    ("a link", "admin", "link"), ("a pipe", "admin", "pipe"), ("a folder", "admin", "folder"),
], seconds=10)
def places(attack, what):
    import house

    wrong = []
    for place in PLACES:
        with house.folder() as folder:
            target = Path(folder) / "target"
            target.write_text("untouched")
            path = Path(folder) / "data" / place
            path.parent.mkdir(parents=True, mode=0o700)
            {"link": lambda: path.symlink_to(target), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[what]()
            environment = attack.server.environment | {"NILOMETER_SERVER__DATA_DIR": str(Path(folder) / "data")}
            for words in (["doctor"], ["keys", "list"], ["keys", "create", "read"], ["serve", "--listen", "127.0.0.1:0"]):
                attack.tried()
                begun = subprocess.Popen(
                    [attack.server.binary, *words], env=environment,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
                try:
                    begun.wait(1.5 if words[0] == "serve" else 20)
                except subprocess.TimeoutExpired:
                    if words[0] != "serve":
                        wrong.append(f"{words} hangs at {place}")
                    begun.terminate()
                    try:
                        begun.wait(10)
                    except subprocess.TimeoutExpired:
                        begun.kill()
                        wrong.append(f"{words} does not end at {place}")
            if target.read_text() != "untouched":
                wrong.append(f"what the link at {place} shows to was written")
    attack.expect(not wrong, "; ".join(wrong[:4]))


@CASES.each(8, "a pipe that nobody writes, given to {}", [
    ("import", "write", "import"), ("the configuration", "none", "--config"),
], seconds=5)
def pipes(attack, what):
    pipe = attack.server.folder / f"pipe-{what}.csv"
    os.mkfifo(pipe)
    words = ["import", str(pipe)] if what == "import" else ["config", "--config", str(pipe)]
    environment = attack.server.environment | {"NILOMETER_URL": attack.server.url}
    attack.tried()
    try:
        said = subprocess.run([attack.server.binary, *words], env=environment, capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{words[0]} waits for ever") from None
    attack.expect(said.returncode != 0, f"taken: {said.stdout[:200]}")


@CASES.each(9, "a weak {}", [
    (name, "admin", name) for name in ("NILOMETER_WRITE_KEY", "NILOMETER_READ_TOKEN", "NILOMETER_ADMIN_TOKEN")
], seconds=5)
def weak(attack, name):
    import house

    taken = []
    for token in ("a", "password", "1" * 15, "12345678901234567", "short key with é", " " * 40):
        attack.tried()
        with house.folder() as folder:
            environment = attack.server.environment | {
                "NILOMETER_SERVER__DATA_DIR": f"{folder}/data", name: token, "NILOMETER_SERVER__LISTEN": "127.0.0.1:0",
            }
            begun = subprocess.Popen(
                [attack.server.binary, "serve"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            try:
                _, error = begun.communicate(timeout=3)
                if begun.returncode == 0 or token.strip() and token in error and len(token) > 8:
                    taken.append(f"{token!r}: ended with {begun.returncode}: {error[-200:]}")
            except subprocess.TimeoutExpired:
                begun.kill()
                begun.communicate()
                taken.append(repr(token))
    attack.expect(not taken, f"taken or told: {taken}")


@CASES.of(9, "keys of a first start, looked for in what it prints", seconds=5)
def first(attack):
    import house

    with house.folder() as folder:
        environment = {name: value for name, value in attack.server.environment.items() if not name.startswith("NILOMETER_")}
        log = Path(folder) / "log"
        with log.open("w") as out:
            begun = subprocess.Popen(
                [attack.server.binary, "serve", "--listen", "127.0.0.1:0", "--data-dir", f"{folder}/data"],
                env=environment, stdout=out, stderr=out,
            )
            time.sleep(2)
            begun.terminate()
            begun.wait(20)
        kept = Path(folder) / "data/keys/first-start.txt"
        attack.tried()
        secrets = re.findall(r"n[wrac]_[\w-]{20,}", kept.read_text())
        attack.expect(len(secrets) >= 3, f"{len(secrets)} secrets in the file")
        told = [secret for secret in secrets if secret in log.read_text()]
        attack.expect(not told, f"{len(told)} secrets are in what is printed")


def zeros(path, count, opening=b""):
    """A file of so many bytes that takes no room on the disk."""
    with open(path, "wb") as file:
        file.write(opening)
        file.truncate(count)


def unpacked(path, opening, byte, mib):
    with gzip.open(path, "wb", 1) as file:
        file.write(opening)
        for _ in range(mib):
            file.write(byte * (1 << 20))


@CASES.each(10, "import of {}", [
    ("a CSV line without end", "write", "a.csv", b"event_type,timestamp\nclick,"),
    ("a CSV head without end", "write", "b.csv", b"event_type,"),
    ("a quoted CSV cell without end", "write", "c.csv", b'event_type,timestamp\n"'),
    ("a TSV line without end", "write", "d.tsv", b"event_type\ttimestamp\nclick\t"),
    ("an NDJSON line without end", "write", "e.ndjson", b'{"event_type":"'),
    ("a compressed CSV line without end", "write", "f.csv.gz", b"event_type,timestamp\nclick,"),
    ("a compressed NDJSON line without end", "write", "g.ndjson.gz", b'{"event_type":"'),
    ("brackets without end", "write", "h.ndjson.gz", b"["),
    ("commas without end", "write", "i.csv.gz", b"event_type,timestamp\n"),
    ("empty lines without end", "write", "j.csv.gz", b"event_type,timestamp\n"),
], seconds=15)
def imports(attack, name, opening):
    path = attack.server.folder / name
    mib = attack.dose(1_500, 300)
    byte = {"h": b"[", "i": b",", "j": b"\n"}.get(name[0], b"x")
    if name.endswith(".gz"):
        unpacked(path, opening, byte, mib)
    else:
        zeros(path, mib << 20, opening)
    environment = attack.server.environment | {"NILOMETER_URL": attack.server.url}
    begun = subprocess.Popen(
        [attack.server.binary, "import", str(path)], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    most, until = 0, time.monotonic() + 100
    while begun.poll() is None and time.monotonic() < until:
        text = Path(f"/proc/{begun.pid}/status").read_text()
        most = max([most, *(int(kib) for kib in re.findall(r"VmHWM:\s+(\d+)", text))])
        time.sleep(0.02)
    begun.kill()
    attack.tried()
    os.unlink(path)
    attack.expect(time.monotonic() < until, "does not end")
    attack.expect(most < 200 << 10, f"the client took {most >> 10} MiB")
    return f"the client took {most >> 10} MiB and ended with {begun.returncode}"
