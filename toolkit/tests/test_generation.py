"""Parameters and answers of text generation."""

import json

import generation_models
import pytest
import serving
import tiny

from hf_inference_toolkit.loading.loader import load_model

transformers = pytest.importorskip("transformers")
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
if VERSION < (4, 40) or tiny.FRAMEWORK != "pt":
    pytest.skip("PyTorch and a release that reports steps", allow_module_level=True)

PROMPT = "Q: where is paris?\nA: in france\nQ: where is berlin?\nA:"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A text-generation server with a byte-level tokenizer."""
    folder = generation_models.decoder(tmp_path_factory.mktemp("gpt2"))
    with serving.serve(load_model, model_dir=str(folder), task="text-generation") as server:
        yield server


def generate(server, inputs=PROMPT, stream=False, **parameters):
    """The reply to a request for a few tokens."""
    parameters = dict({"max_new_tokens": 12}, **parameters)
    return server.post(
        dict({"inputs": inputs, "parameters": parameters}, **({"stream": True} if stream else {}))
    )


def new_text(server, inputs=PROMPT, **parameters):
    """The generated text alone."""
    reply = generate(server, inputs, return_full_text=False, **parameters)
    assert reply.status == 200, reply.body
    return reply.json[0]["generated_text"]


def events(reply):
    """The values of an event stream."""
    assert reply.status == 200, reply.body
    return [json.loads(block[len("data: ") :]) for block in reply.body.decode().split("\n\n") if block]


def test_stop_sequence_is_found_in_generated_text_only(gpt2):
    """A stop sequence in the prompt, or one that begins there, ends nothing."""
    whole = new_text(gpt2)
    for stop in ("\n", "Q:", "A:", ["\n", "###"], PROMPT[-2:] + whole[:1]):
        assert new_text(gpt2, stop_sequence=stop) == whole
        assert generate(gpt2, stop_sequence=stop).json[0]["generated_text"] == PROMPT + whole
        streamed = events(generate(gpt2, stream=True, stop_sequence=stop))
        assert "".join(one["token"]["text"] for one in streamed) == whole


def test_generated_stop_sequence_ends_the_text(gpt2):
    """Up to and with it, streamed or not; of several the first counts."""
    whole = new_text(gpt2)
    for stops in ([whole[3:5]], [whole[-1], whole[4]]):
        expected = whole[: min(whole.find(stop) + len(stop) for stop in stops)]
        assert new_text(gpt2, stop_sequence=stops) == expected
        streamed = events(generate(gpt2, stream=True, stop_sequence=stops))
        assert "".join(one["token"]["text"] for one in streamed) == expected
        assert streamed[-1]["generated_text"] == PROMPT + expected


@pytest.mark.parametrize("tokens", range(1, 9))
def test_stream_delivers_the_whole_text(gpt2, tokens):
    """The texts of the tokens are the generated text, also where it ends within a character."""
    streamed = events(generate(gpt2, "\U0001f469 my name", stream=True, max_new_tokens=tokens))
    assert len(streamed) == tokens
    whole = new_text(gpt2, "\U0001f469 my name", max_new_tokens=tokens)
    assert "".join(one["token"]["text"] for one in streamed) == whole


def test_equal_seeds_give_equal_texts(gpt2):
    """Alone, in a list, in a stream, and after other requests."""
    sampled = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 20}
    first = new_text(gpt2, seed=1, **sampled)
    assert new_text(gpt2, seed=2, **sampled) != first
    assert new_text(gpt2, **sampled) != first
    listed = generate(gpt2, [PROMPT, "my name", PROMPT], seed=1, **sampled).json
    assert [one[0]["generated_text"] == PROMPT + first for one in listed] == [True, False, True]
    streamed = events(generate(gpt2, stream=True, seed=1, **sampled))
    assert streamed[-1]["generated_text"] == PROMPT + first
    several = generate(gpt2, seed=1, num_return_sequences=3, **sampled).json
    assert several[0]["generated_text"] == PROMPT + first
    assert len({one["generated_text"] for one in several}) == 3


def test_seed_with_beams_is_refused(gpt2):
    """Beams are sampled by transformers, from a generator that all requests share."""
    reply = generate(gpt2, seed=1, do_sample=True, num_beams=2)
    assert reply.status == 422
    assert "'seed'" in reply.json["error"]["message"]


def test_sampling_parameters_limit_the_choice(gpt2):
    """One token to choose from is the greedy text, whatever the seed."""
    greedy = new_text(gpt2)
    for parameters in (
        {"top_k": 1},
        {"top_p": 0.000001},
        {"temperature": 0.0001},
        {"min_p": 1.0},
        {"temperature": 0},
    ):
        assert new_text(gpt2, do_sample=True, seed=3, **parameters) == greedy
    assert new_text(gpt2, do_sample=True, seed=3, temperature=2.0, top_k=0) != greedy
