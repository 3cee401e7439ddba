#!/usr/bin/env python3
"""Attacks a server with what schemathesis makes of its own /openapi.json: each kind of key, all
checks, examples, edges, random requests and chains of them. Prints a table; fails for findings."""

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
KINDS = ["none", "write", "server", "read", "admin", "session"]
# Far more than schemathesis sends: a 429 shows nothing of what is behind it.
RATE = "1000000"
START_SECONDS = 60


class Server:
    """A server on a folder of its own, with something in it to find."""

    def __init__(self, binary, folder):
        self.folder, self.binary = Path(folder), binary
        self.tokens = {kind: secrets.token_urlsafe(32) for kind in ("write", "read", "admin")}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{self.address}"
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("NILOMETER_")
        } | {
            "NILOMETER_SERVER__DATA_DIR": str(self.folder / "data"),
            "NILOMETER_WRITE_KEY": self.tokens["write"],
            "NILOMETER_READ_TOKEN": self.tokens["read"],
            "NILOMETER_ADMIN_TOKEN": self.tokens["admin"],
            "NILOMETER_LIMITS__QUERIES_PER_SECOND": RATE,
        }
        self.log = self.folder / "server.log"

    def __enter__(self):
        with self.log.open("w") as log:
            command = [self.binary, "serve", "--listen", self.address]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        until = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit(f"the server does not start:\n{self.log.read_text()}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def is_ready(self):
        try:
            return self.call("GET", "/readyz").status == 200
        except OSError:
            return False

    def call(self, method, path, body=None, kind="application/json", token="admin"):
        headers = {"Authorization": f"Bearer {self.tokens[token]}", "Content-Type": kind}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        return urllib.request.urlopen(request, timeout=30)

    def fill(self):
        now = time.time_ns() // 1_000_000
        events = [
            {"event_type": "view", "event_id": f"e-{n}", "user_id": f"u-{n}", "timestamp": now,
             "country": "DE", "session_duration_sec": n}
            for n in range(50)
        ]
        events += [{"event_id": f"bad-{n}", "event_type": "view", "country": 7} for n in range(5)]
        self.call("POST", "/v1/events", json.dumps(events).encode(), token="write")
        self.call("PUT", "/v1/dimensions/users", b"user_id,cohort\nu-1,a\n", "text/csv")

    def credentials(self, kind):
        """What a request of this kind carries."""
        if kind == "none":
            return []
        if kind == "session":
            body = json.dumps({"token": self.tokens["admin"]}).encode()
            cookie = self.call("POST", "/v1/session", body).headers["Set-Cookie"].split(";")[0]
            return ["-H", f"Cookie: {cookie}"]
        if kind == "server":
            command = [self.binary, "keys", "create", "server", "--label", "attacks"]
            said = subprocess.run(command, env=self.environment, capture_output=True, text=True)
            self.tokens["server"] = said.stdout.split()[-1]
            # The running server looks at the book each second.
            time.sleep(3)
        return ["-H", f"Authorization: Bearer {self.tokens[kind]}"]


def attack(binary, kind, options):
    """Runs schemathesis with one kind of key; gives cases, findings and what was said."""
    with tempfile.TemporaryDirectory(prefix=f"attack-{kind}-") as folder, Server(binary, folder) as server:
        server.fill()
        document = Path(folder) / "openapi.json"
        document.write_bytes(server.call("GET", "/openapi.json").read())
        report = Path(folder) / "report.json"
        command = [
            Path(sys.executable).with_name("schemathesis"), "run", document, "--url", server.url,
            "--checks", "all", "--phases", "examples,coverage,fuzzing,stateful",
            "--continue-on-failure", "--suppress-health-check", "all", "--no-color",
            "--max-examples", str(options.examples), "--seed", str(options.seed),
            "--generation-database", "none", "--report", "json", "--report-json-path", report,
            *server.credentials(kind),
        ]
        environment = os.environ | {
            "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE), "ATTACKED_URL": server.url,
            "ATTACKED_TOKEN": server.tokens["admin"], "PYTHONDONTWRITEBYTECODE": "1",
        }
        ran = subprocess.run(
            list(map(str, command)), env=environment, cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        said = ran.stdout
        if server.process.poll() is not None:
            said += f"\nthe server ended:\n{server.log.read_text()[-4000:]}"
        if not report.exists():
            return 0, 1, said
        cases = json.loads(report.read_text())["test_cases"]
        findings = cases["unique_failures"] + cases["errored"]
        # What it does not count, such as a server that ended, is one, too.
        is_bad = ran.returncode != 0 or server.process.poll() is not None
        return cases["generated"], max(findings, int(is_bad)), said


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--binary", required=True)
    parser.add_argument("--examples", type=int, default=100, help="random requests an operation")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    options = parser.parse_args()
    rows = []
    for kind in options.kinds:
        begun = time.monotonic()
        cases, findings, said = attack(os.path.abspath(options.binary), kind, options)
        if findings:
            print(said)
        rows.append((kind, cases, findings, round(time.monotonic() - begun)))
    print(f"{'key':<8} {'cases':>7} {'findings':>8} {'seconds':>7}   seed {options.seed}")
    for kind, cases, findings, seconds in rows:
        print(f"{kind:<8} {cases:>7} {findings:>8} {seconds:>7}")
    sys.exit(1 if any(findings for _, _, findings, _ in rows) else 0)


if __name__ == "__main__":
    main()
