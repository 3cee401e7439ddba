"""A server on a folder of its own, for whoever attacks it, and honest clients beside."""

import contextlib
import http.client
import json
import multiprocessing
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

START_SECONDS = 60
# Where honest clients come from: no attack does.
HONEST = "127.1.1.1"


class Server:
    """The binary on a free port, with tokens of each kind; ended with its block."""

    def __init__(self, binary, folder, settings=(), shell="true"):
        self.folder, self.binary, self.shell = Path(folder), os.path.abspath(binary), shell
        self.data = self.folder / "data"
        self.tokens = {kind: secrets.token_urlsafe(32) for kind in ("write", "read", "admin")}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("NILOMETER_")
        } | {
            "NILOMETER_SERVER__DATA_DIR": str(self.data),
            "NILOMETER_WRITE_KEY": self.tokens["write"],
            "NILOMETER_READ_TOKEN": self.tokens["read"],
            "NILOMETER_ADMIN_TOKEN": self.tokens["admin"],
        } | dict(settings)
        self.log = self.folder / "server.log"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def start(self):
        with self.log.open("a") as log:
            command = ["sh", "-c", f'{self.shell}; exec "$0" "$@"', self.binary]
            command += ["serve", "--listen", self.address]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        until = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if not self.is_alive() or time.monotonic() > until:
                sys.exit(f"the server does not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

    def is_alive(self):
        return self.process.poll() is None

    def is_ready(self):
        try:
            return self.call("GET", "/readyz").status == 200
        except OSError:
            return False

    def call(self, method, path, body=None, kind="application/json", token="admin", headers=()):
        """Asks as `token`'s holder; what is refused is raised."""
        headers = {"Content-Type": kind} | dict(headers)
        if token:
            headers["Authorization"] = f"Bearer {self.tokens.get(token, token)}"
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        return urllib.request.urlopen(request, timeout=60)

    def status(self, *what, **how):
        """As `call`; gives the status, the body and the headers, whatever they are."""
        try:
            answer = self.call(*what, **how)
        except urllib.error.HTTPError as refused:
            answer = refused
        return answer.status, answer.read(), answer.headers

    def read(self, path, token="admin"):
        return json.load(self.call("GET", path, token=token))

    def command(self, *words, **more):
        """Runs the binary beside the server."""
        return subprocess.run(
            [self.binary, *words], env=self.environment, capture_output=True, text=True, **more
        )

    def new_key(self, name, kind, *more):
        """Makes a key, which is `tokens[name]` once the server knows it."""
        said = self.command("keys", "create", kind, "--label", name, *more)
        if said.returncode != 0:
            sys.exit(f"no key: {said.stderr}")
        self.tokens[name] = said.stdout.split()[-1]
        path = "/v1/events" if kind in ("write", "server") else "/v1/catalog"
        method, body = ("POST", b"[]") if path == "/v1/events" else ("GET", None)
        until = time.monotonic() + 10
        while self.status(method, path, body, token=name)[0] == 401:
            if time.monotonic() > until:
                sys.exit("the server does not learn of its new key")
            time.sleep(0.1)
        return self.tokens[name]

    def cookie(self, token="admin"):
        """The cookie of a new session."""
        body = json.dumps({"token": self.tokens[token]}).encode()
        answer = self.call("POST", "/v1/session", body, token=None)
        return answer.headers["Set-Cookie"].split(";")[0]

    def memory_mib(self, name="VmRSS"):
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+)", text, re.M)[1]) / 1024

    def forget_peak(self):
        """From here on the peak is told anew, where the system lets us."""
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def metrics(self):
        """Every metric's samples, added up by name."""
        sums = {}
        for line in self.call("GET", "/metrics").read().decode().splitlines():
            if not line.startswith("#") and " " in line:
                name, value = line.rsplit(" ", 1)
                name = name.split("{")[0]
                sums[name] = sums.get(name, 0) + float(value)
        return sums

    def held(self):
        """What comes back after an attack: descriptors, bytes of bodies, queue and answers."""
        metrics = self.metrics()
        return {
            "descriptors": self.descriptors(),
            "bodies": -metrics["nilometer_gateway_buffer_free_bytes"],
            "queue": metrics["nilometer_log_queue_bytes"],
        }


class Honest:
    """Somebody who asks and sends all the time, from an address and with keys of its own."""

    def __init__(self, server, sender, reader, source=HONEST):
        self.server, self.sender, self.reader, self.source = server, sender, reader, source
        self.results = multiprocessing.Queue()
        self.over = multiprocessing.Event()
        self.process = multiprocessing.Process(target=self.run, daemon=True)
        self.process.start()

    def end(self):
        """What it had: seconds of each exchange, what failed, and how many events were accepted."""
        self.over.set()
        found = self.results.get(timeout=90)
        self.process.join()
        return found

    def run(self):
        took, failed, accepted = [], [], 0
        kept = http.client.HTTPConnection(self.server.address, timeout=30, source_address=(self.source, 0))
        while not self.over.is_set():
            number = len(took) + len(failed)
            event = {
                "event_id": f"honest-{secrets.token_hex(8)}", "event_type": "honest",
                "user_id": f"u-{number % 50}", "timestamp": time.time_ns() // 1_000_000,
                "country": "DE",
            }
            question = f"/v1/query?metrics=events&granularity=total&last=1h&limit={100 + number % 9}"
            for method, path, token, body in [
                ("GET", "/healthz", None, None),
                ("GET", question, self.reader, None),
                ("POST", "/v1/events", self.sender, json.dumps(event)),
            ]:
                # One connection is kept, one is new each time.
                connection = kept
                if path == "/healthz":
                    connection = http.client.HTTPConnection(
                        self.server.address, timeout=30, source_address=(self.source, 0)
                    )
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                if body:
                    headers["Content-Type"] = "application/json"
                begun = time.monotonic()
                # A connection that was kept may have been closed: then another one, once.
                for again in (False, True):
                    try:
                        connection.request(method, path, body, headers)
                        answer = connection.getresponse()
                        text, status = answer.read(), answer.status
                        break
                    except (OSError, http.client.HTTPException) as error:
                        status, text = repr(error), b""
                        connection.close()
                        if connection is not kept:
                            break
                if status == 200:
                    took.append(time.monotonic() - begun)
                    accepted += bool(body)
                else:
                    said = text[:120].decode(errors="replace")
                    failed.append(f"{method} {path[:12]}: {status} {said}")
            time.sleep(0.02)
        self.results.put((took, failed, accepted))


def folder():
    return tempfile.TemporaryDirectory(prefix="attack-")
