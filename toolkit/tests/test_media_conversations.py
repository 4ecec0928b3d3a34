"""Conversations with images in OpenAI's form."""

import base64
import io
import json
import wave

import pytest
import serving
import tiny
import tiny_pipelines

from hf_inference_toolkit.loading.loader import load_model

transformers = pytest.importorskip("transformers")
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
if VERSION < (4, 56) or tiny.FRAMEWORK != "pt":
    pytest.skip(
        "shown on PyTorch and a release whose processors apply chat templates", allow_module_level=True
    )
pytest.importorskip("PIL")
torch = pytest.importorskip("torch")

CHAT = "/v1/chat/completions"


def picture(color):
    """A data: URL of an image."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (20, 30), color).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def sound():
    """A tenth of a second as WAV in base64."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
        out.writeframes(bytes(3200))
    return base64.b64encode(file.getvalue()).decode()


SOUND = sound()
RED = picture((200, 0, 0))


def part(url=RED):
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def talk(*parts, **more):
    """A request with the parts of one message."""
    content = [*parts, {"type": "text", "text": "what is it?"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0}
    return dict(body, **more)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    torch.manual_seed(0)
    folder = tiny_pipelines.llava(tmp_path_factory.mktemp("llava"))
    with serving.serve(load_model, model_dir=str(folder)) as server:
        yield server


def ok(server, body, path=CHAT):
    reply = server.post(body, path=path)
    assert reply.status == 200, reply.body
    return reply.json


def test_text_is_that_of_the_pipeline(server):
    """Of messages with one image, two, and none; the usage counts the tokens of images."""
    for parts in ([part()], [part(), part(picture((0, 0, 250)))], []):
        body = talk(*parts)
        answer = ok(server, body)
        (choice,) = answer["choices"]
        options = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
        (piped,) = ok(server, {"inputs": body["messages"], "parameters": options}, "/invocations")
        assert choice["message"]["content"] == piped["generated_text"]
        assert choice["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 8
        assert answer["usage"]["prompt_tokens"] > 4 * len(parts)


def test_image_changes_the_answer(server):
    texts = {json.dumps(ok(server, talk(part(one)))["choices"]) for one in (RED, picture((0, 0, 250)))}
    assert len(texts) == 2


def test_parameters_of_the_api_work(server):
    """Streams, several choices with a seed, stop sequences, log probabilities, and /invocations."""
    text = ok(server, talk(part()))["choices"][0]["message"]["content"]
    reply = server.post(talk(part(), stream=True), path=CHAT)
    blocks = [line[6:] for line in reply.body.decode().split("\n\n") if line]
    assert blocks.pop() == "[DONE]"
    deltas = [json.loads(block)["choices"][0]["delta"] for block in blocks]
    assert "".join(delta.get("content", "") for delta in deltas) == text
    drawn = talk(part(), n=2, temperature=1.5, seed=3)
    several = [one["message"]["content"] for one in ok(server, drawn)["choices"]]
    assert several == [one["message"]["content"] for one in ok(server, drawn)["choices"]]
    assert several[0] != several[1]
    stop = text[3:5]
    assert (
        ok(server, talk(part(), stop=[stop]))["choices"][0]["message"]["content"] == text.partition(stop)[0]
    )
    scored = ok(server, talk(part(), logprobs=True, top_logprobs=2))["choices"][0]["logprobs"]["content"]
    # A token may be a part of a character.
    assert b"".join(bytes(one["bytes"]) for one in scored).decode(errors="replace") == text
    assert all(len(one["top_logprobs"]) == 2 for one in scored)
    assert ok(server, talk(part()), "/invocations")["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, talk(part("http://127.0.0.1:9/x.png")), "base64 or a data: URL"),
        (400, talk(part("/etc/hostname")), "base64 or a data: URL"),
        (400, talk({"type": "video", "video": RED}), "a part of a message"),
        (400, {"messages": []}, "0 messages"),
        (400, {"messages": ["hello"]}, "messages[0]"),
        (400, {"messages": [{"role": "user"}]}, "content"),
        (400, talk(max_tokens=100000), "max_tokens"),
        (422, talk(tools=[{"type": "function", "function": {"name": "f"}}]), "tools"),
        (400, talk({"type": "audio", "audio": "UklGRg=="}), "the sound cannot be read"),
        (422, talk({"type": "audio", "audio": SOUND}), "no parts of type 'audio'"),
    ],
)
def test_errors_name_what_is_wrong(server, status, body, words):
    reply = server.post(body, path=CHAT)
    error = reply.json["error"]
    assert words in error["message"]
    assert (reply.status, error["type"]) == (status, "invalid_request_error")
    assert server.get("/ping").status == 200


def test_prompt_without_messages_is_refused(server):
    reply = server.post({"prompt": "a"}, path="/v1/completions")
    assert reply.status == 422
    assert CHAT in reply.json["error"]["message"]


def test_a_model_without_a_chat_template_has_no_route(tmp_path):
    folder = tiny_pipelines.llava(tmp_path)
    for name in ("chat_template.jinja", "chat_template.json"):
        if (folder / name).exists():
            (folder / name).unlink()
    with serving.serve(load_model, model_dir=str(folder)) as server:
        reply = server.post(talk(), path=CHAT)
        assert reply.status == 404
        assert "chat template" in reply.json["error"]["message"]


def test_openapi_has_the_route(server):
    assert CHAT in server.get("/openapi.json").json["paths"]
