"""Invalid and mutated requests: no response is a 500, none is missing, and the server still works afterwards.

By default some hundreds of requests. With `HOSTILE=10000 pytest tests/test_hostile.py` so many, to servers in processes
of their own, whose memory must stay flat.
"""

import base64
import contextlib
import gzip
import http.client
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
import serving
import tiny
import tiny_pipelines
from test_serving import until

from hf_inference_toolkit.loading.loader import load_model

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

EXAMPLES = int(os.environ.get("HOSTILE", "600"))
# Fewer would compare memory before the libraries have allocated what they keep.
MEASURED = 5000
MOST_GROWTH = 96 * 1024 * 1024
TEXT_TASKS = (
    "text-classification",
    "token-classification",
    "feature-extraction",
    "sentence-embeddings",
    "text-ranking",
    "fill-mask",
    "zero-shot-classification",
    "question-answering",
    "text-generation",
    "summarization",
)
MEDIA_TASKS = (
    "image-classification",
    "object-detection",
    "zero-shot-image-classification",
    "automatic-speech-recognition",
    "audio-classification",
)
STATUSES = (200, 400, 406, 408, 413, 415, 422, 503, 504, 507)

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1, 2, 2**31, 2**63, -(2**63) - 1, 10**400, 1e308, -0.0, 1e-320]),
)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(), max_size=20),
    st.sampled_from(
        [
            "",
            " ",
            "\x00",
            "[MASK]",
            "[MASK] " * 300,
            "\ud800",
            "\U0001f600" * 200,
            "\u202e",
            "a" * 5000,
            "{}",
            "%s",
            "http://127.0.0.1:9/",
            "/etc/passwd",
            "data:image/png;base64,",
        ]
    ),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
ITEMS = st.one_of(
    TEXTS,
    VALUES,
    st.fixed_dictionaries({"question": st.one_of(TEXTS, VALUES), "context": st.one_of(TEXTS, VALUES)}),
    st.fixed_dictionaries({"text": TEXTS, "text_pair": st.one_of(TEXTS, VALUES)}),
    st.fixed_dictionaries(
        {"source_sentence": TEXTS, "sentences": st.one_of(st.lists(TEXTS, max_size=3), VALUES)}
    ),
    st.fixed_dictionaries({"query": TEXTS, "texts": st.one_of(st.lists(TEXTS, max_size=3), VALUES)}),
    st.fixed_dictionaries({"role": TEXTS, "content": st.one_of(TEXTS, VALUES)}),
    st.fixed_dictionaries({"image": st.one_of(TEXTS, VALUES)}),
)
PLAUSIBLE = {
    "candidate_labels": st.one_of(TEXTS, st.lists(TEXTS, max_size=4), VALUES),
    "hypothesis_template": st.one_of(TEXTS, st.sampled_from(["{}", "{} {}", "{0}", "{", "{x}"])),
    "aggregation_strategy": st.sampled_from(["none", "simple", "first", "average", "max", "", None]),
    "function_to_apply": st.sampled_from(["none", "softmax", "sigmoid", "default", "exec", None]),
    "targets": st.one_of(TEXTS, st.lists(TEXTS, max_size=3)),
    "forced_bos_token_id": NUMBERS,
    "bad_words_ids": st.lists(st.lists(st.integers(-3, 300), max_size=3), max_size=3),
    "suppress_tokens": st.lists(st.integers(-3, 300), max_size=3),
    "stop_sequence": st.one_of(TEXTS, st.lists(TEXTS, max_size=2)),
    "max_new_tokens": st.one_of(st.integers(-1, 12), NUMBERS),
}
# Parameters that hold others, whether or not the task has them.
NESTED = (
    "generate_kwargs",
    "tokenize_kwargs",
    "tokenizer_kwargs",
    "generate_parameters",
    "generation_config",
)
INNER = st.dictionaries(
    st.one_of(
        st.sampled_from(["max_new_tokens", "num_beams", "trust_remote_code", "padding", "top_k"]), TEXTS
    ),
    VALUES,
    max_size=3,
)

# Values of the right kind for each kind of parameter in the schema of /openapi.json, ordinary and extreme.
BY_TYPE = {
    "integer": st.one_of(st.integers(0, 8), st.integers(-2, 200), st.sampled_from([2**31, 2**63 - 1])),
    "number": st.one_of(st.floats(0, 2), st.sampled_from([0, 1e-320, 1e300, -1e300, 5])),
    "boolean": st.booleans(),
    "string": TEXTS,
    "array": st.lists(st.lists(st.integers(-1, 300), max_size=3), max_size=3),
}
WORDS = st.one_of(st.sampled_from(["I like you", "the name", "My name is Sylvain", "[MASK] you"]), TEXTS)
RIGHT_ITEMS = {
    "fill-mask": st.one_of(st.just("I like [MASK]."), WORDS.map(lambda text: "[MASK] " + text)),
    "question-answering": st.fixed_dictionaries({"question": WORDS, "context": WORDS}),
    "sentence-embeddings": st.one_of(
        WORDS,
        st.lists(st.integers(0, 90), min_size=1, max_size=5),
        st.fixed_dictionaries(
            {"source_sentence": WORDS, "sentences": st.lists(WORDS, min_size=1, max_size=3)}
        ),
    ),
    "text-ranking": st.fixed_dictionaries({"query": WORDS, "texts": st.lists(WORDS, min_size=1, max_size=3)}),
    "text-classification": st.one_of(WORDS, st.fixed_dictionaries({"text": WORDS, "text_pair": WORDS})),
}


def some(strategy, times, *others):
    """One of several strategies, the first so many times more often than each other."""
    return st.one_of(*[strategy] * times, *others)


def right_value(name, schema):
    """A parameter's value as the schema has it, near its limits."""
    if name in PLAUSIBLE:
        return PLAUSIBLE[name]
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("type") == "object" and "properties" in schema:
        members = {member: right_value(member, inner) for member, inner in schema["properties"].items()}
        return st.fixed_dictionaries({}, optional=members)
    kinds = schema.get("oneOf", schema.get("anyOf", [schema]))
    return st.one_of(
        [
            st.sampled_from(one["enum"]) if "enum" in one else BY_TYPE.get(one.get("type"), VALUES)
            for one in kinds
        ]
    )


def parameters(task, schemas):
    """Parameters with values that are right, nearly right, or nothing of the kind; labels where they must be."""
    names = st.sampled_from(sorted(schemas) or ["top_k"])
    right = names.flatmap(lambda name: st.tuples(st.just(name), right_value(name, schemas.get(name, {}))))
    wrong = st.tuples(names, VALUES)
    nested = st.tuples(st.sampled_from(NESTED), st.one_of(INNER, VALUES))
    pairs = some(st.lists(right, max_size=3), 2, st.lists(st.one_of(right, wrong, nested), max_size=3))
    base = {"candidate_labels": ["refund", "legal"]} if task.startswith("zero") else {}
    if "max_new_tokens" in schemas:
        base["max_new_tokens"] = 3
    return pairs.map(lambda found: dict(base, **dict(found)))


def encoded(value):
    return json.dumps(value).encode("utf-8", "surrogatepass")


def paths(value, path=()):
    """The way to each part of a JSON value."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths(value[key], (*path, key))


def replaced(value, path, new):
    """A JSON value with another part at a path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


def altered(example):
    """A request that is answered, with a part of another type."""
    return st.tuples(st.sampled_from(list(paths(example))), VALUES).map(lambda pair: replaced(example, *pair))


def documents(task, schemas, examples):
    """JSON bodies: requests, nearly requests, any JSON."""
    item = RIGHT_ITEMS.get(task, WORDS)
    if task in MEDIA_TASKS:
        item = st.sampled_from(media(task)).map(lambda content: base64.b64encode(content).decode("ascii"))
    right = st.one_of(item, st.lists(item, min_size=1, max_size=3))
    inputs = st.one_of(ITEMS, st.lists(ITEMS, max_size=4))
    whole = st.fixed_dictionaries({"inputs": right, "parameters": parameters(task, schemas)})
    nearly = st.one_of(
        *[altered(example) for example in examples],
        st.fixed_dictionaries({"inputs": inputs, "parameters": parameters(task, schemas)}),
        st.fixed_dictionaries({"inputs": inputs}),
        st.fixed_dictionaries({"instances": inputs}),
        st.fixed_dictionaries({"inputs": right, "parameters": VALUES}),
        st.fixed_dictionaries({"inputs": right, "stream": st.one_of(st.just(True), VALUES)}),
        st.dictionaries(TEXTS, VALUES, max_size=3),
        VALUES,
    )
    return some(whole, 3, nearly, nearly).map(encoded)


def media(task):
    """Images or sounds of several formats and sizes."""
    if "audio" in task or "speech" in task:
        return [tiny_pipelines.wav(), tiny_pipelines.wav(8000, 0.1), tiny_pipelines.wav(44100, 0.0)]
    from PIL import Image

    made = [tiny_pipelines.png(), tiny_pipelines.png(1, 1), tiny_pipelines.png(300, 2)]
    for kind, mode in (
        ("JPEG", "RGB"),
        ("GIF", "P"),
        ("BMP", "L"),
        ("TIFF", "RGBA"),
        ("WEBP", "RGB"),
        ("PNG", "I;16"),
    ):
        out = io.BytesIO()
        with contextlib.suppress(KeyError, OSError):  # what this Pillow does not write
            Image.new(mode, (24, 40)).save(out, format=kind)
            made.append(out.getvalue())
    return made


def npy(array_header):
    """A .npy file with a header of any text."""
    header = array_header.encode("latin-1", "replace")
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\x00" * 64


ARRAYS = st.sampled_from(
    [
        "{'descr': '<U4', 'fortran_order': False, 'shape': (4,), }\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 4), }\n",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 0), }\n",
        "{'descr': '<c16', 'fortran_order': True, 'shape': (), }\n",
        "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (2,), }\n",
        "__import__('os').getpid()\n",
    ]
).map(npy)
TABLES = st.lists(st.lists(TEXTS, max_size=4), max_size=4).map(
    lambda rows: "\n".join(",".join('"{}"'.format(cell) for cell in row) for row in rows)
)
LINES = st.lists(st.one_of(VALUES, st.fixed_dictionaries({"inputs": WORDS})), max_size=4).map(
    lambda values: b"\n".join(encoded(value) for value in values)
)
DEEP = st.integers(1, 60000).map(lambda depth: b'{"inputs":' * depth)


def contents(task, schemas, examples):
    """Content types with bodies that fit them."""
    forms = {
        "text/csv": TABLES.map(lambda text: ("inputs\n" + text).encode("utf-8", "surrogatepass")),
        "text/plain": TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
        "application/jsonlines": LINES,
        "application/x-npy": ARRAYS,
        "application/json": DEEP,
        "application/octet-stream": st.binary(max_size=200),
    }
    other = st.sampled_from(sorted(forms)).flatmap(lambda name: st.tuples(st.just(name), forms[name]))
    written = st.tuples(st.just("application/json"), documents(task, schemas, examples))
    if task not in MEDIA_TASKS:
        return some(written, 4, other)
    kind = "audio/wav" if media(task)[0].startswith(b"RIFF") else "image/png"
    names = st.sampled_from(
        [kind, kind, kind[:6] + "*", "application/octet-stream", "image/svg+xml", "video/mp4"]
    )
    return some(written, 2, other, st.tuples(names, st.sampled_from(media(task))))


# Where, how much is removed, and what comes there; a large number cuts the body off.
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.one_of(st.integers(0, 4), st.just(10**7)), st.binary(max_size=8)),
    min_size=1,
    max_size=3,
)


def edited(content, edits):
    for place, length, new in edits:
        start = int(place * len(content))
        content = content[:start] + new + content[start + length :]
    return content


HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=255, blacklist_characters="\x7f"), max_size=40)
KINDS = st.one_of(
    st.sampled_from(
        [
            "application/json; charset=utf-8",
            "application/json;charset=utf-16",
            "text/csv",
            "application/jsonlines",
            "text/plain",
            "application/x-npy",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=a",
            "image/png",
            "audio/wav",
            "application/json;;;=",
            "application/json; charset=rot13",
            'application/json; charset="',
            "text/csv; charset=zip",
            "text/csv; header=present; delimiter=;",
            "*/*",
            "",
            "application/json; charset=undefined",
            "application/json; charset=idna",
            "text/plain; charset=punycode",
        ]
    ),
    HEADER,
)
ACCEPTS = some(
    st.just("application/json"),
    5,
    st.sampled_from(
        [
            "application/json",
            "*/*",
            "text/csv",
            "application/x-npy",
            "text/plain",
            "text/event-stream",
            "image/png",
            "application/jsonlines",
            "application/json;q=nan",
            "a/b;q=1e9, */*;q=-1",
            ",,,",
            "*/*;q=0",
        ]
    ),
    HEADER,
)
PAIRS = st.sampled_from(
    [
        "top_k=1",
        "top_k=",
        "top_k=1&top_k=2",
        "=",
        "a=%ff",
        "top_k=%00",
        "truncation=maybe",
        "candidate_labels=a,b",
    ]
)
QUERIES = some(
    st.just(""), 6, PAIRS, st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)
)
ATTRIBUTES = some(
    st.none(), 5, PAIRS, HEADER, st.sampled_from(['{"top_k": 1}', "top_k=1,c=2", "top_k:1", "[" * 300])
)
CODINGS = some(
    st.none(),
    8,
    st.sampled_from(["gzip", "deflate", "identity", "br", "gzip, gzip", "zstd", "x-gzip", "bomb"]),
)


# 40 MB of spaces, as the first member of a gzip file.
BOMB = gzip.compress(b" " * 40000000, 6)


def compressed(content, coding):
    """The body and the header's value; not every body is what its header says."""
    if coding == "gzip":
        return gzip.compress(content), coding
    if coding == "deflate":
        return zlib.compress(content), coding
    if coding == "bomb":
        return BOMB + gzip.compress(content), "gzip"
    return content, coding


@st.composite
def attacks(draw, task, schemas, examples):
    """The query string, headers and body of a request, and the sizes of its chunks (none: a Content-Length)."""
    content_type, body = draw(contents(task, schemas, examples))
    if draw(st.integers(0, 3)) == 0:
        body = edited(body, draw(EDITS))
    if draw(st.integers(0, 5)) == 0:
        content_type = draw(KINDS)
    body, coding = compressed(body, draw(CODINGS))
    headers = {
        "Content-Type": content_type,
        "Accept": draw(ACCEPTS),
        "X-Request-Id": draw(HEADER),
        "Content-Encoding": coding,
        "X-Amzn-SageMaker-Custom-Attributes": draw(ATTRIBUTES),
    }
    chunks = draw(some(st.none(), 4, st.lists(st.integers(1, 400), min_size=1, max_size=5)))
    return draw(QUERIES), headers, body, chunks


def pieces(body, sizes):
    """A body in chunks of these sizes, the last one with the rest."""
    for size in sizes:
        if body:
            yield body[:size]
        body = body[size:]
    if body:
        yield body


def send(port, attack):
    """The status, content type and body of the answer; an exception where there is none."""
    query, headers, body, chunks = attack
    given = {name: value.strip().encode("latin-1") for name, value in headers.items() if value is not None}
    if chunks:
        given["Transfer-Encoding"] = "chunked"
    # One of its own: the server may close an idle one while the next request is generated.
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(
            "POST",
            "/invocations" + ("?" + query if query else ""),
            pieces(body, chunks) if chunks else body,
            given,
            encode_chunked=bool(chunks),
        )
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read()


class Own(serving.Running):
    """A server in a process of its own."""

    def __init__(self, port, process):
        super().__init__(None, port)
        self.process = process

    def resident(self):
        """Its memory in bytes."""
        pages = Path("/proc/{}/statm".format(self.process.pid)).read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def own_process(folder, task, log):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = dict(
        os.environ,
        HF_MODEL_DIR=str(folder),
        HF_TASK=task,
        HF_BIND_HOST="127.0.0.1",
        SAGEMAKER_BIND_TO_PORT=str(port),
        PYTHONPATH=str(Path(__file__).parent.parent / "src"),
    )
    with log.open("wb") as output:
        command = [sys.executable, "-m", "hf_inference_toolkit.cli"]
        process = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
    server = Own(port, process)
    try:
        ends = time.monotonic() + 600
        status = None
        while status != 200:
            assert process.poll() is None and time.monotonic() < ends, log.read_text()[-2000:]
            time.sleep(0.05)
            with contextlib.suppress(OSError):
                status = server.get("/ping").status
        yield server
        assert process.poll() is None, "the server ended with {}".format(process.returncode)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextlib.contextmanager
def attacked(folder, task, log):
    """A server in this process, or in its own for many requests."""
    if EXAMPLES > 600:
        with own_process(folder, task, log) as server:
            yield server
    else:
        with serving.serve(load_model, model_dir=str(folder), task=task, deadline=20.0) as server:
            yield server


@pytest.fixture(scope="module")
def folder_of(model_folder, tmp_path_factory):
    def folder(task):
        if task == "sentence-embeddings" and tiny.FRAMEWORK != "pt":
            pytest.skip("sentence-embeddings needs PyTorch")
        if task in TEXT_TASKS:
            return model_folder(task)
        pytest.importorskip("transformers", minversion="4.46")
        pytest.importorskip("PIL")
        if tiny.FRAMEWORK != "pt":
            pytest.skip("shown on PyTorch")
        return tiny_pipelines.make(task, tmp_path_factory.mktemp(task))

    return folder


def check_answer(answer, attack):
    """The status is one of the table, and every error is described."""
    status, _, text = answer
    assert status in STATUSES, (status, attack, text)
    # What is no HTTP is answered by uvicorn.
    if status != 200 and text != b"Invalid HTTP request received.":
        error = json.loads(text.decode())["error"]
        assert set(error) == {"status", "code", "message", "request_id"}
        # Neither addresses of objects nor Python's classes.
        assert not re.search(r" object at 0x|<class '|Traceback", error["message"]), error


@pytest.mark.parametrize("task", TEXT_TASKS + MEDIA_TASKS)
def test_nothing_is_answered_with_500(folder_of, tmp_path, task):
    """Generated bodies and headers; the statuses are those of the table, and the model's example works after."""
    share = max(10, EXAMPLES // (len(TEXT_TASKS) + len(MEDIA_TASKS)))
    with attacked(folder_of(task), task, tmp_path / "log") as server:
        described = server.get("/openapi.json").json
        schema = described["components"]["schemas"]["Request"]["properties"].get("parameters", {})
        content = described["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]
        examples = [example["value"] for example in content.get("examples", {}).values()]
        if task in MEDIA_TASKS:
            examples.append({"inputs": base64.b64encode(media(task)[0]).decode("ascii")})
            if task.startswith("zero"):
                examples[-1]["parameters"] = {"candidate_labels": ["cat", "dog"]}
        memory = []

        @hypothesis.settings(
            max_examples=share,
            deadline=None,
            database=None,
            derandomize=EXAMPLES <= 600,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(attacks(task, schema.get("properties", {}), examples))
        def attack(one):
            check_answer(send(server.port, one), one)
            if EXAMPLES > 600:
                memory.append(server.resident())

        attack()
        counted = server.get("/metrics").body.decode()
        assert re.search(r'route="/invocations",status="200"', counted), (
            "nothing reached the model: " + counted
        )
        assert server.get("/ping").status == 200
        assert server.post(examples[-1]).status == 200
        if memory:
            print("{}: {} requests, memory grew by {} MB".format(task, len(memory), growth(memory) // 2**20))
        if len(memory) >= MEASURED:
            assert growth(memory) < MOST_GROWTH


def growth(memory):
    """What the last requests need beyond the first third, in bytes."""
    return min(memory[-100:]) - max(memory[: len(memory) // 3])


def test_growth_shows_a_leak_and_no_peak():
    leak = [1000 + 10 * step for step in range(9000)]
    peak = [1000] * 4000 + [500000] * 100 + [1000] * 4900
    assert growth(leak) > 50000
    assert growth(peak) == 0


def test_broken_connections_leave_nothing_behind(model_folder):
    """Chunks cut off, lengths that lie, slow bytes, garbage instead of HTTP: all at once."""
    rnd = random.Random(7)
    attacks = [
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n{",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{}",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"GET /ping HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    ]

    with serving.serve(
        load_model, model_dir=str(model_folder("text-classification")), deadline=2.0
    ) as server:

        def attack(seed):
            data = attacks[seed % len(attacks)]
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
                try:
                    place = rnd.randrange(len(data))
                    client.sendall(data[:place])
                    client.sendall(data[place:])
                    if seed % 3:
                        client.recv(1000)
                except OSError:
                    pass

        threads = [threading.Thread(target=attack, args=(seed,)) for seed in range(100)]
        for thread in threads:
            thread.start()
        assert server.post({"inputs": "I like you"}).status == 200
        for thread in threads:
            thread.join(30)
        until(lambda: server.app.in_flight == 0)
        assert server.get("/ping").status == 200
        assert server.post({"inputs": "I like you"}).status == 200
