"""The parameters that a client may set in tasks of transformers' own pipelines."""

import base64
import json

import pytest
import small_hub
import tiny
import tiny_pipelines

from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.errors import RequestError

transformers = pytest.importorskip("transformers", minversion="4.46")
pytest.importorskip("PIL")
if tiny.FRAMEWORK != "pt":
    pytest.skip("shown on PyTorch", allow_module_level=True)

CODE = """
import pathlib
pathlib.Path({!r}).write_text("the server ran it")
def generate(model, *args, **kwargs):
    return model.generate(*args, max_new_tokens=1)
"""
SOUND = base64.b64encode(tiny_pipelines.wav()).decode()
IMAGE = base64.b64encode(tiny_pipelines.png()).decode()
INPUTS = {
    "whisper": SOUND,
    "image-text-to-text": {"images": IMAGE, "text": "<image> what"},
    "image-classification": IMAGE,
    "zero-shot-image-classification": IMAGE,
}


def ask(service, inputs, parameters):
    """What a request is answered with; RequestError where it is refused."""
    body = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    request = service.read(body, codecs.MediaType(codecs.JSON, {}), codecs.JSON)
    return service.predict(request, lambda: None).value


def refusal(service, inputs, parameters):
    with pytest.raises(RequestError) as refused:
        ask(service, inputs, parameters)
    assert refused.value.status == 400
    return refused.value.message


@pytest.mark.parametrize("name", ["whisper", "image-text-to-text"])
def test_no_request_makes_generate_run_code_from_a_folder_or_the_hub(
    pipeline_service, tmp_path, monkeypatch, name
):
    """`custom_generate` and `trust_remote_code`, flat and nested: 400, no file is read, no hub is asked."""
    mark = tmp_path / "ran"
    code = CODE.format(str(mark))
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text(code)
    service = pipeline_service(name)
    files = {"custom_generate/generate.py": code.encode(), "config.json": b"{}"}
    with small_hub.running({"1" * 40: files}, token=None) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        for place in (str(tmp_path), "someone/model"):
            harmful = {"custom_generate": place, "trust_remote_code": True}
            for parameters in (harmful, {"generate_kwargs": harmful}):
                assert "'custom_generate'" in refusal(service, INPUTS[name], parameters)
        assert not hub.log
    assert not mark.exists()


HARMFUL = {
    "assistant_model": "someone/model",
    "assistant_tokenizer": "someone/model",
    "batch_size": 1000,
    "cache_implementation": "static",
    "chat_template": "{{ 7 * 7 }}",
    "constraints": [],
    "decoder_kwargs": {"beam_width": 10**9},
    "device": "cuda",
    "force_words_ids": [[1]],
    "forward_params": {"vocoder": "someone/model"},
    "framework": "pt",
    "generation_config": "/etc",
    "image": "/etc/hostname",
    "image_processor_kwargs": {"size": 100000},
    "images": "/etc/hostname",
    "inputs": "/etc/hostname",
    "model": "someone/model",
    "num_workers": 4,
    "output_attentions": True,
    "preprocess_params": {"voice_preset": "someone/model"},
    "processor_kwargs": {"chat_template": "{{ 7 * 7 }}"},
    "prompt_lookup_num_tokens": 10,
    "quantization_config": {},
    "return_tensors": True,
    "stopping_criteria": [],
    "streamer": "x",
    "tesseract_config": "--user-words /etc/passwd",
    "text": [{"role": "user", "content": [{"type": "image", "url": "http://127.0.0.1:9/x"}]}],
    "timeout": 1,
    "tokenizer": "someone/model",
    "tokenizer_kwargs": {"max_length": 10**9},
    "tools": [],
    "trust_remote_code": True,
    "videos": "http://127.0.0.1:9/x",
    "watermarking_config": {},
}


@pytest.mark.parametrize("name", sorted(tiny_pipelines.MAKERS))
def test_parameters_that_load_fetch_run_or_enlarge_are_unknown(pipeline_service, name):
    """The error names the parameter, and those that the task knows; so it is inside generate_kwargs."""
    service = pipeline_service(name)
    known = service.schema()["properties"]["parameters"]["properties"]
    needed = {"candidate_labels": ["cat"]} if "candidate_labels" in known else {}
    for parameter, value in HARMFUL.items():
        assert parameter not in known
        message = refusal(service, INPUTS.get(name, ""), dict(needed, **{parameter: value}))
        assert message.startswith("unknown parameter '{}'".format(parameter))
        assert "known: " in message
        if "generate_kwargs" in known:
            message = refusal(service, INPUTS.get(name, ""), {"generate_kwargs": {parameter: value}})
            assert message.startswith("unknown parameter '{}'".format(parameter))


def test_generation_parameters_have_their_limits_in_every_place(pipeline_service):
    """Too many tokens, beams or texts; a value of another type; the same parameter twice."""
    service = pipeline_service("image-text-to-text")
    inputs = INPUTS["image-text-to-text"]
    for wrong in (
        {"max_new_tokens": 10**6},
        {"num_beams": 3000},
        {"num_return_sequences": 65},
        {"num_beams": 64, "max_new_tokens": 4096},
        {"max_new_tokens": "4"},
        {"bad_words_ids": [[1]] * 2000},
        {"suppress_tokens": list(range(2000))},
        {"eos_token_id": 10**6},
    ):
        refusal(service, inputs, wrong)
        refusal(service, inputs, {"generate_kwargs": wrong})
    if "stop_sequence" in service.schema()["properties"]["parameters"]["properties"]:
        assert "at most 16" in refusal(service, inputs, {"stop_sequence": ["a"] * 17})
        assert "at most 128" in refusal(service, inputs, {"stop_sequence": "a" * 129})
    else:
        assert transformers.__version__ < "4.50"
    assert "too: keep one" in refusal(
        service, inputs, {"max_new_tokens": 2, "generate_kwargs": {"max_new_tokens": 3}}
    )
    assert "an object" in refusal(service, inputs, {"generate_kwargs": "x"})


def test_generation_parameters_have_their_effect_in_every_place(pipeline_service):
    """At the top level and in generate_kwargs, as the pipeline takes them."""
    service = pipeline_service("image-text-to-text")
    inputs = INPUTS["image-text-to-text"]
    flat = ask(service, inputs, {"max_new_tokens": 3, "num_beams": 2, "return_full_text": False})
    nested = ask(
        service, inputs, {"generate_kwargs": {"max_new_tokens": 3, "num_beams": 2}, "return_full_text": False}
    )
    assert flat == nested
    assert ask(service, inputs, {"max_new_tokens": 3, "num_beams": None, "return_full_text": False})
    speech = pipeline_service("whisper")
    options = {"language": "fr", "task": "transcribe", "max_new_tokens": 4}
    assert ask(speech, SOUND, options) == ask(speech, SOUND, {"generate_kwargs": options})


def test_parameters_that_are_listed_are_accepted(pipeline_service):
    """The schema of /openapi.json and the check are one table."""
    service = pipeline_service("image-classification")
    assert list(service.schema()["properties"]["parameters"]["properties"]) == ["top_k", "function_to_apply"]
    assert len(ask(service, IMAGE, {"top_k": 2, "function_to_apply": "sigmoid"})) == 2
    assert "from 1 to 1000" in refusal(service, IMAGE, {"top_k": -2})


def test_ways_of_generating_that_moved_to_the_hub_are_not_offered(model_folder):
    """transformers answers them with code from the hub, or refuses them."""
    from hf_inference_toolkit.loading.loader import load_model
    from hf_inference_toolkit.settings import Settings
    from hf_inference_toolkit.tasks.generation_parameters import unavailable

    service = load_model(Settings(model_dir=str(model_folder("text-generation")), task="text-generation"))
    moved = unavailable(service.runtime.model)
    if not moved:
        pytest.skip("the installed transformers has them all")
    offered = {parameter.name for parameter in service.parameters}
    assert not offered & moved
    # Contrastive search moved before the beams.
    assert "penalty_alpha" in moved
    assert "num_beams" in offered
