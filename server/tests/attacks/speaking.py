"""15, 17: whatever is said by the protocol's rules, and what is shown of what others write."""

import json
import re
import time

import wire
from cases import Cases

CASES = Cases()

ROUTES = [
    ("/", "none"), ("/healthz", "none"), ("/readyz", "none"), ("/openapi.json", "read"), ("/metrics", "read"),
    ("/v1/query?metrics=events", "read"), ("/v1/snapshot?metrics=events", "read"), ("/v1/live", "read"), ("/v1/catalog", "read"),
    ("/v1/pipeline", "read"), ("/v1/events/tail", "read"), ("/v1/events/a/trace", "read"), ("/v1/dead-letters", "read"),
    ("/v1/dead-letters/replay", "admin"), ("/v1/clock/follow", "admin"), ("/v1/session", "none"),
    ("/v1/dimensions/users", "admin"), ("/v1/events", "write"), ("/v1/imports/a/events", "write"), ("/v1", "none"),
    ("/v1/nothing", "none"), ("/nothing", "none"),
]
HEADS = {
    "no words": b"\r\n\r\nGET\r\n\r\n",
    "bytes that are none": bytes(range(256)) + b"\r\n\r\n",
    "a version that there is not": b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "two lengths": b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length that is none": b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    "a length of 2^70": b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Length: 1180591620717411303424\r\n\r\n",
    "a length and chunks": b"POST /v1/session HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks of chunks": b"POST /v1/session HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"POST /v1/session HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: zip\r\n\r\n0\r\n\r\n",
    "a chunk that is none": b"POST /v1/session HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "CR in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    "200 headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
    "a header of 200 KiB": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "an address of 70 KiB": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "an address with a space": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "another's address": b"GET http://evil.example/v1/query HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "all of the server": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    "h2c": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500,
    "an expectation": b"POST /v1/events HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\n{}",
}


def problems(text):
    """What is no problem among the refusals that came, one after the other."""
    wrong = []
    while text.startswith(b"HTTP/1."):
        top, _, rest = text.partition(b"\r\n\r\n")
        status = int(top.split()[1])
        length = re.search(rb"\r\ncontent-length: (\d+)", top, re.I)
        body, text = rest[: int(length[1])] if length else rest, rest[int(length[1]):] if length else b""
        if status >= 400 and (b"application/problem+json" not in top or not body.startswith(b"{")):
            wrong.append(top[:300])
        if status >= 500 and status != 503:
            wrong.append(top[:300] + body[:300])
    return wrong


@CASES.each(15, "{}: refused as a problem, or closed", [(name, "none", text) for name, text in HEADS.items()], seconds=1)
def heads(attack, text):
    stream = wire.connect(attack.server)
    stream.sendall(text)
    said, ended = wire.said(stream, 7)
    attack.tried()
    wrong = problems(said)
    attack.expect(not wrong, f"{wrong[:1]}")
    attack.expect(ended or said, "nothing was said for 7 s, nor closed")
    return said.split(b"\r\n")[0].decode(errors="replace") or "closed"


@CASES.of(15, "every method on every route, with each kind of key: problems, none of ours", seconds=8)
def methods(attack):
    wrong = []
    for path, _ in ROUTES:
        for role in (None, "write", "server", "read", "admin", "wrong"):
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
                stream = wire.connect(attack.server, attack.attempts % 10)
                own = attack.tokens.get(role, role)
                stream.sendall(wire.head(method, path, own, 0, "Connection: close\r\n"))
                said, ended = wire.said(stream, 5)
                attack.tried()
                found = [] if method == "HEAD" else problems(said)
                if found or not said.startswith(b"HTTP/1.1 "):
                    wrong.append(f"{method} {path} {role}: {(found or [said])[0][:200]}")
    attack.expect(not wrong, "; ".join(wrong[:3]))


BROKEN = {
    "nonsense after the preface": b"\xff" * 4_096,
    "a frame of 16 MiB": b"\xff\xff\xff\0\0\0\0\0\1",
    "DATA on no stream": wire.frame(wire.DATA, 0, 0, b"x"),
    "DATA on a stream that is not there": wire.frame(wire.DATA, 0, 1, b"x"),
    "HEADERS on an even stream": wire.frame(wire.HEADERS, 5, 2, wire.packed(wire.fields("GET", "/"))),
    "a stream that goes back": wire.ask(5, "GET", "/") + wire.ask(3, "GET", "/"),
    "CONTINUATION of nothing": wire.frame(wire.CONTINUATION, 4, 1, b""),
    "another frame within HEADERS": wire.frame(wire.HEADERS, 0, 1, b"") + wire.frame(wire.PING, 0, 0, b"12345678"),
    "a table that there is not": wire.frame(wire.HEADERS, 5, 1, b"\xff\xff\xff\x7f"),
    "a Huffman code that is none": wire.frame(wire.HEADERS, 5, 1, b"\0\x84\xff\xff\xff\xff\x84\xff\xff\xff\xff"),
    "no method": wire.frame(wire.HEADERS, 5, 1, wire.packed([(":path", "/")])),
    "two paths": wire.frame(wire.HEADERS, 5, 1, wire.packed(wire.fields("GET", "/") + [(":path", "/b")])),
    "upper case": wire.frame(wire.HEADERS, 5, 1, wire.packed(wire.fields("GET", "/", more=[("X-A", "b")]))),
    "a Connection header": wire.frame(wire.HEADERS, 5, 1, wire.packed(wire.fields("GET", "/", more=[("connection", "close")]))),
    "a head of 64 KiB": wire.ask(1, "GET", "/", more=[("x", "a" * 60_000)]),
    "a length that lies": wire.ask(1, "POST", "/v1/session", more=[("content-length", "9")], ends=False) + wire.frame(wire.DATA, 1, 1, b"{}"),
    "a window of 2^31": wire.frame(wire.WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "SETTINGS of 5 bytes": wire.frame(wire.SETTINGS, 0, 0, b"12345"),
    "SETTINGS with a window of 2^32": wire.frame(wire.SETTINGS, 0, 0, wire.setting(4, 0xFFFFFFFF)),
    "SETTINGS with frames of 1 byte": wire.frame(wire.SETTINGS, 0, 0, wire.setting(5, 1)),
    "PING of 7 bytes": wire.frame(wire.PING, 0, 0, b"1234567"),
    "RST_STREAM of an idle stream": wire.frame(wire.RST, 0, 9, b"\0\0\0\0"),
    "more padding than there is": wire.frame(wire.DATA, 8, 1, b"\xff"),
    "a stream that depends on itself": wire.frame(wire.PRIORITY, 0, 1, b"\0\0\0\1\x10"),
    "PUSH_PROMISE": wire.frame(wire.PUSH, 4, 1, b"\0\0\0\2"),
    "a tunnel": wire.frame(wire.HEADERS, 4, 1, wire.packed([(":method", "CONNECT"), (":authority", "evil.example:443")])),
}


@CASES.each(15, "HTTP/2: {}: answered, reset or closed", [(name, "none", text) for name, text in BROKEN.items()], seconds=1)
def broken(attack, text):
    stream = wire.http2(attack.server)
    stream.sendall(text)
    # And a request that is right: its answer, or the end of the connection.
    try:
        stream.sendall(wire.ask(101, "GET", "/healthz"))
    except OSError:
        pass
    said, ended = wire.said(stream, 1)
    attack.tried()
    kinds = [kind for kind, _, number, _ in wire.frames(said) if kind in (wire.GOAWAY, wire.RST) or (kind == wire.HEADERS and number == 101)]
    attack.expect(ended or kinds, f"neither answered nor closed: {said[:100]}")
    return f"frames {sorted(set(kinds))}, {'closed' if ended else 'open'}"


WANTED = {
    "x-content-type-options": "nosniff", "content-security-policy": None, "referrer-policy": "no-referrer",
}


@CASES.of(17, "what every answer says to a browser, on every route and status", seconds=3)
def dressed(attack):
    wrong = []
    for path, _ in ROUTES:
        for role in (None, "write", "read", "admin"):
            for method in ("GET", "POST", "DELETE"):
                own = attack.tokens.get(role)
                stream = wire.connect(attack.server, attack.attempts % 10)
                stream.sendall(wire.head(method, path, own, 0, "Connection: close\r\n"))
                said, _ = wire.said(stream, 5)
                attack.tried()
                top = said.partition(b"\r\n\r\n")[0].decode().lower()
                if top.startswith("http/1.1 101"):
                    continue
                headers = dict(line.split(": ", 1) for line in top.split("\r\n")[1:])
                for name, value in WANTED.items():
                    if name not in headers or value and headers[name] != value:
                        wrong.append(f"{method} {path} {role}: {name} is {headers.get(name)}")
                policy = headers.get("content-security-policy", "")
                if path == "/" and method == "GET":
                    for part in ("require-trusted-types-for 'script'", "frame-ancestors 'none'", "object-src 'none'"):
                        if part not in policy:
                            wrong.append(f"{path}: {policy}")
                    if headers.get("cross-origin-opener-policy") != "same-origin":
                        wrong.append(f"{path}: no opener policy")
                if not path.startswith(("/v1/events", "/v1/imports")) and headers.get("cross-origin-resource-policy") != "same-origin":
                    wrong.append(f"{method} {path}: resource policy {headers.get('cross-origin-resource-policy')}")
    attack.expect(not wrong, "; ".join(wrong[:3]))


# Turns of direction, controls, ends of lines, escapes of a terminal, invisible ones.
TRICKS = "a\u202eb\u2066c\u200fd\u061ce\x1b[31mf\x07g\rh\ni\u2028j\x00k\x9bl"
FORBIDDEN = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@CASES.of(17, "texts that turn or break lines, in commands, answers and the log", role="admin", seconds=5)
def legible(attack):
    server, wrong = attack.server, []
    label = TRICKS.replace("\x00", "")
    for words in (["keys", "create", "read", "--label", label], ["keys", "list"], ["keys", "revoke", label],
                  ["import", label], ["doctor", "--config", label], ["config", "--config", label], ["keys", "create", label]):
        said = server.command(*words)
        attack.tried()
        for text in (said.stdout, said.stderr):
            found = FORBIDDEN.search(text)
            if found:
                wrong.append(f"{words[:2]}: {text[max(0, found.start() - 40):found.start() + 40]!r}")
    # Texts of events, refused or not, and of questions.
    event = {"event_id": TRICKS, "event_type": TRICKS, "user_id": TRICKS, "timestamp": time.time_ns() // 1_000_000}
    for body in (json.dumps(event), json.dumps(event | {"country": 7}), "{" + TRICKS):
        server.status("POST", "/v1/events", body.encode(), token="write")
    from urllib.parse import quote

    for path in ("/v1/query?metrics=", "/v1/query?metrics=events&group_by=", "/v1/", "/v1/dimensions/", "/", "/v1/dead-letters?before="):
        status, text, headers = server.status("GET", path + quote(TRICKS))
        attack.tried()
        text = text.decode() + "".join(headers.values())
        # JSON has these by their numbers; what else there is, whoever shows it makes legible.
        if re.search("[\x00-\x1f\x7f]", text):
            wrong.append(f"{path}: {text[:200]!r}")
    time.sleep(0.5)
    found = FORBIDDEN.search(server.log.read_text())
    if found:
        wrong.append(f"the log: {server.log.read_text()[max(0, found.start() - 100):found.start() + 100]!r}")
    attack.expect(not wrong, "; ".join(wrong[:3]))
