"""1, 2, 15: whoever holds on to bodies, heads, connections, answers and sockets."""

import random
import select
import selectors
import time

import wire
from cases import Cases

CASES = Cases()

# Every route that takes a body, and some that do not.
TAKERS = [
    ("POST /v1/session", "none"),
    ("DELETE /v1/session", "none"),
    ("POST /v1/query", "none"),
    ("POST /v1/query", "write"),
    ("POST /v1/query", "read"),
    ("GET /v1/query", "read"),
    ("POST /v1/dead-letters/replay", "read"),
    ("POST /v1/dead-letters/replay", "admin"),
    ("PUT /v1/dimensions/users", "admin"),
    ("POST /v1/clock/follow", "admin"),
    ("POST /v1/events", "none"),
    ("POST /v1/events", "write"),
    ("POST /v1/events", "server"),
    ("POST /v1/imports/a/events", "write"),
    ("POST /v1/events", "read"),
    ("POST /nowhere", "none"),
    ("POST /", "none"),
]
KINDS = {"PUT /v1/dimensions/users": "text/csv"}


def token(attack, role):
    return attack.tokens.get(role)


def pour(streams, attack, pieces):
    """Writes what each is to be sent, as far as each takes it, until the attack is over."""
    left = dict(zip(streams, pieces))
    for _ in writable(attack, left):
        pass
    attack.hold()


def writable(attack, left):
    """Writes to each stream what is left for it; gives those that are done or closed."""
    with selectors.DefaultSelector() as selector:
        for stream in left:
            stream.setblocking(False)
            selector.register(stream, selectors.EVENT_WRITE)
        while selector.get_map() and not attack.is_over():
            for key, _ in selector.select(0.2):
                stream = key.fileobj
                try:
                    sent = stream.send(left[stream])
                    left[stream] = left[stream][sent:]
                except BlockingIOError:
                    continue
                except OSError:
                    left[stream] = b""
                if not left[stream]:
                    selector.unregister(stream)
                    yield stream


def open_some(attack, count, opening=lambda number: b"", addresses=10):
    streams = []
    for number in range(count):
        if attack.is_over():
            break
        try:
            stream = wire.connect(attack.server, number % addresses)
            stream.sendall(opening(number))
            streams.append(stream)
            attack.tried()
        except OSError:
            continue
    return streams


@CASES.each(1, "HTTP/1 bodies of {} that stop one byte before their end", [
    (route, role, route, role) for route, role in TAKERS
])
def unfinished(attack, route, role):
    method, path = route.split()
    body = b"x" * (4_000 if path == "/v1/session" else 1_000_000)
    more = f"Content-Type: {KINDS.get(route, 'application/json')}\r\n"
    top = wire.head(method, path, token(attack, role), len(body) + 1, more)
    streams = open_some(attack, attack.dose(900, 60), lambda _: top)
    pour(streams, attack, [body] * len(streams))


@CASES.each(1, "HTTP/2 bodies of {} that never end, 128 on each connection", [
    (route, role, route, role) for route, role in TAKERS
])
def unfinished_http2(attack, route, role):
    method, path = route.split()
    more = [("content-type", KINDS.get(route, "application/json"))]
    streams, opening = [], b""
    for number in range(1, 2 * attack.dose(128, 128), 2):
        opening += wire.ask(number, method, path, token(attack, role), more, ends=False)
        opening += wire.frame(wire.DATA, 0, number, b"x" * 500)
    for number in range(attack.dose(128, 16)):
        streams.append(wire.http2(attack.server, number % 10))
        attack.tried(128)
    pour(streams, attack, [opening] * len(streams))


@CASES.each(1, "bodies of {} in chunks of one byte", [
    ("POST /v1/session", "none", "/v1/session", None),
    ("POST /v1/events", "write", "/v1/events", "write"),
    ("POST /v1/query", "read", "/v1/query", "read"),
])
def chunks(attack, path, role):
    top = wire.head("POST", path, token(attack, role), None, "Transfer-Encoding: chunked\r\n")
    piece = b"1;" + b"e" * 1_000 + b"=1\r\nx\r\n"
    streams = open_some(attack, attack.dose(300), lambda _: top)
    pour(streams, attack, [piece * 200] * len(streams))


@CASES.each(1, "HTTP/1 heads of 79 KiB {}, whose end never comes", [
    ("in one header", "none", lambda: b"X: " + b"a" * 79_000),
    ("in 95 headers", "none", lambda: b"".join(b"X%d: %s\r\n" % (n, b"a" * 820) for n in range(95))),
    ("in the address", "none", None),
])
def heads(attack, rest):
    begun = b"GET / HTTP/1.1\r\nHost: nile\r\n" + rest() if rest else b"GET /" + b"a" * 79_000
    streams = open_some(attack, attack.dose(3_200, 300), lambda _: b"GET")
    pour(streams, attack, [begun[3:]] * len(streams))


@CASES.each(1, "HTTP/1 heads of 70 KiB whose body never ends, {}", [
    ("a sign-in", "none", "/v1/session", None),
    ("a question", "read", "/v1/query", "read"),
    ("events", "write", "/v1/events", "write"),
])
def whole_heads(attack, path, role):
    more = "".join(f"X{n}: {'a' * 780}\r\n" for n in range(90))
    top = wire.head("POST", path, token(attack, role), 100, more)
    streams = open_some(attack, attack.dose(3_200, 300), lambda _: b"")
    pour(streams, attack, [top] * len(streams))


@CASES.each(1, "HTTP/2 heads {} whose body never ends, 128 on each connection", [
    ("of 480 small headers", "none", "/v1/session", None, lambda: [(f"{n:x}", "") for n in range(360)]),
    ("of 15 KiB", "none", "/v1/session", None, lambda: [("x", "a" * 14_000)]),
    ("of 480 small headers", "read", "/v1/query", "read", lambda: [(f"{n:x}", "") for n in range(360)]),
    ("of 480 small headers", "write", "/v1/events", "write", lambda: [(f"{n:x}", "") for n in range(360)]),
    ("of 15 KiB to nowhere", "none", "/nowhere", None, lambda: [("x", "a" * 14_000)]),
])
def heads_http2(attack, path, role, more):
    more = more()
    streams = [wire.http2(attack.server, number % 10) for number in range(attack.dose(128, 16))]
    opening = b"".join(
        wire.ask(number, "POST", path, token(attack, role), more, ends=False)
        for number in range(1, 256, 2)
    )
    attack.tried(128 * len(streams))
    pour(streams, attack, [opening] * len(streams))


@CASES.of(1, "HTTP/2 heads in pieces (CONTINUATION) that never end, one on each connection")
def continuations(attack):
    streams = [wire.http2(attack.server, number % 10) for number in range(attack.dose(128, 16))]
    begun = wire.frame(wire.HEADERS, 0, 1, wire.packed(wire.fields("GET", "/")))
    piece = wire.frame(wire.CONTINUATION, 0, 1, wire.packed([("x", "a" * 16_000)]))
    pour(streams, attack, [begun + piece * 2_000] * len(streams))


@CASES.of(1, "connections that say nothing, from ten addresses", seconds=8)
def silent(attack):
    streams = open_some(attack, attack.dose(8_000, 600))
    attack.hold()
    del streams


@CASES.of(1, "connections with a byte of a body each, from ten addresses", seconds=8)
def one_byte(attack):
    top = wire.head("POST", "/v1/session", None, 900) + b"{"
    streams = open_some(attack, attack.dose(8_000, 600), lambda _: top)
    attack.hold()
    del streams


@CASES.of(1, "connections that ask now and then, so that none of them is silent", seconds=8)
def lively(attack):
    top = wire.head("GET", "/healthz")
    streams = open_some(attack, attack.dose(5_000, 600), lambda _: top)
    while not attack.is_over():
        for stream in random.sample(streams, min(len(streams), 300)):
            try:
                stream.sendall(top)
            except OSError:
                pass
    return None


@CASES.of(1, "as many descriptors as there are, where there are 1,024", shell="ulimit -Sn 200; ulimit -Hn 1024",
          settings={"NILOMETER_STREAM__CHECKPOINT_INTERVAL_S": "1"}, seconds=8)
def descriptors(attack):
    top = wire.head("POST", "/v1/session", None, 900) + b"{"
    streams = open_some(attack, attack.dose(3_000, 1_200), lambda _: top)
    attack.hold()
    open_now = attack.server.descriptors()
    attack.expect(open_now < 820, f"{open_now} of 1,024 descriptors are open")
    attack.expect("os error 24" not in attack.server.log.read_text(), "out of descriptors")
    del streams


@CASES.of(1, "HTTP/2 connections, more than have a window", seconds=8)
def connections_http2(attack):
    streams = []
    for number in range(attack.dose(1_500, 300)):
        streams.append(wire.http2(attack.server, number % 10))
        attack.tried()
    attack.hold()
    # The most silent were closed.
    closed = 0
    for stream in streams:
        _, ended = wire.said(stream, 0.01)
        closed += ended
    attack.expect(closed >= len(streams) - 140, f"only {closed} of {len(streams)} were closed")


@CASES.each(1, "slow bodies of {} that fill the buffers", [
    ("a public key", "write", "/v1/events", "write", 1_048_000),
    ("a public key's imports", "write", "/v1/imports/a/events", "write", 1_048_000),
    ("a server key", "server", "/v1/events", "server", 8_000_000),
    ("a question", "read", "/v1/query", "read", 1_040_000),
    ("a table", "admin", "/v1/dimensions/users", "admin", 8_000_000),
], seconds=12)
def slow_bodies(attack, path, role, length):
    method = "PUT" if "dimensions" in path else "POST"
    more = "Content-Type: text/csv\r\n" if method == "PUT" else ""
    top = wire.head(method, path, token(attack, role), length + 1, more)
    streams = open_some(attack, max(80_000_000 // length, 10), lambda _: top)
    body = b"[" + b" " * (length - 1)
    pour(streams, attack, [body] * len(streams))


@CASES.of(1, "slow sign-ins over HTTP/2 that fill the buffers", seconds=12)
def slow_sign_ins(attack):
    streams = [wire.http2(attack.server, number % 10) for number in range(attack.dose(128, 100))]
    opening = b""
    for number in range(1, 256, 2):
        opening += wire.ask(number, "POST", "/v1/session", ends=False)
    attack.tried(128 * len(streams))
    for stream in streams:
        stream.sendall(opening)
    # As much as the window lets through, and more once it is read.
    body = b"".join(wire.frame(wire.DATA, 0, number, b" " * 500) for number in range(1, 256, 2))
    window = wire.frame(wire.WINDOW, 0, 0, b"\0\0\1\0")
    pour(streams, attack, [(body + window) * 8] * len(streams))


@CASES.each(1, "answers to {} that nobody takes, HTTP/1", [
    (path, role, path, role) for path, role in [
        ("/", "none"), ("/nowhere", "none"), ("/openapi.json", "read"), ("/metrics", "read"),
        ("/v1/catalog", "read"), ("/v1/pipeline", "read"), ("/v1/query?metrics=events&last=1h&group_by=content_id&limit=100000", "read"),
        ("/v1/events/tail?limit=500", "read"), ("/v1/dead-letters?limit=100", "read"),
    ]
], seconds=8)
def unread(attack, path, role):
    fill(attack)
    attack.begin()
    asks = wire.head("GET", path, token(attack, role)) * 50
    streams = []
    for number in range(attack.dose(900, 100)):
        try:
            stream = wire.connect(attack.server, number % 10, receive=4_096)
            streams.append(stream)
        except OSError:
            pass
    attack.tried(len(streams))
    pour(streams, attack, [asks] * len(streams))


@CASES.each(1, "answers to {} that nobody takes, 128 on each HTTP/2 connection", [
    (path, role, path, role, packed) for path, role, packed in [
        ("/v1/dead-letters?limit=100", "read", ""), ("/openapi.json", "read", "gzip"),
        ("/", "none", ""), ("/nowhere", "none", ""), ("/openapi.json", "read", ""), ("/metrics", "read", ""),
        ("/v1/catalog", "read", ""), ("/v1/pipeline", "read", ""),
        ("/v1/query?metrics=events&last=1h&group_by=content_id&limit=100000", "read", ""),
        ("/v1/query?metrics=events&last=1h&group_by=content_id&limit=100000", "read", "zstd"),
        ("/v1/events/tail?limit=500", "read", ""), ("/v1/events", "write", ""),
    ]
], seconds=25)
def unread_http2(attack, path, role, coding):
    fill(attack)
    attack.begin()
    more = [("accept-encoding", coding)] if coding else []
    method = "POST" if path == "/v1/events" else "GET"
    # No answer may send a byte.
    none = wire.setting(4, 0)
    streams = []
    number = 1
    while not attack.is_over():
        if len(streams) < 100:
            streams.append(wire.http2(attack.server, len(streams) % 10, none))
        # A key may ask 200 times a second, an address likewise; strangers from each address.
        at_once = 2 if role == "read" else 60
        for stream in streams[-100:]:
            asks = b"".join(
                wire.ask(number + 2 * n, method, path, token(attack, role), more) for n in range(at_once)
            )
            try:
                stream.sendall(asks)
                attack.tried(at_once)
            except OSError:
                streams.remove(stream)
        number += 2 * at_once
        if number > 250:
            number = 1
            streams = streams[100:]
        time.sleep(1 if role == "read" else 0.2)


def fill(attack):
    """Something large to be asked for: events with long texts, and letters."""
    import json

    server = attack.server
    if getattr(fill, "filled", None) == server.process.pid:
        return
    now = time.time_ns() // 1_000_000
    for part in range(5):
        events = [
            {"event_id": f"f-{part}-{n}", "event_type": "fill", "user_id": f"u-{n}", "timestamp": now,
             "content_id": f"a-content-with-a-rather-long-name-{part}-{n:06}", "properties": {"text": "t" * 400}}
            for n in range(1_000)
        ]
        server.call("POST", "/v1/events", json.dumps(events).encode(), token="write")
    letters = [{"event_type": 7, "text": "l" * 6_000} for _ in range(100)]
    server.call("POST", "/v1/events", json.dumps(letters).encode(), token="write")
    fill.filled = server.process.pid


# Frames that cost the server more than the client, or an answer each.
FRAMES = [
    ("SETTINGS", lambda: wire.frame(wire.SETTINGS)),
    ("SETTINGS with the largest table", lambda: wire.frame(wire.SETTINGS, 0, 0, wire.setting(1, 0xFFFFFFFF))),
    ("SETTINGS that shift all windows", lambda: wire.frame(wire.SETTINGS, 0, 0, wire.setting(4, 0)) + wire.frame(wire.SETTINGS, 0, 0, wire.setting(4, 0x7FFFFFFF))),
    ("PING", lambda: wire.frame(wire.PING, 0, 0, b"12345678")),
    ("PRIORITY", lambda: wire.frame(wire.PRIORITY, 0, 3, b"\0\0\0\0\x10")),
    ("WINDOW_UPDATE", lambda: wire.frame(wire.WINDOW, 0, 0, b"\0\0\0\1")),
    ("WINDOW_UPDATE of nothing", lambda: wire.frame(wire.WINDOW, 0, 0, b"\0\0\0\0")),
    ("empty DATA", lambda: wire.frame(wire.DATA, 0, 1)),
    ("padded empty DATA", lambda: wire.frame(wire.DATA, 8, 1, b"\xff" + b"\0" * 255)),
    ("RST_STREAM of what is not there", lambda: wire.frame(wire.RST, 0, 1, b"\0\0\0\x08")),
    ("GOAWAY", lambda: wire.frame(wire.GOAWAY, 0, 0, b"\0" * 8 + b"x" * 1_000)),
    ("PUSH_PROMISE", lambda: wire.frame(wire.PUSH, 4, 1, b"\0\0\0\2" + wire.packed(wire.fields("GET", "/")))),
    ("unknown kinds", lambda: wire.frame(99, 0, 0, b"x" * 1_000)),
    ("empty HEADERS", lambda: wire.frame(wire.HEADERS, 4, 1)),
    ("trailers", lambda: wire.frame(wire.HEADERS, 5, 1, wire.packed([("x", "a" * 8_000)]))),
]


@CASES.each(1, "HTTP/2 floods of {}, nothing read", [(name, "none", make) for name, make in FRAMES], seconds=4)
def floods(attack, make):
    streams = []
    opening = wire.ask(1, "POST", "/v1/session", ends=False)
    for number in range(4):
        stream = wire.http2(attack.server, number)
        stream.sendall(opening)
        streams.append(stream)
    piece = make() * 200
    attack.tried(200)
    taken = 0
    for stream in streams:
        stream.setblocking(False)
    offsets = dict.fromkeys(streams, 0)
    while not attack.is_over() and offsets:
        _, ready, _ = select.select([], list(offsets), [], 0.2)
        for stream in ready:
            try:
                sent = stream.send(piece[offsets[stream]:])
                offsets[stream] = (offsets[stream] + sent) % len(piece)
                taken += sent
            except BlockingIOError:
                continue
            except OSError:
                del offsets[stream]
                stream.close()
                if attack.is_over():
                    break
                # Again, on a new connection.
                stream = wire.http2(attack.server, 0)
                stream.sendall(opening)
                stream.setblocking(False)
                offsets[stream] = 0
    return f"{taken >> 20} MiB were taken"


@CASES.each(1, "HTTP/2 requests to {} that are reset at once", [
    ("/v1/query", "read", "GET", "/v1/query?metrics=events&last=1h", "read"),
    ("/v1/session", "none", "POST", "/v1/session", None),
    ("/", "none", "GET", "/", None),
    ("/openapi.json", "read", "GET", "/openapi.json", "read"),
    ("/v1/events", "write", "POST", "/v1/events", "write"),
], seconds=4)
def resets(attack, method, path, role):
    connections = 0
    while not attack.is_over():
        stream = wire.http2(attack.server, connections % 10)
        connections += 1
        stream.settimeout(0.5)
        try:
            for number in range(1, 40_000, 2):
                stream.sendall(
                    wire.ask(number, method, path, token(attack, role), ends=method == "GET")
                    + wire.frame(wire.RST, 0, number, b"\0\0\0\x08")
                )
                attack.tried()
                if attack.is_over():
                    break
        except OSError:
            continue
        finally:
            stream.close()
    return f"{connections} connections"


@CASES.each(15, "an answer to {} of which a client takes nothing, HTTP/1: it is closed", [
    ("/v1/query", "read", "/v1/query?metrics=events&last=1h&group_by=content_id&limit=100000", "read"),
    ("/openapi.json", "read", "/openapi.json", "read"),
    ("/", "none", "/", None),
], settings={"NILOMETER_GATEWAY__BODY_TIMEOUT_MS": "2000"})
def stalled(attack, path, role):
    fill(attack)
    attack.begin()
    stream = wire.connect(attack.server, receive=2_048)
    stream.settimeout(1)
    asks = wire.head("GET", path, token(attack, role))
    try:
        for _ in range(4_000):
            stream.send(asks * 20)
            attack.tried(20)
    except OSError:
        pass
    began = time.monotonic()
    while time.monotonic() < began + 8 and is_open(attack.server, stream):
        time.sleep(0.1)
    took = time.monotonic() - began
    attack.expect(took < 8, "still open after 8 s")
    return f"closed after {took:.1f} s"


def is_open(server, stream):
    """Whether the server still has its end of this connection, by the kernel's word."""
    port = stream.getsockname()[1]
    for line in open(f"/proc/{server.process.pid}/net/tcp"):
        words = line.split()
        if len(words) > 9 and words[1].endswith(f":{server.port:04X}") and words[2].endswith(f":{port:04X}"):
            return words[3] == "01" and words[9] != "0"
    return False


@CASES.each(15, "HTTP/2: {}, for longer than may be: it is closed", [
    ("a window that stays shut", "read", "shut"),
    ("a request that is not finished", "none", "begun"),
    ("nothing is asked, and every ping is answered", "none", "idle"),
    ("a byte of window now and then", "read", "drip"),
], settings={"NILOMETER_GATEWAY__BODY_TIMEOUT_MS": "2000"})
def stalls(attack, how):
    stream = wire.http2(attack.server, 0, wire.setting(4, 0))
    own = attack.tokens["read"]
    if how in ("shut", "drip"):
        stream.sendall(wire.ask(1, "GET", "/openapi.json", own))
    elif how == "begun":
        stream.sendall(wire.frame(wire.HEADERS, 0, 1, wire.packed(wire.fields("GET", "/"))))
    stream.settimeout(0.3)
    began = time.monotonic()
    while (took := time.monotonic() - began) < 8:
        try:
            text = stream.recv(65_536)
            if not text:
                break
            for kind, flags, _, payload in wire.frames(text):
                if kind == wire.PING and not flags:
                    stream.sendall(wire.frame(wire.PING, 1, 0, payload))
            if how == "drip":
                stream.sendall(wire.frame(wire.WINDOW, 0, 1, b"\0\0\0\1"))
        except TimeoutError:
            if how == "drip":
                stream.sendall(wire.frame(wire.WINDOW, 0, 1, b"\0\0\0\1"))
        except OSError:
            break
    if how == "drip":
        # It goes on, by a byte at a time: a piece of 16 KiB that is not taken in time ends it.
        return f"after {took:.1f} s"
    attack.expect(took < 8, "still open after 8 s")
    return f"closed after {took:.1f} s"


# WebSocket.

SOCKETS = [
    ("pings", lambda: wire.message(wire.WS_PING, b"p" * 125)),
    ("pongs", lambda: wire.message(wire.WS_PONG, b"p" * 125)),
    ("empty pings", lambda: wire.message(wire.WS_PING)),
    ("texts", lambda: wire.message(wire.TEXT, b'{"type":"ping"}')),
    ("bad texts", lambda: wire.message(wire.TEXT, b"x")),
    ("binaries", lambda: wire.message(wire.BINARY, b"x" * 100)),
    ("closes", lambda: wire.message(wire.CLOSE, b"\x03\xe8" + b"x" * 100)),
    ("pieces of a text", lambda: wire.message(0, b"x", last=False)),
    ("empty pieces of a text", lambda: wire.message(0, b"", last=False)),
    ("unmasked texts", lambda: wire.message(wire.TEXT, b"x", masked=False)),
    ("compressed texts", lambda: wire.message(wire.TEXT, b"\xaa\x56\x2a", reserved=4)),
    ("unknown kinds", lambda: wire.message(3, b"x")),
    ("subscriptions", lambda: wire.message(wire.TEXT, b'{"type":"subscribe","id":"a","query":{"metrics":"events","last":"1h"},"interval_ms":1000}')),
    ("sign-ins", lambda: wire.message(wire.TEXT, b'{"type":"auth","token":"nr_wrong0123456789012345678901234567890"}')),
]


@CASES.each(2, "WebSocket floods of {}, nothing read", [
    (name, role, role, make) for role in ("none", "read") for name, make in SOCKETS
], seconds=4)
def socket_floods(attack, role, make):
    piece, opened, taken = make() * 200, 0, 0
    while not attack.is_over():
        stream = wire.websocket(attack.server, token(attack, role), opened % 10)
        opened += 1
        if piece[0] & 0xF == 0:
            stream.sendall(wire.message(wire.TEXT, b"{", last=False))
        taken += wire.spill(stream, piece, attack)
        stream.close()
        time.sleep(0.005)
    return f"{taken >> 10} KiB were taken on {opened} connections"


@CASES.each(2, "WebSocket messages of {} that never end, on each of many connections", [
    ("one frame", "read", "read", False), ("pieces", "read", "read", True),
    ("one frame", "none", None, False), ("pieces", "none", None, True),
], seconds=8)
def unended(attack, role, in_pieces):
    streams = []
    for number in range(attack.dose(900, 100)):
        streams.append(wire.websocket(attack.server, token(attack, role), number % 10))
        attack.tried()
    length = 2_000_000 if role else 60_000
    if in_pieces:
        whole = wire.message(wire.TEXT, b"x" * 1_000, last=False)
        whole += wire.message(0, b"x" * 1_000, last=False) * (length // 1_000 - 1)
    else:
        whole = wire.message(wire.TEXT, b"x" * (length - 1), length=length)
    pour(streams, attack, [whole] * len(streams))


@CASES.each(2, "a WebSocket frame that says it has {} bytes", [
    (f"2^{power}", "read", power) for power in (21, 31, 32, 62, 63)
], seconds=2)
def overlong(attack, power):
    stream = wire.websocket(attack.server, attack.tokens["read"])
    stream.sendall(wire.message(wire.TEXT, b"x", length=(1 << power) + 1))
    attack.tried()
    _, ended = wire.said(stream, 3)
    attack.expect(ended, "still open")


@CASES.of(2, "WebSockets that never sign in, on each of many connections", seconds=12)
def strangers(attack):
    streams = [wire.websocket(attack.server, None, number % 10) for number in range(attack.dose(2_500, 250))]
    attack.tried(len(streams))
    began = time.monotonic()
    text, ended = wire.said(streams[0], 15)
    attack.expect(ended, "still open after 15 s")
    return f"closed after {time.monotonic() - began:.1f} s"


# Answers and live frames may have 48 MiB, what nobody takes 40, and connections theirs.
@CASES.of(2, "WebSockets that follow and never read, on each of many connections", role="read", seconds=10, grown=150)
def followers(attack):
    fill(attack)
    attack.begin()
    follow = [
        wire.message(wire.TEXT, (
            '{"type":"subscribe","id":"%d","query":{"metrics":"events","last":"1h","granularity":"1m",'
            '"group_by":"content_id","limit":%d},"interval_ms":1000}' % (n, 100_000 - n)
        ).encode())
        for n in range(32)
    ]
    streams = []
    for number in range(attack.dose(200, 20)):
        stream = wire.websocket(attack.server, attack.tokens["read"], number % 10, receive=4_096)
        stream.sendall(b"".join(follow))
        streams.append(stream)
        attack.tried(32)
    attack.hold()
