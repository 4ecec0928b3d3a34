"""Inference scripts that were written for AWS's images."""

import io
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import serving

from hf_inference_toolkit.loading import compatibility
from hf_inference_toolkit.loading.loader import load_model

HUGGING_FACE = """
from mms.service import PredictionException
from sagemaker_huggingface_inference_toolkit import content_types, decoder_encoder
from sagemaker_inference import errors

def model_fn(model_dir):
    return None

def input_fn(input_data, content_type):
    return decoder_encoder.decode(input_data, content_type)

def predict_fn(data, model):
    inputs = data["inputs"]
    if inputs == "refuse":
        raise PredictionException("refused by the script", 422)
    if inputs == "generic":
        raise errors.GenericInferenceToolkitError(418, "a teapot")
    if hasattr(inputs, "size"):
        return {"size": list(inputs.size)}
    if isinstance(inputs, bytes):
        return {"bytes": len(inputs)}
    return [{"given": str(one)} for one in inputs] if isinstance(inputs, list) else {"given": inputs}

def output_fn(prediction, accept):
    return decoder_encoder.encode(prediction, accept)
"""

ARRAYS = """
from sagemaker_inference import content_types, decoder, encoder, environment, errors

def model_fn(model_dir):
    return environment.Environment().module_name

def input_fn(data, content_type):
    return decoder.decode(data, content_type)

def predict_fn(data, model):
    return data * 2

def output_fn(prediction, accept):
    return encoder.encode(prediction, accept), accept
"""


def write(folder, text):
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text(text)
    return {"model_dir": str(folder)}


def test_script_for_the_hugging_face_images(tmp_path):
    """decode and encode of every content type, and errors with a status."""
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.new("RGB", (4, 3)).save(out, format="PNG")
    with serving.serve(load_model, **write(tmp_path, HUGGING_FACE)) as server:
        assert server.post({"inputs": "a"}).json == {"given": "a"}
        assert server.post(out.getvalue(), {"Content-Type": "image/png"}).json == {"size": [4, 3]}
        assert server.post(b"12345", {"Content-Type": "audio/x-flac"}).json == {"bytes": 5}
        lines = server.post(b"inputs\na\nb\n", {"Content-Type": "text/csv", "Accept": "text/csv"})
        assert lines.body.split() == [b"given", b"a", b"b"]
        headless = server.post(b"a\nb\n", {"Content-Type": "text/csv"})
        assert (headless.status, "must name the column" in headless.json["error"]["message"]) == (400, True)
        refused = server.post({"inputs": "refuse"})
        assert (refused.status, refused.json["error"]["message"]) == (422, "refused by the script")
        assert server.post({"inputs": "generic"}).status == 418
        unknown = server.post(b"x", {"Content-Type": "application/x-own"})
        assert (unknown.status, "application/x-own" in unknown.json["error"]["message"]) == (415, True)
        assert server.post({"inputs": "a"}, {"Accept": "application/x-own"}).status == 415


def test_script_for_arrays_and_no_pickles(tmp_path):
    """JSON, CSV and .npy; an array of objects would be a pickle, which runs code."""
    numpy = pytest.importorskip("numpy")

    def npy(values, **options):
        out = io.BytesIO()
        numpy.save(out, values, **options)
        return out.getvalue()

    with serving.serve(load_model, **write(tmp_path, ARRAYS)) as server:
        assert server.post([1, 2]).json == [2, 4]
        lines = server.post(b"1,2\n3,4\n", {"Content-Type": "text/csv", "Accept": "text/csv"})
        assert lines.body.split() == [b"2,4", b"6,8"]
        kind = "application/x-npy"
        reply = server.post(npy(numpy.ones(2)), {"Content-Type": kind, "Accept": kind})
        assert numpy.load(io.BytesIO(reply.body)).tolist() == [2, 2]
        pickle = npy(numpy.array([{}], dtype=object), allow_pickle=True)
        assert server.post(pickle, {"Content-Type": kind}).status == 400
        assert server.post(b"[1, 2", {"Content-Type": "application/json"}).status == 400


def test_real_packages_take_precedence(tmp_path):
    """Only what is not installed is answered by our modules."""
    (tmp_path / "sagemaker_inference").mkdir()
    (tmp_path / "sagemaker_inference" / "__init__.py").write_text("REAL = True\n")
    script = """
    from hf_inference_toolkit.loading import compatibility
    compatibility.register()
    compatibility.register()
    import sagemaker_inference
    print(sagemaker_inference.REAL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={"PYTHONPATH": "{}:{}".format(Path(__file__).parent.parent / "src", tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.stdout.decode().strip() == "True"
    compatibility.register()
    compatibility.register()
    assert sys.path.count(str(compatibility.FOLDER)) == 1
