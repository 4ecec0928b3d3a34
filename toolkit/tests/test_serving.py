"""HTTP behaviour that does not depend on the task."""

import gzip
import http.client
import json
import socket
import sys
import threading
import time
import zlib
from types import SimpleNamespace

import pytest
import serving
from services import Echo, Fragile

from hf_inference_toolkit import limits
from hf_inference_toolkit.errors import TABLE, RequestError, StartError


@pytest.fixture
def echo():
    """A server whose model gives back what it gets."""
    service = Echo()
    with serving.serve(lambda settings: service, deadline=30.0, queue_size=3, max_payload=100000) as server:
        server.service = service
        yield server
        service.gate.set()


def in_background(work):
    """Run something beside the test; its result is in the list that comes back."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return results, thread


def until(condition, seconds=10):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come to that"
        time.sleep(0.005)


def test_ping_and_predictions_are_503_while_loading():
    gate = threading.Event()

    def load(settings):
        gate.wait(20)
        return Echo()

    with serving.serve(load, wait=False) as server:
        assert server.get("/ping").status == 503
        refused = server.post({"inputs": 1})
        assert (refused.status, refused.json["error"]["code"]) == (503, "not_ready")
        gate.set()
        until(lambda: server.get("/ping").status == 200)
        ping = server.get("/ping")
        assert ping.body == b""
        assert server.post({"inputs": 1}).json == 1


@pytest.mark.parametrize("problem", [StartError("set HF_TASK"), RuntimeError("broken"), SystemExit(3)])
def test_ping_is_500_after_a_failed_load(problem):

    def load(settings):
        raise problem

    with serving.serve(load, wait=False) as server:
        until(lambda: server.get("/ping").status == 500)
        assert server.post({"inputs": 1}).json["error"]["code"] == "unhealthy"


def gpu(synchronize):
    """What is asked of `torch.cuda`, for one GPU that is in use, and one that is not."""
    return SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 2,
        memory_reserved=lambda device: 1 - device,
        synchronize=synchronize,
    )


def test_ping_is_500_after_a_gpu_fault(monkeypatch):
    """The fault is simulated; test_gpu.py has a real one."""

    def broken(device):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=gpu(broken)))
    with serving.serve(lambda settings: Echo()) as server:
        assert server.get("/ping").status == 200
        assert server.post({"inputs": "boom"}).status == 500
        assert server.get("/ping").status == 500
        assert server.post({"inputs": 1}).json["error"]["code"] == "unhealthy"


@pytest.mark.parametrize("seconds", [0, 30])
def test_ping_stays_200_after_a_transient_gpu_fault(monkeypatch, seconds):
    ended, seen = threading.Event(), []

    def once(device):
        seen.append(device)
        ended.wait(seconds)
        if len(seen) == 1:
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=gpu(once)))
    with serving.serve(lambda settings: Echo(), deadline=1.0) as server:
        assert server.post({"inputs": "boom"}).status == 500
        assert server.get("/ping").status == 200
        assert server.post({"inputs": 1}).json == 1
        ended.set()
    assert set(seen) == {0}


def test_full_queue_is_503_with_retry_after(echo):
    echo.service.gate.clear()
    work = [in_background(lambda n=n: echo.post({"inputs": n}).json) for n in range(4)]
    until(lambda: echo.app.scheduler.waiting == 3)
    refused = echo.post({"inputs": "one too many"})
    assert (refused.status, refused.json["error"]["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    echo.service.gate.set()
    for n, (results, thread) in enumerate(work):
        thread.join(10)
        assert results == [n]


def test_list_longer_than_the_queue_is_answered(echo):
    lines = b"".join(b'{"inputs": %d}\n' % number for number in range(1025))
    reply = echo.post(lines, {"Content-Type": "application/jsonlines"})
    assert reply.json == list(range(1025))


def test_request_past_its_deadline_gets_504_and_frees_its_slot():
    """Both the running and the queued one."""
    service = Echo()
    with serving.serve(lambda settings: service, deadline=0.3) as server:
        service.gate.clear()
        work = [in_background(lambda: server.post({"inputs": 1})) for _ in range(2)]
        for results, thread in work:
            thread.join(10)
            assert (results[0].status, results[0].json["error"]["code"]) == (504, "deadline_exceeded")
        assert server.app.scheduler.waiting == 0
        service.gate.set()
        assert server.post({"inputs": "next"}).json == "next"


def test_disconnected_client_cancels_its_request(echo):
    echo.service.gate.clear()
    results, thread = in_background(lambda: echo.post({"inputs": "stays"}).json)
    until(lambda: echo.service.seen == ["stays"])
    left = socket.create_connection(("127.0.0.1", echo.port))
    body = json.dumps({"inputs": "left"}).encode()
    left.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    until(lambda: echo.app.scheduler.waiting == 1)
    left.close()
    until(lambda: echo.app.scheduler.waiting == 0)
    echo.service.gate.set()
    thread.join(10)
    assert results == ["stays"]
    assert echo.service.seen == ["stays"]


@pytest.mark.parametrize(
    ("inputs", "status", "code"),
    [("boom", 500, "internal"), ("memory", 507, "out_of_memory"), ("refused", 422, "unprocessable")],
)
def test_model_errors_have_their_status(echo, inputs, status, code):
    reply = echo.post({"inputs": inputs}, {"X-Request-Id": "mine"})
    assert (reply.status, reply.json["error"]["code"]) == (status, code)
    assert b"secret" not in reply.body
    assert reply.json["error"]["request_id"] == reply.headers["x-request-id"] == "mine"
    assert echo.post({"inputs": 2}).json == 2
    assert echo.get("/ping").status == 200


def test_failures_that_only_parameters_could_explain_are_logged(echo, caplog):
    """Such a request gets a 422, and the cause may still be in the server; what the model rejects is not logged."""
    body = {"inputs": "boom", "parameters": {"top_k": 1}}
    with caplog.at_level("WARNING"):
        assert echo.post(body, {"X-Request-Id": "mine"}).status == 422
        assert echo.post({"inputs": "refused"}).status == 422
    (record,) = [each for each in caplog.records if each.message == "a prediction failed"]
    assert record.fields == {"request_id": "mine"}
    assert "a secret of the server" in str(record.exc_info[1])


def test_ping_is_500_if_the_warm_up_fails_after_an_error():
    with serving.serve(lambda settings: Fragile()) as server:
        assert server.post({"inputs": 1}).json == "fine"
        assert server.post({"inputs": "break"}).status == 500
        assert server.get("/ping").status == 500


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "words"),
    [
        ("GET", "/nothing", {}, None, 404, "/invocations"),
        ("GET", "/invocations", {}, None, 405, "POST"),
        ("DELETE", "/ping", {}, None, 405, "GET"),
        ("POST", "/invocations", {"Content-Type": "application/xml"}, b"<a/>", 415, "application/json"),
        ("POST", "/invocations", {"Accept": "text/html"}, b"{}", 406, "application/json"),
        ("POST", "/invocations", {}, b"{", 400, "line 1 column 2"),
        ("POST", "/invocations", {}, b"", 400, "JSON"),
        ("POST", "/invocations", {}, b'{"inputs": NaN}', 400, "NaN"),
        ("POST", "/invocations", {}, b'{"inputs": 1e999}', 400, "64 bits"),
        ("POST", "/invocations", {}, b'{"inputs": 123456789012345678901234567890}', 400, "64 bits"),
        ("POST", "/invocations", {}, b'{"inputs": "\\ud800"}', 400, "surrogate"),
        ("POST", "/invocations", {}, b"[" * 100000, 400, "nested"),
        ("POST", "/invocations", {}, b'{"inputs":' + b"[" * 70 + b"]" * 70 + b"}", 400, "nested"),
        ("POST", "/invocations", {}, b"\xff", 400, "utf-8"),
        ("POST", "/invocations", {}, b'["a"]', 400, '{"inputs": [...]}'),
        ("POST", "/invocations", {}, b'{"input": "a"}', 400, "did you mean 'inputs'"),
        ("POST", "/invocations", {}, b'{"inputs": "a", "parametres": {}}', 400, "did you mean 'parameters'"),
        ("POST", "/invocations", {}, b'{"inputs": "a", "parameters": []}', 400, "an object"),
        ("POST", "/invocations", {"Content-Type": "application/json; charset=nope"}, b"{}", 415, "charset"),
        ("POST", "/invocations", {"Content-Type": "application/x-npy"}, b"\x93NUMPY", 400, "npy"),
    ],
)
def test_invalid_requests_have_the_status_of_the_error_table(
    echo, method, path, headers, body, status, words
):
    if words == "npy":
        pytest.importorskip("numpy")
    reply = echo.request(method, path, body, headers)
    error = reply.json["error"]
    assert (reply.status, error["status"]) == (status, status)
    assert error["code"] in TABLE
    assert words in error["message"]
    assert error["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_too_large_body_gets_413_and_is_not_read_further(echo, is_chunked):
    """By Content-Length, or by the received bytes of a chunked body."""
    with socket.create_connection(("127.0.0.1", echo.port), timeout=10) as client:
        head = b"POST /invocations HTTP/1.1\r\nHost: x\r\n"
        if is_chunked:
            client.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(3):
                client.sendall(b"c350\r\n" + b"x" * 50000 + b"\r\n")
        else:
            client.sendall(head + b"Content-Length: 1000000000\r\n\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer or b"request_id" not in answer:
            part = client.recv(65536)
            assert part, answer
            answer += part
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer.lower()
        assert client.recv(65536) == b""


def test_slow_body_gets_408():
    with serving.serve(lambda settings: Echo(), deadline=0.3) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(b'POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{"inp')
            assert client.recv(65536).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(
                b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"
            )
        until(lambda: server.app.in_flight == 0)
        assert server.post({"inputs": 1}).json == 1


def test_idle_connections_do_not_block_requests(echo):
    idle = [socket.create_connection(("127.0.0.1", echo.port)) for _ in range(300)]
    for client in idle[::2]:
        client.sendall(b"POST /invoc")
    assert echo.post({"inputs": 1}).json == 1
    assert echo.get("/ping").status == 200
    for client in idle:
        client.close()


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("text/html, application/json;q=0.5", "application/json"),
        ("application/json;q=0.2, text/csv;q=0.9", "text/csv"),
        ("text/*;q=0.5, application/jsonlines", "application/jsonlines"),
        ("application/json;q=0, */*", "application/jsonlines"),
    ],
)
def test_response_has_the_type_of_accept(echo, accept, kind):
    reply = echo.post({"inputs": [{"a": 1}, {"a": 2}]}, {"Accept": accept} if accept else {})
    assert reply.headers["content-type"] == kind
    expected = {
        "application/json": b'[{"a":1},{"a":2}]',
        "text/csv": b"a\n1\n2\n",
        "application/jsonlines": b'{"a":1}\n{"a":2}\n',
    }
    assert reply.body == expected[kind]


@pytest.mark.parametrize(
    ("kind", "body", "inputs"),
    [
        ("application/json; charset=utf-8", b'{"inputs": "\xc3\xa4"}', "\u00e4"),
        ("Application/JSON;Charset=latin-1", b'{"inputs": "\xe4"}', "\u00e4"),
        ("application/json", b'\xef\xbb\xbf{"inputs": "a\nb\tc"}', "a\nb\tc"),
        ("application/jsonlines", b'{"inputs": "a"}\n\n{"inputs": "b"}\n', ["a", "b"]),
        ("application/jsonlines", b'"a"\n"b"', ["a", "b"]),
        ("text/csv", b'inputs\nI like you\n"a, b"\n', ["I like you", "a, b"]),
        ("text/csv", b"question,context\nwho,me\n", [{"question": "who", "context": "me"}]),
        ("text/plain; charset=utf-8", b"I like you\n", "I like you\n"),
        ("", b'{"inputs": 1}', 1),
    ],
)
def test_body_is_parsed_by_its_content_type(echo, kind, body, inputs):
    reply = echo.request("POST", "/invocations", body, {"Content-Type": kind} if kind else {})
    assert reply.status == 200, reply.body
    assert reply.json == inputs


@pytest.mark.parametrize(
    ("query", "attributes", "parameters"),
    [
        ("?top_k=1", "", {"top_k": 1}),
        ("?labels=cat,dog&flag=true&text=a%20b", "", {"labels": "cat,dog", "flag": True, "text": "a b"}),
        ("", "top_k=1", {"top_k": 1}),
        (
            "",
            'labels=cat,dog;threshold=0.5,names=["a", "b"]',
            {"labels": "cat,dog", "threshold": 0.5, "names": ["a", "b"]},
        ),
        ("", '{"top_k": 3}', {"top_k": 3}),
        ("", "c000b4f9-df62-4c85-a0bf-7c525f9104a4", {}),
        ("?top_k=1", "top_k=2,flag=false", {"top_k": 1, "flag": False}),
    ],
)
def test_parameters_in_query_string_and_custom_attributes(echo, query, attributes, parameters):
    headers = {"Content-Type": "text/plain", "X-Amzn-SageMaker-Custom-Attributes": attributes}
    reply = echo.post(b"a text", headers, "/invocations" + query)
    assert reply.json == "a text"
    assert echo.service.parameters == parameters


def test_repeated_parameters_are_refused(echo):
    """Custom attributes of a JSON request are ignored."""
    body = {"inputs": 1, "parameters": {"top_k": 1}}
    twice = echo.post(body, path="/invocations?top_k=2")
    assert (
        twice.status,
        "'top_k' is both in the body and in the query string" in twice.json["error"]["message"],
    ) == (
        400,
        True,
    )
    assert echo.post(body, path="/invocations?a=2&a=3").status == 400
    assert echo.post(body, {"X-Amzn-SageMaker-Custom-Attributes": "top_k=9"}).status == 200
    assert echo.service.parameters == {"top_k": 1}


def test_custom_attributes_that_are_not_parameters_are_ignored():

    class Known(Echo):
        def schema(self):
            return {"properties": {"inputs": {}, "parameters": {"properties": {"top_k": {}}}}}

    service = Known()
    with serving.serve(lambda settings: service) as server:
        headers = {"Content-Type": "image/png", "X-Amzn-SageMaker-Custom-Attributes": "trace=7,top_k=2"}
        server.post(b"...", headers)
        assert service.parameters == {"top_k": 2}


@pytest.mark.parametrize("name", ["gzip", "x-gzip", "deflate", "identity"])
def test_compressed_bodies_are_read(echo, name):
    """The limit applies to the decompressed size."""
    pack = {"deflate": zlib.compress, "identity": bytes}.get(name, gzip.compress)
    for text in ("a", "b" * 50000):
        packed = pack(json.dumps({"inputs": text}).encode())
        assert echo.post(packed, {"Content-Encoding": name}).json == text
    bomb = echo.post(pack(b" " * 1000000), {"Content-Encoding": name})
    assert (bomb.status, bomb.json["error"]["code"]) == (413, "payload_too_large")
    if name != "identity":
        assert echo.post(pack(b'{"inputs": 1}')[:-1], {"Content-Encoding": name}).status == 400
        assert echo.post(b'{"inputs": 1}', {"Content-Encoding": name}).status == 400


@pytest.mark.parametrize(
    "headers", [["gzip, identity"], ["identity, GZIP"], ["gzip,"], ["Identity", "X-Gzip"], [""]]
)
def test_identity_and_empty_content_codings_are_ignored(echo, headers):
    """RFC 9110, section 8.4.1; several headers are one list."""
    body = b'{"inputs": "a"}' if headers == [""] else gzip.compress(b'{"inputs": "a"}')
    connection = http.client.HTTPConnection("127.0.0.1", echo.port, timeout=60)
    connection.putrequest("POST", "/invocations")
    for header in headers:
        connection.putheader("Content-Encoding", header)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    assert connection.getresponse().read() == b'"a"'
    connection.close()


def test_two_content_codings_in_two_headers_are_415(echo):
    connection = http.client.HTTPConnection("127.0.0.1", echo.port, timeout=60)
    connection.putrequest("POST", "/invocations")
    connection.putheader("Content-Encoding", "gzip")
    connection.putheader("Content-Encoding", "deflate")
    connection.putheader("Content-Length", "1")
    connection.endheaders(b"x")
    reply = connection.getresponse()
    assert (reply.status, b"'gzip, deflate'" in reply.read()) == (415, True)
    connection.close()


def test_unknown_content_encoding_is_415(echo):
    """RFC 9110, section 15.5.16."""
    for name in ("br", "zstd", "gzip, gzip", "deflate, gzip"):
        reply = echo.post(b"x", {"Content-Encoding": name})
        assert (reply.status, reply.headers["accept-encoding"]) == (415, "gzip, deflate, identity")
        assert name in reply.json["error"]["message"]


def test_root_route_answers_like_invocations(echo):
    assert echo.post({"inputs": [1, 2]}, path="/").json == [1, 2]
    assert echo.get("/").status == 405


def test_error_messages_contain_no_reprs_and_no_memory_addresses(echo):
    error = RequestError(
        "unprocessable", "cannot identify <_io.BytesIO object at 0x7fe41bb41d50>, a <class 'dict'>"
    )
    assert error.message == "cannot identify BytesIO, a dict"
    error = RequestError("unprocessable", "<function f.g at 0x7f12>, a <class 'torch.Size'>, 1 < 2 > 0")
    assert error.message == "function, a Size, 1 < 2 > 0"
    reply = echo.post({"inputs": "object"})
    assert reply.status == 422
    assert reply.json["error"]["message"] == "the model cannot process this request: no object here"


def test_long_names_of_a_client_are_short_in_messages(echo):
    """The search for the names of types in messages took seconds in 64 KB, and grew with the square."""
    name = "%3C" + "a." * 20000
    reply = echo.request("DELETE", "/v1/models/" + name)
    assert (reply.status, len(reply.json["error"]["message"]) < 300) == (405, True)
    reply = echo.post(b"{}", {"Content-Type": "application/json; charset=<" + "a." * 20000})
    assert (reply.status, len(reply.json["error"]["message"]) < 300) == (415, True)
    assert len(RequestError("malformed", "<" + "a." * 500000).message) == 1000001


def test_npy_body_with_pickles_is_refused(echo):
    numpy = pytest.importorskip("numpy")
    import io

    plain, evil = io.BytesIO(), io.BytesIO()
    numpy.save(plain, numpy.array([[1.5, 2.0]]))
    numpy.save(evil, numpy.array([{"a": 1}], dtype=object), allow_pickle=True)
    headers = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    reply = echo.post(plain.getvalue(), headers)
    assert numpy.load(io.BytesIO(reply.body)).tolist() == [[1.5, 2.0]]
    assert echo.post(evil.getvalue(), headers).status == 400
    words = echo.post({"inputs": "no array"}, {"Accept": "application/x-npy"})
    assert words.status == 406


def test_vertex_routes_and_instances():
    settings = {"predict_route": "/v1/predict", "health_route": "/v1/health"}
    with serving.serve(lambda settings: Echo(), **settings) as server:
        assert server.get("/v1/health").status == server.get("/ping").status == 200
        reply = server.post({"instances": ["a", "b"]}, path="/v1/predict")
        assert reply.json == {"predictions": ["a", "b"]}
        assert server.post({"instances": "a"}, path="/v1/predict").status == 400
        assert server.post({"inputs": "a"}).json == "a"


def test_misspelled_parameters_key_is_read_with_a_warning(echo):
    reply = echo.post({"inputs": "a", "paramters": {"x": 1}})
    assert reply.status == 200
    assert '"parameters"' in reply.headers["x-warning"]
    assert echo.post({"inputs": "a", "paramters": {}, "parameters": {}}).status == 400


def test_openapi_lists_statuses_and_limits(echo):
    document = echo.get("/openapi.json").json
    responses = document["paths"]["/invocations"]["post"]["responses"]
    assert {str(kind.status) for kind in TABLE.values()} | {"200"} == set(responses)
    assert [tuple(limit.values()) for limit in document["x-limits"]] == [tuple(one) for one in limits.TABLE]


def test_execution_parameters_of_batch_transform(echo):
    answer = echo.get("/execution-parameters").json
    assert set(answer) == {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}


def test_batch_transform_gets_a_limit_below_one_megabyte_as_one():
    """0 would mean that there is no limit."""
    with serving.serve(lambda settings: Fragile(), max_payload=1000) as server:
        assert server.get("/execution-parameters").json["MaxPayloadInMB"] == 1


def test_drain_refuses_new_requests_and_finishes_accepted_ones(echo):
    echo.service.gate.clear()
    results, thread = in_background(lambda: echo.post({"inputs": "accepted"}).json)
    until(lambda: echo.service.seen)
    echo.app.model.drain()
    assert echo.get("/ping").status == 503
    late = echo.post({"inputs": "late"})
    assert late.json["error"]["code"] == "draining"
    assert late.headers["connection"] == "close"
    echo.service.gate.set()
    thread.join(10)
    assert results == ["accepted"]


def test_stuck_prediction_gets_a_new_thread(monkeypatch):
    """/ping is 500 after too many of them."""
    from hf_inference_toolkit.http import app, served

    monkeypatch.setattr(app, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(served, "PATIENCE_SECONDS", 0.1)
    never = threading.Event()

    class Deaf(Echo):
        def predict(self, request, check):
            if request.inputs == "hang":
                never.wait(60)
            return super().predict(request, check)

    with serving.serve(lambda settings: Deaf(), deadline=0.3) as server:
        assert server.post({"inputs": "hang"}).status == 504
        until(lambda: server.post({"inputs": "next"}).status == 200)
        for _ in range(3):
            server.post({"inputs": "hang"})
        until(lambda: server.get("/ping").status == 500)
        never.set()
