#!/usr/bin/env python3
"""Attacks a server with what schemathesis makes of its own /openapi.json: each kind of key, all
checks, examples, edges, random requests and chains of them. Prints a table; fails for findings."""

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import house

HERE = Path(__file__).parent
KINDS = ["none", "write", "server", "read", "admin", "session"]
# Far more than schemathesis sends: a 429 shows nothing of what is behind it.
SETTINGS = {"NILOMETER_LIMITS__QUERIES_PER_SECOND": "1000000"}


class Server(house.Server):
    """With something in it to find."""

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
            return ["-H", f"Cookie: {self.cookie()}"]
        if kind == "server":
            self.new_key("server", "server")
        return ["-H", f"Authorization: Bearer {self.tokens[kind]}"]


def attack(binary, kind, options):
    """Runs schemathesis with one kind of key; gives cases, findings and what was said."""
    with house.folder() as folder, Server(binary, folder, SETTINGS) as server:
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
