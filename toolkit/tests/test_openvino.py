"""OpenVINO computes what PyTorch does, takes over without a lost answer, and PyTorch serves where it cannot."""

import base64
import itertools
import json
import logging
import mmap
import shutil
import threading
import time
from pathlib import Path

import pytest
import serving
import tiny
import tiny_pipelines

openvino = pytest.importorskip("openvino", reason="this image has no OpenVINO")
import numpy  # noqa: E402
import torch  # noqa: E402
from test_metrics import samples  # noqa: E402
from test_serving import until  # noqa: E402

from hf_inference_toolkit.content import codecs  # noqa: E402
from hf_inference_toolkit.errors import StartError  # noqa: E402
from hf_inference_toolkit.loading import conversion  # noqa: E402
from hf_inference_toolkit.loading.loader import load_model  # noqa: E402
from hf_inference_toolkit.runtimes import converted_models, memory  # noqa: E402
from hf_inference_toolkit.runtimes import openvino as ours  # noqa: E402
from hf_inference_toolkit.runtimes.comparison import cosine, fault  # noqa: E402
from hf_inference_toolkit.scheduling.batching import Cost  # noqa: E402
from hf_inference_toolkit.scheduling.scheduler import Cancelled  # noqa: E402
from hf_inference_toolkit.settings import Settings, read  # noqa: E402
from hf_inference_toolkit.tasks import registry  # noqa: E402

JSON = codecs.MediaType(codecs.JSON, {})
TEXTS = ["I like you", "what is this", "the model of my work in paris was beautiful " * 6]
REQUESTS = {
    "text-classification": {"inputs": TEXTS, "parameters": {"top_k": None}},
    "token-classification": {"inputs": TEXTS},
    "feature-extraction": {"inputs": TEXTS},
    "fill-mask": {"inputs": ["i [MASK] you", "the [MASK] of " + TEXTS[2]]},
    "question-answering": {"inputs": {"question": "who likes", "context": TEXTS[2]}},
    "zero-shot-classification": {"inputs": TEXTS, "parameters": {"candidate_labels": ["legal", "refund"]}},
}
# Model types, with the sizes that differ from BERT's.
ARCHITECTURES = {
    "Roberta": {},
    "MPNet": {},
    "Electra": {"embedding_size": 32},
    "Albert": {"embedding_size": 16},
    "DebertaV2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 32},
    "ModernBert": {"vocab_size": 600},
}


@pytest.fixture
def copied(model_folder, tmp_path):
    """A task's small model in a folder of this test's, because the converted model is kept beside it."""
    return lambda task: Path(shutil.copytree(str(model_folder(task)), str(tmp_path / task)))


@pytest.fixture
def warnings(caplog):
    """What the server warned of."""
    caplog.set_level(logging.WARNING, logger="hf_inference_toolkit")
    return lambda: [one.getMessage() for one in caplog.records if one.name == "hf_inference_toolkit"]


def load(folder, **settings):
    """A service that has started: with OpenVINO only if it is required or was ready at once."""
    service = load_model(Settings(model_dir=str(folder), **settings))
    service.warm_up(lambda: None)
    return service


def ask(service, body, check=lambda: None):
    request = service.read(json.dumps(body).encode(), JSON, codecs.JSON)
    return json.loads(service.write(service.predict(request, check).value, codecs.JSON)[0])


def numbers(value):
    """All numbers of an answer, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for inner in value for number in numbers(inner)]
    return [value] if isinstance(value, (int, float)) else []


def assert_alike(found, expected, tolerance=1e-4):
    assert len(json.dumps(found)) > 2
    assert len(numbers(found)) == len(numbers(expected))
    assert numbers(found) == pytest.approx(numbers(expected), abs=tolerance, rel=tolerance)


def assert_same_after_switch(service, body):
    """The same request before and after OpenVINO has taken over."""
    expected = ask(service, body)
    assert service.engine.name == "PyTorch"
    service.optimize()
    assert service.engine.name == "OpenVINO", service.engine.reason
    assert_alike(ask(service, body), expected)
    assert_alike(ask(service, body), expected)


@pytest.mark.parametrize("task", list(REQUESTS))
def test_openvino_answers_text_tasks_as_pytorch(copied, task):
    assert_same_after_switch(load(copied(task), task=task), REQUESTS[task])


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_openvino_answers_as_pytorch_for_architecture(tmp_path, name):
    sizes = dict(tiny.BERT, **ARCHITECTURES[name])
    tiny.save(tmp_path, name + "Config", name + "ForSequenceClassification", sizes, **tiny.labels("a", "b"))
    if name == "ModernBert":  # it cannot read a file of BERT's words
        (tmp_path / "vocab.txt").unlink()
        tiny.byte_tokenizer(128).save_pretrained(str(tmp_path))
    service = load(tmp_path, task="text-classification")
    assert_same_after_switch(service, REQUESTS["text-classification"])


PICTURES = [tiny_pipelines.png(), tiny_pipelines.png(80, 30)]
SOUNDS = [tiny_pipelines.wav(), tiny_pipelines.wav(seconds=0.8)]


@pytest.mark.parametrize(
    ("name", "files", "parameters"),
    [
        ("image-classification", PICTURES, {}),
        ("object-detection", PICTURES, {"threshold": 0.0}),
        ("audio-classification", SOUNDS, {}),
        ("automatic-speech-recognition", SOUNDS, {}),
    ],
)
def test_openvino_answers_pipelines_as_pytorch(pipeline_folder, tmp_path, name, files, parameters):
    pytest.importorskip("PIL")
    service = load(shutil.copytree(str(pipeline_folder(name)), str(tmp_path / name)), task=name)
    inputs = [base64.b64encode(file).decode() for file in files]
    assert_same_after_switch(service, {"inputs": inputs, "parameters": parameters})


def test_pipeline_call_of_another_form_is_computed_by_pytorch(pipeline_folder, tmp_path):
    service = load(
        shutil.copytree(str(pipeline_folder("image-classification")), str(tmp_path / "m")),
        task="image-classification",
    )
    model = service._pipeline.model
    pixels = torch.zeros(1, 3, model.config.image_size, model.config.image_size)
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True)
        service.optimize()
        assert service.engine.name == "OpenVINO"
        found = model(pixels, output_hidden_states=True)
        usual = model(pixel_values=pixels)
    assert type(usual) is type(expected)
    assert len(found.hidden_states) == len(expected.hidden_states)
    assert torch.allclose(usual.logits, expected.logits, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_as_exact_as_pytorch(copied, dtype):
    if dtype not in ours.supported_precisions():
        pytest.skip("this processor has no {}".format(dtype))
    folder = copied("feature-extraction")
    expected = ask(load(folder, runtime="torch"), REQUESTS["feature-extraction"])
    service = load(folder, dtype=dtype)
    service.optimize()
    assert service.engine.name == "OpenVINO", service.engine.reason
    assert_alike(ask(service, REQUESTS["feature-extraction"]), expected, 0.05)


def test_int8_is_close_to_float32(tmp_path):
    sizes = dict(tiny.BERT, hidden_size=128, intermediate_size=256)
    tiny.save(tmp_path, "BertConfig", "BertModel", sizes)
    expected = ask(load(tmp_path, runtime="torch"), REQUESTS["feature-extraction"])
    service = load(tmp_path, dtype="int8")
    assert (service.engine.name, service.described()["dtype"]) == ("OpenVINO", "int8")
    found = ask(service, REQUESTS["feature-extraction"])
    for one, other in zip(found, expected):
        assert 0.99 < cosine(numpy.array(one), numpy.array(other)) < 1


def test_switch_under_load_loses_and_changes_no_answer(copied):
    answers, is_over = [], threading.Event()
    with serving.serve(load_model, model_dir=str(copied("text-classification")), runtime="auto") as server:

        def client(place):
            while not is_over.is_set():
                answers.append((place, server.post({"inputs": TEXTS[place % 3]})))

        clients = [threading.Thread(target=client, args=(place,)) for place in range(6)]
        for one in clients:
            one.start()
        until(lambda: server.app.model.engine.name == "OpenVINO", 300)
        count = len(answers)
        until(lambda: len(answers) > count + 30, 300)
        is_over.set()
        for one in clients:
            one.join()
        values = samples(server)
        document = json.loads(server.get("/openapi.json").body)
    expected = {place: json.loads(answer.body) for place, answer in answers[:12]}
    for place, answer in answers:
        assert answer.status == 200
        assert_alike(json.loads(answer.body), expected[place])
    assert values["hf_runtime_info", ("reason", ""), ("runtime", "OpenVINO")] == 1
    assert values[("hf_runtime_switch_timestamp_seconds",)] > 0
    assert "runtime: OpenVINO" in document["info"]["description"]


@pytest.fixture
def stored(copied, tmp_path, monkeypatch):
    """A model that was converted by an earlier start, with HF_HOME: how to start again, and the files."""
    settings = {"hub_cache": str(tmp_path / "home"), "keeps_cache": True, "task": "text-classification"}
    folder = copied("text-classification")
    load(folder, **settings).optimize()
    (path,) = (tmp_path / "home").glob("openvino/*/*")
    monkeypatch.setattr(ours, "convert", None)
    return lambda **more: load(folder, **dict(settings, **more)), path


def test_second_start_is_ready_with_the_stored_model(stored, copied):
    start, path = stored
    service = start()
    assert service.engine.name == "OpenVINO"
    expected = ask(load(copied("sentiment-analysis"), runtime="torch"), REQUESTS["text-classification"])
    assert_alike(ask(service, REQUESTS["text-classification"]), expected)
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "model.bin", "model.xml"]


def test_stored_model_is_read_while_the_task_is_inferred(stored, monkeypatch):
    start, _ = stored
    begun, known = [], []
    only_store, infer = converted_models.only_store, registry.infer
    monkeypatch.setattr(
        converted_models, "only_store", lambda *given: begun.append(list(known)) or only_store(*given)
    )
    monkeypatch.setattr(registry, "infer", lambda config: known.append(infer(config)) or known[-1])
    service = start(task=None)
    assert service.engine.name == "OpenVINO"
    assert begun == [[]]
    assert known[0] == "text-classification"


def test_stored_model_of_another_task_is_not_used(stored):
    start, path = stored
    path.rename(path.with_name("fill-mask-float32"))
    assert start(task=None).engine.name == "PyTorch"


def test_pages_of_mapped_weights_are_dropped_and_read_again(tmp_path):
    file = tmp_path / "dropped.bin"
    file.write_bytes(b"7" * (1 << 20))
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[-1:] == b"7"
        assert memory.drop_mapped("dropped.bin") >= 1 << 20
        assert memory.drop_mapped("other.bin") == 0
        assert mapped[:] == b"7" * (1 << 20)
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as written:
        written[:1] = b"8"
        assert memory.drop_mapped("dropped.bin") == 0
        assert written[:1] == b"8"


def flip_byte(path):
    content = bytearray((path / "model.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "model.bin").write_bytes(content)


def cut(path):
    (path / "model.bin").write_bytes((path / "model.bin").read_bytes()[:100])


def of_another(name):
    def edit(path):
        manifest = json.loads((path / "manifest.json").read_text())
        assert name in manifest["made_of"]
        manifest["made_of"][name] = "another"
        (path / "manifest.json").write_text(json.dumps(manifest))

    return edit


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_byte, "model.bin is damaged"),
        (cut, "model.bin is damaged"),
        (lambda path: (path / "model.xml").unlink(), "it is damaged"),
        (lambda path: (path / "manifest.json").write_text("[]"), "it is damaged"),
        (of_another("processor"), "it was made with another processor"),
        (of_another("version of OpenVINO"), "it was made with another version of OpenVINO"),
        (of_another("model"), "it was made with another model"),
    ],
)
def test_stored_model_that_does_not_fit_is_ignored_and_logged_once(stored, warnings, damage, words):
    start, path = stored
    damage(path)
    assert start().engine.name == "PyTorch"
    assert [words in message for message in warnings()] == [True]


def test_damaged_stored_model_is_replaced(stored, monkeypatch):
    start, path = stored
    flip_byte(path)
    monkeypatch.undo()
    service = start()
    assert service.engine.name == "PyTorch"
    service.optimize()
    assert service.engine.name == start().engine.name == "OpenVINO"
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_stored_model_whose_passes_fail_is_replaced(stored, warnings, monkeypatch):
    """It compiles, and its first pass shows the fault."""
    start, _ = stored
    monkeypatch.undo()
    run = ours.Compiled.__call__

    def fail(compiled, arrays):
        raise RuntimeError("no such primitive")

    monkeypatch.setattr(ours.Compiled, "__call__", fail)
    service = start()
    monkeypatch.setattr(ours.Compiled, "__call__", run)
    assert service.engine.name == "PyTorch"
    assert ["its passes fail (no such primitive)" in message for message in warnings()] == [True]
    service.optimize()
    assert service.engine.name == start().engine.name == "OpenVINO"


def test_stored_model_of_a_faster_server_stays(tmp_path, monkeypatch):
    """Two servers have converted the same model, and this one uses what it has made."""
    store = converted_models.Store(tmp_path / "store", [], {})
    exists = Path.exists

    def overtaken(path):
        found = exists(path)
        if path == store.folder:
            path.mkdir()
            (path / converted_models.MANIFEST).write_text("faster")
        return found

    def make(folder):
        for name in converted_models.FILES:
            (folder / name).write_text("slower")
        return "made"

    monkeypatch.setattr(Path, "exists", overtaken)
    assert store.write(make) == "made"
    assert (store.folder / converted_models.MANIFEST).read_text() == "faster"
    assert [one.name for one in tmp_path.iterdir()] == ["store"]


def test_stored_model_needs_a_folder_that_stays(copied):
    """Without HF_HOME it is beside the model."""
    folder = copied("text-classification")
    load(folder).optimize()
    assert load(folder).engine.name == "OpenVINO"
    assert read({}).keeps_cache is False
    assert read({"HF_HOME": str(folder)}).keeps_cache is True


def test_weights_of_a_model_that_is_not_stored_outlive_those_of_pytorch(copied, monkeypatch):
    monkeypatch.setattr(converted_models, "store_of", lambda *_: None)
    folder = copied("text-classification")
    service = load(folder)
    assert_same_after_switch(service, REQUESTS["text-classification"])
    assert all(one.numel() == 0 for one in service.runtime.model.parameters())
    assert not (folder / "openvino").exists()


@pytest.fixture
def bart(tmp_path):
    """A model that OpenVINO cannot convert."""
    sizes = {
        "vocab_size": len(tiny.VOCABULARY),
        "d_model": 32,
        "max_position_embeddings": 64,
        "eos_token_id": 3,
    }
    for part in ("encoder", "decoder"):
        sizes.update({part + "_layers": 1, part + "_attention_heads": 2, part + "_ffn_dim": 64})
    labels = tiny.labels("a", "b")
    return tiny.save(tmp_path, "BartConfig", "BartForSequenceClassification", sizes, **labels)


@pytest.fixture
def funnel(tmp_path):
    """A model whose trace has the number of rows of the example in it."""
    sizes = {"vocab_size": len(tiny.VOCABULARY), "block_sizes": [1, 1], "d_model": 32, "n_head": 2}
    sizes.update(d_head=16, d_inner=64)
    labels = tiny.labels("a", "b")
    return tiny.save(tmp_path, "FunnelConfig", "FunnelForSequenceClassification", sizes, **labels)


def test_model_whose_trace_has_a_fixed_shape_is_served_by_pytorch(funnel, warnings):
    service = load(funnel, runtime="auto")
    service.optimize()
    assert service.engine.name == "PyTorch"
    assert "OpenVINO cannot serve the model: its passes fail" in service.engine.reason, service.engine.reason


def test_model_that_cannot_be_converted_is_served_by_pytorch(bart, warnings):
    with serving.serve(load_model, model_dir=str(bart), runtime="auto") as server:
        until(lambda: server.app.model.engine.reason.startswith("OpenVINO cannot"), 300)
        assert server.post({"inputs": TEXTS}).status == 200
        (info,) = [key for key in samples(server) if key[0] == "hf_runtime_info"]
    assert dict(info[1:])["runtime"] == "PyTorch"
    assert "cannot be converted" in dict(info[1:])["reason"]
    assert len([one for one in warnings() if "OpenVINO cannot" in one]) == 1


def convert_wrongly(monkeypatch):
    """The weights change between the passes of PyTorch and the conversion."""
    convert = ours.convert

    def change(model, *others):
        with torch.no_grad():
            model.classifier.bias[0] += 0.01
        return convert(model, *others)

    monkeypatch.setattr(ours, "convert", change)


def test_converted_model_with_wrong_numbers_is_not_used(copied, warnings, monkeypatch):
    folder = copied("text-classification")
    service = load(folder)
    convert_wrongly(monkeypatch)
    service.optimize()
    assert service.engine.name == "PyTorch"
    assert "logits differs from PyTorch's by 0.01" in service.engine.reason
    assert len(warnings()) == 1
    assert list((folder / "openvino").iterdir()) == []


@pytest.mark.parametrize(
    ("dtype", "error", "words"),
    [
        ("float32", 9e-5, ""),
        ("float32", 1.2e-4, "differs"),
        ("float32", float("nan"), "differs"),
        ("bfloat16", 0.019, ""),
        ("bfloat16", 0.021, "differs"),
        ("int8", 0.1, ""),
        ("int8", 0.3, "cosine"),
    ],
)
def test_accepted_differences(dtype, error, words):
    """PyTorch's own difference is 0.01 here, and the largest number is 1."""
    exact = numpy.array([1.0, 0.5, -1.0])
    signs = numpy.array([1, -1, 1])
    found = fault(dtype, [{"x": exact}], [{"x": exact + 0.01}], [{"x": exact + error * signs}])
    assert words in found
    assert bool(found) == bool(words)


REFUSED = ["generation", "user code", "not converted", "not installed"]


# In int8 a difference of 0.01, which convert_wrongly makes, is accepted.
@pytest.mark.parametrize(
    ("case", "dtype"), [*itertools.product(REFUSED, ["float32", "int8"]), ("wrong", "float32")]
)
def test_start_fails_where_openvino_is_required_and_impossible(copied, bart, monkeypatch, dtype, case):
    words, folder = case, copied("text-classification")
    if case == "generation":
        words, folder = "generates text", copied("text-generation")
    elif case == "user code":
        (folder / "code").mkdir()
        (folder / "code/inference.py").write_text("def predict_fn(data, model):\n    return model(**data)\n")
    elif case == "not converted":
        words, folder = "cannot be converted", bart
    elif case == "not installed":
        monkeypatch.setattr(ours, "is_installed", lambda: False)
    else:
        words = "numbers are wrong"
        convert_wrongly(monkeypatch)
    runtime = "openvino" if dtype == "float32" else "auto"
    with pytest.raises(StartError, match=words) as refused:
        load(folder, runtime=runtime, dtype=dtype)
    assert ("HF_DTYPE=int8" if dtype == "int8" else "HF_RUNTIME=openvino") in str(refused.value)


def test_required_openvino_serves_from_the_first_request(copied):
    assert load(copied("text-classification"), runtime="openvino").engine.name == "OpenVINO"


@pytest.mark.parametrize(
    ("settings", "words"), [({"runtime": "torch"}, "HF_RUNTIME=torch"), ({}, "OpenVINO is not installed")]
)
def test_reason_of_pytorch_is_reported_without_a_warning(copied, warnings, monkeypatch, settings, words):
    monkeypatch.setattr(ours, "is_installed", lambda: False)
    service = load(copied("text-classification"), **settings)
    service.optimize()
    assert service.described()["runtime_reason"] == words
    assert warnings() == []


def test_unknown_runtime_is_refused_with_the_known_ones():
    with pytest.raises(StartError, match="HF_RUNTIME: must be auto, torch, openvino, not 'onnx'"):
        read({"HF_RUNTIME": "onnx"})


def test_precision_that_the_processor_lacks_is_refused_with_those_it_has(copied, monkeypatch):
    monkeypatch.setattr(ours, "supported_precisions", lambda: ["float32", "int8"])
    with pytest.raises(StartError, match=r"cannot compute in bfloat16; it can in float32, int8\."):
        load(copied("text-classification"), runtime="openvino", dtype="bfloat16")


def test_deadline_ends_a_prediction_before_and_after_a_pass_of_openvino(copied):
    service = load(copied("feature-extraction"), runtime="openvino")
    body = {"inputs": TEXTS}
    expected = ask(service, body)
    rows = next(service.steps(service.read(json.dumps(body).encode(), JSON, codecs.JSON), lambda: None))
    for allowed in range(2):
        calls = []

        def check(allowed=allowed, calls=calls):
            calls.append(1)
            if len(calls) > allowed:
                raise Cancelled()

        with pytest.raises(Cancelled):
            service.run(rows, check)
        assert len(calls) == allowed + 1
    assert_alike(ask(service, body), expected)


def test_new_runtime_has_costs_of_its_own():
    cost = Cost()
    for tokens in (10, 100, 1000, 2000, 3000):
        cost.observe(tokens, tokens + 500, "PyTorch")
    assert cost.overhead == pytest.approx(500, rel=0.01)
    cost.observe(10, 10, "OpenVINO")
    assert cost.overhead == Cost().overhead


@pytest.fixture
def many(tmp_path):
    """A multi-model endpoint, with two folders of models."""
    from test_multi_model import Endpoint

    endpoint = Endpoint(serving.Running(None, 0), tmp_path / "models")
    for name in "ab":
        endpoint.add(name, tiny.classifier(tmp_path / "classifier"))
    settings = {
        "multi_model": True,
        "model_dir": str(tmp_path / "model"),
        "hub_cache": str(tmp_path / "cache"),
    }
    with serving.serve(load_model, runtime="auto", **settings) as server:
        yield Endpoint(server, tmp_path / "models")


def engine_of(endpoint, name):
    return dict(endpoint.app.models.served)[name].model.engine


def test_models_of_multi_model_endpoints_are_converted_one_after_the_other(many, tmp_path):
    """In another process. Nothing is kept unless HF_HOME is set, and nothing is written beside the model."""
    answers = {}
    for name in "ab":
        assert many.load(name).status == 200
        answers[name] = many.invoke(name).json[0]["score"]
        assert engine_of(many, name).name == "PyTorch"
    until(lambda: engine_of(many, "a").name == "OpenVINO", 300)
    assert engine_of(many, "b").name == "PyTorch"
    until(lambda: engine_of(many, "b").name == "OpenVINO", 300)
    for name in "ab":
        assert many.invoke(name).json[0]["score"] == pytest.approx(answers[name], abs=1e-4)
    assert not list((tmp_path / "cache").rglob("model.bin"))
    assert not list((tmp_path / "models").rglob("model.bin"))


def test_conversion_of_an_unloaded_model_is_ended(many, tmp_path):
    assert many.load("a").status == 200
    until(lambda: conversion._ONE_AT_A_TIME.locked(), 60)
    began = time.monotonic()
    assert many.unload("a").status == 200
    assert time.monotonic() - began < 5
    assert not conversion._ONE_AT_A_TIME.locked()
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_conversion_without_enough_memory_is_skipped(many, monkeypatch):
    """Its process needs a gigabyte, and copies of the weights."""
    monkeypatch.setattr(conversion.memory, "available", lambda: conversion.PROCESS_BYTES)
    assert many.load("a").status == 200
    until(lambda: "MB of memory" in engine_of(many, "a").reason, 60)
    assert many.invoke("a").status == 200


@pytest.mark.slow
def test_converted_models_are_kept_in_hf_home(tmp_path_factory, bart):
    """A second load takes what the first one has converted. A model that cannot be converted has the reason."""
    from test_multi_model import Endpoint

    tmp_path = tmp_path_factory.mktemp("endpoint")
    settings = {
        "multi_model": True,
        "model_dir": str(tmp_path / "model"),
        "hub_cache": str(tmp_path / "home"),
    }
    with serving.serve(load_model, runtime="auto", keeps_cache=True, **settings) as server:
        endpoint = Endpoint(server, tmp_path / "models")
        endpoint.add("a", tiny.classifier(tmp_path / "classifier"))
        endpoint.add("b", bart)
        assert endpoint.load("a").status == 200
        until(lambda: engine_of(endpoint, "a").name == "OpenVINO", 300)
        assert endpoint.unload("a").status == 200
        assert endpoint.load("a").status == 200
        assert engine_of(endpoint, "a").name == "OpenVINO"
        assert endpoint.invoke("a").status == 200
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
        assert endpoint.load("b").status == 200
        until(lambda: engine_of(endpoint, "b").reason.startswith("OpenVINO cannot"), 300)
        assert "the model: it cannot be converted: " in engine_of(endpoint, "b").reason
        assert endpoint.invoke("b").status == 200
