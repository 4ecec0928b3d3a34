"""HTTP as RFC 9110 and 9112 have it, with raw sockets: every answer arrives, and it is the right one."""

import contextlib
import io
import json
import socket
import threading
import time
from http.client import HTTPResponse

import pytest
import serving
from services import Echo, Rows

from hf_inference_toolkit.http import protocol
from hf_inference_toolkit.scheduling.batching import BatchRow
from hf_inference_toolkit.tasks.service import Prediction, Token

HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\n"
BODY = b'{"inputs": "a"}'
LENGTH = b"Content-Length: 15\r\n"
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module", params=["httptools", "h11"])
def server(request):
    if request.param == "httptools":
        pytest.importorskip("httptools")
    service = Echo()
    with serving.serve(
        lambda settings: service, parser=request.param, max_payload=100000, head_seconds=1.5
    ) as running:
        running.service = service
        running.parser = request.param
        yield running


class Client:
    """A connection that sends bytes as they are, and reads answers one after the other."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.socket.makefile("rb")

    def send(self, *parts):
        for part in parts:
            self.socket.sendall(part)

    def makefile(self, *_):
        """For http.client: answers are read from one buffer."""
        return Unclosed(self.file)

    def read(self, method="POST"):
        """The next answer: status, headers, body. 100 Continue is not one."""
        answer = HTTPResponse(self, method=method)
        answer.begin()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def is_closed(self):
        """Whether the server ends the connection, and sends nothing before."""
        return self.file.read(1) == b""

    def close(self):
        self.file.close()
        self.socket.close()


class Unclosed(io.BufferedReader):
    """A reader that outlives the answer that is read from it."""

    def __init__(self, file):
        self._file = file

    def __getattribute__(self, name):
        if name in ("close", "_file", "closed", "flush"):
            return {"close": lambda: None, "closed": False, "flush": lambda: None}.get(
                name, object.__getattribute__(self, "__dict__").get("_file")
            )
        return getattr(object.__getattribute__(self, "__dict__")["_file"], name)


@contextlib.contextmanager
def connected(server):
    with contextlib.closing(Client(server.port)) as client:
        yield client


def code(body):
    return json.loads(body.decode())["error"]["code"]


@pytest.mark.parametrize(
    "headers",
    [
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
        b"Connection: keep-alive, Upgrade\r\nUpgrade: TLS/1.0\r\n",
    ],
)
def test_upgrade_is_ignored(server, headers):
    """The request is answered in HTTP/1.1, and so are those that follow on the connection."""
    with connected(server) as client:
        for _ in range(2):
            client.send(HEAD + LENGTH + headers + b"\r\n" + BODY)
            assert client.read()[::2] == (200, b'"a"')
        client.send(b"GET /ping HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n", PING)
        assert [client.read()[0] for _ in range(2)] == [200, 200]
        client.send(b"GET /ping HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n" + PING)
        assert [client.read()[0] for _ in range(2)] == [200, 200]


def test_expect_100_continue(server):
    """The body is asked for when it is wanted; an early answer ends the connection, whatever the client does."""
    with connected(server) as client:
        client.send(HEAD + LENGTH + b"Expect: 100-continue\r\n\r\n")
        assert client.file.readline() == b"HTTP/1.1 100 Continue\r\n"
        client.file.readline()
        client.send(BODY)
        assert client.read()[::2] == (200, b'"a"')
    for head, status in (
        (HEAD + b"Content-Length: 1000000\r\n", 413),
        (HEAD + LENGTH + b"Content-Type: application/xml\r\n", 415),
        (b"POST /nothing HTTP/1.1\r\nHost: x\r\n" + LENGTH, 404),
    ):
        with connected(server) as client:
            client.send(head + b"Expect: 100-continue\r\n\r\n")
            got, headers, _ = client.read()
            assert (got, headers["connection"]) == (status, "close")
            assert client.is_closed()


def test_http_1_0(server):
    """No Host is needed, the connection ends with the answer, and a stream is no chunks."""
    with connected(server) as client:
        client.send(b"GET /ping HTTP/1.0\r\n\r\n")
        status, headers, _ = client.read("GET")
        assert (status, "transfer-encoding" in headers) == (200, False)
        assert client.is_closed()
    with connected(server) as client:
        client.send(b"POST /invocations HTTP/1.0\r\n" + LENGTH + b"\r\n" + BODY)
        assert client.read()[::2] == (200, b'"a"')
        assert client.is_closed()


@pytest.mark.parametrize(
    "body",
    [
        b"f\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"5\r\n" + BODY[:5] + b"\r\nA\r\n" + BODY[5:] + b"\r\n0\r\n\r\n",
        b"f;name=value\r\n" + BODY + b"\r\n0;last\r\n\r\n",
        b'f;name="quo\\"ted"\r\n' + BODY + b"\r\n0\r\n\r\n",
        b"000f\r\n" + BODY + b"\r\n0\r\nX-Checksum: 1\r\nX-Other: 2\r\n\r\n",
    ],
)
def test_chunked_bodies(server, body):
    """With extensions and trailers, whole and byte for byte; the connection goes on."""
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with connected(server) as client:
        client.send(head + body)
        assert client.read()[::2] == (200, b'"a"')
        client.send(*[bytes([byte]) for byte in head + body])
        assert client.read()[::2] == (200, b'"a"')


def test_large_heads(server):
    """Up to 60 KB are read. More is answered with 431, whether it is one header, many, or has no end."""
    with connected(server) as client:
        client.send(b"GET /ping HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 60000 + b"\r\n\r\n")
        assert client.read("GET")[0] == 200
    many = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 100) for number in range(3000))
    for rest in (b"X: " + b"a" * 300000 + b"\r\n\r\n", many + b"\r\n", b"X: " + b"a" * 300000, many):
        with connected(server) as client:
            client.send(b"GET /ping HTTP/1.1\r\nHost: x\r\n" + rest)
            status, headers, body = client.read("GET")
            assert (status, code(body), headers["connection"]) == (431, "head_too_large", "close")
            assert client.is_closed()
    with connected(server) as client:
        client.send(b"GET /" + b"a" * 300000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read("GET")[0] == 431


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (HEAD + b"Content-Length: 1\r\n\r\n{", 400),
        (HEAD + LENGTH + b"Content-Type: application/xml\r\n\r\n" + BODY, 415),
        (HEAD + LENGTH + b"Accept: text/html\r\n\r\n" + BODY, 406),
        (b"PUT /ping HTTP/1.1\r\nHost: x\r\n" + LENGTH + b"\r\n" + BODY, 405),
        (HEAD + b"Content-Length: 16\r\n\r\n" + b'{"inputs":"boom"', 400),
        (b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + b"x" * 90000, 404),
        (b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 404),
    ],
)
def test_connection_goes_on_after_an_error(server, request_, status):
    """The body of a request that is refused is not taken for the next request."""
    with connected(server) as client:
        for _ in range(2):
            client.send(request_)
            assert client.read()[0] == status
        client.send(HEAD + LENGTH + b"\r\n" + BODY)
        assert client.read()[::2] == (200, b'"a"')


@pytest.mark.parametrize("is_chunked", [False, True])
def test_early_answer_arrives_while_the_body_is_still_sent(server, is_chunked):
    """Megabytes that are never read: the client can write them all, finds the answer, and no reset."""
    for _ in range(5):
        with connected(server) as client:
            if is_chunked:
                client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
                client.send(*[b"10000\r\n" + b"x" * 65536 + b"\r\n" for _ in range(64)], b"0\r\n\r\n")
            else:
                client.send(HEAD + b"Content-Length: 4194304\r\n\r\n", *[b"x" * 65536 for _ in range(64)])
            status, headers, body = client.read()
            assert (status, code(body), headers["connection"]) == (413, "payload_too_large", "close")
            assert client.is_closed()


def test_client_that_never_stops_sending_is_cut_off(server, monkeypatch):
    """A connection that is being closed does not stay open for good."""
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.2)
    with connected(server) as client:
        client.send(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        assert client.read()[0] == 413
        with pytest.raises(OSError):
            while True:
                client.send(b"x" * 65536)


def test_silent_client_is_cut_off(server, monkeypatch):
    """One that has an early answer, and keeps its end of the connection open."""
    monkeypatch.setattr(protocol, "SILENT_SECONDS", 0.1)
    with connected(server) as client:
        client.send(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        assert client.read()[0] == 413
        with pytest.raises(OSError):
            while True:
                client.send(b"x")
                time.sleep(0.2)


def test_slow_head_gets_408(server):
    """On a new connection, and after a request; wherever it stops."""
    with contextlib.ExitStack() as stack:
        waiting = []
        for sent in (b"G", b"GET /ping HTTP/1.1\r\nHost: x\r\n", HEAD + LENGTH + b"X: y"):
            for before in (b"", PING):
                client = stack.enter_context(connected(server))
                client.send(before)
                if before:
                    assert client.read("GET")[0] == 200
                client.send(sent)
                waiting.append(client)
        for client in waiting:
            status, headers, body = client.read()
            assert (status, code(body), headers["connection"]) == (408, "head_too_slow", "close")
            assert client.is_closed()


def test_head_in_many_packets(server):
    """Every byte alone, the target too."""
    with connected(server) as client:
        client.send(*[bytes([byte]) for byte in HEAD + LENGTH + b"\r\n" + BODY])
        assert client.read()[::2] == (200, b'"a"')


def test_pipelined_requests_are_answered_in_order(server):
    """With bodies, of several lengths, and the last one in pieces."""
    bodies = [json.dumps({"inputs": "x" * size}).encode() for size in (1, 10, 30000, 5)]
    requests = b"".join(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in bodies)
    with connected(server) as client:
        client.send(requests[:-3])
        client.send(requests[-3:])
        answers = [client.read() for _ in bodies]
        assert [len(json.loads(body.decode())) for _, _, body in answers] == [1, 10, 30000, 5]
    with connected(server) as client:
        client.send(PING + b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}" + PING)
        assert [client.read("GET")[0] for _ in range(3)] == [200, 404, 200]


def test_bad_request_behind_a_good_one(server):
    """The good one is answered before the connection ends."""
    with connected(server) as client:
        client.send(HEAD + LENGTH + b"\r\n" + BODY + b"no http at all\r\n\r\n")
        assert client.read()[::2] == (200, b'"a"')
        with contextlib.suppress(OSError):
            rest = client.file.read()
            assert rest == b"" or rest.startswith(b"HTTP/1.1 400")


def test_connection_close_is_kept(server):
    """A client that asks for it gets the header, and the end of the connection."""
    with connected(server) as client:
        client.send(HEAD + LENGTH + b"Connection: close\r\n\r\n" + BODY)
        status, headers, body = client.read()
        assert (status, headers["connection"], body) == (200, "close", b'"a"')
        assert client.is_closed()


@pytest.mark.parametrize("path", ["/ping", "/metrics", "/openapi.json", "/execution-parameters", "/nothing"])
def test_head_has_the_headers_of_get_and_no_body(server, path):
    """And the connection goes on."""
    with connected(server) as client:
        for method in ("HEAD", "GET"):
            client.send("{} {} HTTP/1.1\r\nHost: x\r\n\r\n".format(method, path).encode())
        head, get = client.read("HEAD"), client.read("GET")
        assert head[2] == b""
        assert head[0] in (get[0], 405)
        if head[0] == 200:
            assert head[1]["content-type" if path != "/ping" else "content-length"]


@pytest.mark.parametrize("target", [b"http://example.com/invocations", b"http://x:8080/invocations?a=1"])
def test_absolute_target(server, target):
    """What a client sends to a proxy (RFC 9112, section 3.2.2)."""
    with connected(server) as client:
        client.send(b"POST " + target + b" HTTP/1.1\r\nHost: x\r\n" + LENGTH + b"\r\n" + BODY)
        assert client.read()[::2] == (200, b'"a"')


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (HEAD + b"Content-Length: 15\r\nContent-Length: 16\r\n\r\n" + BODY, {400}),
        (HEAD + b"Content-Length: 15, 16\r\n\r\n" + BODY, {400}),
        (HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\nf\r\n" + BODY + b"\r\n0\r\n\r\n", {400}),
        (HEAD + b"Content-Length: -1\r\n\r\n", {400}),
        (HEAD + b"Content-Length: +15\r\n\r\n" + BODY, {400}),
        (HEAD + b"Content-Length: 0x0f\r\n\r\n" + BODY, {400}),
        (HEAD + b"Content-Length: 99999999999999999999999999\r\n\r\n" + BODY, {400, 413}),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", {400, 501}),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", {400, 501}),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", {400}),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + BODY + b"\r\n0\r\n\r\n", {400}),
        (HEAD + b"Bad Header: x\r\n\r\n", {400}),
        (HEAD + b"no colon\r\n\r\n", {400}),
        (HEAD + b"X: a\x00b\r\n\r\n", {400}),
        (b"GET /ping HTTP/1.1\r\n\r\n", {400}),
        (b"GET /ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", {400}),
        (b"GET ping HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404}),
        (b"GET /pi ng HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
        (b"GET /ping\xff HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404}),
        (b"GET /%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404}),
        (b"GET /ping HTTP/9.9\r\nHost: x\r\n\r\n", {400, 505}),
        (b"GET /ping HTTP/2.0\r\nHost: x\r\n\r\n", {400, 505}),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 404, 405, 505}),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404}),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404, 405}),
        (b"BREW /ping HTTP/1.1\r\nHost: x\r\n\r\n", {400, 405}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n", {400}),
        (b"hello\r\n\r\n", {400}),
        (b"\r\n\r\nhello\r\n\r\n", {400}),
    ],
)
def test_invalid_request_is_answered(server, request_, statuses):
    """With an error in our form, and never with silence or a reset."""
    with connected(server) as client:
        client.send(request_)
        status, headers, body = client.read()
        assert status in statuses, body
        assert headers["content-type"] == "application/json"
        assert set(json.loads(body.decode())["error"]) == {"status", "code", "message", "request_id"}
    assert server.post({"inputs": 1}).json == 1


def test_answer_comes_while_another_connection_is_slow(server):
    """Clients that send half of something keep no one else waiting."""
    with contextlib.ExitStack() as stack:
        for part in (b"", b"POST /inv", HEAD + LENGTH + b"\r\n{"):
            for _ in range(20):
                stack.enter_context(connected(server)).send(part)
        assert server.post({"inputs": 1}).json == 1


@pytest.mark.parametrize("parser", ["httptools", "h11"])
def test_stream_to_an_http_1_0_client(parser):
    """It gets the events when they are complete, with their length."""

    class Writer(Rows):
        streams = True

        def steps(self, request, check, reader=None):
            outputs = yield [BatchRow(request.inputs, 1, reader=reader)]
            return Prediction([{"generated_text": outputs[0]}])

        def run(self, pieces, check):
            for piece in pieces:
                piece.reader(Token(1, piece.row, False))
            return [piece.row for piece in pieces]

    def load(settings):
        return Writer()

    with serving.serve(load, parser=parser) as server, connected(server) as client:
        body = b'{"inputs": "a", "stream": true}'
        client.send(b"POST /invocations HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        status, headers, events = client.read()
        assert (status, "transfer-encoding" in headers) == (200, False)
        assert int(headers["content-length"]) == len(events) > 0
        assert client.is_closed()


def test_many_connections_at_once(server):
    """Each with several requests; none is reset, none waits for another."""
    problems = []

    def work():
        try:
            with connected(server) as client:
                for number in range(10):
                    body = json.dumps({"inputs": number}).encode()
                    client.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                    assert client.read()[2] == str(number).encode()
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not problems
