"""Hooks and handlers of users, right and wrong."""

import json
import logging
import textwrap

import pytest
import serving

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.settings import Settings


@pytest.fixture
def folder(tmp_path):
    """A model folder to write user code into."""

    def write(text, name="code/inference.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return str(tmp_path)

    return write


FOUR = """
import json
def model_fn(model_dir{c}):
    return lambda x: x * 2
def input_fn(data, content_type{c}):
    return json.loads(data)["number"]
def predict_fn(data, model{c}):
    return model(data)
def output_fn(prediction, accept{c}):
    return json.dumps({{"answer": prediction, "accept": accept}})
"""


@pytest.mark.parametrize("context", ["", ", context", ", context=None"])
def test_four_functions_with_and_without_context(folder, context):
    """Each function may take the context, and need not."""
    with serving.serve(load_model, model_dir=folder(FOUR.format(c=context))) as server:
        reply = server.post({"number": 21}, {"Accept": "application/json"})
        assert reply.json == {"answer": 42, "accept": "application/json"}
        assert reply.headers["content-type"] == "application/json"


def test_transform_fn_does_all(folder):
    """transform_fn gets body and types, and may give a content type back."""
    text = """
    def model_fn(model_dir): return "m"
    def transform_fn(model, data, content_type, accept, context):
        return (model + data.decode() + content_type, "text/x-own")
    """
    with serving.serve(load_model, model_dir=folder(text)) as server:
        reply = server.post(b"!", {"Content-Type": "application/x-own"})
        assert reply.body == b"m!application/x-own"
        assert reply.headers["content-type"] == "text/x-own"


def test_endpoint_handler(folder):
    """handler.py: a class with a path and a call."""
    text = """
    class EndpointHandler:
        def __init__(self, path=""): self.path = path
        def __call__(self, data): return {"got": data["inputs"], "more": data.get("parameters")}
    """
    with serving.serve(load_model, model_dir=folder(text, "handler.py")) as server:
        assert server.post({"inputs": 1, "parameters": {"a": 2}}).json == {"got": 1, "more": {"a": 2}}


def test_hooks_around_the_standard_model(folder, model_folder, tmp_path):
    """Without model_fn the model is the standard one, to be called with inputs and parameters."""
    text = """
    def predict_fn(data, model):
        return {"labels": model(data["inputs"], top_k=2), "task": model.task}
    """
    settings = {
        "model_dir": str(model_folder("text-classification")),
        "submit_directory": folder(text) + "/code",
    }
    with serving.serve(load_model, **settings) as server:
        answer = server.post({"inputs": "I like you"}).json
        assert answer["task"] == "text-classification"
        assert len(answer["labels"]) == 2


def test_user_code_raises_with_its_own_status(folder):
    """InferenceError: status and message as they are; any other exception: a generic 500, and the server goes on."""
    text = """
    from hf_inference_toolkit import InferenceError
    def model_fn(model_dir): return None
    def predict_fn(data, model):
        if data["inputs"] == "own": raise InferenceError(418, "a teapot")
        if data["inputs"] == "memory": raise MemoryError()
        if data["inputs"] == "exit": raise SystemExit(3)
        if data["inputs"] == "secret": raise ValueError("secret")
        return "fine"
    """
    with serving.serve(load_model, model_dir=folder(text)) as server:
        own = server.post({"inputs": "own"})
        assert (own.status, own.json["error"]["message"]) == (418, "a teapot")
        for inputs, status in (("secret", 500), ("exit", 500), ("memory", 507)):
            reply = server.post({"inputs": inputs})
            assert reply.status == status
            assert b"secret" not in reply.body
        assert server.post({"inputs": "x"}).json == "fine"
        assert server.get("/ping").status == 200


WRONG = [
    ("def predict_fn(data): return 1", "code/inference.py", "(data, model)"),
    ("def model_fn(): return 1", "code/inference.py", "(model_dir)"),
    ("def model_fn(a, b, c): return 1", "code/inference.py", "(model_dir)"),
    (
        "def transform_fn(a,b,c,d): pass\ndef predict_fn(a,b): pass",
        "code/inference.py",
        "transform_fn replaces the other",
    ),
    ("import not_there_at_all", "code/inference.py", "requirements.txt"),
    ("x = 1\nraise ValueError('no')", "code/inference.py", "line 2: ValueError: no"),
    ("def f(:", "code/inference.py", "line 1: SyntaxError"),
    ("x = 1", "code/inference.py", "has none of the functions"),
    ("def model_fn(d): pass", "code/code/inference.py", "one folder too deep"),
    ("def model_fn(d): pass", "model/code/inference.py", "one folder too deep"),
    ("x = 1", "handler.py", "no class EndpointHandler"),
    (
        "class EndpointHandler:\n  def __init__(self, path): pass\n  def __call__(self): pass",
        "handler.py",
        "(self, data)",
    ),
    ("{}", "model/config.json", "one level too deep"),
    ("{}", "weights.bin", "no model"),
]


@pytest.mark.parametrize(("text", "name", "words"), WRONG)
def test_wrong_code_has_its_own_message(folder, text, name, words):
    """Each mistake is named, with what to do."""
    with pytest.raises(StartError) as refused:
        load_model(Settings(model_dir=folder(text, name)))
    assert words in str(refused.value)


def test_program_may_be_at_the_root_of_the_model(folder):
    """SAGEMAKER_PROGRAM is looked for in code/ and beside the weights."""
    text = "def model_fn(d): return 1\ndef predict_fn(data, model): return 'root'"
    with serving.serve(load_model, model_dir=folder(text, "mine.py"), program="mine.py") as server:
        assert server.post({"inputs": 1}).json == "root"


def test_program_that_is_absent_is_a_warning_and_the_model_is_served(model_folder, caplog):
    """The SageMaker SDK sets SAGEMAKER_PROGRAM for models without user code, too."""
    settings = {"model_dir": str(model_folder("text-classification")), "program": "inference.py"}
    # Other tests configure logs, too.
    caplog.set_level(logging.WARNING, logger="hf_inference_toolkit")
    with serving.serve(load_model, **settings) as server:
        assert server.post({"inputs": "I like you"}).json[0]["label"] in ("POSITIVE", "NEGATIVE")
    (warning,) = [one.getMessage() for one in caplog.records if "SAGEMAKER_PROGRAM" in one.getMessage()]
    assert "inference.py" in warning


def test_program_is_named_where_there_is_no_model_either(folder):
    """Nothing can be served: the message has both reasons."""
    with pytest.raises(StartError, match=r"no model: .*mine.py, which SAGEMAKER_PROGRAM names"):
        load_model(Settings(model_dir=folder("x = 1"), program="mine.py"))


def test_requirements_that_cannot_be_installed_stop_the_start(folder):
    """pip's own words are in the message."""
    pytest.importorskip("pip")
    folder("--no-index\nno-such-package-at-all", "code/requirements.txt")
    with pytest.raises(StartError, match="no-such-package-at-all"):
        load_model(Settings(model_dir=folder("def model_fn(d): return 1")))


def test_input_types_are_the_users_own(folder):
    """CSV as text, bytes as bytes."""
    text = """
    def model_fn(d): return None
    def input_fn(data, content_type): return type(data).__name__
    def predict_fn(data, model): return data
    """
    with serving.serve(load_model, model_dir=folder(text)) as server:
        assert json.loads(server.post(b"a,b", {"Content-Type": "text/csv"}).body.decode()) == "str"
        assert (
            json.loads(server.post(b"\x00", {"Content-Type": "application/x-npy"}).body.decode()) == "bytes"
        )
