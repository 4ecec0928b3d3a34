"""Models from a hub, by the real client."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_hub
import tiny

OLD, NEW = "1" * 40, "2" * 40
FOREIGN = "tf_model.h5" if tiny.FRAMEWORK == "pt" else "pytorch_model.bin"
# The client reads its environment when it is imported: each download is a process of its own, as in an image.
SCRIPT = """
import json, os, sys
from hf_inference_toolkit import settings
from hf_inference_toolkit.loading import hub
from hf_inference_toolkit.loading import model_folder
from hf_inference_toolkit.errors import StartError
values = settings.read(os.environ)
hub.prepare(values)
try:
    folder = model_folder.find_model(values)
except StartError as problem:
    print(json.dumps({"refused": str(problem)}))
else:
    print(json.dumps({"folder": str(folder), "files": sorted(os.listdir(str(folder)))}))
"""


@pytest.fixture(scope="module")
def files(model_folder):
    """Two commits of a model, with weights of both frameworks."""
    folder = Path(str(model_folder("text-classification")))
    model = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    model.update({FOREIGN: b"not for us", "README.md": b"words", "onnx/model.onnx": b"no"})
    changed = dict(model, **{"config.json": model["config.json"].replace(b"POSITIVE", b"GOOD")})
    return {OLD: model, NEW: changed}


def fetch(hub, tmp_path, **environment):
    """What a start with these variables finds."""
    names = dict(
        os.environ,
        HF_ENDPOINT=hub.address,
        HF_MODEL_DIR=str(tmp_path / "no"),
        HF_HOME=str(tmp_path / "cache"),
        **dict({"HF_MODEL_ID": "someone/model"}, **environment),
    )
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        names.pop(proxy, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=names, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.decode().splitlines()[-1])


def test_model_is_fetched_once_and_without_foreign_weights(files, tmp_path):
    """Weights of this framework, nothing twice, and the token to the hub alone."""
    with small_hub.running(files) as hub:
        found = fetch(hub, tmp_path, HF_API_TOKEN="hf_secret")
        assert "config.json" in found.get("files", ()), found
        assert "vocab.txt" in found["files"]
        assert FOREIGN not in found["files"]
        assert not hub.fetched(FOREIGN)
        assert not hub.fetched("model.onnx")
        stored = [entry for entry in hub.log if entry[0] == "storage"]
        assert stored, "the weights come from the storage host"
        assert all(entry[3] is None for entry in stored), "the token went to the storage host"
        assert {entry[3] for entry in hub.log if entry[0] == "hub"} == {"hf_secret"}
        before = len([entry for entry in hub.log if entry[1] == "GET" and "/api/" not in entry[2]])
        assert fetch(hub, tmp_path, HF_API_TOKEN="hf_secret") == found
        assert len([entry for entry in hub.log if entry[1] == "GET" and "/api/" not in entry[2]]) == before


@pytest.mark.parametrize(("revision", "word"), [("first", "POSITIVE"), (OLD, "POSITIVE"), ("main", "GOOD")])
def test_revision_is_the_one_asked_for(files, tmp_path, revision, word):
    """A branch's or a commit's name."""
    with small_hub.running(files) as hub:
        found = fetch(hub, tmp_path, HF_TOKEN="hf_secret", HF_MODEL_REVISION=revision)
        assert word in (Path(found["folder"]) / "config.json").read_text()


def test_refusals_say_what_to_set(files, tmp_path):
    """No token, a wrong one, no such revision, no weights for this image, no hub at all."""
    with small_hub.running(files) as hub:
        assert "set HF_TOKEN" in fetch(hub, tmp_path)["refused"]
        wrong = fetch(hub, tmp_path, HF_API_TOKEN="hf_wrong")["refused"]
        assert "the token was rejected" in wrong
        assert "hf_wrong" not in wrong
        missing = fetch(hub, tmp_path, HF_API_TOKEN="hf_secret", HF_MODEL_REVISION="gone")["refused"]
        assert "HF_MODEL_REVISION" in missing
        foreign = {
            NEW: {
                name: body
                for name, body in files[NEW].items()
                if name in (FOREIGN, "config.json") or name.endswith(".txt")
            }
        }
        hub.files = foreign
        assert (
            "no weights that this image can load" in fetch(hub, tmp_path, HF_API_TOKEN="hf_secret")["refused"]
        )
    assert "cannot be fetched" in fetch(hub, tmp_path, HF_API_TOKEN="hf_secret")["refused"]


def test_local_path_is_a_model_id(model_folder, tmp_path):
    """A folder that lies somewhere else; a folder that does not exist is said to."""
    with small_hub.running({NEW: {}}) as hub:
        folder = str(model_folder("text-classification"))
        assert fetch(hub, tmp_path, HF_MODEL_ID=folder)["folder"] == folder
        assert "no config.json" in fetch(hub, tmp_path, HF_MODEL_ID="/nowhere")["refused"]
        assert not hub.log
