"""What user code gets of a request and gives to its response: context, media, streams, batches."""

import base64
import http.client
import io
import json
import textwrap
import threading
import time
import wave

import numpy
import pytest
import serving

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.http import app, served
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.settings import Settings


@pytest.fixture
def code(tmp_path):
    """Write user code, and give the settings of a server with it."""

    def write(text, name="code/inference.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return {"model_dir": str(tmp_path)}

    return write


def png(size=(40, 30), color="red"):
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.new("RGB", size, color).save(out, format="PNG")
    return out.getvalue()


def wav(rate=16000, samples=8000):
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(b"\x01\x02" * samples)
    return out.getvalue()


CONTEXT = """
def model_fn(model_dir, context):
    return {"dir": context.system_properties["model_dir"], "same": model_dir}

def predict_fn(data, model, context):
    if data["inputs"] == "read":
        name = "X-Amzn-SageMaker-Custom-Attributes"
        return {
            "one": context.get_request_header(0, name),
            "any case": context.get_request_header(0, name.lower()),
            "absent": context.get_request_header(0, "X-Not-Sent"),
            "all": context.get_all_request_header(0)[name],
            "processor": context.request_processor[0].get_request_properties()["Content-Type"],
            "id": context.get_request_id(),
            "manifest": sorted(context.manifest["model"]),
            "model": model,
        }
    if data["inputs"] == "write":
        context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", "answered=yes")
        context.set_response_content_type(0, "text/x-own")
        context.set_response_status(202, "accepted", 0)
        return "created"
    if data["inputs"] == "text":
        context.set_response_content_type(0, "text/plain; charset=utf-8")
        return "as it is"
    if data["inputs"] == "empty":
        context.set_response_status(204)
        context.set_response_header(0, "Content-Length", 1000)
    if data["inputs"] == "split":
        context.set_response_header(0, "X-A", "b\\r\\nX-C: d")
    return "plain"
"""


def test_context_reads_the_request_and_writes_the_response(code):
    """The methods of multi-model-server's context; each request has its own."""
    with serving.serve(load_model, **code(CONTEXT)) as server:
        sent = {"X-Amzn-SageMaker-Custom-Attributes": "threshold=0.7", "X-Request-Id": "mine"}
        read = server.post({"inputs": "read"}, sent).json
        assert (read["one"], read["any case"], read["all"]) == ("threshold=0.7",) * 3
        assert (read["absent"], read["processor"], read["id"]) == (None, "application/json", "mine")
        assert read["model"]["dir"] == read["model"]["same"]
        written = server.post({"inputs": "write"})
        assert (written.status, written.headers["content-type"]) == (202, "text/x-own")
        assert written.headers["x-amzn-sagemaker-custom-attributes"] == "answered=yes"
        assert written.body == b'"created"'
        plain = server.post({"inputs": "other"})
        assert (plain.status, plain.headers["content-type"]) == (200, "application/json")
        assert "x-amzn-sagemaker-custom-attributes" not in plain.headers
        text = server.post({"inputs": "text"})
        assert (text.body, text.headers["content-type"]) == (b"as it is", "text/plain; charset=utf-8")
        empty = server.post({"inputs": "empty"})
        assert (empty.status, empty.body) == (204, b"")
        split = server.post({"inputs": "split"})
        assert split.status == 500
        assert "x-c" not in split.headers


def test_gpu_id_is_an_index_where_there_is_a_gpu(code):
    """Scripts write `"cuda:" + str(gpu_id)`; here PyTorch only claims to have one."""
    torch = pytest.importorskip("torch")
    text = """
    import torch
    def model_fn(model_dir, context):
        return context.system_properties.get("gpu_id")
    def predict_fn(data, model): return model
    """
    found = torch.cuda.is_available()
    with serving.serve(load_model, **code(text)) as server:
        assert server.post({"inputs": 1}).json == (0 if found else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        with serving.serve(load_model, **code(text)) as server:
            assert server.post({"inputs": 1}).json == 0


MEDIA = """
class EndpointHandler:
    def __init__(self, path): pass
    def __call__(self, data):
        from PIL import Image
        given = data["inputs"]
        if isinstance(given, dict):
            return [len(given["raw"]), given["sampling_rate"], str(given["raw"].dtype)]
        if given == "nested":
            return [{"label": "a", "mask": Image.new("L", (2, 2))}]
        if given == "picture":
            return Image.new("RGB", (3, 4), "blue")
        return [type(given).__module__.split(".")[0], list(given.convert("L").size)]
"""


def test_handler_gets_media_decoded_and_may_return_images(code):
    """A PIL image for image/*, an array with its rate for audio/*; PNG by Accept, base64 in JSON."""
    image = pytest.importorskip("PIL.Image")
    with serving.serve(load_model, **code(MEDIA, "handler.py")) as server:
        assert server.post(png(), {"Content-Type": "image/png"}).json == ["PIL", [40, 30]]
        assert server.post(wav(), {"Content-Type": "audio/wav"}).json == [8000, 16000, "float32"]
        assert server.post(b"no image", {"Content-Type": "image/png"}).status == 400
        assert server.post(b"RIFF", {"Content-Type": "audio/wav"}).status == 400
        for accept, form in (
            ("image/png", "PNG"),
            ("application/json;q=0.5, image/jpeg", "JPEG"),
            ("image/*", "PNG"),
        ):
            reply = server.post({"inputs": "picture"}, {"Accept": accept})
            opened = image.open(io.BytesIO(reply.body))
            assert (reply.status, opened.format, opened.size) == (200, form, (3, 4))
            assert reply.headers["content-type"] == "image/" + form.lower()
        encoded = server.post({"inputs": "picture"}).json
        assert image.open(io.BytesIO(base64.b64decode(encoded))).size == (3, 4)
        nested = server.post({"inputs": "nested"}).json
        assert image.open(io.BytesIO(base64.b64decode(nested[0]["mask"]))).size == (2, 2)


STREAMS = """
import asyncio
closed = []
def model_fn(model_dir): return None
def predict_fn(data, model, context):
    kind = data["inputs"]
    if kind == "closed":
        return closed
    if kind == "raise first":
        return failing()
    if kind == "status":
        context.set_response_status(203)
        context.set_response_header(0, "X-Own", "yes")
        context.set_response_content_type(0, "text/x-own")
    return {
        "text": texts, "bytes": blobs, "values": values, "async": asynchronous, "late": late, "status": texts,
        "iterator": lambda: map(str, [1, 2]), "endless": endless, "empty": lambda: iter(()),
    }[kind]()
def texts():
    yield "one "
    yield "two"
def blobs():
    yield b"\\x00"
    yield b"\\x01"
def values():
    for number in range(3):
        yield {"token": number}
async def asynchronous():
    for number in range(3):
        await asyncio.sleep(0.001)
        yield {"token": number}
def failing():
    from hf_inference_toolkit import InferenceError
    raise InferenceError(422, "before anything")
    yield
def late():
    yield {"token": 0}
    raise ValueError("a secret")
def endless():
    try:
        while True:
            closed.append(len(closed))
            yield "x" * 1000000
    finally:
        closed.append("closed")
"""


def test_generators_stream(code):
    """Strings and bytes as they are; other values as events or JSON Lines; errors before the first item as errors."""
    with serving.serve(load_model, **code(STREAMS)) as server:

        def post(kind, accept=None):
            return server.post({"inputs": kind}, {"Accept": accept} if accept else None)

        text = post("text")
        assert (text.body, text.headers["content-type"]) == (b"one two", "text/plain; charset=utf-8")
        assert text.headers["transfer-encoding"] == "chunked"
        assert post("text", "text/x-other").headers["content-type"] == "text/x-other"
        blobs = post("bytes")
        assert (blobs.body, blobs.headers["content-type"]) == (b"\0\1", "application/octet-stream")
        assert post("iterator").body == b"12"
        lines = b'{"token":0}\n{"token":1}\n{"token":2}\n'
        events = b'data: {"token":0}\n\ndata: {"token":1}\n\ndata: {"token":2}\n\n'
        for kind in ("values", "async"):
            reply = post(kind)
            assert (reply.body, reply.headers["content-type"]) == (lines, "application/jsonlines")
            reply = post(kind, "text/event-stream")
            assert (reply.body, reply.headers["content-type"]) == (events, "text/event-stream")
        own = post("status")
        assert (own.status, own.headers["x-own"], own.headers["content-type"]) == (203, "yes", "text/x-own")
        first = post("raise first")
        assert (first.status, first.json["error"]["message"]) == (422, "before anything")
        assert post("empty").body == b""
        late = post("late", "text/event-stream")
        assert late.body.startswith(b'data: {"token":0}\n\ndata: {"error":"internal error')
        assert b"secret" not in late.body
        with pytest.raises(http.client.IncompleteRead):
            post("late")
        assert server.get("/ping").status == 200


def test_stream_ends_when_its_client_leaves_or_its_time_is_over(code):
    """The generator is closed, and the next request is served."""
    with serving.serve(load_model, deadline=3.0, **code(STREAMS)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/invocations", b'{"inputs": "endless"}')
        assert connection.getresponse().read(1000) == b"x" * 1000
        time.sleep(0.5)
        connection.close()
        *parts, last = server.post({"inputs": "closed"}).json
        assert last == "closed"
        assert len(parts) < 100, "parts that a client does not read are held in memory"


BATCH = """
sizes = []
import time
def model_fn(model_dir): return None
def input_fn(data, content_type):
    import json
    return json.loads(data)["inputs"]
def predict_fn(data, model, context):
    sizes.append(len(data))
    if "sizes" in data:
        return [sizes] * len(data)
    if "wait" in data:
        time.sleep(0.5)
    if "broken" in data:
        raise ValueError("broken")
    if "few" in data:
        return []
    for place in range(len(data)):
        context.set_response_header(place, "X-Header", context.get_request_header(place, "X-Header"))
    return [str(one) + "!" for one in data]
predict_fn.batch = {batch}
"""


@pytest.mark.parametrize(("batch", "largest"), [("True", 5), ("2", 2)])
def test_batched_predict_fn_gets_the_requests_that_wait(code, batch, largest):
    """One call for those that wait, each with its own headers; one bad input fails alone."""
    with serving.serve(load_model, **code(BATCH.replace("{batch}", batch))) as server:
        replies = {}

        def post(value, name=None):
            replies[name or value] = server.post({"inputs": value}, {"X-Header": name or value})

        threads = [threading.Thread(target=post, args=("wait",))]
        threads[0].start()
        time.sleep(0.2)
        threads += [threading.Thread(target=post, args=(value,)) for value in ("a", "b", "c", "d", "broken")]
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
        for value in "abcd":
            assert replies[value].json == value + "!"
            assert replies[value].headers["x-header"] == value
        assert replies["broken"].status == 500
        sizes = server.post({"inputs": "sizes"}).json
        assert max(sizes) == largest
        few = server.post({"inputs": "few"})
        assert few.status == 500
        assert "it got 1 and returned 0" in few.json["error"]["message"]
        assert server.post({"inputs": "a"}, {"X-Header": "x"}).json == "a!"


def test_batched_handler_may_be_asynchronous(code):
    """`batch = True` on the class, and a coroutine for `__call__`."""
    text = """
    import asyncio
    class EndpointHandler:
        batch = True
        def __init__(self, path): pass
        async def __call__(self, data):
            await asyncio.sleep(0)
            return [len(data), data[0]] if data[0]["inputs"] == "wrong" else [one["inputs"] for one in data]
    """
    with serving.serve(load_model, **code(text, "handler.py")) as server:
        assert server.post({"inputs": "a"}).json == "a"
        wrong = server.post({"inputs": "wrong"})
        assert wrong.status == 500
        assert "EndpointHandler has batch = True" in wrong.json["error"]["message"]
        assert "it got 1 and returned 2" in wrong.json["error"]["message"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def predict_fn(data, model): yield 1\npredict_fn.batch = True", "batched user code cannot stream"),
        (
            "def predict_fn(data, model): return 1\npredict_fn.batch = 'yes'",
            "must be True, or the largest number",
        ),
        (
            "def predict_fn(data, model): return 1\npredict_fn.batch = 0",
            "must be True, or the largest number",
        ),
    ],
)
def test_wrong_batch_is_refused_at_start(code, text, words):
    """With the file and the function."""
    with pytest.raises(StartError, match="predict_fn") as refused:
        load_model(Settings(**code(text)))
    assert words in str(refused.value)


ASYNC = """
import asyncio
events = []
async def model_fn(model_dir):
    return 2
async def input_fn(data, content_type):
    import json
    return json.loads(data)
async def predict_fn(data, model):
    try:
        await asyncio.sleep(data["seconds"])
    except asyncio.CancelledError:
        events.append("cancelled")
        raise
    return events + [model]
async def output_fn(prediction, accept):
    import json
    return json.dumps(prediction)
"""


def test_coroutines_are_awaited_and_cancelled_at_the_deadline(code):
    """Every function may be asynchronous; after a 504 the coroutine has ended, and the server is well."""
    with serving.serve(load_model, deadline=1.0, **code(ASYNC)) as server:
        assert server.post({"seconds": 0}).json == [2]
        assert server.post({"seconds": 30}).status == 504
        assert server.post({"seconds": 0}).json == ["cancelled", 2]
        assert server.get("/ping").status == 200


def test_json_that_user_code_returns_has_the_types_of_numpy_and_pandas(code):
    """Arrays, tensors and tables become lists and objects."""
    pytest.importorskip("numpy")
    text = """
    import numpy
    def model_fn(d): return None
    def predict_fn(data, model): return {"a": numpy.ones((1, 2)), "b": numpy.float32(0.5), "c": {1, 2}}
    """
    with serving.serve(load_model, **code(text)) as server:
        assert json.loads(server.post({"inputs": 1}).body.decode()) == {
            "a": [[1.0, 1.0]],
            "b": 0.5,
            "c": [1, 2],
        }


ENDLESS = """
import os, time
def model_fn(model_dir): return os.path.join(model_dir, "end")
def predict_fn(data, model):
    while data["inputs"] == "endless" and not os.path.exists(model):
        time.sleep(0.01)
    return "ended"
"""


def test_server_recovers_when_predictions_end_long_after_their_deadline(code, tmp_path, monkeypatch):
    """Unhealthy while too many do not end, and not for good."""
    monkeypatch.setattr(app, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(served, "PATIENCE_SECONDS", 0.05)
    with serving.serve(load_model, deadline=0.2, **code(ENDLESS)) as server:

        def until(status):
            ends = time.monotonic() + 20
            while server.get("/ping").status != status:
                assert time.monotonic() < ends
                time.sleep(0.02)

        while server.get("/ping").status == 200:
            assert server.post({"inputs": "endless"}).status in (503, 504)
        assert server.get("/ping").status == 500
        refused = server.post({"inputs": "x"})
        assert (refused.status, refused.json["error"]["code"]) == (503, "unhealthy")
        (tmp_path / "end").write_text("")
        until(200)
        assert server.post({"inputs": "x"}).json == "ended"
        # And once more: nothing was left behind.
        (tmp_path / "end").unlink()
        while server.get("/ping").status == 200:
            server.post({"inputs": "endless"})
        (tmp_path / "end").write_text("")
        until(200)
        assert server.post({"inputs": "x"}).json == "ended"


RETURNS = """
import numpy
import torch
from PIL import Image

def nothing():
    return
    yield

RETURNS = {
    "array": lambda: numpy.array([[0, 1], [2, 3]]),
    "rows": lambda: [numpy.array([0.5, 1.5]), numpy.array([2.5, 3.5])],
    "texts": lambda: numpy.array(["a", "b"]),
    "object": lambda: {"x": numpy.array([1, 2])},
    "tensor": lambda: torch.ones(2, requires_grad=True),
    "half": lambda: torch.ones(2, dtype=torch.bfloat16),
    "keys": lambda: {numpy.int64(1): 2},
    "bytes": lambda: b"\\x00\\x01",
    "cmyk": lambda: Image.new("CMYK", (2, 2)),
    "depth": lambda: Image.new("F", (2, 2)),
    "nothing": nothing,
}

class EndpointHandler:
    def __init__(self, path): pass
    def __call__(self, data): return RETURNS[data["inputs"]]()
"""


def test_what_a_handler_returns_has_a_form_in_every_type(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("PIL")
    (tmp_path / "handler.py").write_text(RETURNS)
    expected = {
        ("array", "text/csv"): b"0,1\n2,3\n",
        ("rows", "text/csv"): b"0.5,1.5\n2.5,3.5\n",
        ("texts", "text/csv"): b"a\nb\n",
        ("object", "text/csv"): b'x\n"[1,2]"\n',
        ("keys", "application/json"): b'{"1":2}',
        ("nothing", "application/json"): b"",
        ("bytes", "audio/wav"): b"\x00\x01",
    }
    with serving.serve(load_model, model_dir=str(tmp_path)) as server:
        for (name, accept), body in expected.items():
            reply = server.post({"inputs": name}, {"Accept": accept})
            assert (reply.status, reply.body) == (200, body), name
        for name in ("tensor", "half"):
            reply = server.post({"inputs": name}, {"Accept": "application/x-npy"})
            assert numpy.load(io.BytesIO(reply.body)).tolist() == [1.0, 1.0]
        for name in ("cmyk", "depth"):
            assert server.post({"inputs": name}, {"Accept": "image/png"}).body[1:4] == b"PNG"
        assert server.post({"inputs": "nothing"}).headers["content-type"] == "application/jsonlines"
        assert server.post({"inputs": "bytes"}).headers["content-type"] == "application/octet-stream"
        named = server.post({"inputs": "bytes"}, {"Accept": "audio/wav"})
        assert named.headers["content-type"] == "audio/wav"
