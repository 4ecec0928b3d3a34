"""A proxy on loopback that counts requests, fails and closes connections as configured."""

import base64
import socket
import threading
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LEFT_OUT = {"transfer-encoding", "connection", "content-length", "keep-alive"}


@dataclass
class Behaviour:
    """What a proxy does, and what went through it."""

    fail_every: int = 0  # each so many requests: 503
    fail_bodies_every: int = 0  # each so many requests with a body: 503, and the registry sees nothing
    cut_every: int = 0  # each so many requests with a body: hang up in the middle of it
    refuse: str = ""  # a part of an address that is never let through
    forbid: str = ""  # a part of an address that is answered with 403, as `forbidden` says it
    forbidden: str = ""
    immutable: bool = False  # a tag that is there is refused, even to what it names: as ECR does
    tags: set[str] = field(default_factory=set)  # their addresses
    no_mounts: bool = False  # an upload begins instead, as the specification allows
    expire_after: int = 0  # after so many requests the password is another one
    passwords: tuple[str, ...] = ()  # what is taken, one after another; empty: anything
    requests: int = 0
    bodies: int = 0
    sent: int = 0  # bytes of bodies that went to the registry
    log: list[str] = field(default_factory=list)
    failed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Proxy:
    """One proxy, and the host that it is."""

    def __init__(self, registry: str) -> None:
        self.does = Behaviour()
        handler = type("Handler", (_Handler,), {"registry": registry, "does": self.does})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    registry: str
    does: Behaviour
    protocol_version = "HTTP/1.1"

    def _go(self) -> None:
        does, size = self.does, int(self.headers.get("Content-Length") or 0)
        with does.lock:
            does.requests += 1
            does.bodies += 1 if size else 0
            number, body = does.requests, does.bodies if size else 0
            does.log.append(f"{self.command} {self.path}")
        cut = _is_turn(body, does.cut_every)
        content = self.rfile.read(size // 2 if cut else size)
        if not self._let_in(number):
            return self._answer(401, {"WWW-Authenticate": 'Basic realm="test"'}, b"")
        refused = does.refuse and does.refuse in self.path
        if refused or _is_turn(number, does.fail_every) or _is_turn(body, does.fail_bodies_every):
            does.failed += 1
            return self._answer(503, {}, b"not now")
        if does.forbid and does.forbid in self.path:
            return self._answer(403, {}, does.forbidden.encode())
        tag = self.command == "PUT" and "/manifests/" in self.path and "/sha256:" not in self.path
        if tag and does.immutable and self.path in does.tags:
            return self._answer(400, {}, b'{"errors": [{"code": "TAG_INVALID", "message": "immutable"}]}')
        does.tags |= {self.path} if tag else set()
        self._forward(content, size)
        if cut:
            does.failed += 1
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        return None

    def _let_in(self, number: int) -> bool:
        does = self.does
        if not does.passwords:
            return True
        valid = does.passwords[1 if does.expire_after and number > does.expire_after else 0]
        output = self.headers.get("Authorization", "").removeprefix("Basic ")
        return base64.b64decode(output).decode().partition(":")[2] == valid

    def _forward(self, body: bytes, size: int) -> None:
        """Ask the registry; where a part of the body is missing it sees that part, then nothing."""
        upstream = HTTPConnection(self.registry, timeout=60)
        path = self.path.partition("?mount=")[0] if self.does.no_mounts else self.path
        upstream.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in LEFT_OUT | {"authorization"}:
                upstream.putheader(name, value)
        upstream.putheader("Content-Length", str(size))
        upstream.endheaders()
        upstream.send(body)
        self.does.sent += len(body)
        if len(body) == size:
            answer = upstream.getresponse()
            content = answer.read()
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in LEFT_OUT}
            if self.command == "HEAD":
                headers["Content-Length"] = answer.getheader("Content-Length") or "0"
            self._answer(answer.status, headers, content)
        upstream.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _go  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _is_turn(number: int, every: int) -> bool:
    return bool(number and every and number % every == 0)
