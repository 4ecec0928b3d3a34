"""A model is fine-tuned with a training image, packed, and served with the inference image of its release."""

import array
import csv
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hfdlc.build.session import Session
from hfdlc.engine.detect import Engine
from training_jobs import HFDLC, PYTORCH, ROOT, TENSORFLOW, Script, build_both, hfdlc, letter, served

EXAMPLES = ROOT / "examples"
CHANCE, MARGIN = 0.25, 0.5  # four topics; what is served has to beat guessing by so much

pytestmark = pytest.mark.engine


@contextmanager
def endpoint(*words: object) -> Iterator[Callable[[str], tuple[str, float]]]:
    """`hfdlc serve WORDS` while it lasts: give a sentence, get its label and score."""
    with served(*words) as address:

        def ask(sentence: str) -> tuple[str, float]:
            body = json.dumps({"inputs": sentence}).encode()
            request = urllib.request.Request(
                f"{address}/invocations", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                (best,) = json.loads(answer.read())
            return best["label"], best["score"]

        yield ask


def accuracy(ask: Callable[[str], tuple[str, float]]) -> float:
    """The share of unseen sentences whose topic the endpoint tells."""
    with (EXAMPLES / "data" / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return sum(ask(row["text"])[0] == row["label"] for row in rows) / len(rows)


@pytest.fixture(scope="module")
def trained(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model.tar.gz of a real fine-tuning run."""
    build_both(session, PYTORCH)
    output = tmp_path_factory.mktemp("trained") / "model.tar.gz"
    ended = hfdlc(
        "train", PYTORCH, "--script", EXAMPLES / "train_pytorch.py", "--data", EXAMPLES / "data",
        "--output", output, "-p", "epochs=12",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "unseen sentences: " in ended.stderr
    assert ended.stdout == f"hfdlc serve {PYTORCH} {output}\n"
    return output


def test_trained_model_is_served_by_the_inference_image(trained: Path, used_engine: Engine) -> None:
    """The archive is unpacked into the matching inference image, whose endpoint gives the trained labels."""
    before = _serving(used_engine)
    with endpoint(PYTORCH, trained) as ask:
        new = _serving(used_engine).items() - before.items()
        assert PYTORCH.replace("-training:", "-inference:") in {image for _, image in new}
        assert accuracy(ask) >= CHANCE + MARGIN


def _serving(used_engine: Engine) -> dict[str, str]:
    """The containers of the engine, each with its image's name."""
    found = used_engine.client.containers.list()
    return {str(each.id): str(each.attrs["Config"]["Image"]) for each in found}


def test_inference_code_in_the_archive_is_used(trained: Path, tmp_path: Path) -> None:
    """`code/inference.py` beside the weights takes over: its own words are in the answer."""
    folder = tmp_path / "model"
    with tarfile.open(trained) as archive:
        archive.extractall(folder, filter="data")
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text(
        """
from transformers import pipeline

def model_fn(model_dir):
    return pipeline("text-classification", model=model_dir)

def predict_fn(data, model):
    best = model(data["inputs"])[0]
    return [{"label": "about " + best["label"], "score": best["score"]}]
"""
    )
    packed = tmp_path / "model.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(folder, ".")
    with endpoint(PYTORCH, packed) as ask:
        assert ask("the soup needs more salt today")[0] == "about cooking"


@pytest.mark.releases
def test_keras_model_is_trained_and_served(session: Session, tmp_path: Path) -> None:
    """The same with Keras, on today's TensorFlow."""
    build_both(session, TENSORFLOW)
    output = tmp_path / "model.tar.gz"
    script = EXAMPLES / "train_tensorflow.py"
    ended = hfdlc("train", TENSORFLOW, "--script", script, "--data", EXAMPLES / "data", "--output", output)
    assert ended.returncode == 0, ended.stderr
    with endpoint(TENSORFLOW, output) as ask:
        assert accuracy(ask) >= CHANCE + MARGIN


def test_failed_script_is_reported_with_its_traceback(script: Script, tmp_path: Path) -> None:
    """Exit code 1, the script's traceback, and no archive."""
    report = letter(hfdlc(*script("def read():\n    raise ValueError('no such label')\nread()\n")), 1)
    assert "line 2, in read" in report
    assert "ValueError: no such label" in report
    assert "sagemaker" not in report
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_script_that_saves_no_model_is_an_error(script: Script, tmp_path: Path) -> None:
    """A script that ends well and leaves nothing is a mistake, and is said to be one."""
    report = letter(hfdlc(*script("print('done')\n")), 1)
    assert "saved no model in SM_MODEL_DIR" in report
    assert list((tmp_path / "out").iterdir()) == []


def test_script_imports_modules_of_its_folder(script: Script, tmp_path: Path) -> None:
    """`helpers.py` beside the script is copied with it."""
    words = script("import helpers\nraise SystemExit(helpers.WORD)\n")
    (tmp_path / "helpers.py").write_text("WORD = 'helpers were imported'\n")
    assert "helpers were imported" in letter(hfdlc(*words), 1)


def test_requirements_that_cannot_be_installed_are_the_reason(script: Script, tmp_path: Path) -> None:
    """Pip's last lines, and the option that gives it a network."""
    words = script("")
    (tmp_path / "requirements.txt").write_text("no-such-package-of-ours==99\n")
    report = letter(hfdlc(*words), 1)
    assert "No matching distribution found for no-such-package-of-ours==99" in report
    assert report.endswith("hint: requirements.txt is installed from the network: use --online\n")


def test_script_gets_variables_and_shared_memory(script: Script) -> None:
    """`/dev/shm` has the size of the option; the value of a variable is not in the log."""
    text = """
import os
space = os.statvfs("/dev/shm")
assert space.f_blocks * space.f_frsize == 256 << 20
raise SystemExit("length of the token: %d" % len(os.environ["HF_TOKEN"]))
"""
    ended = hfdlc(*script(text, "--shm-size", "256m", "--env", "HF_TOKEN=hf_very_secret"))
    assert "length of the token: 14" in letter(ended, 1)
    assert "hf_very_secret" not in ended.stderr


def test_shared_memory_that_is_too_small_is_the_reason(script: Script) -> None:
    """Processes of a DataLoader pass tensors through /dev/shm; the hint names the option."""
    text = """
import torch
data = torch.utils.data.TensorDataset(torch.zeros(64, 1 << 18))
for batch in torch.utils.data.DataLoader(data, batch_size=32, num_workers=2):
    pass
"""
    report = letter(hfdlc(*script(text, "--shm-size", "1m")), 1)
    assert "shared memory" in report
    assert report.endswith("hint: give the containers more shared memory (/dev/shm): --shm-size\n")


def test_failed_script_leaves_its_output(script: Script, tmp_path: Path) -> None:
    """What it wrote to SM_OUTPUT_DATA_DIR is in output.tar.gz; there is no model."""
    text = (
        "import os\nopen(os.environ['SM_OUTPUT_DATA_DIR'] + '/metrics.json', 'w').write('{}')\nexit('no')\n"
    )
    letter(hfdlc(*script(text)), 1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["output.tar.gz"]
    with tarfile.open(tmp_path / "out" / "output.tar.gz") as archive:
        assert archive.getnames() == ["metrics.json"]


def test_links_in_the_model_become_their_content(script: Script, tmp_path: Path) -> None:
    """Hard, relative and absolute ones."""
    text = """
import os
os.chdir(os.environ["SM_MODEL_DIR"])
open("weights", "w").write("content")
os.link("weights", "hard")
os.symlink("weights", "relative")
os.symlink("/opt/ml/model/weights", "absolute")
"""
    ended = hfdlc(*script(text))
    assert ended.returncode == 0, ended.stderr
    with tarfile.open(tmp_path / "out" / "model.tar.gz") as archive:
        members = {each.name: archive.extractfile(each) for each in archive.getmembers() if each.isfile()}
        content = {name: file.read() for name, file in members.items() if file}
    assert content == dict.fromkeys(("weights", "hard", "relative", "absolute"), b"content")


def test_link_out_of_the_model_is_an_error(script: Script, tmp_path: Path) -> None:
    text = "import os\nos.symlink('/opt/ml/checkpoints/last', os.environ['SM_MODEL_DIR'] + '/weights')\n"
    report = letter(hfdlc(*script(text)), 1)
    assert "/opt/ml/model/weights -> /opt/ml/checkpoints/last: the link leads out of /opt/ml/model" in report
    assert not list((tmp_path / "out").iterdir())


def test_link_out_of_the_output_does_not_lose_the_model(script: Script, tmp_path: Path) -> None:
    text = """
import os
open(os.environ["SM_MODEL_DIR"] + "/weights", "w").write("content")
os.symlink("/nowhere", os.environ["SM_OUTPUT_DATA_DIR"] + "/link")
"""
    report = letter(hfdlc(*script(text)), 1)
    assert "/opt/ml/output/data/link -> /nowhere: the link leads out of /opt/ml/output/data" in report
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.tar.gz"]


def test_hyperparameter_without_a_value_is_an_error(script: Script) -> None:
    """Before anything starts."""
    report = letter(hfdlc(*script("", "-p", "epochs")), 2)
    assert "NAME=VALUE" in report


def test_missing_script_or_data_is_an_error(script: Script, tmp_path: Path) -> None:
    """Before anything starts."""
    words = script("")
    (tmp_path / "script.py").unlink()
    assert "no such file" in letter(hfdlc(*words), 2)
    shutil.rmtree(tmp_path / "data")
    words = script("")
    assert "no such file or folder" in letter(hfdlc(*words), 2)


def weights(archive: Path) -> "array.array[float]":
    """All numbers of the model of an archive: the float32 values behind the header of model.safetensors."""
    with tarfile.open(archive) as tar:
        file = tar.extractfile("model.safetensors")
        assert file
        content = file.read()
    return array.array("f", content[8 + int.from_bytes(content[:8], "little") :])


def test_killed_job_resumes_from_its_newest_complete_checkpoint(
    trained: Path, used_engine: Engine, tmp_path: Path
) -> None:
    """SIGKILL in the middle, and a damaged checkpoint: the model is that of an uninterrupted run."""
    words = [
        "train", PYTORCH, "--script", EXAMPLES / "train_pytorch.py", "--data", EXAMPLES / "data",
        "--output", tmp_path / "model.tar.gz", "--checkpoints", tmp_path / "kept", "-p", "epochs=12",
    ]  # fmt: skip
    before = _serving(used_engine).keys()
    process = subprocess.Popen([HFDLC, *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "kept" / "checkpoint-60" / "complete.json").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    (container,) = _serving(used_engine).keys() - before
    used_engine.client.containers.get(container).kill()
    _, report = process.communicate(timeout=60)
    assert process.returncode == 1, report
    assert "exit code 137" in report
    complete = sorted((tmp_path / "kept").glob("*/complete.json"), key=lambda path: path.stat().st_mtime)
    newest = complete[-1].parent
    os.truncate(newest / "optimizer.pt", 100)
    ended = hfdlc(*words)
    assert ended.returncode == 0, ended.stderr
    assert f"skipping the damaged /opt/ml/checkpoints/{newest.name}" in ended.stderr
    assert f"resuming from /opt/ml/checkpoints/{complete[-2].parent.name}" in ended.stderr
    pairs = list(zip(weights(trained), weights(tmp_path / "model.tar.gz"), strict=True))
    assert len(pairs) > 1000
    assert max(abs(one - other) for one, other in pairs) < 1e-5


def test_archive_with_a_folder_around_the_model_is_an_error(trained: Path, tmp_path: Path) -> None:
    """The most common mistake: the folder itself was packed, not what it holds."""
    with tarfile.open(trained) as archive:
        archive.extractall(tmp_path / "model", filter="data")
    packed = tmp_path / "deep.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(tmp_path / "model", "model")
    report = letter(hfdlc("serve", PYTORCH, packed), 2)
    assert "config.json is one level too deep: it is in model/" in report
    assert "tar -czf model.tar.gz -C model ." in report


def test_truncated_archive_is_an_error(trained: Path, tmp_path: Path) -> None:
    """Half a download is not unpacked."""
    packed = tmp_path / "half.tar.gz"
    packed.write_bytes(trained.read_bytes()[: trained.stat().st_size // 2])
    assert "cannot be unpacked" in letter(hfdlc("serve", PYTORCH, packed), 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_full_disk_leaves_no_partial_archive(script: Script, tmp_path: Path) -> None:
    """The model is larger than what is free: said plainly, and nothing is left of it."""
    mount = tmp_path / "out"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], check=True)
    try:
        text = "import os\nopen(os.environ['SM_MODEL_DIR'] + '/w', 'wb').write(os.urandom(8 << 20))\n"
        report = letter(hfdlc(*script(text)), 1)
        assert "No space left on device" in report
        assert "hint: free disk space" in report
        assert list(mount.iterdir()) == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_ctrl_c_sends_sigterm_to_the_script(script: Script, tmp_path: Path) -> None:
    """SIGTERM reaches the script; its checkpoint stays, the container does not."""
    text = """
import signal, sys, time
def keep(*_):
    open("/opt/ml/checkpoints/last", "w").write("step 7")
    sys.exit(0)
signal.signal(signal.SIGTERM, keep)
print("waiting", flush=True)
time.sleep(600)
"""
    words = script(text, "--checkpoints", tmp_path / "kept")
    process = subprocess.Popen(
        [HFDLC, *map(str, words)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr
    for line in process.stderr:
        if line.startswith("waiting"):
            break
    process.send_signal(signal.SIGINT)
    _, report = process.communicate(timeout=130)
    assert process.returncode == 130, report
    assert (tmp_path / "kept" / "last").read_text() == "step 7"
    assert not (tmp_path / "out" / "model.tar.gz").exists()
