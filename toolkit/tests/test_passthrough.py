"""Tasks that are the installed transformers' own: images, sounds, and what is said when they cannot be."""

import base64
import contextlib
import importlib
import io
import json
import socket
import wave
from pathlib import Path

import pytest
import serving
import tiny
import tiny_pipelines

from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.settings import Settings

pytest.importorskip("transformers", minversion="4.30")
if tiny.FRAMEWORK != "pt":
    pytest.skip("shown on PyTorch", allow_module_level=True)


@pytest.fixture(scope="module")
def looker(tmp_path_factory):
    """A model that classifies images."""
    import transformers

    folder = tmp_path_factory.mktemp("images")
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=16,
        **tiny.labels("cat", "dog"),
    )
    tiny.seed()
    transformers.ViTForImageClassification(config).save_pretrained(str(folder))
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}'
    )
    return folder


@pytest.fixture(scope="module")
def listener(tmp_path_factory):
    """A model that classifies sounds."""
    import transformers

    folder = tmp_path_factory.mktemp("sounds")
    config = transformers.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16, 16),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=16,
        **tiny.labels("yes", "no"),
    )
    tiny.seed()
    transformers.Wav2Vec2ForSequenceClassification(config).save_pretrained(str(folder))
    (folder / "preprocessor_config.json").write_text(
        '{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": 16000, '
        '"padding_value": 0.0, "do_normalize": true, "return_attention_mask": false}'
    )
    return folder


def test_images_come_as_bytes_or_base64_and_never_as_addresses(looker):
    """image/png as the body, base64 in JSON; a path or an address is refused, not opened."""
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.new("RGB", (40, 40), "red").save(out, format="PNG")
    with serving.serve(load_model, model_dir=str(looker)) as server:
        plain = server.post(out.getvalue(), {"Content-Type": "image/png"})
        assert plain.status == 200, plain.body
        assert {label["label"] for label in plain.json} == {"cat", "dog"}
        encoded = base64.b64encode(out.getvalue()).decode()
        assert server.post({"inputs": encoded}).json == plain.json
        assert server.post({"inputs": [encoded], "parameters": {"top_k": 1}}).json == [plain.json[:1]]
        for address in ("http://127.0.0.1:1/a.png", "/etc/passwd", "file:///etc/passwd", str(Path(__file__))):
            assert server.post({"inputs": address}).status == 400
        assert server.post(b"no image", {"Content-Type": "image/png"}).status == 400
        assert server.post({"inputs": encoded, "parameters": {"num_workers": 4}}).status == 400


def test_media_in_the_form_of_vertex_ai(looker, listener):
    """`{"b64": ...}` is base64; what is in it is no location either."""
    for folder, content in ((looker, tiny_pipelines.png()), (listener, tiny_pipelines.wav())):
        text = base64.b64encode(content).decode()
        with serving.serve(load_model, model_dir=str(folder)) as server:
            expected = server.post({"inputs": text}).json
            assert server.post({"instances": [{"b64": text}]}).json == {"predictions": [expected]}
            assert server.post({"inputs": {"b64": "/etc/hostname"}}).status == 400


@pytest.mark.parametrize("samples", [4, 10])
def test_audio_that_is_too_short_for_the_model_is_422(listener, samples):
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes(b"\x01\x02" * samples)
    text = base64.b64encode(out.getvalue()).decode()
    fine = base64.b64encode(tiny_pipelines.wav()).decode()
    with serving.serve(load_model, model_dir=str(listener), task="audio-classification") as server:
        reply = server.post({"inputs": [fine, text]})
        assert reply.status == 422
        assert reply.json["error"]["message"] == "inputs[1]: the audio or image is too small for the model"
        assert server.get("/ping").status == 200


def test_sounds_come_as_wav(listener):
    """audio/wav as the body."""
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes(b"\x01\x02" * 8000)
    with serving.serve(load_model, model_dir=str(listener), task="audio-classification") as server:
        reply = server.post(out.getvalue(), {"Content-Type": "audio/wav"})
        assert reply.status == 200, reply.body
        assert {label["label"] for label in reply.json} == {"yes", "no"}
        assert server.post(b"RIFF....", {"Content-Type": "audio/wav"}).status == 400


def test_images_are_looked_at_in_the_precision_asked_for(looker):
    """Where `pipeline` takes a precision; the answer is one of float32 nearly."""
    service = load_model(Settings(model_dir=str(looker), task="image-classification", dtype="bfloat16"))
    assert str(service._pipeline.model.dtype) == "torch.bfloat16"
    picture = importlib.import_module("PIL.Image").new("RGB", (32, 32))
    assert len(service.predict(Request(picture, {}, []), lambda: None).value) == 2


class Listener:
    """Counts connections: a server that opens an address of a request is noticed."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(10)
        self.socket.setblocking(False)
        self.address = "http://127.0.0.1:{}/a.png".format(self.socket.getsockname()[1])

    def connections(self):
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.accept()[0].close()
                count += 1
        return count


AROUND = {
    "predict_fn": "def predict_fn(data, model): return ['mine', model(data['inputs'], **data.get('parameters', {}))]",
    "output_fn": "import json\ndef output_fn(p, accept): return json.dumps(['mine', p])",
    "input_fn": "import json\ndef input_fn(body, kind): return json.loads(body)\n"
    "def output_fn(p, accept): return json.dumps(['mine', p])",
    "nested": "def predict_fn(data, model): return ['mine', model([data['inputs']], top_k=2)[0]]",
}


@pytest.mark.parametrize("hook", sorted(AROUND))
def test_standard_image_model_behind_user_code(looker, tmp_path, hook):
    """Images as bodies and as base64; strings that a client sent are no locations behind user code either."""
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.new("RGB", (40, 40), "red").save(out, format="PNG")
    (tmp_path / "inference.py").write_text(AROUND[hook])
    file = tmp_path / "picture.png"
    file.write_bytes(out.getvalue())
    listener = Listener()
    settings = {"model_dir": str(looker), "submit_directory": str(tmp_path)}
    with serving.serve(load_model, **settings) as server:
        encoded = server.post({"inputs": base64.b64encode(out.getvalue()).decode()})
        assert encoded.status == 200, encoded.body
        assert encoded.json[0] == "mine"
        assert {label["label"] for label in encoded.json[1]} == {"cat", "dog"}
        if hook != "input_fn":
            assert server.post(out.getvalue(), {"Content-Type": "image/png"}).json == encoded.json
        for location in (listener.address, str(file), "file://" + str(file)):
            assert server.post({"inputs": location}).status == 400
        if hook != "nested":
            text = base64.b64encode(out.getvalue()).decode()
            assert server.post({"inputs": text, "parameters": {"num_workers": 4}}).status == 400
        assert not listener.connections()


@pytest.mark.parametrize("hook", ["predict_fn", "output_fn"])
def test_standard_audio_model_behind_user_code(listener, tmp_path, hook):
    """audio/wav as the body."""
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes(b"\x01\x02" * 8000)
    (tmp_path / "inference.py").write_text(AROUND[hook])
    settings = {
        "model_dir": str(listener),
        "submit_directory": str(tmp_path),
        "task": "audio-classification",
    }
    with serving.serve(load_model, **settings) as server:
        reply = server.post(out.getvalue(), {"Content-Type": "audio/wav"})
        assert reply.status == 200, reply.body
        assert {label["label"] for label in reply.json[1]} == {"yes", "no"}


def test_word_boxes_in_parameters_are_part_of_the_document(pipeline_service):
    """`InferenceClient.document_question_answering` sends them there."""
    service = pipeline_service("document-question-answering")
    boxes = [["sylvain", [0, 0, 500, 100]], ["brooklyn", [0, 200, 500, 300]]]
    given = {"inputs": {"question": "my name"}, "parameters": {"word_boxes": boxes, "top_k": 1}}
    request = service.read(
        json.dumps(given).encode(), codecs.content_type("application/json"), "application/json"
    )
    assert request.inputs == {"question": "my name", "word_boxes": boxes}
    assert request.parameters == {"top_k": 1}
    assert service.predict(request, lambda: None).value[0]["answer"]
    given["inputs"]["word_boxes"] = boxes
    with pytest.raises(RequestError, match="word_boxes"):
        service.read(json.dumps(given).encode(), codecs.content_type("application/json"), "application/json")
