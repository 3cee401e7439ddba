"""Bytes as attackers write them: HTTP/1, HTTP/2 and WebSocket by hand, for no library sends what
is wrong."""

import os
import socket
import struct

HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
TEXT, BINARY, CLOSE, WS_PING, WS_PONG = 1, 2, 8, 9, 10


def connect(server, beside=0, receive=None, timeout=5):
    """A connection from one of the attackers' addresses."""
    stream = socket.socket()
    if receive:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    stream.settimeout(timeout)
    stream.bind((f"127.0.0.{2 + beside}", 0))
    stream.connect(("127.0.0.1", server.port))
    return stream


def head(method, path, token=None, length=None, more="", host="nile"):
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + f"\r\n{more}\r\n").encode()


def said(stream, patience=10):
    """All that comes until the other side closes, or is silent for so long: and whether it closed."""
    stream.settimeout(patience)
    text = b""
    try:
        while piece := stream.recv(65_536):
            text += piece
    except TimeoutError:
        return text, False
    except OSError:
        pass
    return text, True


def answer(stream, patience=10):
    """One answer with a length: its status, its head and its body."""
    stream.settimeout(patience)
    text = b""
    while b"\r\n\r\n" not in text:
        piece = stream.recv(65_536)
        if not piece:
            raise ConnectionError(f"closed before the answer: {text[:200]}")
        text += piece
    top, body = text.split(b"\r\n\r\n", 1)
    length = 0
    for line in top.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        piece = stream.recv(65_536)
        if not piece:
            break
        body += piece
    return int(top.split(b" ")[1]), top, body


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _number(value, bits, first=0):
    if value < (1 << bits) - 1:
        return bytes([first | value])
    out, value = [first | (1 << bits) - 1], value - ((1 << bits) - 1)
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def packed(fields):
    """A block of fields, none of which is remembered (RFC 7541, 6.2.2)."""
    block = b""
    for name, value in fields:
        name, value = name.encode(), value.encode()
        block += b"\0" + _number(len(name), 7) + name + _number(len(value), 7) + value
    return block


def fields(method, path, token=None, more=()):
    own = [(":method", method), (":scheme", "http"), (":authority", "nile"), (":path", path)]
    if token:
        own.append(("authorization", f"Bearer {token}"))
    return own + list(more)


def http2(server, beside=0, settings=b"", receive=None):
    """A connection that has begun to speak HTTP/2."""
    stream = connect(server, beside, receive)
    stream.sendall(HTTP2 + frame(SETTINGS, 0, 0, settings) + frame(SETTINGS, 1))
    return stream


def setting(name, value):
    return struct.pack(">HI", name, value)


def ask(number, method, path, token=None, more=(), ends=True):
    """A request's frame on the stream of that number: odd, and each higher than the last."""
    block = packed(fields(method, path, token, more))
    pieces = [block[at:at + 16_000] for at in range(0, len(block), 16_000)]
    out = b""
    for place, piece in enumerate(pieces):
        flags = (END_STREAM if ends and place == 0 else 0)
        flags |= END_HEADERS if place == len(pieces) - 1 else 0
        out += frame(CONTINUATION if place else HEADERS, flags, number, piece)
    return out


def frames(text):
    """The frames in what came: kind, flags, stream, payload."""
    found, at = [], 0
    while at + 9 <= len(text):
        length = int.from_bytes(text[at:at + 3], "big")
        stream = int.from_bytes(text[at + 5:at + 9], "big")
        found.append((text[at + 3], text[at + 4], stream, text[at + 9:at + 9 + length]))
        at += 9 + length
    return found


def upgrade(token=None, more=""):
    own = f"Authorization: Bearer {token}\r\n" if token else ""
    return (
        f"GET /v1/live HTTP/1.1\r\nHost: nile\r\n{own}Connection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    ).encode()


def websocket(server, token=None, beside=0, more="", receive=None):
    """A connection that speaks WebSocket."""
    stream = connect(server, beside, receive)
    stream.sendall(upgrade(token, more))
    status, *_ = answer(stream)
    if status != 101:
        raise ConnectionError(f"not upgraded: {status}")
    return stream


def message(kind, payload=b"", last=True, masked=True, reserved=0, length=None):
    """A client's frame; `length` is what it says of itself, where that is not the truth."""
    length = len(payload) if length is None else length
    out = bytes([(0x80 if last else 0) | reserved << 4 | kind])
    bit = 0x80 if masked else 0
    if length < 126:
        out += bytes([bit | length])
    elif length < 1 << 16:
        out += bytes([bit | 126]) + struct.pack(">H", length)
    else:
        out += bytes([bit | 127]) + struct.pack(">Q", length)
    return out + (b"\0\0\0\0" if masked else b"") + payload


def spill(stream, piece, attack):
    """Writes it again and again, whether or not anything is read, until the other side has enough
    or the attack is over; how many bytes it took."""
    stream.settimeout(0.2)
    taken = 0
    while not attack.is_over():
        try:
            sent = stream.send(piece[taken % len(piece):])
            taken += sent
            attack.tried()
        except TimeoutError:
            continue
        except OSError:
            break
    return taken


def noise(count):
    return os.urandom(count // 2 + 1).hex()[:count]
