"""Parameters and answers of text generation."""

import json

import generation_models
import pytest
import serving
import tiny

from hf_inference_toolkit.loading.loader import load_model

transformers = pytest.importorskip("transformers")
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
if VERSION < (4, 28) or tiny.FRAMEWORK != "pt":
    pytest.skip("shown on PyTorch and a release that reports steps", allow_module_level=True)

PROMPT = "Q: where is paris?\nA: in france\nQ: where is berlin?\nA:"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A text-generation server with a byte-level tokenizer."""
    folder = generation_models.decoder(tmp_path_factory.mktemp("gpt2"))
    with serving.serve(load_model, model_dir=str(folder), task="text-generation") as server:
        yield server


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    """A summarization server."""
    folder = generation_models.encoder_decoder(tmp_path_factory.mktemp("bart"))
    with serving.serve(load_model, model_dir=str(folder), task="summarization") as server:
        yield server


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """A server whose chat template takes strings."""
    folder = generation_models.decoder(tmp_path_factory.mktemp("chat"), generation_models.CHAT)
    with serving.serve(load_model, model_dir=str(folder), task="text-generation") as server:
        yield server


@pytest.fixture(scope="module")
def parts_chat(tmp_path_factory):
    """A server whose chat template takes lists of parts, names and tool calls."""
    folder = generation_models.decoder(tmp_path_factory.mktemp("parts"), generation_models.PARTS_CHAT)
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


@pytest.mark.parametrize("name", ["stop", "stop_sequence", "stop_sequences", "stop_strings"])
def test_stop_sequence_has_the_names_of_all_clients(gpt2, name):
    """A string or a list."""
    whole = new_text(gpt2)
    for value in (whole[2], [whole[2], "###"]):
        assert new_text(gpt2, **{name: value}) == whole[: whole.index(whole[2]) + 1]


def test_stop_strings_of_the_model_end_the_text(gpt2, monkeypatch):
    """Some models have them in generation_config.json."""
    service = gpt2.app.model.service
    whole = new_text(gpt2)
    monkeypatch.setattr(service.runtime.model.generation_config, "stop_strings", [whole[2:4]], raising=False)
    monkeypatch.setattr(service, "_model_stops", (whole[2:4],))
    assert new_text(gpt2) == whole[:4]


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
        *([{"min_p": 1.0}] if VERSION >= (4, 39) else []),
        {"temperature": 0},
    ):
        assert new_text(gpt2, do_sample=True, seed=3, **parameters) == greedy
    assert new_text(gpt2, do_sample=True, seed=3, temperature=2.0, top_k=0) != greedy


@pytest.mark.parametrize(
    "idle",
    [
        {"stop": [], "watermark": False, "return_full_text": False},
        {"stop_sequences": [], "seed": None, "truncate": None, "top_k": None, "repetition_penalty": None},
        {
            "best_of": 1,
            "top_n_tokens": 0,
            "decoder_input_details": False,
            "grammar": None,
            "adapter_id": None,
        },
        {
            "max_length": None,
            "do_sample": None,
            "temperature": None,
            "details": None,
            "frequency_penalty": 0.0,
        },
        {"return_text": True, "return_tensors": False, "handle_long_generation": "hole"},
        {"generate_parameters": {"num_beams": 1, "watermark": None}},
    ],
)
def test_parameters_that_ask_for_nothing_are_accepted(gpt2, idle):
    """Clients of text-generation-inference always send some of them."""
    reply = generate(gpt2, **dict({"return_full_text": False}, **idle))
    assert reply.status == 200, reply.body
    assert reply.json[0]["generated_text"] == new_text(gpt2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("watermark", True),
        ("best_of", 2),
        ("best_of", True),
        ("top_n_tokens", 21),
        ("frequency_penalty", 2.5),
        ("presence_penalty", "1"),
        ("logit_bias", [1]),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"100000": 1}),
        ("adapter_id", "someone/adapter"),
        ("return_tensors", True),
        ("penalty_alpha", "0.6"),
        ("stop", [""]),
        ("stop", ""),
        ("stop", [1]),
        ("truncate", 0),
        ("seed", -1),
        ("seed", 0.5),
        ("details", "yes"),
        ("no_such", None),
        ("generate_parameters", {"no_such": 1}),
        ("generate_parameters", 3),
    ],
)
def test_parameters_that_are_not_supported_are_refused_by_name(gpt2, name, value):
    """With 400, and what is allowed instead."""
    reply = generate(gpt2, **{name: value})
    assert reply.status == 400
    assert (
        "'{}'".format(name if name != "generate_parameters" or value == 3 else "no_such")
        in (reply.json["error"]["message"])
    )


def test_details_have_tokens_with_log_probabilities(gpt2):
    """In the form that huggingface_hub reads; the texts of the tokens are the generated text."""
    reply = generate(gpt2, details=True, return_full_text=False, max_new_tokens=5).json[0]
    details = reply["details"]
    assert details["finish_reason"] == "length"
    assert details["generated_tokens"] == len(details["tokens"]) == 5
    assert details["seed"] is None
    assert "".join(token["text"] for token in details["tokens"]) == reply["generated_text"]
    assert all(token["logprob"] <= 0 for token in details["tokens"])
    assert all(set(token) == {"id", "text", "logprob", "special"} for token in details["tokens"])
    several = generate(gpt2, details=True, do_sample=True, num_return_sequences=2, seed=7).json
    assert [one["details"]["seed"] for one in several] == [7, 7]
    beams = generate(gpt2, details=True, num_beams=2).json[0]["details"]
    assert beams["generated_tokens"] == len(beams["tokens"])


def test_log_probabilities_are_those_of_the_model(gpt2):
    """Compared with one pass of the model over prompt and text."""
    import torch

    details = generate(gpt2, details=True, max_new_tokens=6, do_sample=True, temperature=2.0).json[0][
        "details"
    ]
    service = gpt2.app.model.service
    prompt = service.tokenizer(PROMPT)["input_ids"]
    new = [token["id"] for token in details["tokens"]]
    with torch.no_grad():
        logits = service.runtime.model(torch.tensor([prompt + new])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(new)[:, None]).squeeze(1).tolist()
    assert [token["logprob"] for token in details["tokens"]] == pytest.approx(expected, abs=1e-4)


def test_penalties_and_biases_change_the_scores(gpt2):
    """OpenAI's: a bias forces or forbids a token, a penalty is for tokens that were generated."""
    tokens = [one["id"] for one in generate(gpt2, details=True).json[0]["details"]["tokens"]]
    forced = generate(gpt2, details=True, logit_bias={"50": 100}).json[0]["details"]["tokens"]
    assert {one["id"] for one in forced} == {50}
    forbidden = generate(gpt2, details=True, logit_bias={str(tokens[0]): -100}).json[0]["details"]["tokens"]
    assert tokens[0] not in [one["id"] for one in forbidden]
    # 50 is the best token by the bias until it was written, whatever the prompt has.
    for penalty in ({"presence_penalty": 2}, {"frequency_penalty": 2}, {"frequency_penalty": -2}):
        biased = generate(gpt2, details=True, logit_bias={"50": 12.5}, **penalty).json[0]["details"]["tokens"]
        repeated = generate(gpt2, details=True, logit_bias={"50": 12.5}).json[0]["details"]["tokens"]
        count = [[one["id"] for one in answer].count(50) for answer in (biased, repeated)]
        assert count[0] >= count[1] if -2 in penalty.values() else count[0] <= count[1]
    assert generate(gpt2, presence_penalty=1, num_beams=2).status == 422


def test_most_probable_tokens_are_reported(gpt2):
    """In the form of text-generation-inference; greedy texts consist of the first of each list."""
    details = generate(gpt2, details=True, top_n_tokens=3, max_new_tokens=4).json[0]["details"]
    assert [len(top) for top in details["top_tokens"]] == [3] * 4
    for token, top in zip(details["tokens"], details["top_tokens"]):
        assert top[0]["id"] == token["id"]
        assert top[0]["logprob"] == pytest.approx(token["logprob"])
        assert [one["logprob"] for one in top] == sorted([one["logprob"] for one in top], reverse=True)
        assert set(top[0]) == {"id", "text", "logprob", "special"}
    assert "top_tokens" not in generate(gpt2, details=True).json[0]["details"]


def test_finish_reason_names_the_end(gpt2):
    """The stop sequence, the end-of-sequence token, or the length."""
    whole = generate(gpt2, details=True, return_full_text=False).json[0]
    stopped = generate(gpt2, details=True, stop=[whole["generated_text"][2:4]]).json[0]["details"]
    assert stopped["finish_reason"] == "stop_sequence"
    second = whole["details"]["tokens"][1]["id"]
    ended = generate(gpt2, details=True, eos_token_id=second).json[0]["details"]
    assert ended["finish_reason"] == "eos_token"
    assert ended["generated_tokens"] <= 2


def test_last_event_of_a_stream_has_details(gpt2):
    """Log probabilities only where details are requested."""
    length = len(gpt2.app.model.service.tokenizer(PROMPT)["input_ids"])
    *_, last = events(generate(gpt2, stream=True, max_new_tokens=3))
    assert last["details"] == {
        "finish_reason": "length",
        "generated_tokens": 3,
        "input_length": length,
        "seed": None,
    }
    assert last["token"]["logprob"] is None
    *_, last = events(generate(gpt2, stream=True, max_new_tokens=3, details=True))
    assert last["token"]["logprob"] < 0


def test_truncate_keeps_the_end_of_the_prompt(gpt2):
    """As text-generation-inference does; the answer says that the prompt was cut."""
    service = gpt2.app.model.service
    end = service.tokenizer.decode(service.tokenizer(PROMPT)["input_ids"][-5:])
    reply = generate(gpt2, truncate=5, details=True, return_full_text=False)
    assert reply.headers["x-inputs-truncated"] == "true"
    assert reply.json[0]["details"]["input_length"] == 5
    assert reply.json[0]["generated_text"] == new_text(gpt2, end)
    assert "x-inputs-truncated" not in generate(gpt2, truncate=5000).headers


def test_openapi_lists_what_is_accepted(gpt2):
    """Parameters that are not supported have the values that ask for nothing."""
    parameters = gpt2.app.model.service.schema()["properties"]["parameters"]["properties"]
    assert parameters["watermark"]["enum"] == [False, None]
    assert parameters["stop"]["nullable"]


def test_hub_client_reads_details(gpt2):
    """`huggingface_hub.InferenceClient`, streamed and not."""
    hub = pytest.importorskip("huggingface_hub")
    client = hub.InferenceClient(model="http://127.0.0.1:{}/invocations".format(gpt2.port))
    answer = client.text_generation(PROMPT, max_new_tokens=4, details=True, stop=["#"], seed=1, truncate=50)
    assert answer.details.generated_tokens == 4
    assert answer.details.tokens[0].logprob < 0
    *_, last = client.text_generation(PROMPT, max_new_tokens=4, details=True, stream=True)
    assert last.details.finish_reason == "length"
    assert last.generated_text == answer.generated_text


def test_offered_ways_of_generating_work(gpt2):
    """Releases that fetch contrastive and group beam search from the hub do not offer them."""
    offered = {parameter.name for parameter in gpt2.app.model.service.parameters}
    ways = {
        "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
        "num_beam_groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    }
    for name, parameters in ways.items():
        reply = generate(gpt2, **parameters)
        assert reply.status == (200 if name in offered else 400), reply.body
        assert generate(gpt2, **{name: None}).status == 200


def test_summaries_have_the_beams_of_the_pipeline(bart):
    """Four from transformers 4.52 on where nothing else is requested; a stream and a seed have one."""
    summary = {beams: generate(bart, num_beams=beams).json for beams in (1, 4)}
    assert summary[1] != summary[4]
    default = generate(bart).json
    assert default == summary[4 if VERSION >= (4, 52) else 1]
    streamed = events(generate(bart, stream=True))
    assert streamed[-1]["generated_text"] == summary[1][0]["summary_text"]
    seeded = [generate(bart, seed=1, do_sample=True).json for _ in range(2)]
    assert seeded[0] == seeded[1]


def test_deadline_stops_the_generation(tmp_path):
    """504, streamed and not, with beams and without; the next request does not wait for the rest."""
    folder = generation_models.unlimited(tmp_path)
    with serving.serve(
        load_model, model_dir=str(folder), task="text2text-generation", deadline=1.0
    ) as server:
        endless = {"max_new_tokens": 16000, "min_new_tokens": 16000}
        for beams in (1, 3):
            reply = generate(server, "my name", num_beams=beams, **endless)
            assert (reply.status, reply.json["error"]["code"]) == (504, "deadline_exceeded")
            assert generate(server, "my name", max_new_tokens=2).status == 200
        streamed = events(generate(server, "my name", stream=True, **endless))
        assert streamed[-1]["error_type"] == "deadline_exceeded"
        assert len(streamed) < 16000
        assert generate(server, "my name", max_new_tokens=2).status == 200
        assert server.get("/ping").status == 200


chats = pytest.mark.skipif(VERSION < (4, 34), reason="transformers before 4.34 has no chat templates")
prefills = pytest.mark.skipif(VERSION < (4, 45), reason="this release does not continue messages")
USER = {"role": "user", "content": "where is paris?"}
ASSISTANT = {"role": "assistant", "content": "paris is in"}
CALL = {"id": "1", "type": "function", "function": {"name": "search", "arguments": {"query": "paris"}}}


@prefills
def test_final_assistant_message_is_continued(chat):
    """Its content grows; no message is added."""
    (result,) = generate(chat, [USER, ASSISTANT]).json
    first, last = result["generated_text"]
    assert first == USER
    assert last["role"] == "assistant"
    new = new_text(chat, [USER, ASSISTANT])
    assert last["content"] == ASSISTANT["content"] + new
    assert new == new_text(chat, "<user> where is paris?</s><assistant> paris is in")


@prefills
def test_continue_final_message_decides_which_message_grows(chat):
    """true continues the user's message, false answers the assistant's."""
    (grown,) = generate(chat, [USER], continue_final_message=True).json
    assert len(grown["generated_text"]) == 1
    assert grown["generated_text"][0]["content"].startswith(USER["content"])
    (added,) = generate(chat, [USER, ASSISTANT], continue_final_message=False).json
    assert added["generated_text"][:2] == [USER, ASSISTANT]
    assert len(added["generated_text"]) == 3


@chats
def test_several_conversations_are_answered_in_order(chat):
    """A list of lists; a stream takes one."""
    conversations = [[USER], [USER, ASSISTANT], [dict(USER, content="hello")]]
    alone = [generate(chat, one).json for one in conversations]
    assert generate(chat, conversations).json == alone
    assert generate(chat, [[USER]], stream=True).status == 422
    streamed = events(generate(chat, [USER], stream=True))
    assert streamed[-1]["generated_text"] == alone[0][0]["generated_text"]


@chats
@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([dict(USER, name="anna")], "<user anna> where is paris?</s>"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            "<user> [a][b]</s>",
        ),
        ([{"role": "assistant", "content": None, "tool_calls": [CALL]}, USER], None),
        ([{"role": "assistant", "content": None, "tool_calls": []}, USER], None),
        ([USER, {"role": "tool", "content": "in france", "tool_call_id": "1", "name": "search"}], None),
        ([USER, {"role": "assistant", "tool_calls": [CALL]}, dict(USER, role="tool")], None),
    ],
)
def test_messages_of_every_form_reach_the_template(parts_chat, messages, prompt):
    """Names, tool calls and lists of parts, as the template writes them."""
    (result,) = generate(parts_chat, messages).json
    assert result["generated_text"][:-1] == messages
    if prompt:
        assert new_text(parts_chat, messages) == new_text(parts_chat, prompt + "<assistant> ")


@prefills
def test_parts_are_joined_for_a_template_of_strings(chat):
    """It would write the list as Python does."""
    parts = [{"type": "text", "text": "where is"}, {"type": "text", "text": " paris?"}]
    assert new_text(chat, [dict(USER, content=parts)]) == new_text(chat, [USER])
    (result,) = generate(chat, [USER, dict(ASSISTANT, content=parts)]).json
    last = result["generated_text"][-1]["content"]
    assert last[0] == parts[0]
    assert last[1]["text"].startswith(parts[1]["text"])


@chats
@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([{"content": "x"}], '"role"'),
        ([{"role": "user"}], '"content"'),
        ([{"role": "user", "content": None}], '"content"'),
        ([{"role": 1, "content": "x"}], '"role"'),
        ([dict(USER, name=1)], '"name"'),
        ([dict(USER, url="http://127.0.0.1/")], "'url'"),
        ([dict(USER, tool_calls="x")], '"tool_calls"'),
        ([USER, "x"], "messages[1]"),
        ([dict(USER, content=[{"type": "image", "url": "http://127.0.0.1/"}])], '"content"'),
        ([dict(USER, content=[{"type": "text", "text": "x", "path": "/etc/hostname"}])], '"content"'),
        ([dict(USER, content=[])], '"content"'),
    ],
)
def test_message_that_is_wrong_is_refused_by_its_place(chat, messages, named):
    """400, with the message and the key."""
    reply = generate(chat, messages)
    assert reply.status == 400
    assert named in reply.json["error"]["message"]
    assert "messages[" in reply.json["error"]["message"]


@chats
def test_refusal_of_the_template_is_answered(tmp_path):
    """422 with its own words; the server goes on."""
    folder = generation_models.decoder(tmp_path, generation_models.STRICT_CHAT)
    with serving.serve(load_model, model_dir=str(folder), task="text-generation") as server:
        reply = generate(server, [USER, USER])
        assert reply.status == 422
        assert "roles must alternate" in reply.json["error"]["message"]
        assert generate(server, [USER]).status == 200
