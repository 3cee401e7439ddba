"""11, 12, 13, 14: whoever reads too much, guesses, stays when he should go, or asks for long answers."""

import http.client
import json
import threading
import time

import wire
from cases import Cases
from filling import Sender, folded, line, now_ms

CASES = Cases()


def many_rows(attack):
    """Rows to be asked for, once on each server."""
    pid = attack.server.process.pid
    marker = attack.server.folder / f"rows-{pid}"
    if marker.exists():
        return
    sender, count = Sender(attack, "server"), attack.dose(75_000, 12_000)
    for first in range(0, count, 3_000):
        sender.send([
            line(f"r-{first + n}", now_ms(), content_id=f"a-content-with-a-rather-long-name-{first + n:06}")
            for n in range(3_000)
        ])
    marker.touch()
    folded(attack)


def question(number, **more):
    return {
        "metrics": "events,unique_users,total_duration", "granularity": "total", "last": "2h",
        "group_by": "content_id", "limit": 100_000 - number,
    } | more


@CASES.each(11, "live answers of many rows, {}", [
    ("124 of them, all read", "read", 4, 31, True), ("124 of them, none read", "read", 4, 31, False),
    ("496 of 1,000 rows", "read", 16, 31, True),
], seconds=30, fresh=True, grown=540, p99=1, calm=20)
def live(attack, connections, each, reads):
    many_rows(attack)
    attack.begin()
    small = attack.dose(connections, 2)
    sockets = []
    for place in range(small):
        stream = wire.websocket(attack.server, attack.tokens["read"], place % 10, receive=None if reads else 4_096)
        for number in range(each):
            query = question(place * each + number)
            if connections == 16:
                query |= {"limit": 1_000, "filter": f"content_id:!n-{place}-{number}"}
            text = json.dumps({"type": "subscribe", "id": f"{number}", "query": query, "interval_ms": 1_000})
            stream.sendall(wire.message(wire.TEXT, text.encode()))
            attack.tried()
        sockets.append(stream)
    taken = [0]

    def read(stream):
        stream.settimeout(1)
        while not attack.is_over():
            try:
                piece = stream.recv(1 << 20)
                if not piece:
                    return
                taken[0] += len(piece)
            except TimeoutError:
                continue
            except OSError:
                return

    if reads:
        threads = [threading.Thread(target=read, args=(stream,)) for stream in sockets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    attack.hold()
    return f"{taken[0] >> 20} MiB were read"


READS = [
    ("/v1/query", lambda n: f"/v1/query?metrics=events,unique_users&granularity=total&last=2h&group_by=content_id&limit={100_000 - n}"),
    ("/v1/query of one question", lambda n: "/v1/query?metrics=events,unique_users&granularity=total&last=2h&group_by=content_id&limit=100000"),
    ("/v1/snapshot", lambda n: f"/v1/snapshot?metrics=events&granularity=1m&last=2h&group_by=content_id&limit={100_000 - n}"),
    ("/v1/events/tail", lambda n: "/v1/events/tail?limit=500"),
    ("/v1/dead-letters", lambda n: "/v1/dead-letters?limit=500"),
    ("/v1/events/{id}/trace", lambda n: f"/v1/events/r-{n}/trace"),
    ("/v1/catalog", lambda n: "/v1/catalog"),
    ("/v1/pipeline", lambda n: "/v1/pipeline"),
    ("/metrics", lambda n: "/metrics"),
    ("/openapi.json", lambda n: "/openapi.json"),
]


@CASES.each(11, "40 readers at once of {}", [
    (f"{name}{', packed' if coding else ''}", role, make, coding)
    for name, make in READS for coding in (None, "gzip") for role in ["read"]
], seconds=10, grown=300, p99=1)
def crowd(attack, make, coding):
    many_rows(attack)
    attack.begin()
    statuses = {}

    def ask(place):
        connection = http.client.HTTPConnection(attack.server.address, timeout=60, source_address=(f"127.0.0.{2 + place % 10}", 0))
        number = place * 1_000
        headers = {"Authorization": f"Bearer {attack.tokens['read']}"} | ({"Accept-Encoding": coding} if coding else {})
        while not attack.is_over():
            try:
                connection.request("GET", make(number % 50_000), headers=headers)
                answer = connection.getresponse()
                while answer.read(1 << 16):
                    pass
                statuses[answer.status] = statuses.get(answer.status, 0) + 1
                if answer.status in (429, 503):
                    time.sleep(0.2)
            except (OSError, http.client.HTTPException):
                connection.close()
                statuses["closed"] = statuses.get("closed", 0) + 1
            number += 1
            attack.tried()

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(attack.dose(40, 10))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    attack.expect(not any(isinstance(status, int) and status >= 500 and status != 503 for status in statuses), f"{statuses}")
    return f"answered {statuses}"


@CASES.each(11, "a question of {}", [
    ("a million zeros, by POST", "read", lambda: b"[" + b"0," * 500_000 + b"0]", "post"),
    ("a million zeros, live", "read", lambda: b"[" + b"0," * 500_000 + b"0]", "live"),
    ("300,000 small objects, by POST", "read", lambda: b"[" + b"{}," * 300_000 + b"{}]", "post"),
    ("300,000 small objects, live", "read", lambda: b"[" + b"{}," * 600_000 + b"{}]", "live"),
    ("100,000 names, by POST", "read", lambda: json.dumps({f"n{n}": n for n in range(70_000)}).encode(), "post"),
    ("ids of letters, by POST", "admin", lambda: json.dumps({"ids": [""] * 250_000}).encode(), "replay"),
], seconds=6)
def trees(attack, make, how):
    body = make()
    threads = []

    def post():
        path, role = ("/v1/dead-letters/replay", "admin") if how == "replay" else ("/v1/query", "read")
        while not attack.is_over():
            attack.server.status("POST", path, body, token=role)
            attack.tried()

    def say():
        while not attack.is_over():
            try:
                stream = wire.websocket(attack.server, attack.tokens["read"])
                for _ in range(20):
                    stream.sendall(wire.message(wire.TEXT, body))
                    attack.tried()
                wire.said(stream, 0.3)
            except OSError:
                pass

    for _ in range(attack.dose(16, 6)):
        threads.append(threading.Thread(target=say if how == "live" else post))
        threads[-1].start()
    for thread in threads:
        thread.join()


def status_of(stream):
    status, _, body = wire.answer(stream)
    return status, body


def guess_by(kind):
    """How a guess is made: its request, given the guess."""
    heads = {
        "a token": lambda guess: wire.head("GET", "/v1/catalog", guess),
        "a cookie": lambda guess: wire.head("GET", "/v1/catalog", more=f"Cookie: nilometer_session={guess}\r\n"),
        "a token, asking after the session": lambda guess: wire.head("GET", "/v1/session", guess),
        "a cookie, signing out": lambda guess: wire.head("DELETE", "/v1/session", more=f"Cookie: nilometer_session={guess}\r\n"),
        "a token, by WebSocket": lambda guess: wire.upgrade(guess),
        "a token, for metrics": lambda guess: wire.head("GET", "/metrics", guess),
        "a token, for a table": lambda guess: wire.head("PUT", "/v1/dimensions/users", guess, 0),
    }
    if kind in heads:
        return heads[kind]
    name = "token" if "token" in kind else "code"

    def sign_in(guess):
        body = json.dumps({name: guess})
        return wire.head("POST", "/v1/session", length=len(body)) + body.encode()

    return sign_in


GUESSES = [
    "a token", "a cookie", "a token, asking after the session", "a cookie, signing out", "a token, by WebSocket",
    "a token, for metrics", "a token, for a table", "a token, signing in", "a code, signing in",
]


@CASES.each(12, "guesses of {}, beside others of the same address", [(kind, "none", kind) for kind in GUESSES], seconds=5)
def guesses(attack, kind):
    make, statuses = guess_by(kind), {}
    opened = refused = 0
    cookie = None
    while not attack.is_over():
        stream = wire.connect(attack.server)
        try:
            for n in range(30):
                stream.sendall(make(f"nr_guess{opened:030}"))
                status, _ = status_of(stream)
                statuses[status] = statuses.get(status, 0) + 1
                opened += 1
                attack.tried()
                refused += status in (429, 401)
                if status == 400 or b"upgrade" in make("x").lower():
                    break
        except OSError:
            pass
        # Whoever is honest and comes from the same address.
        honest = wire.connect(attack.server)
        honest.sendall(wire.head("GET", "/v1/catalog", attack.tokens["read"]))
        status, _ = status_of(honest)
        attack.expect(status in (200,), f"a token at the same address is answered {status}")
        body = json.dumps({"token": attack.tokens["admin"]})
        if cookie is None:
            honest.sendall(wire.head("POST", "/v1/session", length=len(body)) + body.encode())
            status, top, _ = wire.answer(honest)
            attack.expect(status == 200, f"a sign-in at the same address is answered {status}")
            cookie = [line for line in top.decode().split("\r\n") if line.lower().startswith("set-cookie:")][0]
            cookie = cookie.split(":")[1].split(";")[0].strip()
        honest.sendall(wire.head("GET", "/v1/session", more=f"Cookie: {cookie}\r\n"))
        status, body = status_of(honest)
        attack.expect(status == 200 and b"true" in body, f"a session at the same address is answered {status} {body}")
        time.sleep(0.05)
    stream = wire.connect(attack.server)
    stream.sendall(wire.head("DELETE", "/v1/session", more=f"Cookie: {cookie}\r\n"))
    status, _ = status_of(stream)
    attack.expect(status == 204, f"a sign-out at the same address is answered {status}")
    attack.expect(not {200, 101} & set(statuses) or "asking" in kind or "signing out" in kind, f"{statuses}")
    may = 20 + 2 * attack.seconds
    tried = sum(count for status, count in statuses.items() if status != 429)
    attack.expect(tried <= may, f"{tried} guesses of one beginning were tried, not {may:.0f}: {statuses}")
    return f"{statuses}"


@CASES.of(12, "guesses of a token over /v1/live, beside others of the same address", seconds=5)
def live_guesses(attack):
    tried = 0
    while not attack.is_over():
        try:
            stream = wire.websocket(attack.server)
        except ConnectionError:
            # A stranger may open so many a second.
            time.sleep(0.05)
            continue
        text = json.dumps({"type": "auth", "token": f"nr_guess{tried:030}"})
        stream.sendall(wire.message(wire.TEXT, text.encode()))
        said, _ = wire.said(stream, 2)
        attack.expect(b"authenticated" not in said, "a guess opened")
        tried += b"opens nothing" in said
        attack.tried()
    may = 20 + 2 * attack.seconds
    attack.expect(tried <= may, f"{tried} guesses were tried, not {may:.0f}")
    status, _, _ = attack.server.status("GET", "/v1/catalog", token="read")
    attack.expect(status == 200, f"another is answered {status}")
    return f"{tried} were tried"


@CASES.each(12, "requests without a key to {}, beside one who has signed in from the same address", [
    ("GET /v1/session", "none", "GET", "/v1/session"), ("DELETE /v1/session", "none", "DELETE", "/v1/session"),
    ("GET /v1/catalog", "none", "GET", "/v1/catalog"),
], seconds=5)
def strangers(attack, method, path):
    cookie = attack.server.cookie()
    # From where `status` asks, too.
    streams = []
    for _ in range(4):
        stream = wire.connect(attack.server, -1)
        streams.append(stream)
    statuses = {}
    while not attack.is_over():
        for stream in streams:
            stream.sendall(wire.head(method, path) * 10)
        for stream in streams:
            text = stream.recv(65_536)
            for status in (b"200", b"204", b"401", b"429"):
                statuses[status] = statuses.get(status, 0) + text.count(b"HTTP/1.1 " + status)
        attack.tried(40)
        time.sleep(0.01)
        status, text, _ = attack.server.status("GET", "/v1/session", token=None, headers={"Cookie": cookie})
        attack.expect(status == 200 and b"true" in text, f"who has signed in is answered {status} {text}")
    attack.expect(statuses.get(b"429"), f"strangers are not slowed: {statuses}")
    status, _, _ = attack.server.status("DELETE", "/v1/session", token=None, headers={"Cookie": cookie})
    attack.expect(status == 204, f"a sign-out is answered {status}")


@CASES.each(13, "a socket {}", [
    ("whose session signs out", "session", "out"), ("whose token is revoked", "read", "revoked"),
    ("whose session's token is revoked", "session", "both"), ("that reads nothing, its token revoked", "read", "unread"),
    ("that signed in by a message, its token revoked", "read", "message"),
], seconds=8)
def standing(attack, how):
    server, name = attack.server, f"passing-{how}"
    token = server.new_key(name, "read")
    listed = server.command("keys", "list").stdout
    key = next(line.split()[0] for line in listed.splitlines() if line.endswith(name))
    cookie = server.cookie(name)
    by_cookie = how in ("out", "both")
    more = f"Cookie: {cookie}\r\nOrigin: http://nile\r\n" if by_cookie else ""
    own = None if by_cookie or how == "message" else token
    stream = wire.websocket(server, own, more=more, receive=4_096 if how == "unread" else None)
    if how == "message":
        stream.sendall(wire.message(wire.TEXT, json.dumps({"type": "auth", "token": token}).encode()))
    follow = {"type": "subscribe", "id": "a", "query": {"metrics": "events", "last": "1h"}, "interval_ms": 1_000}
    for number in range(32 if how == "unread" else 1):
        stream.sendall(wire.message(wire.TEXT, json.dumps(follow | {"id": f"{number}"}).encode()))
    attack.tried()
    time.sleep(1)
    if how == "out":
        server.status("DELETE", "/v1/session", token=None, headers={"Cookie": cookie})
    else:
        server.command("keys", "revoke", key)
    began = time.monotonic()
    from holding import is_open

    while time.monotonic() - began < 8 and is_open(server, stream):
        if how != "unread":
            wire.said(stream, 0.05)
        time.sleep(0.05)
    took = time.monotonic() - began
    # Closing takes up to 2 s where nobody answers.
    attack.expect(took < (6 if how == "unread" else 4), f"still there after {took:.1f} s")
    status, _, _ = server.status("GET", "/v1/catalog", token=None, headers={"Cookie": cookie})
    attack.expect(status == 401, f"the session is answered {status}")
    return f"ended after {took:.1f} s"


LONG = "m" * 30_000


@CASES.each(14, "an answer to {}", [
    ("bad events with long ids", "write", "POST", "/v1/events", (json.dumps({"event_id": "x" * 8_000, "event_type": 7}) + "\n").encode() * 110, "application/x-ndjson"),
    ("10,000 bad lines", "write", "POST", "/v1/events", ("{broken\n" * 10_000).encode(), "application/x-ndjson"),
    ("10,000 bad events", "write", "POST", "/v1/events", ('{"event_type":7}\n' * 10_000).encode(), "application/x-ndjson"),
    ("10,000 bad events of an import", "write", "POST", "/v1/imports/a/events", ('{"event_type":7}\n' * 10_000).encode(), "application/x-ndjson"),
    ("bad events with long fields", "write", "POST", "/v1/events", (json.dumps({"f" * 8_000: 1, "event_type": 7, "country": {"a" * 3_000: 1}}) + "\n").encode() * 80, "application/x-ndjson"),
    ("a table with a long head", "admin", "PUT", "/v1/dimensions/users", ("user_id," + ",".join("c" * 900 for _ in range(1_000)) + "\nu,1\n").encode(), "text/csv"),
    ("a table with a long cell", "admin", "PUT", "/v1/dimensions/users", ("user_id,cohort\nu," + "c" * 900_000 + "\n").encode(), "text/csv"),
    ("a table of bad rows", "admin", "PUT", "/v1/dimensions/users", ("user_id,cohort\n" + "a,b,c,d\n" * 100_000).encode(), "text/csv"),
    ("a long metric", "read", "GET", f"/v1/query?metrics={LONG}", None, ""),
    ("a long dimension", "read", "GET", f"/v1/query?metrics=events&group_by={LONG}", None, ""),
    ("a long filter", "read", "GET", f"/v1/query?metrics=events&filter={LONG}:a", None, ""),
    ("a long parameter", "read", "GET", f"/v1/query?{LONG}=1", None, ""),
    ("many parameters", "read", "GET", "/v1/query?" + "&".join(f"p{n}=1" for n in range(5_000)), None, ""),
    ("a long path", "read", "GET", f"/v1/{LONG}", None, ""),
    ("a long path of nobody's", "none", "GET", f"/{LONG}", None, ""),
    ("a long event id", "read", "GET", f"/v1/events/{LONG}/trace", None, ""),
    ("a long table", "read", "GET", f"/v1/dimensions/{LONG}", None, ""),
    ("a long cursor", "read", "GET", f"/v1/dead-letters?before={LONG}", None, ""),
    ("a long method", "none", "M" * 3_000, "/v1/query", None, ""),
    ("a long origin", "none", "POST", "/v1/session", b"{}", "application/json", {"Origin": f"http://{LONG}"}),
    ("a long content type", "write", "POST", "/v1/events", b"{}", LONG),
    ("a long name of an import", "write", "POST", f"/v1/imports/{LONG}/events", b"{}", "application/json"),
    ("a long sign-in", "none", "POST", "/v1/session", json.dumps({"token": "t" * 3_900}).encode(), "application/json"),
    ("an unknown field of a sign-in", "none", "POST", "/v1/session", json.dumps({"x" * 3_900: 1}).encode(), "application/json"),
    ("many ids of letters", "admin", "POST", "/v1/dead-letters/replay", json.dumps({"ids": ["x" * 900] * 1_000}).encode(), "application/json"),
    ("long JSON of a question", "read", "POST", "/v1/query", json.dumps({LONG: LONG}).encode(), "application/json"),
], seconds=2)
def bounded(attack, method, path, body, kind, *more):
    role = attack.role if attack.role != "none" else None
    connection = http.client.HTTPConnection(attack.server.address, timeout=60)
    headers = {"Content-Type": kind} if kind else {}
    if role:
        headers["Authorization"] = f"Bearer {attack.tokens[role]}"
    connection.request(method, path, body, headers | (more[0] if more else {}))
    answer = connection.getresponse()
    text = answer.read()
    size = len(text) + sum(len(name) + len(value) for name, value in answer.getheaders())
    attack.tried()
    attack.expect(answer.status < 500, f"{answer.status} {text[:200]}")
    attack.expect(size < 64 << 10, f"{answer.status} with {size} bytes")
    return f"{answer.status} with {size} bytes"
