"""A client that sends what nobody should: none of it is answered with 500, and the server is well after it.

By default some hundreds of requests. All ten thousand: `HOSTILE=10000 pytest tests/test_hostile.py`.
"""

import contextlib
import http.client
import json
import os
import random
import socket
import threading

import pytest
import serving
from test_serving import until

from hf_inference_toolkit.loading.loader import load_model

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

EXAMPLES = int(os.environ.get("HOSTILE", "600"))
TASKS = (
    "text-classification",
    "token-classification",
    "feature-extraction",
    "fill-mask",
    "zero-shot-classification",
    "question-answering",
    "text-generation",
    "summarization",
)

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
    st.fixed_dictionaries({"role": TEXTS, "content": TEXTS}),
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
    "text-classification": st.one_of(WORDS, st.fixed_dictionaries({"text": WORDS, "text_pair": WORDS})),
}


def right_value(name, schema):
    """A parameter's value as the schema has it, near its limits."""
    if name in PLAUSIBLE:
        return PLAUSIBLE[name]
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("type") == "object":
        members = {member: right_value(member, inner) for member, inner in schema["properties"].items()}
        return st.fixed_dictionaries({}, optional=members)
    kinds = schema.get("oneOf", [schema])
    return st.one_of(
        [st.sampled_from(one["enum"]) if "enum" in one else BY_TYPE[one["type"]] for one in kinds]
    )


def parameters(task, schemas):
    """Parameters with values that are right, nearly right, or nothing of the kind; labels where they must be."""
    names = st.sampled_from(sorted(schemas))
    right = names.flatmap(lambda name: st.tuples(st.just(name), right_value(name, schemas[name])))
    wrong = st.tuples(names, VALUES)
    some = st.one_of(
        st.lists(right, max_size=3),
        st.lists(right, max_size=3),
        st.lists(st.one_of(right, wrong), max_size=3),
    )
    base = {"candidate_labels": ["refund", "legal"]} if task.startswith("zero") else {}
    if "max_new_tokens" in schemas:
        base["max_new_tokens"] = 3
    return some.map(lambda pairs: dict(base, **dict(pairs)))


def documents(task, schemas):
    """Whole bodies: requests, nearly requests, any JSON, any bytes."""
    item = RIGHT_ITEMS.get(task, WORDS)
    right = st.one_of(item, st.lists(item, min_size=1, max_size=3))
    inputs = st.one_of(ITEMS, st.lists(ITEMS, max_size=4))
    asked = st.fixed_dictionaries({"inputs": right, "parameters": parameters(task, schemas)})
    nearly = st.one_of(
        st.fixed_dictionaries({"inputs": inputs, "parameters": parameters(task, schemas)}),
        st.fixed_dictionaries({"inputs": inputs}),
        st.fixed_dictionaries({"instances": inputs}),
        st.fixed_dictionaries({"inputs": right, "parameters": VALUES}),
        st.dictionaries(TEXTS, VALUES, max_size=3),
        VALUES,
    )
    written = st.one_of(asked, asked, asked, nearly).map(
        lambda value: json.dumps(value).encode("utf-8", "surrogatepass")
    )
    deep = st.integers(1, 60000).map(lambda depth: b'{"inputs":' * depth)
    cut = st.tuples(written, st.integers(0, 80)).map(lambda pair: pair[0][: pair[1]])
    return st.one_of(written, written, written, written, written, written, cut, deep, st.binary(max_size=200))


HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=255, blacklist_characters="\x7f"), max_size=40)
JSON = st.just("application/json")
KINDS = st.one_of(
    JSON,
    JSON,
    JSON,
    JSON,
    JSON,
    JSON,
    st.sampled_from(
        [
            "application/json",
            "application/json; charset=utf-8",
            "application/json;charset=utf-16",
            "text/csv",
            "application/jsonlines",
            "text/plain",
            "application/x-npy",
            "image/png",
            "audio/wav",
            "application/json;;;=",
            "application/json; charset=rot13",
            'application/json; charset="',
            "text/csv; charset=zip",
            "*/*",
            "",
            "application/json; charset=undefined",
            "application/json; charset=idna",
            "text/plain; charset=punycode",
        ]
    ),
    HEADER,
)
ACCEPTS = st.one_of(
    JSON,
    JSON,
    JSON,
    JSON,
    JSON,
    JSON,
    st.sampled_from(
        [
            "application/json",
            "*/*",
            "text/csv",
            "application/x-npy",
            "text/plain",
            "application/jsonlines",
            "application/json;q=nan",
            "a/b;q=1e9, */*;q=-1",
            ",,,",
            "*/*;q=0",
        ]
    ),
    HEADER,
)


@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_answered_with_500(model_folder, task):
    """Generated bodies and headers; the statuses are those of the table, and the model's example works after."""
    share = max(10, EXAMPLES // len(TASKS))
    with serving.serve(load_model, model_dir=str(model_folder(task)), task=task, deadline=20.0) as server:
        schemas = server.app.health.service.schema()["properties"]["parameters"]["properties"]
        example = server.app.health.service.examples()[-1]

        @hypothesis.settings(
            max_examples=share,
            deadline=None,
            database=None,
            derandomize=EXAMPLES <= 600,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(documents(task, schemas), KINDS, ACCEPTS, HEADER)
        def attack(body, kind, accept, request_id):
            headers = {"Content-Type": kind, "Accept": accept, "X-Request-Id": request_id}
            encoded = {name: value.strip().encode("latin-1") for name, value in headers.items()}
            # One of its own: the server may close an idle one while the next body is still being thought of.
            with contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            ) as connection:
                connection.request("POST", "/invocations", body, encoded)
                answer = connection.getresponse()
                text = answer.read()
            assert answer.status in (200, 400, 406, 408, 413, 415, 422, 504, 507), (answer.status, body, text)
            if answer.status != 200:
                error = json.loads(text.decode())["error"]
                assert set(error) == {"status", "code", "message", "request_id"}

        attack()
        assert 'status="200"' in server.app.metrics.text().decode(), "nothing reached the model"
        assert server.get("/ping").status == 200
        assert server.post(example).status == 200


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
