"""Continuous batching: texts join and leave a running batch, and each is the text that `generate` writes alone."""

import asyncio
import http.client
import json
import random
import signal
import threading

import generation_models
import pytest
import serving
import test_process
import tiny
from in_process import together
from test_metrics import samples
from test_serving import in_background, until

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.scheduling.scheduler import Scheduler
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks.service import predict_alone

transformers = pytest.importorskip("transformers")
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
if VERSION < (4, 40) or tiny.FRAMEWORK != "pt":
    pytest.skip("shown on PyTorch and transformers 4.40 or newer", allow_module_level=True)

import torch  # noqa: E402

from hf_inference_toolkit.runtimes.decoding import RowSampling  # noqa: E402
from hf_inference_toolkit.runtimes.forward_pass import find_support  # noqa: E402
from hf_inference_toolkit.runtimes.preparation import Preparation  # noqa: E402
from hf_inference_toolkit.runtimes.token_batch import TokenBatch, TokenRow, similar  # noqa: E402

# transformers warns of combinations of parameters.
pytestmark = pytest.mark.filterwarnings("ignore")
CPU = torch.device("cpu")
WORDS = 400
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
GPT2 = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
CONFIGS = {
    "Llama": dict(SIZES, num_key_value_heads=2),
    "Mistral": dict(SIZES, num_key_value_heads=2, sliding_window=16),
    "Qwen2": dict(SIZES, num_key_value_heads=2),
    "Gemma": dict(SIZES, num_key_value_heads=1, head_dim=8),
    "GPT2": GPT2,
    "OPT": dict(SIZES, ffn_dim=64, word_embed_proj_dim=32, init_std=0.4),
    "Bloom": {"vocab_size": WORDS, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "GPTNeoX": SIZES,
}


def model_of(name):
    """A small model with random weights that are large enough that greedy texts differ.

    In float64: the best two logits of a step may differ by less than the rounding errors of float32.
    """
    config = getattr(transformers, name + "Config")(
        **dict({"initializer_range": 0.4}, **IDS, **CONFIGS[name])
    )
    tiny.seed()
    return transformers.AutoModelForCausalLM.from_config(config).double().eval()


def batch_of(model, budget=4096):
    support = find_support(model, CPU, 1)
    assert support.forward is not None, support.reason
    return TokenBatch(support.forward, Preparation(model, CPU), budget, CPU)


def row_of(prompt, new=8, sampling=None, **arguments):
    """A row that ends with token 2, as with `generate`."""
    arguments = dict(max_new_tokens=new, do_sample=False, **arguments)
    return TokenRow(
        prompt, len(prompt) + new, arguments, sampling or RowSampling(), lambda one: one.token == 2
    )


def alone(model, row):
    ids = torch.tensor([row.prompt])
    written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **row.arguments)
    return written[0, len(row.prompt) :].tolist()


def prompts(count, lengths, seed=1):
    numbers = random.Random(seed)
    return [[numbers.randrange(3, WORDS) for _ in range(numbers.choice(lengths))] for _ in range(count)]


def run(batch, rows, arrivals=None):
    """Let rows arrive at the given steps, if there is room; returns the steps that were made."""
    waiting, over, steps = list(zip(arrivals or [0] * len(rows), rows)), 0, 0
    while over < len(rows):
        while (
            waiting
            and waiting[0][0] <= steps
            and batch.fits([len(waiting[0][1].input_tokens)], [waiting[0][1].total])
        ):
            batch.add(waiting.pop(0)[1])
        over += len(batch.step())
        assert batch._cache.tokens <= batch.budget
        steps += 1
        assert steps < 10000
    return steps


def test_removed_rows_need_no_memory_before_the_next_step():
    """A waiting row may need the memory of cancelled ones, without which there is no next step."""
    model = model_of("Llama")
    batch = batch_of(model, budget=100)
    first, second = row_of(list(range(3, 43)), 20), row_of(list(range(5, 45)), 30)
    assert batch.fits([40], [first.total])
    batch.add(first)
    batch.step()
    assert not batch.fits([40], [second.total])
    first.is_over = True
    assert batch.fits([40], [second.total])
    assert batch.usage == 0
    batch.add(second)
    while second not in batch.step():
        pass
    assert second.generated == alone(model, second)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_texts_are_those_of_generate(name, monkeypatch):
    """Prompts of mixed lengths that arrive one after another, long ones in parts, with different arguments."""
    model = model_of(name)
    support = find_support(model, CPU, 1)
    if support.forward is None:
        assert VERSION < (4, 53)
        pytest.skip("this release: " + support.reason)
    batch = batch_of(model)
    monkeypatch.setattr(batch, "_prefill_tokens", 24)
    arguments = [{}, {"repetition_penalty": 1.3}, {"min_new_tokens": 6}, {}, {"no_repeat_ngram_size": 2}]
    rows = [
        row_of(prompt, new, **arguments[place % 5])
        for place, (prompt, new) in enumerate(zip(prompts(10, [2, 5, 9, 40]), [1, 3, 12, 30, 5] * 2))
    ]
    run(batch, rows, [0, 0, 0, 1, 1, 4, 6, 6, 20, 21])
    for row in rows:
        assert row.problem is None
        assert row.generated == alone(model, row)


def test_copies_of_a_prompt_are_no_padding():
    """A request for several texts is read together with others, because its prompt is read once."""
    one, other, longer = prompts(1, [20])[0], prompts(1, [18])[0], prompts(1, [60])[0]
    rows = [row_of(prompt) for prompt in (one, one, one, one, other, other, longer)]
    assert similar(rows, 256) == rows[:6]
    assert similar(rows, 39) == rows[:4]


def test_model_with_another_cache_is_left_to_generate():
    """The reason is known; what generates them is not changed."""
    model = model_of("GPT2")
    forward = type(model).forward

    class Wrong(type(model)):
        def forward(self, input_ids=None, past_key_values=None, attention_mask=None, **more):
            # Padding changes its logits.
            out = forward(self, input_ids, past_key_values, attention_mask=None, **more)
            out.logits = out.logits + (attention_mask is not None)
            return out

    model.__class__ = Wrong
    assert find_support(model, CPU, 1).forward is None


def test_row_whose_processor_fails_leaves_alone():
    """The others get their tokens."""
    model = model_of("Llama")
    batch = batch_of(model)

    def broken(generated, scores):
        if len(generated) == 2:
            raise ValueError("broken")
        return scores

    rows = [row_of(prompt, 6) for prompt in prompts(4, [3, 8])]
    rows[1].sampling = RowSampling(processors=(broken,))
    run(batch, rows)
    assert [str(row.problem) for row in rows] == ["None", "broken", "None", "None"]
    for row in (rows[0], *rows[2:]):
        assert row.generated == alone(model, row)


@pytest.mark.parametrize("columns", [3, 1])
def test_pass_that_fails_is_taken_apart(columns):
    """A pass fails where it has the poisoned row: at its prompt, or at its second token."""
    model = model_of("Llama")
    batch = batch_of(model)
    rows = [row_of(prompt, 6) for prompt in prompts(4, [3])]
    poison = rows[2].prompt[0] if columns == 3 else alone(model, rows[2])[0]

    def broken(_, args, given):
        ids = given["input_ids"]
        if ids.shape[1] == columns and poison in ids[:, 0].tolist():
            raise ValueError("poisoned")

    hook = model.register_forward_pre_hook(broken, with_kwargs=True)
    run(batch, rows)
    hook.remove()
    for place, row in enumerate(rows):
        if place == 2:
            assert str(row.problem) == "poisoned"
        elif row.problem is None:
            assert row.generated == alone(model, row)
    assert sum(row.problem is not None for row in rows) < 3


def test_row_that_is_over_leaves_at_the_next_step():
    """Its place is free at once."""
    batch = batch_of(model_of("Llama"))
    rows = [row_of(prompt, 100, min_new_tokens=100) for prompt in prompts(3, [4])]
    for row in rows:
        batch.add(row)
    for _ in range(3):
        batch.step()
    assert len(batch.rows) == 3
    rows[0].is_over = True
    written = len(rows[0].generated)
    assert batch.step() == [rows[0]]
    assert len(rows[0].generated) == written
    assert batch.rows == [rows[2], rows[1]]


def test_memory_stays_within_the_budget():
    """Rows wait while it is used, and all get their tokens."""
    model = model_of("Llama")
    batch = batch_of(model, budget=220)
    rows = [row_of(prompt, new) for prompt, new in zip(prompts(12, [3, 20, 60]), [5, 20, 40] * 4)]
    run(batch, rows)
    for row in rows:
        assert row.generated == alone(model, row)
    batch.add(row_of(prompts(1, [20])[0], 40))
    assert batch.fits([20], [60])
    assert not batch.fits([20], [100])


# Of a whole server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(generation_models.decoder(tmp_path_factory.mktemp("gpt2")))


@pytest.fixture(scope="module")
def service(folder):
    """A loaded service, warmed up: its texts are decoded token by token."""
    made = load_model(Settings(model_dir=folder, task="text-generation"))
    made.warm_up(lambda: None)
    assert made.facts["decoding"] == "continuous batching"
    return made


@pytest.fixture
def server(folder):
    with serving.serve(load_model, model_dir=folder, task="text-generation") as running:
        yield running


ENDLESS = {"max_new_tokens": 110, "min_new_tokens": 110}
PARAMETERS = [
    {"max_new_tokens": 20},
    {"max_new_tokens": 5, "details": True, "top_n_tokens": 2},
    {"max_new_tokens": 30, "do_sample": True, "seed": 5, "temperature": 1.3},
    {"max_new_tokens": 12, "do_sample": True, "seed": 6, "top_p": 0.8, "num_return_sequences": 3},
    {"max_new_tokens": 25, "do_sample": True, "seed": 7, "top_k": 5, "typical_p": 0.9, "details": True},
    {"max_new_tokens": 15, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    {"max_new_tokens": 15, "bad_words_ids": [[5], [40, 41]], "suppress_tokens": [60, 61]},
    {"max_new_tokens": 15, "frequency_penalty": 1.5, "presence_penalty": 0.5, "logit_bias": {"70": 9}},
    {"max_length": 60, "stop": ["a", "e"]},
    {"max_new_tokens": 9, "num_beams": 3},
    {"max_new_tokens": 9, "forced_eos_token_id": 2, "begin_suppress_tokens": [5]},
    {"max_new_tokens": 20, "eos_token_id": list(range(3, 30))},
]


def test_every_parameter_is_honoured_for_each_text(service):
    """All at once, also in lists, each as if it were alone."""
    texts = ["my name", "Q: where is paris?\nA:", ["hugging face builds", "anna"]]
    requests = [
        Request(texts[place % 3], {key: value for key, value in one.items() if key in supported(service)}, [])
        for place, one in enumerate(PARAMETERS * 2)
    ]
    answers = together(service, requests)
    for request, answer in zip(requests, answers):
        expected = predict_alone(service, request, lambda: None)
        assert close(answer.value) == close(expected.value), request
        assert answer.tokens_out == expected.tokens_out


def supported(service):
    return {parameter.name for parameter in service.parameters}


def close(value):
    """Log probabilities with the digits that do not depend on padding."""
    if isinstance(value, dict):
        return {key: close(one) for key, one in value.items()}
    if isinstance(value, list):
        return [close(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value


def test_error_of_generate_is_the_request_s_own(service):
    """What `generate` refuses fails by itself; the others are answered."""
    good = Request("my name", {"max_new_tokens": 4}, [])
    wrong = Request("my name", {"max_new_tokens": 4, "repetition_penalty": 0.0}, [])
    answers = together(service, [good, wrong, good])
    assert isinstance(answers[1], ValueError)
    assert answers[0].value == answers[2].value == predict_alone(service, good, lambda: None).value


def test_cancelled_text_leaves_and_the_queue_is_free(service):
    """Within one step, while another one goes on."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    scheduler = Scheduler(4)
    tokens = []
    try:
        stays = scheduler.submit(service, Request("my name", ENDLESS, []), 60)
        left = scheduler.submit(service, Request("anna", ENDLESS, []), 60, tokens.append)
        until(lambda: tokens)
        scheduler.cancel(left)
        until(lambda: scheduler.running == 1)
        written = len(tokens)
        assert loop.run_until_complete(stays.future).tokens_out == 110
        assert len(tokens) <= written + 1
        scheduler.cancel(stays)
        assert not scheduler.is_busy
        until(lambda: not scheduler.running)
    finally:
        loop.close()


def slow(*_):
    """A hook before each pass."""
    threading.Event().wait(0.02)


def test_deadline_ends_one_text_only(service):
    """The other one is complete; so are those that come later."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    scheduler = Scheduler(4)
    hook = service.runtime.model.register_forward_pre_hook(slow)
    try:
        late = scheduler.submit(service, Request("anna", ENDLESS, []), 0.2)
        stays = scheduler.submit(service, Request("my name", ENDLESS, []), 60)
        wait = asyncio.gather(late.future, stays.future, return_exceptions=True)
        answers = loop.run_until_complete(wait)
        assert answers[0].kind == "deadline_exceeded"
        assert answers[1].tokens_out == 110
    finally:
        hook.remove()
        loop.close()


def test_beams_and_running_texts_take_turns(service):
    """Neither waits for the end of the other. The prediction thread waits for arrivals, however busy the machine is."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    scheduler = Scheduler(10)
    order = []
    has_begun, beams_submitted, late_submitted = threading.Event(), threading.Event(), threading.Event()
    run = service.run

    def text(_):
        order.append("text")
        if len(order) == 4:
            has_begun.set()
            assert beams_submitted.wait(20)

    def watched(pieces, check):
        order.append("beams begin")
        has_begun.set()
        assert late_submitted.wait(20)
        outputs = run(pieces, check)
        order.append("beams end")
        return outputs

    service.run = watched
    try:
        first = scheduler.submit(service, Request("my name", ENDLESS, []), 60, text)
        assert has_begun.wait(20)
        has_begun.clear()
        beams = scheduler.submit(service, Request("anna", dict(ENDLESS, num_beams=2), []), 60)
        beams_submitted.set()
        assert has_begun.wait(20)
        short = Request("anna", {"max_new_tokens": 3}, [])
        late = scheduler.submit(service, short, 60, lambda _: order.append("late"))
        late_submitted.set()
        loop.run_until_complete(asyncio.gather(first.future, beams.future, late.future))
    finally:
        del service.run
        loop.close()
    between = order[order.index("beams begin") : order.index("beams end")]
    assert between.count("late") == 3
    assert between.count("text") > 80


def test_request_that_never_fits_is_refused_with_the_numbers(folder):
    """422; smaller ones are answered, however many come at once."""
    with serving.serve(load_model, model_dir=folder, task="text-generation", kv_cache=100 * 1024) as server:
        budget = int(server.app.model.service.facts["kv_cache_tokens"])
        assert budget < 500
        reply = server.post(
            {"inputs": "my name", "parameters": {"num_return_sequences": 9, "do_sample": True, **ENDLESS}}
        )
        assert reply.status == 422
        assert "HF_KV_CACHE_GB" in reply.json["error"]["message"]
        work = [
            in_background(
                lambda: server.post({"inputs": "my name", "parameters": {"max_new_tokens": 40}}).status
            )
            for _ in range(20)
        ]
        for results, thread in work:
            thread.join(60)
            assert results == [200]


def test_metrics_count_tokens_and_times(server):
    """Names and meaning are vLLM's."""
    before = samples(server)
    parameters = {"max_new_tokens": 7, "min_new_tokens": 7}
    reply = server.post({"inputs": ["my name", "anna"], "parameters": parameters})
    assert reply.status == 200
    beams = server.post({"inputs": "my name", "parameters": dict(parameters, num_beams=2)})
    assert beams.status == 200
    values = samples(server)

    def grown(name):
        return values[(name,)] - before[(name,)]

    tokenizer = server.app.model.service.tokenizer
    lengths = [len(tokenizer(text)["input_ids"]) for text in ("my name", "anna", "my name")]
    assert grown("hf_prompt_tokens_total") == sum(lengths)
    assert grown("hf_generation_tokens_total") == 21
    assert grown("hf_time_to_first_token_seconds_count") == 2
    assert grown("hf_inter_token_latency_seconds_count") == 12
    assert values["hf_num_requests_running",] == values["hf_num_requests_waiting",] == 0
    assert values["hf_kv_cache_usage_perc",] == 0
    assert values["hf_decoding_info", ("reason", ""), ("way", "continuous batching")] == 1


def test_metrics_show_running_texts_and_the_used_cache(server):
    """While texts are written."""
    hook = server.app.model.service.runtime.model.register_forward_pre_hook(slow)
    results, thread = in_background(
        lambda: server.post({"inputs": ["my name", "anna"], "parameters": ENDLESS}).status
    )
    until(lambda: server.app.scheduler.running == 2)
    values = samples(server)
    hook.remove()
    thread.join(60)
    assert results == [200]
    assert values["hf_num_requests_running",] == 2
    assert 0 < values["hf_kv_cache_usage_perc",] < 1


def test_streams_are_the_same_texts(server):
    """Several at once, some in streams."""
    texts = ["my name", "anna", "Q: where is paris?"]
    expected = [server.post({"inputs": text, "parameters": {"max_new_tokens": 20}}).json for text in texts]

    def streamed(text):
        body = {"inputs": text, "parameters": {"max_new_tokens": 20}, "stream": True}
        blocks = server.post(body).body.decode().split("\n\n")
        return json.loads(blocks[-2][len("data: ") :])["generated_text"]

    work = [in_background(lambda text=text: streamed(text)) for text in texts]
    for (results, thread), answer in zip(work, expected):
        thread.join(60)
        assert results == [answer[0]["generated_text"]]


def test_wrong_memory_setting_is_refused():
    """With what is allowed."""
    from hf_inference_toolkit import settings

    assert settings.read_without_folders({"HF_KV_CACHE_GB": "0.5"}).kv_cache == 2**29
    for value in ("0", "x", "-1", "nan"):
        with pytest.raises(Exception, match="HF_KV_CACHE_GB: must be a number of gigabytes"):
            settings.read_without_folders({"HF_KV_CACHE_GB": value})


def test_free_memory_is_what_the_control_group_leaves(tmp_path):
    """Files in the page cache count as free; without a limit it is the machine's."""
    from hf_inference_toolkit.runtimes import memory

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   4000 kB\n")
    assert memory.available(tmp_path) == 4000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    for name, text in {
        "memory.max": "max\n",
        "memory.current": "1000000\n",
        "memory.stat": "anon 5\ninactive_file 500000\n",
    }.items():
        (group / name).write_text(text)
    assert memory.available(tmp_path) == 4000 * 1024
    (group / "memory.max").write_text("2000000\n")
    assert memory.available(tmp_path) == 1500000
    for name, text in {
        "limit_in_bytes": "900000\n",
        "usage_in_bytes": "800000\n",
        "stat": "total_inactive_file 0\n",
    }.items():
        (group / "memory").mkdir(exist_ok=True)
        (group / "memory/memory.{}".format(name)).write_text(text)
    assert memory.available(tmp_path) == 100000


def test_unfit_requests_name_the_limit(service):
    """Also for several sequences."""
    with pytest.raises(RequestError, match="sequences of"):
        service._check_memory(3, service_prompt(service, copies=65))


def service_prompt(service, copies):
    piece = service.piece({"input_ids": [5, 6]}, {"max_new_tokens": 3})
    return piece.row._replace(copies=copies)


def read_columns(batch, monkeypatch):
    """The numbers of columns that passes over prompts read."""
    read, columns = batch._pass.read, []

    def counted(prompts, cache, done, count):
        columns.append(count)
        return read(prompts, cache, done, count)

    monkeypatch.setattr(batch._pass, "read", counted)
    return columns


@pytest.mark.parametrize("name", ["Llama", "Mistral", "GPT2"])
def test_tokens_that_prompts_begin_with_are_read_once(name, monkeypatch):
    """The turns of a conversation, then other conversations with the same beginning, beside a text without it."""
    model = model_of(name)
    if find_support(model, CPU, 1).forward is None:
        pytest.skip("this release cannot batch it")
    batch = batch_of(model)
    columns = read_columns(batch, monkeypatch)
    system, other = prompts(2, [100], 3)
    said, rows = list(system), []
    for turn in prompts(3, [5], 4):
        said += turn
        row = row_of(list(said), 6)
        run(batch, [row])
        said += row.generated
        rows.append(row)
    # The first tokens of an answer and of the next turn are read with it.
    assert columns == [105, 5 + len(rows[0].generated), 10 + len(rows[0].generated + rows[1].generated)]
    columns.clear()
    more = [row_of(system + turn, 6) for turn in prompts(2, [5], 5)] + [
        row_of(other, 6),
        row_of(list(system), 6),
    ]
    run(batch, more)
    assert sorted(columns) == [1, 5, 5, 100]
    for row in rows + more:
        assert row.problem is None
        assert row.generated == alone(model, row)


def test_kept_prompts_leave_memory_to_texts(monkeypatch):
    """The limit holds with kept tokens, the oldest go first, and a text that needs all of it is written."""
    batch = batch_of(model_of("Llama"), budget=1000)

    def step(step=batch.step):
        done, cache, prefill = step(), batch._cache, batch._prefill
        more = prefill.cache.rows * prefill.cache.columns if prefill else 0
        assert cache.rows * cache.columns + more + batch._prefixes.tokens <= 1000
        return done

    monkeypatch.setattr(batch, "step", step)
    first, *others = prompts(5, [80], 6)
    for prompt in (first, *others):
        run(batch, [row_of(prompt, 4)])
    assert batch._prefixes.tokens == 3 * 80
    assert batch._prefixes.known(first) == 0
    assert batch._prefixes.known(others[-1]) == 79
    texts = [row_of(prompt, 100) for prompt in prompts(8, [70, 90], 7)]
    run(batch, texts)
    run(batch, [row_of(prompts(1, [150], 8)[0], 90)])
    assert not any(row.problem for row in texts)


def test_sigterm_ends_streams_within_the_drain_time(tmp_path):
    """A text that ends in time is complete; the other one gets an event that says why it ends."""
    folder = generation_models.decoder(tmp_path / "m", positions=8192)
    environment = {"HF_TASK": "text-generation", "HF_DRAIN_SECONDS": "3", "OMP_NUM_THREADS": "1"}
    with test_process.process(folder, code=None, **environment) as (child, server):
        test_process.until_status(server, 200, 120)
        streams = []
        for tokens in (60, 8000):
            parameters = {"max_new_tokens": tokens, "min_new_tokens": tokens, "details": True}
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            body = json.dumps({"inputs": "I like", "stream": True, "parameters": parameters})
            client.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            streams.append(client.getresponse())
        lines = [stream.readline() for stream in streams]
        assert all(line.startswith(b"data:") for line in lines)
        child.send_signal(signal.SIGTERM)
        short, long = [stream.read().decode().strip().splitlines() for stream in streams]
        code, logged = test_process.ended(child)
    assert code == 0
    last = json.loads(short[-1][len("data:") :])
    assert (last["details"]["finish_reason"], last["details"]["generated_tokens"]) == ("length", 60)
    last = json.loads(long[-1][len("data:") :])
    assert "the server has ended before the answer" in json.dumps(last)
    assert [one["message"] for one in logged if "HF_DRAIN_SECONDS" in one["message"]]
