"""3, 4, 5, 6: whoever fills memory with values, answers with junk, the disk with bytes, and the ids
of others with events."""

import contextlib
import gzip
import http.client
import json
import os
import time

from cases import Cases

CASES = Cases()

DIMENSIONS = [
    "event_type", "country", "device_type", "content_category", "content_id", "app_version",
    "subscription_tier", "cohort", "channel", "service_name",
]
DAY_MS = 86_400_000


def now_ms():
    return time.time_ns() // 1_000_000


class Sender:
    """Somebody who sends bodies over one connection."""

    def __init__(self, attack, role, path="/v1/events"):
        self.attack, self.path = attack, path
        self.token = attack.tokens[role]
        self.statuses = {}
        self.connection = http.client.HTTPConnection(attack.server.address, timeout=60)

    def send(self, lines, coding=None):
        body = "\n".join(lines).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/x-ndjson"}
        if coding:
            body, headers["Content-Encoding"] = gzip.compress(body, 1), coding
        try:
            self.connection.request("POST", self.path, body, headers)
            answer = self.connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.statuses["closed"] = self.statuses.get("closed", 0) + 1
            return 0, {}
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        if answer.status in (429, 503):
            time.sleep(0.1)
        self.attack.tried(len(lines))
        return answer.status, json.loads(text)


def folded(attack):
    """Waits until what was sent is counted; honest events always come."""
    until = time.monotonic() + 60
    while attack.server.read("/v1/pipeline")["totals"]["in_flight"] > 50 and time.monotonic() < until:
        time.sleep(0.2)


def line(number, at_ms, **more):
    event = {"event_id": f"a-{number}", "user_id": f"a-{number}", "event_type": "attack", "timestamp": at_ms}
    return json.dumps(event | more)


def all_new(n):
    return {name: f"{name}-{n}" for name in DIMENSIONS} | {"session_id": f"s-{n}"}


# What is new in each event, and the time of each.
FLOODS = {
    "every dimension new": lambda n, now: line(n, now, **all_new(n)),
    "every dimension new and 200 bytes long": lambda n, now: line(n, now, **{name: value + "x" * 200 for name, value in all_new(n).items()}),
    "one dimension new, 8 KiB long": lambda n, now: line(n, now, content_id=f"{n}" + "x" * 8_000),
    "users and sessions new": lambda n, now: line(n, now, session_id=f"s-{n}"),
    "one user, each event of a new type": lambda n, now: line(n, now, user_id="a-one", event_type=f"attack-{n}"),
    "a minute of its own in 13 days": lambda n, now: line(n, now - n % 18_000 * 60_000, country=f"c-{n % 200}"),
    "a day of its own in two years": lambda n, now: line(n, now - n % 700 * DAY_MS, country=f"c-{n % 50}", channel=f"h-{n % 7}"),
    "each property new": lambda n, now: line(n, now, properties={f"p-{n}-{k}": k for k in range(200)}),
    "combinations of few values": lambda n, now: line(n, now, **{name: f"{n * (k + 1) % 97}" for k, name in enumerate(DIMENSIONS)}),
    "one id again and again, each time other values": lambda n, now: line(0, now, **all_new(n)),
    "refused events, each for its own reason": lambda n, now: json.dumps({"event_id": f"a-{n}", "event_type": 7, f"field-{n}": "x" * 500}),
}


@CASES.each(3, "{}", [
    (f"{name}, {how}", role, FLOODS[name], path, coding)
    for name in FLOODS
    for how, role, path, coding in (
        [("a public key", "write", "/v1/events", None)]
        if name != "every dimension new" and name != "a day of its own in two years" else
        [("a public key", "write", "/v1/events", None), ("a server key", "server", "/v1/events", "gzip"),
         ("an import", "server", "/v1/imports/a/events", None)]
    )
], seconds=15, fresh=True, grown=540, calm=30)
def values(attack, make, path, coding):
    sender = Sender(attack, "server" if coding or "imports" in path else "write", path)
    number = 0
    at_once = 2_000 if len(make(1, 0)) < 400 else 100
    while not attack.is_over():
        now = now_ms()
        sender.send([make(number + n, now) for n in range(at_once)], coding)
        number += at_once
    return f"answered {sender.statuses}"


@CASES.of(3, "one user's sessions in each half hour of 89 days", role="write", fresh=True, grown=540, calm=30)
def many_sessions(attack):
    sender = Sender(attack, "write")
    for first in range(0, attack.dose(100_000, 6_000), 2_000):
        now = now_ms()
        times = [(n, now - n * 2_477 % 4_100 * 1_860_000) for n in range(first, first + 2_000)]
        sender.send([line(n, at_ms, user_id="a-one") for n, at_ms in times])
    begun = time.monotonic()
    folded(attack)
    left = attack.server.read("/v1/pipeline")["totals"]["in_flight"]
    attack.expect(left <= 50, f"{left} events wait to be counted after {time.monotonic() - begun:.0f} s")
    return f"counted within {time.monotonic() - begun:.0f} s"


@CASES.of(4, "after 30,000 new values of each dimension every grouped answer is there", role="write",
          seconds=20, fresh=True, grown=540, calm=30, p99=1)
def grouped(attack):
    junk, honest = Sender(attack, "write"), Sender(attack, "server")
    for first in range(0, attack.dose(30_000, 6_000), 2_000):
        now = now_ms()
        junk.send([line(first + n, now, **all_new(first + n)) for n in range(2_000)])
    for again in range(3):
        now = now_ms()
        known = {name: "known" for name in DIMENSIONS}
        honest.send([line(f"h-{again}-{n}", now, **known) for n in range(50)])
    folded(attack)
    wrong = []
    for dimension in DIMENSIONS:
        for more in ("granularity=1d&last=24h", "granularity=1m&last=10m", "granularity=total&last=24h&compare=previous_period"):
            path = f"/v1/query?metrics=events,unique_users&group_by={dimension}&{more}&order_by=-events&limit=5"
            status, text, _ = attack.server.status("GET", path)
            attack.tried()
            if status != 200:
                wrong.append(f"{dimension} {more}: {status} {text[:150]}")
            elif dimension not in ("event_type", "service_name") and b'"known"' not in text:
                wrong.append(f"{dimension} {more}: what an honest key sends is not shown: {text[:200]}")
    attack.expect(not wrong, "; ".join(wrong[:3]))


def bytes_in(folder):
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            # What retention takes away meanwhile takes no room.
            with contextlib.suppress(FileNotFoundError):
                total += os.path.getsize(os.path.join(at, name))
    return total


SMALL_LOG = {
    "NILOMETER_LOG__RETENTION_BYTES": str(96 << 20), "NILOMETER_LOG__SEGMENT_BYTES": str(4 << 20),
    "NILOMETER_STREAM__CHECKPOINT_INTERVAL_S": "1", "NILOMETER_ROLLUPS__FOLD_INTERVAL_S": "1",
}
NOISE = os.urandom(3_000).hex()


@CASES.each(5, "a log that may have 96 MiB, flooded with {}", [
    ("events", "write", "/v1/events", lambda n, now: line(n, now, properties={"text": f"{n}" + NOISE})),
    ("events of a server", "server", "/v1/events", lambda n, now: line(n, now, properties={"text": f"{n}" + NOISE})),
    ("refused events", "write", "/v1/events", lambda n, now: json.dumps({"event_type": 7, "text": f"{n}" + NOISE})),
    ("imports of many names", "write", None, lambda n, now: line(n, now - 40 * DAY_MS, properties={"text": f"{n}" + NOISE})),
    ("late events", "write", "/v1/events", lambda n, now: line(n, now - 400 * DAY_MS, properties={"text": f"{n}" + NOISE})),
], seconds=12, settings=SMALL_LOG, fresh=True, grown=300, calm=20)
def disk(attack, path, make):
    role = "server" if "of a server" in str(path) else "write"
    number, most, statuses = 0, 0, {}
    sender = Sender(attack, role, path or "/v1/imports/a/events")
    while not attack.is_over():
        sender.path = path or f"/v1/imports/n-{number}/events"
        now = now_ms()
        sender.send([make(number + n, now) for n in range(120)])
        number += 120
        most = max(most, bytes_in(attack.server.data / "log"))
    until = time.monotonic() + 15
    while (left := bytes_in(attack.server.data / "log")) > 130 << 20 and time.monotonic() < until:
        time.sleep(0.5)
    attack.expect(left <= 130 << 20, f"the log has {left >> 20} MiB")
    return f"at most {most >> 20} MiB, {left >> 20} MiB then; answered {sender.statuses}"


@CASES.of(5, "tables that an admin replaces again and again", role="admin", seconds=10, fresh=True,
          settings=SMALL_LOG, grown=400)
def tables(attack):
    number = 0
    while not attack.is_over():
        rows = "".join(f"u-{n},{number}-{n}\n" for n in range(attack.dose(50_000)))
        attack.server.status("PUT", "/v1/dimensions/users", f"user_id,cohort\n{rows}".encode(), kind="text/csv")
        number += 1
        attack.tried()
    return f"{bytes_in(attack.server.data / 'dimensions') >> 20} MiB of {number} versions"


@CASES.each(5, "a quota of 100 events a second: {}", [
    ("plain", "write", "/v1/events", None), ("packed", "write", "/v1/events", "gzip"),
    ("imports", "write", "/v1/imports/a/events", None),
], seconds=6)
def quotas(attack, path, coding):
    name = f"narrow-{path}-{coding}"
    attack.server.new_key(name, "write", "--quota", "events=100/s")
    narrow, wide = Sender(attack, name, path), Sender(attack, "write")
    accepted = refused = 0
    began = time.monotonic()
    while not attack.is_over():
        status, answer = narrow.send([line(f"{accepted}-{refused}-{n}", now_ms()) for n in range(50)], coding)
        accepted += answer.get("accepted", 0)
        refused += status == 429
        status, _ = wide.send([line(f"w-{accepted}-{refused}", now_ms())])
        attack.expect(status == 200, f"another key is answered {status}")
    may = 100 * (time.monotonic() - began) + 250
    attack.expect(accepted <= may, f"{accepted} events were taken, not {may:.0f}")
    attack.expect(refused > 0, "nothing was refused")
    return f"{accepted} events taken, {refused} batches refused"


@CASES.each(6, "ids of another's events sent first, {}", [
    ("by a key with a source of its own", "write", ["--source", "spam"], "/v1/events"),
    ("by an import of such a key", "write", ["--source", "spam"], "/v1/imports/a/events"),
    ("as refused events", "write", [], "letters"),
], seconds=4)
def ids(attack, options, path):
    server, name = attack.server, f"spam-{path}-{len(options)}"
    server.new_key(name, "write", *options)
    spam, honest = Sender(attack, name, "/v1/events" if path == "letters" else path), Sender(attack, "server")
    kind = f"order-{name}".replace("/", "-")
    bad = {"country": 7} if path == "letters" else {}
    spam.send([line(f"{kind}-{n}", now_ms(), **bad) for n in range(500)])
    honest.send([line(f"{kind}-{n}", now_ms(), event_type=kind) for n in range(500)])
    until = time.monotonic() + 20
    counted = None
    while counted != 500 and time.monotonic() < until:
        rows = server.read(f"/v1/query?metrics=events&granularity=total&last=24h&filter=event_type:{kind}")["rows"]
        counted = rows[0]["events"] if rows else 0
        time.sleep(0.1)
    attack.expect(counted == 500, f"{counted} of 500 count")
