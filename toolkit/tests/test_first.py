"""A model in a folder is served: the least that an image must do."""

import json

import serving
from hf_inference_toolkit.loading import load_model


def test_text_is_classified(model_folder):
    """A text gets a label with its score, and /ping is 200."""
    with serving.serve(load_model, model_dir=str(model_folder("text-classification"))) as server:
        assert server.get("/ping").status == 200
        reply = server.post({"inputs": "I like you"})
        assert reply.status == 200
        assert set(reply.json[0]) == {"label", "score"}


def test_features_are_extracted(model_folder):
    """A text gets a list of numbers a token."""
    with serving.serve(load_model, model_dir=str(model_folder("feature-extraction"))) as server:
        (tokens,) = server.post({"inputs": "I like you"}).json
        assert len(tokens) == 5
        assert len(tokens[0]) == 32


def test_errors_have_one_shape(model_folder):
    """What cannot be answered is an object with status, code, message and the request's id."""
    with serving.serve(load_model, model_dir=str(model_folder("text-classification"))) as server:
        reply = server.request("POST", "/invocations", b"{", {"X-Request-Id": "abc"})
        assert reply.status == 400
        assert json.loads(reply.body.decode())["error"]["request_id"] == reply.headers["x-request-id"] == "abc"
