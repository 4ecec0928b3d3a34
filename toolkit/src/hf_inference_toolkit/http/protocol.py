"""HTTP/1.1 connections: uvicorn's protocols, with additions for RFC 9110 and RFC 9112.

The differences from uvicorn, with httptools and with h11:

- An invalid header section or body gets a 400, 431, 501 or 505 with a JSON body, a slow header section a 408.
- Upgrade is ignored (RFC 9110, section 7.8). Java's HttpClient offers h2c with every first request.
- If the client may still be sending, the connection is closed in stages (RFC 9112, section 9.6): closing it at once
  would reset it, and the response would be lost.
- h11 also accepts targets in absolute form, and httptools also limits the size of the header section.
"""

import asyncio
import contextlib
import os
from http import HTTPStatus
from typing import TYPE_CHECKING, Callable, List, Optional, Tuple

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from hf_inference_toolkit import errors
from hf_inference_toolkit.content import payload
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.logs import event

try:
    import httptools
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:
    httptools = None
    HttpToolsProtocol = object

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

MOST_HEAD = 64 * 1024
# While a connection is being closed: the longest pause of the client, and the longest time that it may keep sending.
SILENT_SECONDS = 5.0
LINGER_SECONDS = 30.0
_CODINGS = "the only supported Transfer-Encoding is chunked"


class RefusedError(Exception):
    """A request that can be parsed but is refused."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Transport:
    """A transport whose `close` waits until the client has stopped sending."""

    def __init__(self, transport: asyncio.Transport, protocol: "Conversation") -> None:
        self._transport = transport
        self._protocol = protocol
        self._loop = asyncio.get_event_loop()
        self._ends = self._seen = 0.0
        self.is_lingering = False
        self.write = transport.write

    def __getattr__(self, name: str) -> Callable[..., object]:
        method: Callable[..., object] = getattr(self._transport, name)
        return method

    def is_closing(self) -> bool:
        """See asyncio.Transport."""
        return self.is_lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection: at once if the request was received completely, otherwise in stages."""
        if self.is_lingering or self._transport.is_closing():
            return
        if self._protocol.is_between_requests or not self._transport.can_write_eof():
            self._transport.close()
            return
        self.is_lingering = True
        self._seen = self._loop.time()
        self._ends = self._seen + LINGER_SECONDS
        try:
            self._transport.write_eof()
        except OSError:  # the client has disconnected
            self._transport.close()
            return
        with contextlib.suppress(RuntimeError):  # it is not paused
            self._transport.resume_reading()
        self._wait()

    def discard(self) -> None:
        """Note that the client is still sending."""
        self._seen = self._loop.time()

    def _wait(self) -> None:
        now = self._loop.time()
        if self._transport.is_closing():
            return
        if now >= min(self._ends, self._seen + SILENT_SECONDS):
            self._transport.close()
        else:
            self._loop.call_later(min(self._ends, self._seen + SILENT_SECONDS) - now + 0.01, self._wait)


class Conversation:
    """A mixin for uvicorn's protocol classes."""

    # The longest time from the first to the last byte of a header section, and from a new connection to its first byte.
    head_seconds = 60.0
    first_byte_seconds = 75.0
    transport: Transport
    cycle: Optional["RequestResponseCycle"]
    loop: asyncio.AbstractEventLoop
    _timer: Optional[asyncio.TimerHandle]

    def connection_made(self, transport: asyncio.Transport) -> None:
        """See asyncio.Protocol."""
        self.is_between_requests = True
        self._is_in_head = True
        self._is_refused = False
        self._head_bytes = 0
        super().connection_made(Transport(transport, self))  # type: ignore[misc]
        self._timer = self.loop.call_later(self.first_byte_seconds, transport.close)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        """See asyncio.Protocol."""
        self._stop_timer()
        super().connection_lost(exc)  # type: ignore[misc]

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.transport.is_lingering:
            self.transport.discard()
            return
        if self.is_between_requests:
            self._stop_timer()
        self.is_between_requests = False
        if self._is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)  # type: ignore[misc]
        self._watch_head()

    def _watch_head(self) -> None:
        """Limit the size and the time of a header section that has begun."""
        if self.transport.is_closing():
            return
        is_waiting = self.cycle is None or self.cycle.response_complete
        if not self._is_in_head or self.is_between_requests or not is_waiting:
            self._stop_timer()
        elif self._head_bytes > MOST_HEAD:
            self.refuse("head_too_large", _too_large())
        elif self._timer is None:
            self._timer = self.loop.call_later(self.head_seconds, self._head_too_slow)

    def shutdown(self) -> None:
        """Close without waiting for the client, because the server stops."""
        if self.transport.is_lingering:
            self.transport.abort()
        else:
            super().shutdown()  # type: ignore[misc]

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_too_slow(self) -> None:
        self.refuse(
            "head_too_slow", "the head of the request did not arrive within {:g} s".format(self.head_seconds)
        )

    def head_begins(self) -> None:
        """The end of a request: the next bytes are a header section."""
        self._is_in_head = True
        self._head_bytes = 0
        self.is_between_requests = True

    def head_ends(self) -> None:
        """The end of a header section: the next bytes are the body."""
        self._is_in_head = False

    def refuse(self, kind: str, message: str) -> None:
        """Send an error response for bytes that are not a valid request, and close the connection."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        self.is_between_requests = False
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or not cycle.more_body:
                # A pipelined request is invalid: the request before it still gets its response.
                cycle.keep_alive = False
                return
            # The invalid bytes are in the body of this request. The application sees a disconnect.
            cycle.disconnected = True
            cycle.message_event.set()
        request_id = os.urandom(16).hex()
        error = RequestError(kind, message)
        body = payload.write_json(errors.document(error, request_id))
        event(20, "refused: {}".format(message), request_id=request_id, status=error.status)
        head = [
            "HTTP/1.1 {} {}".format(error.status, HTTPStatus(error.status).phrase),
            "content-type: application/json",
            "content-length: {}".format(len(body)),
            "x-request-id: {}".format(request_id),
            "connection: close",
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode("ascii") + body)
        self.transport.close()


class Parser:
    """httptools' parser without upgrades. It reports errors to the protocol."""

    def __init__(self, parser: "httptools.HttpRequestParser", protocol: "HttpTools") -> None:
        self._parser = parser
        self._protocol = protocol

    def __getattr__(self, name: str) -> Callable[..., object]:
        method: Callable[..., object] = getattr(self._parser, name)
        return method

    def should_upgrade(self) -> bool:
        """For uvicorn: never."""
        return False

    def offers_upgrade(self) -> bool:
        """Whether the request has an Upgrade header."""
        return bool(self._parser.should_upgrade())

    def feed_data(self, data: bytes) -> None:
        """See httptools."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # httptools stops after the header section: parse the request again without Upgrade.
            head = self._protocol.head_without_upgrade()
            self._parser = httptools.HttpRequestParser(self._protocol)
            with contextlib.suppress(AttributeError):  # httptools before 0.6.3
                self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.feed_data(head + bytes(data[upgrade.args[0] :]))
        except httptools.HttpParserCallbackError as problem:
            refused = problem.__context__ if isinstance(problem.__context__, RefusedError) else None
            self._refuse(refused or RefusedError("malformed", "the request target is not valid"))
        except httptools.HttpParserError as problem:
            self._refuse(RefusedError("malformed", "the request is not HTTP: {}".format(problem)))

    def _refuse(self, refused: RefusedError) -> None:
        self._protocol.refuse(refused.kind, str(refused))


class HttpTools(Conversation, HttpToolsProtocol):  # type: ignore[misc]
    """uvicorn's protocol on httptools."""

    parser: "httptools.HttpRequestParser"

    def connection_made(self, transport: asyncio.Transport) -> None:
        """See asyncio.Protocol."""
        self.parser = Parser(self.parser, self)
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        """See httptools."""
        self.is_between_requests = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._check_head()
        if self.parser.offers_upgrade():
            return
        self.head_ends()
        super().on_headers_complete()

    def _check_head(self) -> None:
        """RefusedError for requests that the parser accepts and RFC 9112 does not."""
        version = self.parser.get_http_version()
        _check_version(version)
        if self.parser.get_method() == b"CONNECT":
            raise RefusedError("malformed", "CONNECT is for proxies, and this server is not a proxy")
        size = len(self.url)
        hosts = 0
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                _check_transfer_coding(value)
        if size > MOST_HEAD:
            raise RefusedError("head_too_large", _too_large())
        if hosts != 1 and not (hosts == 0 and version == "1.0"):
            raise RefusedError("malformed", "the request must have one Host header, and has {}".format(hosts))

    def on_message_complete(self) -> None:
        """See httptools."""
        if not self.parser.offers_upgrade():
            self.head_begins()
            super().on_message_complete()

    def head_without_upgrade(self) -> bytes:
        """The header section that was parsed last, without Upgrade."""
        version = self.parser.get_http_version().encode("ascii")
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        for name, value in self.headers:
            if name != b"upgrade":
                lines.append(b": ".join(_without_upgrade(name, value)))
        return b"\r\n".join([*lines, b"", b""])


class OldHttpTools(HttpTools):
    """HttpTools for uvicorn before 0.15, which expects the target in one call."""

    def on_message_begin(self) -> None:
        """See httptools."""
        self.is_between_requests = False
        self._target = b""

    def on_url(self, url: bytes) -> None:
        """See httptools."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._give_target()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._give_target()
        super().on_headers_complete()

    def _give_target(self) -> None:
        if self._target:
            super().on_url(self._target)
            self._target = b""


class Connection(h11.Connection):  # type: ignore[misc]
    """h11's connection without upgrades. It reports errors to the protocol."""

    def __init__(self, protocol: "H11") -> None:
        super().__init__(h11.SERVER, MOST_HEAD)
        self._protocol = protocol

    def next_event(self) -> "h11.Event":
        """See h11."""
        try:
            found = super().next_event()
            if isinstance(found, h11.Request):
                self._protocol.head_ends()
                return _plain_request(found)
        except h11.RemoteProtocolError as problem:
            kinds = {431: ("head_too_large", _too_large()), 501: ("unknown_transfer_coding", _CODINGS)}
            invalid = ("malformed", "the request is not HTTP: {}".format(problem))
            self._protocol.refuse(*kinds.get(problem.error_status_hint, invalid))
            return h11.NEED_DATA
        except RefusedError as refused:
            self._protocol.refuse(refused.kind, str(refused))
            return h11.NEED_DATA
        if isinstance(found, h11.EndOfMessage):
            self._protocol.head_begins()
        return found


class H11(Conversation, H11Protocol):  # type: ignore[misc]
    """uvicorn's protocol on h11."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """See asyncio.Protocol."""
        self.conn = Connection(self)
        super().connection_made(transport)

    def _watch_head(self) -> None:
        # h11 may have buffered bytes of a pipelined request.
        if self.conn.trailing_data[0]:
            self.is_between_requests = False
        super()._watch_head()


def _plain_request(request: "h11.Request") -> "h11.Request":
    """The request without Upgrade, and with a target in origin form."""
    _check_version(request.http_version.decode("ascii"))
    names = {name.lower() for name, _ in request.headers}
    if b"transfer-encoding" in names and b"content-length" in names:
        raise RefusedError("malformed", "the request has both Content-Length and Transfer-Encoding")
    for name, value in request.headers:
        if name.lower() == b"transfer-encoding":
            _check_transfer_coding(value)
    target: bytes = request.target
    if target.startswith((b"http://", b"https://")):
        target = b"/" + target.split(b"://", 1)[1].partition(b"/")[2]
    if target is request.target and b"upgrade" not in names:
        return request
    headers: List[Tuple[bytes, bytes]] = [pair for pair in request.headers if pair[0].lower() != b"upgrade"]
    return h11.Request(
        method=request.method,
        target=target,
        headers=[_without_upgrade(name, value) for name, value in headers],
        http_version=request.http_version,
    )


def _without_upgrade(name: bytes, value: bytes) -> Tuple[bytes, bytes]:
    if name.lower() != b"connection":
        return name, value
    options = [option.strip() for option in value.split(b",")]
    return name, b", ".join(option for option in options if option.lower() != b"upgrade") or b"keep-alive"


def _check_version(version: str) -> None:
    if not version.startswith("1."):
        raise RefusedError("unknown_version", "HTTP/{} is not supported; use HTTP/1.1".format(version))


def _check_transfer_coding(value: bytes) -> None:
    if value.strip().lower() != b"chunked":
        raise RefusedError("unknown_transfer_coding", _CODINGS)


def _too_large() -> str:
    return "the head of the request is larger than {} bytes".format(MOST_HEAD)


def choose(head_seconds: float, name: str = "auto") -> type:
    """The protocol class for uvicorn, by httptools if it is installed and `name` is not h11."""
    base: type = HttpTools if hasattr(HttpToolsProtocol, "on_message_begin") else OldHttpTools
    if name == "h11" or httptools is None:
        base = H11
    return type(base.__name__, (base,), {"head_seconds": head_seconds})
