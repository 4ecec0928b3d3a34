"""Text that is streamed while it is generated."""

import json
import socket
import threading
import time

import pytest
import serving

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.runtimes.decoding import Step
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks.incremental_decoder import GeneratedSequence, IncrementalDecoder

PROMPT = {
    "inputs": "I like you",
    "parameters": {"max_new_tokens": 12, "min_new_tokens": 11, "do_sample": False, "num_beams": 1},
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
        server.service = server.app.model.service
        if not server.service.streams:
            refused = server.post(dict(PROMPT, stream=True))
            assert (refused.status, refused.json["error"]["code"]) == (400, "unsupported_value")
            pytest.skip("this release of transformers does not report steps; the refusal was checked")
        if "min_new_tokens" not in server.service.supported:
            pytest.skip("this release has no min_new_tokens")
        yield server


def test_stream_gives_the_text_in_pieces_and_whole(writer):
    """A token an event; together they are what is answered without streaming."""
    whole = writer.post(PROMPT).json[0]
    output = events(writer.post(dict(PROMPT, stream=True)))
    assert [one["index"] for one in output] == list(range(1, len(output) + 1))
    assert output[-1]["generated_text"] == next(iter(whole.values()))
    assert all(one["generated_text"] is None for one in output[:-1])
    text = "".join(one["token"]["text"] for one in output)
    assert output[-1]["generated_text"].endswith(text.strip())
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
    """After the first token: the client has left, so nothing more is written."""
    long = dict(PROMPT["parameters"], max_new_tokens=100, min_new_tokens=100)
    body = json.dumps({"inputs": "I like you", "parameters": long, "stream": True}).encode()
    steps = []
    slow = threading.Event()

    def counted(*_):
        steps.append(1)
        slow.wait(0.05)

    hook = writer.service.runtime.model.register_forward_pre_hook(counted)
    client = socket.create_connection(("127.0.0.1", writer.port))
    client.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert client.recv(4096).startswith(b"HTTP/1.1 200")
    client.close()
    slow.set()
    ends = time.monotonic() + 20
    while writer.app.scheduler.is_busy:
        assert time.monotonic() < ends
        time.sleep(0.01)
    hook.remove()
    assert len(steps) < 90
    assert writer.app.in_flight == 0
    assert writer.post(PROMPT).status == 200


def test_failure_in_the_middle_is_an_event(writer):
    """The status is sent already; the last event says what happened, and the server goes on."""
    seen = []

    def broken(*_):
        seen.append(1)
        if len(seen) > 3:
            raise RequestError("unprocessable", "no further")

    hook = writer.service.runtime.model.register_forward_pre_hook(broken)
    output = events(writer.post(dict(PROMPT, stream=True)))
    hook.remove()
    assert output[-1]["error"] == "no further"
    assert output[-1]["error_type"] == "unprocessable"
    assert len(output) > 1
    assert writer.post(PROMPT).status == 200


def test_hub_client_reads_the_stream(writer):
    """`huggingface_hub.InferenceClient`, as people use it."""
    hub = pytest.importorskip("huggingface_hub")
    if not hasattr(hub, "InferenceClient") or writer.service.task != "text-generation":
        pytest.skip("the client of this release has no text_generation, or the task is not its")
    client = hub.InferenceClient(model="http://127.0.0.1:{}/invocations".format(writer.port))
    pieces = list(client.text_generation("I like you", stream=True, max_new_tokens=12, do_sample=False))
    request = {"inputs": "I like you", "parameters": {"max_new_tokens": 12, "do_sample": False}}
    output = events(writer.post(dict(request, stream=True)))
    assert pieces == [one["token"]["text"] for one in output]


class ByteTokenizer:
    """Tokens are bytes, and 0 is the end."""

    def decode(self, tokens):
        return bytes(token for token in tokens if token).decode("utf-8", "replace")


def generated(tokens, stops=()):
    """What a client of a stream receives for tokens: texts, and why the sequence ended."""
    received = []
    decoder = IncrementalDecoder(ByteTokenizer().decode)
    sequence = GeneratedSequence(decoder, {0}, stops, {0}, received.append)
    for token in tokens:
        sequence.add(token)
    sequence.close()
    return received, sequence


def test_incomplete_character_is_held_back():
    """Its text comes with its last byte."""
    received, _ = generated([*"a \u20ac!".encode(), 0])
    assert [one.text for one in received] == ["a", " ", "", "", "\u20ac", "!", ""]
    assert [one.is_special for one in received] == [False] * 6 + [True]


@pytest.mark.parametrize("end", [[], [0]])
def test_last_incomplete_character_is_delivered(end):
    """A sequence that ends within a character has a replacement character, as the whole text has."""
    received, _ = generated([*"a".encode(), *"\u20ac".encode()[:2], *end])
    assert "".join(one.text for one in received) == "a\ufffd"
    assert received[-1].text == ("" if end else "\ufffd")


def test_undecodable_bytes_are_not_held_back_for_ever():
    """They come after a few tokens, while the sequence goes on."""
    received = []
    sequence = GeneratedSequence(IncrementalDecoder(ByteTokenizer().decode), on_token=received.append)
    for _ in range(40):
        sequence.add(0xE2)
    assert len(received) >= 20


def test_tokens_without_text_are_not_decoded_with_all_that_follow():
    """Special tokens may be all that a model writes. The text behind them is complete."""
    received, lengths = [], []

    def decode(tokens):
        lengths.append(len(tokens))
        return ByteTokenizer().decode(tokens)

    sequence = GeneratedSequence(IncrementalDecoder(decode), on_token=received.append)
    for token in [*b"a", *[0] * 100, *"\u20ac!".encode(), *[0] * 100, *b"b"]:
        sequence.add(token)
    sequence.close()
    assert "".join(one.text for one in received) == "a\u20ac!b"
    assert len(received) == 206
    assert max(lengths) < 20


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three", ["two"], "one two"),
        ("one two three", ["e t", "o t"], "one t"),
        ("aaab", ["aab"], "aaab"),
        ("one", ["two"], "one"),
        ("\u20ac\u20ac!", ["\u20ac!"], "\u20ac\u20ac!"),
    ],
)
def test_nothing_is_streamed_after_a_stop_sequence(text, stops, expected):
    """Stop sequences are found across tokens, and tokens after them are dropped."""
    received, sequence = generated(text.encode() + b"more", stops)
    expected += "more" if sequence.finish_reason == "length" else ""
    assert "".join(one.text for one in received) == expected
    assert (sequence.finish_reason == "stop_sequence") == any(stop in text for stop in stops)


def test_token_is_cut_at_the_stop_sequence_in_it():
    """Of the token that completes the stop sequence, the text behind it is not sent."""
    received = []
    decoder = IncrementalDecoder(
        lambda tokens: "".join({1: "one", 2: " two. Three"}[token] for token in tokens)
    )
    sequence = GeneratedSequence(decoder, stops=["."], on_token=received.append)
    for token in (1, 2, 1):
        sequence.add(token)
    assert [one.text for one in received] == ["one", " two."]


def test_text_is_complete_where_the_tokenizer_takes_a_space_back():
    """As with clean_up_tokenization_spaces: the space before the comma was sent already."""
    received = []
    words = {1: "one", 2: " ", 3: ",", 4: "two"}
    decoder = IncrementalDecoder(lambda tokens: "".join(words[token] for token in tokens).replace(" ,", ","))
    sequence = GeneratedSequence(decoder, on_token=received.append)
    for token in (1, 2, 3, 4, 2, 3):
        sequence.add(token)
    sequence.close()
    assert "".join(one.text for one in received) == "one ,two ,"


def test_ended_sequence_of_a_shared_pass_is_not_streamed_on(model_folder):
    """In a pass with longer texts it gets padding after its stop sequence."""
    service = load_model(Settings(model_dir=str(model_folder("text-generation")), task="text-generation"))
    if not service.streams:
        pytest.skip("this release of transformers does not report steps")
    numbers = service.tokenizer("I like you I like you", add_special_tokens=False)["input_ids"]
    received = {"you": [], "": []}

    def generate(rows, pad, arguments, on_step, *more):
        for number in numbers:
            on_step(Step([number] * len(rows)))

    service.runtime.generate = generate
    pieces = []
    for stop, tokens in received.items():
        request = Request("I", {"stop_sequence": [stop]} if stop else {}, [])
        (piece,) = next(service.steps(request, lambda: None, tokens.append))
        pieces.append(piece)
    service.run(pieces, lambda: None)
    texts = {stop: "".join(token.text for token in tokens) for stop, tokens in received.items()}
    assert texts[""].count("you") == 2
    assert texts["you"].count("you") == 1
    assert texts["you"].endswith("you")
