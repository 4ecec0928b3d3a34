"""Large models: layers placed by accelerate, and quantised checkpoints. Several GPUs are not tested here."""

import importlib.util
import json
import shutil
from pathlib import Path

import generation_models
import pytest
import tiny
from in_process import answer, served
from test_model_folders import refusal

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import placement
from hf_inference_toolkit.settings import Settings

transformers = pytest.importorskip("transformers")
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
if VERSION < (4, 56) or tiny.FRAMEWORK != "pt":
    pytest.skip("shown on PyTorch and this release of 2025 or later", allow_module_level=True)
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore")


def has(package):
    return importlib.util.find_spec(package) is not None


needs_accelerate = pytest.mark.skipif(not has("accelerate"), reason="accelerate is not installed")
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
QUANTISED = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True, "_load_in_4bit": True},
}
# Another package reads AWQ before transformers 5.
AWQ = "gptqmodel" if VERSION >= (5, 0) else "autoawq"
PACKAGES = {
    "awq": ("accelerate", AWQ),
    "gptq": ("optimum", "gptqmodel"),
    "bitsandbytes": ("accelerate", "bitsandbytes"),
}


def marked(folder, target, quantised):
    """A copy of a model whose config.json says that it is quantised."""
    shutil.copytree(str(folder), str(target))
    config = json.loads((Path(str(target)) / "config.json").read_text())
    (Path(str(target)) / "config.json").write_text(json.dumps(dict(config, quantization_config=quantised)))
    return target


@needs_accelerate
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_model_placed_by_accelerate_answers_as_without(model_folder, tmp_path, dtype):
    folder = model_folder("text-classification")
    service = served(folder, device_map="auto", dtype=dtype)
    assert service.runtime.model.dtype == getattr(torch, dtype)
    right = answer(served(folder, dtype=dtype), "i like you", top_k=None)
    found = answer(service, "i like you", top_k=None)
    assert [one["label"] for one in found] == [one["label"] for one in right]
    assert all(abs(one["score"] - two["score"]) < 1e-2 for one, two in zip(found, right))


@needs_accelerate
def test_text_of_a_model_placed_by_accelerate_is_that_of_generate(tmp_path):
    folder = generation_models.decoder(tmp_path / "model")
    service = served(folder, device_map="auto")
    assert service.facts["decoding"] == "continuous batching"
    assert answer(service, "where is", max_new_tokens=12) == answer(
        served(folder), "where is", max_new_tokens=12
    )


@needs_accelerate
def test_pipeline_of_a_model_placed_by_accelerate(pipeline_folder):
    folder = pipeline_folder("image-classification")
    settings = {"task": "image-classification"}
    answers = [
        served(folder, **dict(settings, **more)).predict(Request(PIXEL, {}, []), lambda: None).value
        for more in ({}, {"device_map": "auto"})
    ]
    assert [one["label"] for one in answers[0]] == [one["label"] for one in answers[1]]


@needs_accelerate
def test_layers_in_different_places_are_left_there(model_folder, tmp_path):
    """A layer on the disk, as accelerate places layers for which no memory is left; more GPUs are the same to it."""
    from hf_inference_toolkit.runtimes.torch import Torch

    folder = str(model_folder("text-classification"))
    auto = transformers.AutoModelForSequenceClassification
    places = {"bert.embeddings": "cpu", "bert.encoder.layer.0": "cpu", "bert.encoder.layer.1": "disk"}
    places.update({"bert.pooler": "cpu", "classifier": "cpu"})
    placed = auto.from_pretrained(folder, device_map=places, offload_folder=str(tmp_path))
    assert placed.hf_device_map == places
    rows = [{"input_ids": [2, 7, 9, 3], "attention_mask": [1, 1, 1, 1]}]
    found = []
    for model in (placed, auto.from_pretrained(folder)):
        runtime = Torch()
        runtime.place(model)
        found.append(runtime.forward(rows, 0)["logits"])
    assert abs(found[0] - found[1]).max() < 1e-5
    assert any(weight.device.type == "meta" for weight in placed.parameters())


def test_arguments_of_placed_models_have_the_precision(model_folder):
    if not has("accelerate"):
        pytest.skip("accelerate is not installed")
    from hf_inference_toolkit.runtimes.torch import Torch

    folder = Path(str(model_folder("text-classification")))
    found = placement.arguments(Settings(device_map="auto"), folder, Torch("bfloat16"))
    assert found == {"device_map": "auto", "dtype": torch.bfloat16}
    assert placement.arguments(Settings(), folder, Torch("bfloat16")) == {}


@needs_accelerate
def test_openvino_does_not_serve_placed_models(model_folder):
    refused = refusal(model_folder("text-classification"), device_map="auto", runtime="openvino")
    assert "HF_DEVICE_MAP=auto" in refused or "OpenVINO is not installed" in refused


def test_missing_accelerate_is_named(model_folder, monkeypatch):
    find = placement.importlib.util.find_spec
    monkeypatch.setattr(
        placement.importlib.util, "find_spec", lambda name: None if name == "accelerate" else find(name)
    )
    refused = refusal(model_folder("text-classification"), device_map="auto")
    assert "HF_DEVICE_MAP=auto needs accelerate" in refused
    assert "code/requirements.txt" in refused


@pytest.mark.parametrize("method", list(QUANTISED))
def test_package_that_a_quantised_model_needs_is_named(model_folder, tmp_path, method):
    missing = [package for package in PACKAGES[method] if not has(package)]
    if not missing:
        pytest.skip("the installed transformers has all packages of this method")
    folder = marked(model_folder("text-classification"), tmp_path / "model", QUANTISED[method])
    refused = refusal(folder)
    assert "is quantised ({})".format(method) in refused
    assert any(package in refused for package in missing) or "GPU" in refused
    assert "without quantisation" in refused


def test_pipeline_names_the_package_of_a_quantised_model(pipeline_folder, tmp_path):
    if has(AWQ):
        pytest.skip("the installed transformers has all packages of this method")
    folder = marked(pipeline_folder("image-classification"), tmp_path / "model", QUANTISED["awq"])
    refused = refusal(folder, task="image-classification")
    assert "is quantised (awq)" in refused
    assert AWQ in refused or "accelerate" in refused


@pytest.mark.parametrize("words", [{"device_map": "auto"}, {}])
def test_tensorflow_is_refused(model_folder, tmp_path, words):
    class Runtime:
        prefix = "TF"

    folder = model_folder("text-classification")
    if not words:
        folder = marked(folder, tmp_path / "model", QUANTISED["awq"])
    with pytest.raises(StartError, match="needs PyTorch, and this image has TensorFlow"):
        placement.arguments(Settings(**words), Path(str(folder)), Runtime())


@pytest.mark.skipif(not has("bitsandbytes"), reason="bitsandbytes is not installed")
@pytest.mark.parametrize("device_map", [None, "auto"])
def test_checkpoint_of_bitsandbytes_is_served_as_transformers_loads_it(tmp_path, device_map):
    plain = generation_models.decoder(tmp_path / "plain")
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    llama = transformers.LlamaConfig(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.4,
        max_position_embeddings=128,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    tiny.seed()
    transformers.LlamaForCausalLM(llama).save_pretrained(str(tmp_path / "whole"))
    auto = transformers.AutoModelForCausalLM
    auto.from_pretrained(str(tmp_path / "whole"), quantization_config=config).save_pretrained(
        str(tmp_path / "model")
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(plain))
    tokenizer.save_pretrained(str(tmp_path / "model"))
    service = served(tmp_path / "model", device_map=device_map)
    assert service.runtime.model.is_quantized
    assert service.facts["dtype"] == "bitsandbytes"
    model = auto.from_pretrained(str(tmp_path / "model"))
    ids = tokenizer("where is paris", return_tensors="pt")
    right = model.generate(**ids, max_new_tokens=12, do_sample=False)[0].tolist()
    found = answer(service, "where is paris", max_new_tokens=12, return_full_text=False)
    assert found[0]["generated_text"] == tokenizer.decode(
        right[ids["input_ids"].shape[1] :], skip_special_tokens=True
    )
    refused = refusal(tmp_path / "model", runtime="openvino")
    assert "HF_RUNTIME=openvino" in refused
