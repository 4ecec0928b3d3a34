"""Texts of many megabytes: what is cut is not tokenized, what must be read whole has a limit."""

import json
import random
from types import SimpleNamespace

import pytest
import tiny

from hf_inference_toolkit import limits
from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks import text_task

BODIES = {
    "text-classification": lambda text: {"inputs": text, "parameters": {"top_k": None}},
    # Otherwise it reads the whole text, in parts.
    "token-classification": lambda text: {
        "inputs": text,
        "parameters": {"ignore_labels": ["none"], "truncation": True},
    },
    "feature-extraction": lambda text: {"inputs": text},
    "fill-mask": lambda text: {"inputs": "[MASK] " + text},
    "summarization": lambda text: {"inputs": text, "parameters": {"max_new_tokens": 2}},
    "text-generation": lambda text: {
        "inputs": text,
        "parameters": {"max_new_tokens": 2, "return_full_text": False},
    },
    "zero-shot-classification": lambda text: {
        "inputs": text,
        "parameters": {"candidate_labels": ["refund", "legal"]},
    },
}
services = {}


@pytest.fixture(params=list(BODIES))
def long_text(request, model_folder):
    """A function that answers a text, and the service behind it."""
    task = request.param
    if task not in services:
        services[task] = load_model(Settings(model_dir=str(model_folder(task)), task=task))
    service = services[task]

    def ask(text, **more):
        body = BODIES[task](text)
        body["parameters"] = dict(body.get("parameters", {}), **more)
        request = service.read(json.dumps(body).encode(), codecs.MediaType(codecs.JSON, {}), codecs.JSON)
        return service.predict(request, lambda: None)

    return ask, service


def texts():
    """Long texts of words, of letters, with long spaces, and without any."""
    rnd = random.Random(5)
    words = [rnd.choice(tiny.WORDS) for _ in range(4000)]
    return [
        " ".join(words),
        "\n".join(words),
        " ".join(rnd.choice("abcdefgh") for _ in range(9000)),
        "i like you" + " " * 9000 + " ".join(words[:500]),
        "\u00e9\u4e2d\U0001f600 " * 3000,
    ]


def test_answers_are_those_of_the_whole_text(long_text, monkeypatch):
    """Byte for byte, and with the same word about truncation."""
    ask, _ = long_text
    for text in texts():
        got = ask(text)
        with monkeypatch.context() as patch:
            patch.setattr(text_task, "LONG_TEXT", 10**6)
            wanted = ask(text)
        assert (got.value, got.is_truncated, got.tokens_in) == (
            wanted.value,
            wanted.is_truncated,
            wanted.tokens_in,
        )


def test_a_text_of_megabytes_is_not_tokenized_whole(long_text, monkeypatch):
    """The tokenizer sees some thousand characters of ten megabytes."""
    ask, service = long_text
    seen = []
    original = service.tokenizer

    class Watched:
        def __getattr__(self, name):
            return getattr(original, name)

        def __call__(self, text, *args, **kwargs):
            seen.append(len(text))
            return original(text, *args, **kwargs)

    monkeypatch.setattr(service, "tokenizer", Watched())
    if service._encoder is not None:
        backend = service._encoder._backend

        class Backend:
            def __getattr__(self, name):
                return getattr(backend, name)

            def encode_batch(self, inputs):
                seen.extend(len(part) for one in inputs for part in ([one] if isinstance(one, str) else one))
                return backend.encode_batch(inputs)

        monkeypatch.setattr(service._encoder, "_backend", Backend())
    assert ask("i like you " * 1000000).is_truncated
    assert seen
    assert max(seen) < 10000


def test_texts_that_must_be_read_whole_have_a_limit(long_text):
    """Without truncation, or of spaces only; the message names the limit."""
    ask, _ = long_text
    for text, more in (("a " * limits.TEXT_CHARACTERS, {"truncation": False}), (" " * 3000000, {})):
        with pytest.raises(RequestError) as refused:
            ask(text, **more)
        assert refused.value.status == 422
        if more:
            assert "at most {}".format(limits.TEXT_CHARACTERS) in refused.value.message


def answerer(model_folder):
    task = "question-answering"
    service = load_model(Settings(model_dir=str(model_folder(task)), task=task))

    def ask(question, context, **parameters):
        body = {"inputs": {"question": question, "context": context}, "parameters": parameters}
        request = service.read(json.dumps(body).encode(), codecs.MediaType(codecs.JSON, {}), codecs.JSON)
        encoded = service.encode(request.inputs, service.read_options(request.parameters))
        return len(encoded.rows)

    return ask


def test_windows_of_a_context_have_a_limit_before_they_are_made(model_folder):
    """A long context, and a stride that makes many windows of a short one."""
    ask = answerer(model_folder)
    assert ask("who", "i like you " * 2000) > 10
    assert ask("who " * 1000000, "i like you") == 1
    for context, more in (
        ("a " * 600000, {}),
        ("i like you " * 20000, {"max_seq_len": 64, "doc_stride": 58}),
    ):
        with pytest.raises(RequestError) as refused:
            ask("who", context, **more)
        assert refused.value.status == 422


def test_inputs_of_a_request_have_a_limit_together(model_folder, monkeypatch):
    """Tokens of all inputs, and numbers of all answers."""
    task = "feature-extraction"
    service = load_model(Settings(model_dir=str(model_folder(task)), task=task))

    def ask(count):
        body = json.dumps({"inputs": ["i like you"] * count}).encode()
        request = service.read(body, codecs.MediaType(codecs.JSON, {}), codecs.JSON)
        return len(service.predict(request, lambda: None).value)

    for name, most in (("REQUEST_TOKENS", 12), ("FEATURES", 12 * 32)):
        with monkeypatch.context() as patch:
            patch.setattr(limits, name, most)
            assert ask(2) == 2
            with pytest.raises(RequestError, match="send fewer"):
                ask(3)


@pytest.mark.parametrize("task", ["text-classification", "text-generation"])
def test_lists_of_inputs_have_a_limit(model_folder, monkeypatch, task):
    """The same as rows of CSV, and lines of JSON Lines."""
    service = load_model(Settings(model_dir=str(model_folder(task)), task=task))
    monkeypatch.setattr(limits, "ITEMS", 3)
    for count in (3, 4):
        request = Request(["i like you"] * count, {}, [])
        if count == 3:
            assert service.count(service.accepted(request)) == 3
            continue
        with pytest.raises(RequestError, match="has 4 items; at most 3"):
            service.accepted(request)


def test_fill_mask_answers_have_a_limit(model_folder):
    """Masks times words."""
    task = "fill-mask"
    service = load_model(Settings(model_dir=str(model_folder(task)), task=task))
    body = {"inputs": "[MASK] " * 60, "parameters": {"top_k": 1000}}
    request = service.read(json.dumps(body).encode(), codecs.MediaType(codecs.JSON, {}), codecs.JSON)
    with pytest.raises(RequestError, match="at most 20000 words"):
        service.predict(request, lambda: None)


@pytest.mark.parametrize(
    "table",
    [
        {str(number): ["1"] for number in range(257)},
        {"a": ["1"] * 10001},
        {str(number): ["1"] * 1000 for number in range(21)},
        {"a": ["1" * 200001]},
        [{"a": "1"}] * 10001,
        [{str(number): "1" for number in range(257)}],
    ],
)
def test_tables_have_limits(table):
    """Columns, rows, cells and characters, in both forms of a table."""
    from hf_inference_toolkit.tasks.table_question_answering import checked

    with pytest.raises(RequestError, match="at most"):
        checked({"query": "how many", "table": table})


def test_lists_of_tables_have_a_limit(monkeypatch):
    from hf_inference_toolkit.tasks.table_question_answering import SAMPLE, TableQuestionAnswering

    pipeline = SimpleNamespace(tokenizer=SimpleNamespace(model_input_names=["token_type_ids"]))
    service = TableQuestionAnswering("table-question-answering", pipeline, None, {})
    monkeypatch.setattr(limits, "ITEMS", 2)
    request = Request([SAMPLE["inputs"]] * 2, {}, [])
    assert len(service.accepted(request).inputs) == 2
    with pytest.raises(RequestError, match="at most 2"):
        service.accepted(request._replace(inputs=request.inputs * 2))


def test_lines_of_a_table_may_lack_cells():
    """As in pandas, a table has the columns of all lines."""
    from hf_inference_toolkit.tasks.table_question_answering import checked

    lines = [{"city": "paris"}, {"city": "berlin", "people": 4}, {"people": None, "area": 891}]
    assert checked({"query": "how many", "table": lines})["table"] == {
        "city": ["paris", "berlin", ""],
        "people": ["", "4", ""],
        "area": ["", "", "891"],
    }
    wide = [{str(number): "1"} for number in range(257)]
    with pytest.raises(RequestError, match="257 columns"):
        checked({"query": "how many", "table": wide})
