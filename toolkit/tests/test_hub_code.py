"""User code of a model on the hub, and user code around one."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import small_hub
import tiny

# The hub's client reads its environment when it is imported. One process makes all starts: each is a real server.
SCRIPT = """
import json, logging, os, sys
import serving
from hf_inference_toolkit.loading.loader import load_model
results, errors = [], []
handler = logging.Handler(logging.ERROR)
handler.emit = lambda record: errors.append(record.getMessage())
logging.getLogger().addHandler(handler)
for settings in json.loads(sys.argv[1]):
    with serving.serve(load_model, hub_endpoint=os.environ["HF_ENDPOINT"], hub_cache=os.environ["HF_HOME"],
                       model_id="someone/model", **settings) as server:
        if server.app.model.state == "ready":
            reply = server.post({"inputs": "a b"})
            results.append(reply.json if reply.status == 200 else {"status": reply.status, "body": str(reply.body)})
        else:
            results.append({"refused": errors[-1]})
print("RESULTS " + json.dumps(results))
"""
HANDLER = """
import os
import small_dependency
from helpers.names import NAME
class EndpointHandler:
    def __init__(self, path): self.path = path
    def __call__(self, data): return [NAME, small_dependency.VALUE, sorted(os.listdir(self.path))]
"""
MODEL_FN = """
import os
def model_fn(model_dir): return sorted(os.listdir(model_dir))
def predict_fn(data, model): return model
"""
AROUND = """
def predict_fn(data, model): return ["around", model(data["inputs"])[0]["label"]]
"""
FOREIGN = "tf_model.h5" if tiny.FRAMEWORK == "pt" else "pytorch_model.bin"


def starts(hub, tmp_path, *settings):
    """What each start answers to one request, or why there was none."""
    names = dict(
        os.environ,
        HF_ENDPOINT=hub.address,
        HF_HOME=str(tmp_path / "cache"),
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parent.parent / "src"), str(Path(__file__).parent)]),
    )
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        names.pop(proxy, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(settings)],
        env=names,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("RESULTS ")] or [
        done.stderr.decode()[-3000:]
    ]
    return json.loads(line[len("RESULTS ") :])


@pytest.fixture(scope="module")
def model(model_folder):
    folder = Path(str(model_folder("text-classification")))
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return dict(files, **{FOREIGN: b"not for us", "data/table.csv": b"1,2"})


def folder_with(path, name, text):
    (path / name).parent.mkdir(parents=True)
    (path / name).write_text(text)
    return {"model_dir": str(path)}


def test_code_of_a_repository_runs_only_when_it_is_trusted(model, tmp_path):
    """handler.py with its requirements and modules, and code/inference.py; without trust, one line that says why."""
    with zipfile.ZipFile(str(tmp_path / "dependency.whl"), "w") as wheel:
        info = "small_dependency-1.dist-info/"
        wheel.writestr("small_dependency.py", "VALUE = 7")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: small_dependency\nVersion: 1\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(info + "RECORD", "")
    name = "small_dependency-1-py3-none-any.whl"
    handler = {
        "handler.py": HANDLER.encode(),
        "helpers/names.py": b"NAME = 'mine'",
        "requirements.txt": ("--no-index\n./" + name).encode(),
        name: (tmp_path / "dependency.whl").read_bytes(),
    }
    files = {
        "1" * 40: dict(model, **handler),
        "2" * 40: dict(model, **{"code/inference.py": AROUND.encode()}),
        "3" * 40: dict(model, **{"requirements.txt": b"--no-index\nno-such-package"}),
    }
    trusted = {"trust_remote_code": True, "model_dir": str(tmp_path / "no")}
    careful = {"model_dir": str(tmp_path / "no")}
    with small_hub.running(files, token=None) as hub:
        one, two, three, refused, also = starts(
            hub,
            tmp_path,
            dict(trusted, model_revision="1" * 40),
            dict(trusted, model_revision="2" * 40),
            dict(trusted, model_revision="3" * 40),
            dict(careful, model_revision="1" * 40),
            dict(careful, model_revision="2" * 40),
        )
    assert one[:2] == ["mine", 7], one
    assert {"data", "handler.py", "helpers"} <= set(one[2])
    assert FOREIGN not in one[2]
    assert two[0] == "around", two
    # Many repositories list what their training needed: without user code that is no requirement of the server.
    assert three[0]["label"] in ("POSITIVE", "NEGATIVE"), three
    for start, file in ((refused, "handler.py"), (also, "code/inference.py")):
        assert file in start["refused"]
        assert "HF_TRUST_REMOTE_CODE=true" in start["refused"]
        assert "\n" not in start["refused"]


def test_own_code_gets_the_folder_of_the_fetched_model(model, tmp_path):
    """HF_MODEL_DIR holds only code: model_fn, EndpointHandler and the standard model work on the hub's files.

    The repository's own code is not run, so it needs no trust.
    """
    handler = HANDLER.replace("import small_dependency\n", "").replace("small_dependency.VALUE", "0")
    handler = handler.replace("from helpers.names import NAME", "NAME = 'local'")
    files = {"1" * 40: dict(model, **{"handler.py": b"raise ValueError('not to be run')"})}
    with small_hub.running(files, token=None) as hub:
        model_fn, mine, around = starts(
            hub,
            tmp_path,
            folder_with(tmp_path / "a", "code/inference.py", MODEL_FN),
            folder_with(tmp_path / "b", "handler.py", handler),
            folder_with(tmp_path / "c", "code/inference.py", AROUND),
        )
    assert {"config.json", "data", "vocab.txt"} <= set(model_fn), model_fn
    assert mine[0] == "local", mine
    assert "config.json" in mine[2]
    assert around[0] == "around", around
