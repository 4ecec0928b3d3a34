"""Text that is sent while it is written."""

import json
import socket
import threading
import time

import pytest
import serving

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.settings import Settings

PROMPT = {
    "inputs": "I like you",
    "parameters": {"max_new_tokens": 12, "min_new_tokens": 11, "do_sample": False},
}


def events(reply):
    """The values of an answer's events."""
    assert reply.headers["content-type"] == "text/event-stream"
    blocks = reply.body.decode("utf-8").split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block[len("data: ") :]) for block in blocks]


@pytest.fixture(params=["text-generation", "summarization"])
def writer(model_folder, request):
    with serving.serve(load_model, model_dir=str(model_folder(request.param)), task=request.param) as server:
        server.service = server.app.health.service
        if not server.service.streams:
            refused = server.post(dict(PROMPT, stream=True))
            assert (refused.status, refused.json["error"]["code"]) == (400, "unsupported_value")
            pytest.skip("this release of transformers does not tell of tokens; the refusal was checked")
        yield server


def test_stream_gives_the_text_in_pieces_and_whole(writer):
    """A token an event; together they are what is answered without streaming."""
    whole = writer.post(PROMPT).json[0]
    told = events(writer.post(dict(PROMPT, stream=True)))
    assert [one["index"] for one in told] == list(range(1, len(told) + 1))
    assert told[-1]["generated_text"] == next(iter(whole.values()))
    assert all(one["generated_text"] is None for one in told[:-1])
    text = "".join(one["token"]["text"] for one in told)
    assert told[-1]["generated_text"].endswith(text.strip())
    assert len(text) > 1


def test_streams_share_passes_with_others(writer):
    """Several at once, some that stream and some that do not, each with its own text."""
    texts = ["I like you", "my name is sylvain", "paris"]
    alone = [next(iter(writer.post(dict(PROMPT, inputs=text)).json[0].values())) for text in texts]
    answers = {}

    def ask(text, stream):
        reply = writer.post(dict(PROMPT, inputs=text, stream=stream))
        value = events(reply)[-1]["generated_text"] if stream else next(iter(reply.json[0].values()))
        answers[text, stream] = value

    threads = [
        threading.Thread(target=ask, args=(text, stream)) for text in texts for stream in (True, False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for text, expected in zip(texts, alone):
        assert answers[text, True] == answers[text, False] == expected


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"inputs": ["a", "b"]}, 422),
        ({"parameters": {"num_beams": 2}}, 422),
        ({"parameters": {"no_such": 2}}, 400),
        ({"stream": "yes"}, 400),
    ],
)
def test_what_cannot_stream_is_refused_as_ever(writer, changes, status):
    """With a status and the usual document, not inside a stream."""
    reply = writer.post(dict(dict(PROMPT, stream=True), **changes))
    assert reply.status == status
    assert reply.json["error"]["message"]


def test_other_tasks_do_not_stream(model_folder):
    """They say so."""
    with serving.serve(load_model, model_dir=str(model_folder("text-classification"))) as server:
        refused = server.post({"inputs": "I like you", "stream": True})
        assert refused.status == 400
        assert "does not stream" in refused.json["error"]["message"]
        assert server.post({"inputs": "I like you", "stream": False}).status == 200


def test_client_that_goes_away_ends_the_writing(writer):
    """After the first token: nobody waits, so nothing more is written."""
    long = dict(PROMPT["parameters"], max_new_tokens=100, min_new_tokens=100)
    body = json.dumps({"inputs": "I like you", "parameters": long, "stream": True}).encode()
    steps, generate = [], writer.service.runtime.generate
    slow = threading.Event()

    def counted(rows, pad, options, written=None):
        def one_step(numbers):
            steps.append(numbers)
            slow.wait(0.05)
            written(numbers)

        return generate(rows, pad, options, one_step if written else None)

    writer.service.runtime.generate = counted
    client = socket.create_connection(("127.0.0.1", writer.port))
    client.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert client.recv(4096).startswith(b"HTTP/1.1 200")
    client.close()
    slow.set()
    ends = time.monotonic() + 20
    while writer.app.scheduler.is_busy:
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert len(steps) < 90
    assert writer.app.in_flight == 0
    assert writer.post(PROMPT).status == 200


def test_failure_in_the_middle_is_an_event(writer):
    """The status is sent already; the last event says what happened, and the server goes on."""
    generate = writer.service.runtime.generate

    def broken(rows, pad, options, written=None):
        def one_step(numbers):
            written(numbers)
            if len(seen) == 3:
                raise RequestError("unprocessable", "no further")
            seen.append(1)

        return generate(rows, pad, options, one_step if written else None)

    seen = []
    writer.service.runtime.generate = broken
    told = events(writer.post(dict(PROMPT, stream=True)))
    assert told[-1]["error"] == "no further"
    assert told[-1]["error_type"] == "unprocessable"
    assert writer.post(PROMPT).status == 200


def test_hub_client_reads_the_stream(writer):
    """`huggingface_hub.InferenceClient`, as people use it."""
    hub = pytest.importorskip("huggingface_hub")
    if not hasattr(hub, "InferenceClient") or writer.service.task != "text-generation":
        pytest.skip("the client of this release has no text_generation, or the task is not its")
    client = hub.InferenceClient(model="http://127.0.0.1:{}/invocations".format(writer.port))
    pieces = list(client.text_generation("I like you", stream=True, max_new_tokens=12, do_sample=False))
    request = {"inputs": "I like you", "parameters": {"max_new_tokens": 12, "do_sample": False}}
    told = events(writer.post(dict(request, stream=True)))
    assert pieces == [one["token"]["text"] for one in told]


def test_text_of_half_characters_waits_for_the_other_half():
    """Tokens of a character's bytes: its text comes with the last of them, and the spaces are right."""
    pytest.importorskip("tokenizers")
    from hf_inference_toolkit.tasks.generation import Growing

    class Bytes:
        """A tokenizer whose tokens are bytes."""

        all_special_ids = (0,)

        def decode(self, numbers, skip_special_tokens):
            return bytes(number for number in numbers if number).decode("utf-8", "replace")

    told = []
    growing = Growing(Bytes(), told.append)
    for number in [*"a \u20ac!".encode(), 0]:
        growing.add(number)
    assert [one.text for one in told] == ["a", " ", "", "", "\u20ac", "!", ""]
    assert [one.is_special for one in told] == [False] * 6 + [True]


def test_text_that_has_ended_is_told_no_further(model_folder):
    """In a pass with longer texts it gets padding behind its stop sequence: nobody wants to read that."""
    service = load_model(Settings(model_dir=str(model_folder("text-generation")), task="text-generation"))
    numbers = service.tokenizer("I like you I like you", add_special_tokens=False)["input_ids"]
    told = {"you": [], "": []}

    def generate(rows, pad, arguments, written):
        for number in numbers:
            written([number] * len(rows))
        return [list(row["input_ids"]) + numbers for row in rows]

    service.runtime.generate = generate
    pieces = []
    for stop, read in told.items():
        request = Request("I", {"stop_sequence": [stop]} if stop else {}, [])
        (piece,) = next(service.steps(request, lambda: None, read.append))
        pieces.append(piece)
    service.run(pieces, lambda: None)
    texts = {stop: "".join(token.text for token in tokens) for stop, tokens in told.items()}
    assert texts[""].count("you") == 2
    assert texts["you"].count("you") == 1
    assert texts["you"].endswith("you")
