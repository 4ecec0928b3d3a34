"""Answers that are an image or a sound, as the file that Accept asks for."""

import base64
import io
import wave

import pytest
import serving

from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.tasks import media, media_answers

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, codecs.JSON),
        ("*/*", codecs.JSON),
        ("image/png", codecs.PNG),
        ("image/*", codecs.PNG),
        ("image/png, */*", codecs.PNG),
        ("image/png, application/json", codecs.PNG),
        ("application/json, image/png", codecs.JSON),
        ("application/json;q=0.5, image/png", codecs.PNG),
        ("image/png;q=0.5, application/json", codecs.JSON),
        ("text/csv, */*;q=0.1", codecs.CSV),
    ],
)
def test_an_image_is_chosen_only_where_accept_names_it(accept, chosen):
    assert codecs.accepted(accept, codecs.JSON, (codecs.PNG,)) == chosen


def test_not_acceptable_names_the_image_where_the_task_answers_with_one():
    with pytest.raises(RequestError, match="image/png"):
        codecs.accepted("image/tiff", codecs.JSON, (codecs.PNG,))
    with pytest.raises(RequestError):
        codecs.accepted("image/png", codecs.JSON)


def encoded_image():
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.new("RGB", (40, 40), "red").save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode()


def test_depth_as_an_image(pipeline_folder, pipeline_service):
    pipeline_service("depth-estimation")
    folder = str(pipeline_folder("depth-estimation"))
    with serving.serve(load_model, model_dir=folder, task="depth-estimation") as server:
        text = encoded_image()
        plain = server.post({"inputs": text})
        reply = server.post({"inputs": text}, {"Accept": "image/png"})
        assert (reply.status, reply.headers["content-type"]) == (200, "image/png"), reply.body
        assert reply.body == base64.b64decode(plain.json["depth"])
        assert server.post({"inputs": [text]}, {"Accept": "image/png"}).body.startswith(PNG)
        several = server.post({"inputs": [text, text]}, {"Accept": "image/png"})
        assert several.status == 406
        assert "not one image" in several.json["error"]["message"]
        wrapped = server.post({"instances": [text]}, {"Accept": "image/png"})
        assert wrapped.status == 406
        described = server.get("/openapi.json").json["paths"]["/invocations"]["post"]
        assert "image/png" in described["responses"]["200"]["content"]
        assert "image/*" in described["requestBody"]["content"]


def test_speech_as_wav(pipeline_folder, pipeline_service):
    pipeline_service("text-to-audio")
    folder = str(pipeline_folder("text-to-audio"))
    with serving.serve(load_model, model_dir=folder, task="text-to-audio") as server:
        plain = server.post({"inputs": "abc"})
        assert set(plain.json) == {"audio", "sampling_rate"}
        for name in ("audio/wav", "audio/x-wav", "audio/*"):
            reply = server.post({"inputs": "abc"}, {"Accept": name})
            assert (reply.status, reply.headers["content-type"]) == (200, "audio/wav"), reply.body
            with wave.open(io.BytesIO(reply.body)) as sound:
                assert sound.getframerate() == plain.json["sampling_rate"]
                assert sound.getnframes() > 0
        # InferenceClient.text_to_speech returns the bytes that it gets here, and names no type.
        for accept in ({}, {"Accept": "*/*"}):
            reply = server.post({"inputs": "abc"}, accept, path="/")
            assert reply.headers["content-type"] == "audio/wav", reply.body
        assert server.post({"inputs": "abc"}, {"Accept": "application/json"}, path="/").json


@pytest.mark.parametrize("text", ["", "  ", "123", "\U0001f600"])
def test_text_that_the_model_cannot_speak_is_422(pipeline_service, text):
    service = pipeline_service("text-to-audio")
    with pytest.raises(RequestError, match="no characters that the model can speak") as problem:
        service.predict(Request(text, {}, []), lambda: None)
    assert problem.value.status == 422


def test_an_image_alone_is_its_file():
    encoded = base64.b64encode(PNG).decode()
    assert media_answers.write(encoded, codecs.PNG) == PNG
    assert media_answers.write([encoded], codecs.PNG) == PNG
    with pytest.raises(RequestError, match="not one image"):
        media_answers.write([{"mask": encoded}], codecs.PNG)


def test_loud_sound_is_limited_and_nan_is_silence():
    answer = {"audio": [[2.0, -2.0, float("nan")]], "sampling_rate": 8000}
    with wave.open(io.BytesIO(media_answers.write(answer, codecs.WAV))) as sound:
        assert sound.readframes(3) == b"\xff\x7f\x01\x80\x00\x00"


def test_sound_that_this_image_cannot_read_is_named(monkeypatch):
    """An image without soundfile reads WAV alone."""
    monkeypatch.setattr(media.importlib.util, "find_spec", lambda name: None)
    for start, name in ((b"fLaC", "audio/flac"), (b"OggS", "audio/ogg"), (b"ID3\x03", "audio/mpeg")):
        with pytest.raises(RequestError, match=name) as problem:
            media.Decoder().sound(start + bytes(100))
        assert problem.value.status == 415
        assert "audio/wav" in str(problem.value)
