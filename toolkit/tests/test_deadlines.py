"""Predictions stop at the deadline or when the client disconnects, in all kinds of tasks."""

import json
import threading

import pytest
import serving
import tiny
from test_locations import PART, RIGHT, service_of
from test_serving import until

from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.scheduling.scheduler import Cancelled
from hf_inference_toolkit.tasks import pipeline_task

pytest.importorskip("transformers", minversion="4.46")
if tiny.FRAMEWORK != "pt":
    pytest.skip("shown on PyTorch", allow_module_level=True)


class Check:
    """Raises from its n-th call on, as the check of a request does after its deadline."""

    def __init__(self, calls):
        self.calls = calls

    def __call__(self):
        self.calls -= 1
        if self.calls < 0:
            raise Cancelled()


def ask(service, body, check):
    request = service.read(json.dumps(body).encode(), codecs.MediaType(codecs.JSON, {}), codecs.JSON)
    return service.predict(request, check)


@pytest.mark.parametrize("name", list(RIGHT))
def test_forward_pass_stops_at_the_deadline_between_layers(model_folder, pipeline_service, name):
    service = service_of(name, model_folder, pipeline_service)
    counted = Check(10**9)
    ask(service, RIGHT[name][0], counted)
    calls = 10**9 - counted.calls
    assert calls > 3
    for allowed in range(calls):
        with pytest.raises(Cancelled):
            ask(service, RIGHT[name][0], Check(allowed))


@pytest.mark.parametrize("name", ["image-text-to-text", "whisper"])
def test_generation_stops_at_the_deadline_between_tokens(pipeline_service, name):
    service = pipeline_service(name)
    body = dict(RIGHT[name][0], parameters={"max_new_tokens": 400, "min_new_tokens": 400})
    with pytest.raises(Cancelled):
        ask(service, body, Check(100))


def test_requests_past_their_deadline_need_no_new_thread(pipeline_folder, pipeline_service):
    """Each gets a 504."""
    pipeline_service("image-text-to-text")
    # With an image, because the pipelines of older releases take no conversation without one.
    messages = [{"role": "user", "content": [PART, {"type": "text", "text": "hello"}]}]
    endless = {"inputs": messages, "parameters": {"max_new_tokens": 1900, "min_new_tokens": 1900}}
    short = {"inputs": messages, "parameters": {"max_new_tokens": 1}}
    with serving.serve(
        load_model,
        model_dir=str(pipeline_folder("image-text-to-text")),
        task="image-text-to-text",
        deadline=0.5,
    ) as server:
        before = set(threading.enumerate())
        for _ in range(5):
            assert server.post(endless).status == 504
        until(lambda: server.post(short).status == 200)
        assert server.get("/ping").status == 200
        after = {thread for thread in threading.enumerate() if thread.name.startswith("prediction")}
        assert after <= before


def test_long_speech_is_split_for_ctc_models(pipeline_service, monkeypatch):
    """Attention over minutes of audio would need gigabytes."""
    monkeypatch.setattr(pipeline_task, "WHOLE_SECONDS", 2)
    monkeypatch.setattr(pipeline_task, "CHUNK_SECONDS", 1)
    service = pipeline_service("automatic-speech-recognition")
    lengths = []
    hook = service._pipeline.model.register_forward_pre_hook(
        lambda _, args, given: lengths.append(given["input_values"].shape[-1]), with_kwargs=True
    )
    try:
        ask(service, {"inputs": {"raw": [0.5, -0.5] * 8000 * 3, "sampling_rate": 16000}}, Check(10**9))
    finally:
        hook.remove()
    assert len(lengths) > 2
    assert max(lengths) == 16000
