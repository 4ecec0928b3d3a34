"""Continuous batching of encoder-decoder models: each text is the one that `generate` writes for it alone."""

import asyncio
import contextlib
import json

import generation_models
import pytest
import serving
import tiny
from test_decoding import WORDS, close, prompts, run, slow, supported, together
from test_metrics import samples
from test_serving import in_background, until

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.scheduling.scheduler import Scheduler
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks.service import predict_alone

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
if tiny.FRAMEWORK != "pt" or not hasattr(transformers, "EncoderDecoderCache"):
    pytest.skip("shown on PyTorch with EncoderDecoderCache", allow_module_level=True)

from hf_inference_toolkit.runtimes.cross_attention import SourceCache  # noqa: E402
from hf_inference_toolkit.runtimes.decoding import RowSampling  # noqa: E402
from hf_inference_toolkit.runtimes.encoder_decoder_batch import EncoderDecoderBatch  # noqa: E402
from hf_inference_toolkit.runtimes.encoder_decoder_pass import PositionVectors, find_support  # noqa: E402
from hf_inference_toolkit.runtimes.kv_cache import LEAST_FREE, KVCache  # noqa: E402
from hf_inference_toolkit.runtimes.preparation import Preparation  # noqa: E402

# transformers warns of combinations of parameters.
pytestmark = pytest.mark.filterwarnings("ignore")
CPU = torch.device("cpu")
IDS = {"vocab_size": WORDS, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
BART = dict(
    {name: size for name, size in tiny.BART.items() if not name.endswith("_id") and name != "vocab_size"},
    init_std=0.4,
    decoder_start_token_id=2,
    forced_eos_token_id=None,
)
T5 = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 1}
CONFIGS = {
    "T5": T5,
    "MT5": dict(T5, feed_forward_proj="gated-gelu"),
    "UMT5": T5,
    "LongT5": dict(T5, encoder_attention_type="local", local_radius=4),
    "Bart": BART,
    "MBart": BART,
    "PLBart": BART,
    "Marian": dict(BART, decoder_start_token_id=1, scale_embedding=True),
    "Pegasus": dict(BART, decoder_start_token_id=1, scale_embedding=True),
    "Blenderbot": BART,
    "BlenderbotSmall": BART,
    "M2M100": dict(BART, scale_embedding=True),
    # Its decoder ignores padding, so `generate` writes its texts.
    "LED": dict(BART, attention_window=4),
}


def model_of(name, **more):
    """A small model with random weights that are large enough that greedy texts differ."""
    if not hasattr(transformers, name + "Config"):
        pytest.skip("this release has no " + name)
    config = getattr(transformers, name + "Config")(**dict(IDS, **CONFIGS[name], **more))
    tiny.seed()
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    # Positions and biases are random as well, so that a wrong one changes a text.
    for part, weights in model.named_parameters():
        if "embed_positions" in part or "relative_attention_bias" in part:
            torch.nn.init.normal_(weights, std=1.0)
    return model


def batch_of(model, budget=4096):
    support = find_support(model, CPU, 1)
    if support.forward is None and not is_new():
        pytest.skip("this release: " + support.reason)
    assert support.forward is not None, support.reason
    return EncoderDecoderBatch(support.forward, Preparation(model, CPU), budget, CPU)


def is_new():
    """Whether decoders other than T5's take an EncoderDecoderCache."""
    return tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (4, 56)


def row_of(batch, source, new=8, sampling=None, **arguments):
    """A row that ends with token 2, as with `generate`."""
    if new is not None:
        arguments["max_new_tokens"] = new
    arguments.setdefault("do_sample", False)
    total = arguments.get("max_length", 1 + (new or 0))
    return batch.row(source, total, arguments, sampling or RowSampling(), lambda one: one.token == 2)


def alone(model, row):
    ids = torch.tensor([list(row.source)])
    written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **row.arguments)
    return written[0, 1:].tolist()


ARGUMENTS = [
    {},
    {"repetition_penalty": 1.3},
    {"min_new_tokens": 6},
    {"no_repeat_ngram_size": 2},
    {"forced_bos_token_id": 7, "forced_eos_token_id": 9},
    {"encoder_no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.5},
    {"decoder_start_token_id": 5},
    {"new": None, "max_length": 9, "min_length": 5},
    {"suppress_tokens": [60, 61, 62], "begin_suppress_tokens": [5], "bad_words_ids": [[5], [40, 41]]},
    # Tokens of padding, to which M2M100 gives no position.
    {"sequence_bias": [[[1], 3.0]]},
]


def rows_of(batch, seed=1):
    """Sources of mixed lengths with mixed parameters."""
    pairs = zip(prompts(20, [1, 2, 5, 9, 40], seed), [1, 3, 12, 30, 5] * 4, ARGUMENTS * 2)
    return [row_of(batch, source, **dict({"new": new}, **arguments)) for source, new, arguments in pairs]


ARRIVALS = [0, 0, 0, 1, 1, 4, 6, 6, 9, 9, 9, 12, 12, 12, 13, 20, 21, 21, 30, 31]


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "LED"])
def test_texts_are_those_of_generate(name, monkeypatch):
    """Sources of mixed lengths that arrive one after another, with different arguments."""
    model = model_of(name)
    batch = batch_of(model)
    monkeypatch.setattr(batch, "_prefill_tokens", 24)
    rows = rows_of(batch)
    run(batch, rows, ARRIVALS)
    for row in rows:
        assert row.problem is None
        assert row.generated == alone(model, row), row.arguments
    # The texts differ, so that equal ones mean something.
    assert len({token for row in rows for token in row.generated}) > 15


@pytest.mark.parametrize("name", ["Bart", "M2M100"])
def test_wrong_positions_are_found(name, monkeypatch):
    """By the check before the first request, and by the comparison of this file's tests."""
    model = model_of(name)
    batch = batch_of(model)
    monkeypatch.setattr(PositionVectors, "at", lambda *_: contextlib.nullcontext())
    assert "differ" in find_support(model, CPU, 1).reason
    rows = rows_of(batch)
    run(batch, rows, ARRIVALS)
    assert any(row.generated != alone(model, row) for row in rows)


def test_wrong_source_of_a_row_is_found(monkeypatch):
    """By the comparison of this file's tests."""
    model = model_of("T5")
    batch = batch_of(model)
    monkeypatch.setattr(SourceCache, "move", KVCache.move)
    rows = rows_of(batch)
    run(batch, rows, ARRIVALS)
    assert any(row.generated != alone(model, row) for row in rows)


def test_check_leaves_a_refused_model_as_it_was(monkeypatch):
    """Without a hook."""
    model = model_of("Bart")
    hooks = model.get_decoder().embed_positions._forward_hooks
    monkeypatch.setattr(PositionVectors, "at", lambda *_: contextlib.nullcontext())
    assert find_support(model, CPU, 1).forward is None
    assert not hooks


def test_reason_of_an_unsupported_model_is_known():
    """`generate` writes its texts."""
    experts, sound = model_of("T5"), model_of("T5")
    experts.config.expert_capacity = 4
    sound.main_input_name = "input_features"
    for model, reason in ((experts, "experts"), (sound, "does not read tokens"), (model_of("LED"), "")):
        support = find_support(model, CPU, 1)
        assert support.forward is None
        assert support.reason
        assert reason in support.reason


@pytest.mark.parametrize("name", ["T5", "Bart"])
def test_beams_beside_the_batch_are_those_of_generate(name):
    """The positions of the batch's rows do not reach other passes."""
    model = model_of(name)
    ids = torch.tensor(prompts(1, [7]))
    expected = model.generate(input_ids=ids, num_beams=3, max_new_tokens=12)
    batch = batch_of(model)
    rows = [row_of(batch, source, 30, min_new_tokens=30) for source in prompts(3, [3, 8])]
    for row in rows:
        batch.add(row)
        batch.step()
    assert model.generate(input_ids=ids, num_beams=3, max_new_tokens=12).tolist() == expected.tolist()
    run(batch, [row_of(batch, [5, 6], 2)])
    for row in rows:
        row.is_over = True


@pytest.mark.parametrize("name", ["T5", "Bart"])
def test_source_of_several_texts_is_read_once(name, monkeypatch):
    """Another request reads it again."""
    model = model_of(name)
    batch = batch_of(model)
    read, counts = batch._pass.read_sources, []

    def counted(some, *rest):
        counts.append(len(some))
        return read(some, *rest)

    monkeypatch.setattr(batch._pass, "read_sources", counted)
    source, other = prompts(2, [9])
    rows = [row_of(batch, source, new) for new in (3, 20, 9)] + [row_of(batch, other, 8)]
    run(batch, rows)
    assert counts == [2]
    rows += [row_of(batch, list(source), 8, decoder_start_token_id=start) for start in (7, 8)]
    run(batch, rows[-2:])
    assert counts == [2, 2]
    for row in rows:
        assert row.generated == alone(model, row)


@pytest.mark.parametrize("budget", [150, 400])
@pytest.mark.parametrize("name", ["T5", "Bart"])
def test_memory_stays_within_the_budget(name, budget):
    """Sources count; rows wait while it is used, and all get their tokens."""
    model = model_of(name)
    batch = batch_of(model, budget=budget)
    rows = [row_of(batch, source, new) for source, new in zip(prompts(16, [3, 20, 60]), [5, 20, 40] * 6)]
    run(batch, rows)
    for row in rows:
        assert row.generated == alone(model, row)
    assert batch.usage == 0
    batch.add(row_of(batch, list(range(3, 83)), 20))
    assert not batch.fits([80], [budget - 80])
    assert batch.usage == (80 + 21 + LEAST_FREE) / budget


def test_memory_is_that_of_the_buffers(monkeypatch):
    """The size of a token is right for both kinds of keys and values."""
    model = model_of("Bart")
    support = find_support(model, CPU, 1)
    if support.forward is None:
        pytest.skip("this release: " + support.reason)
    batch = batch_of(model)
    for source in prompts(5, [10, 30]):
        batch.add(row_of(batch, source, 40, min_new_tokens=40))
    for _ in range(3):
        batch.step()
    cache = batch._cache
    held = sum(
        tensor.numel() * tensor.element_size()
        for part in (cache, cache.cross)
        for layer in part._layers.values()
        for tensor in layer
    )
    assert held == cache.tokens * support.token_bytes


def test_row_whose_processor_fails_leaves_alone():
    """The others get their tokens."""
    model = model_of("T5")
    batch = batch_of(model)

    def broken(generated, scores):
        if len(generated) == 2:
            raise ValueError("broken")
        return scores

    rows = [row_of(batch, source, 6) for source in prompts(4, [3, 8])]
    rows[1].sampling = RowSampling(processors=(broken,))
    run(batch, rows)
    assert [str(row.problem) for row in rows] == ["None", "broken", "None", "None"]
    for row in (rows[0], *rows[2:]):
        assert row.generated == alone(model, row)


def test_text_longer_than_the_decoder_s_positions_fails_alone():
    """As with `generate`; the others are complete."""
    model = model_of("Bart")
    batch = batch_of(model)
    long = row_of(batch, [5, 6, 7], 200, min_new_tokens=200)
    rows = [row_of(batch, source, 120) for source in prompts(3, [4])]
    run(batch, [rows[0], long, *rows[1:]], [0, 0, 0, 100])
    assert str(long.problem) == "the decoder has 128 positions"
    for row in rows:
        assert row.generated == alone(model, row)


@pytest.mark.parametrize("poisoned", ["source", "token"])
def test_pass_that_fails_is_taken_apart(poisoned):
    """A pass fails where it has the poisoned row: at its source, or at its second token."""
    model = model_of("T5")
    batch = batch_of(model)
    rows = [row_of(batch, source, 6) for source in prompts(4, [3])]
    rows[2] = row_of(batch, rows[2].source, 6, forced_bos_token_id=399)
    poison = rows[2].source[0] if poisoned == "source" else 399
    part = model.get_encoder() if poisoned == "source" else model.get_decoder()

    def broken(_, args, given):
        if poison in given["input_ids"][:, 0].tolist():
            raise ValueError("poisoned")

    hook = part.register_forward_pre_hook(broken, with_kwargs=True)
    run(batch, rows)
    hook.remove()
    assert str(rows[2].problem) == "poisoned"
    for row in (*rows[:2], rows[3]):
        assert row.generated == alone(model, row)
    assert sum(row.problem is not None for row in rows) == 1


def test_row_that_is_over_leaves_at_the_next_step():
    """Its place is free at once, and the others go on."""
    model = model_of("Bart")
    batch = batch_of(model)
    rows = [row_of(batch, source, 40, min_new_tokens=40) for source in prompts(4, [3, 30, 8], 3)]
    for row in rows:
        batch.add(row)
    for _ in range(3):
        batch.step()
    assert len(batch.rows) == 4
    rows[0].is_over = True
    written = len(rows[0].generated)
    assert batch.step() == [rows[0]]
    assert len(rows[0].generated) == written
    assert len(batch.rows) == 3
    while batch.rows:
        batch.step()
    for row in rows[1:]:
        assert row.generated == alone(model, row)


# Of a whole server


@pytest.fixture(scope="module", params=["bart", "t5"])
def folder(tmp_path_factory, request):
    write = generation_models.encoder_decoder if request.param == "bart" else generation_models.unlimited
    return str(write(tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def service(folder):
    """A loaded service, warmed up: its texts are decoded token by token."""
    made = load_model(Settings(model_dir=folder, task="text2text-generation"))
    made.warm_up(lambda: None)
    if made.facts["decoding"] != "continuous batching":
        assert not is_new()
        pytest.skip("this release: " + made.facts["decoding_reason"])
    return made


@pytest.fixture
def server(folder, service):
    with serving.serve(load_model, model_dir=folder, task="text2text-generation") as running:
        yield running


ENDLESS = {"max_new_tokens": 110, "min_new_tokens": 110, "num_beams": 1}
PARAMETERS = [
    {"max_new_tokens": 20},
    {"max_new_tokens": 5, "details": True, "top_n_tokens": 2},
    {"max_new_tokens": 30, "do_sample": True, "seed": 5, "temperature": 1.3},
    {"max_new_tokens": 12, "do_sample": True, "seed": 6, "top_p": 0.8, "num_return_sequences": 3},
    {"max_new_tokens": 25, "do_sample": True, "seed": 7, "top_k": 5, "typical_p": 0.9, "details": True},
    {"max_new_tokens": 15, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    {"max_new_tokens": 15, "bad_words_ids": [[5], [40, 41]], "suppress_tokens": [60, 61]},
    {"max_new_tokens": 15, "frequency_penalty": 1.5, "presence_penalty": 0.5, "logit_bias": {"70": 9}},
    {"max_length": 60, "min_length": 30, "stop": ["a", "e"]},
    {"max_new_tokens": 9, "num_beams": 3},
    {"max_new_tokens": 9, "forced_eos_token_id": 2, "forced_bos_token_id": 8},
    {"max_new_tokens": 20, "eos_token_id": list(range(3, 30)), "encoder_no_repeat_ngram_size": 3},
]


def test_every_parameter_is_honoured_for_each_text(service):
    """All at once, also in lists, each as if it were alone."""
    texts = ["my name", "Q: where is paris?\nA:", ["hugging face builds", "anna"]]
    known = supported(service)
    requests = [
        Request(
            texts[place % 3],
            dict({"num_beams": 1}, **{key: value for key, value in one.items() if key in known}),
            [],
        )
        for place, one in enumerate(PARAMETERS * 2)
    ]
    answers = together(service, requests)
    for request, answer in zip(requests, answers):
        expected = predict_alone(service, request, lambda: None)
        assert close(answer.value) == close(expected.value), request
        assert answer.tokens_out == expected.tokens_out


def test_requests_without_beams_are_decoded_token_by_token(service):
    """Others are not: `generate` writes beams."""

    def is_decoded(**parameters):
        options = service.read_options(dict({"max_new_tokens": 3}, **parameters))
        return service.piece({"input_ids": [5, 6]}, options).is_decoded

    assert is_decoded(num_beams=1)
    assert is_decoded(do_sample=True, seed=1)
    assert not is_decoded(num_beams=2)
    default = service.arguments({}, 1)["num_beams"]
    assert is_decoded() == (default == 1)
    assert ("num_beams" in service.facts.get("decoding_reason", "")) == (default > 1)


def test_streams_are_the_same_texts(server):
    """Several at once, with other requests."""
    texts = ["my name", "anna", "Q: where is paris?"]
    parameters = {"max_new_tokens": 20, "num_beams": 1}
    expected = [server.post({"inputs": text, "parameters": parameters}).json for text in texts]

    def streamed(text):
        body = {"inputs": text, "parameters": parameters, "stream": True}
        blocks = server.post(body).body.decode().split("\n\n")
        return json.loads(blocks[-2][len("data: ") :])["generated_text"]

    work = [in_background(lambda text=text: streamed(text)) for text in texts]
    for (results, thread), answer in zip(work, expected):
        thread.join(60)
        assert results == [answer[0]["generated_text"]]
    values = samples(server)
    assert values[("hf_time_to_first_token_seconds_count",)] == 6
    reason = server.app.model.service.facts.get("decoding_reason", "")
    assert values["hf_decoding_info", ("reason", reason), ("way", "continuous batching")] == 1


def test_tokens_of_sources_are_counted(server):
    """As those of prompts."""
    before = samples(server)
    parameters = {"max_new_tokens": 7, "min_new_tokens": 7, "num_beams": 1}
    assert server.post({"inputs": ["my name", "anna"], "parameters": parameters}).status == 200
    values = samples(server)
    tokenizer = server.app.model.service.tokenizer
    lengths = [len(tokenizer(text)["input_ids"]) for text in ("my name", "anna")]
    for name, expected in (("hf_prompt_tokens_total", sum(lengths)), ("hf_generation_tokens_total", 14)):
        assert values[(name,)] - before[(name,)] == expected


def test_cancelled_text_leaves_and_a_late_one_ends(service):
    """The one that stays is complete."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    scheduler = Scheduler(4)
    tokens = []
    hook = service.runtime.model.register_forward_pre_hook(slow)
    try:
        stays = scheduler.submit(service, Request("my name", ENDLESS, []), 60)
        late = scheduler.submit(service, Request("paris", ENDLESS, []), 0.5)
        left = scheduler.submit(service, Request("anna", ENDLESS, []), 60, tokens.append)
        until(lambda: tokens)
        scheduler.cancel(left)
        written = len(tokens)
        answers = loop.run_until_complete(asyncio.gather(late.future, stays.future, return_exceptions=True))
        assert answers[0].kind == "deadline_exceeded"
        assert answers[1].tokens_out == 110
        assert len(tokens) <= written + 1
    finally:
        hook.remove()
        loop.close()
    expected = predict_alone(service, Request("my name", ENDLESS, []), lambda: None)
    assert answers[1].value == expected.value


def test_request_that_never_fits_is_refused_with_the_numbers(folder, service):
    """422; its source counts. Smaller ones are answered, however many come at once."""
    size = 200 * service.runtime.kv_cache // int(service.facts["kv_cache_tokens"])
    with serving.serve(load_model, model_dir=folder, task="text2text-generation", kv_cache=size) as server:
        budget = int(server.app.model.service.facts["kv_cache_tokens"])
        assert 190 < budget <= 200
        fits = {"max_new_tokens": 90, "min_new_tokens": 90, "num_beams": 1}
        assert server.post({"inputs": "my name", "parameters": fits}).status == 200
        reply = server.post({"inputs": "my name" * 60, "parameters": fits})
        assert reply.status == 422
        message = reply.json["error"]["message"]
        tokens = len(server.app.model.service.tokenizer("my name" * 60)["input_ids"])
        assert "the prompt has {} tokens, and {} with the new ones".format(tokens, tokens + 91) in message
        assert "HF_KV_CACHE_GB" in message
        parameters = {"max_new_tokens": 40, "num_beams": 1}
        work = [
            in_background(lambda: server.post({"inputs": "my name", "parameters": parameters}).status)
            for _ in range(20)
        ]
        for results, thread in work:
            thread.join(60)
            assert results == [200]
