"""Building many cells: nothing twice, and one that fails does not stop the others."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from hfdlc.build import bake
from hfdlc.engine.detect import Engine
from hfdlc.project import Project
from hfdlc.state import State

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
HFDLC = str(Path(sys.executable).with_name("hfdlc"))
BOTH = "huggingface-pytorch-*:2.13.0-*-cpu-py311-*"

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_build_of_an_up_to_date_cell_does_not_run_buildkit(built: str, state: State) -> None:
    """A second build says so, and no build has left a log."""
    before = set(state.folder("logs").iterdir())
    ended = subprocess.run([HFDLC, "build"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert f"{built} is up to date" in ended.stderr
    assert set(state.folder("logs").iterdir()) == before


def test_build_waits_for_another_run_of_the_same_cell(repository: Project, state: State) -> None:
    """It says for whom, and goes on when that one has ended."""
    with state.lock(f"build-{bake.target_name(repository.default)}"):
        process = subprocess.Popen([HFDLC, "build"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        line = process.stderr.readline()
        assert line.startswith("waiting: build-huggingface-pytorch-inference"), line
        assert "is in use by process" in line
        assert process.poll() is None
    _, output = process.communicate(timeout=60)
    assert process.returncode == 0, output


def test_plan_names_what_changed(built: str, hfdlc: Command, clone: Path) -> None:
    before = hfdlc("plan", built, "--explain").stdout.splitlines()
    assert before[0] == f"up to date  {built}"
    source = clone / "toolkit" / "src" / "hf_inference_toolkit" / "__init__.py"
    source.write_text(source.read_text() + "\n# another\n")
    after = hfdlc("plan", built, "--explain").stdout.splitlines()
    assert after[0] == f"to build    {built} (toolkit changed)"
    assert after[1] != before[1]
    assert after[2] == "            layers to build: inference-toolkit"
    assert after[3].startswith("1 to build: 1 new layers, 0 of them shared; about 0 GB of disk in one batch")


def test_plan_reports_a_removed_image_as_to_build(built: str, hfdlc: Command, used_engine: Engine) -> None:
    images = used_engine.client.images
    image = images.get(built)
    image.tag("hfdlc.local/kept:1")
    try:
        images.remove(built)
        assert hfdlc("plan", built).stdout.startswith(f"to build    {built}\n1 to build: 0 new layers")
    finally:
        image.tag(built)
        images.remove("hfdlc.local/kept:1")


def test_failed_cell_does_not_stop_the_others(
    built: str, hfdlc: Command, clone: Path, tmp_path: Path
) -> None:
    """A line a cell at the end, the command that repeats the failed one, and a receipt."""
    template = clone / "templates" / "training.Dockerfile.j2"
    template.write_text(template.read_text() + "COPY nothing-there /\n")
    source = clone / "toolkit" / "src" / "hf_inference_toolkit" / "__init__.py"
    source.write_text(source.read_text() + f"\n# {uuid4()}\n")  # so that there is something to build
    assert hfdlc("render").returncode == 0
    receipt = tmp_path / "receipt.json"
    ended = hfdlc("build", BOTH, "--receipt", str(receipt))
    training = built.replace("inference", "training")
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert f"failed      {training}\nbuilt       {built}\n" in ended.stderr
    assert "error: 1 of 2 cells failed\n" in ended.stderr
    assert ended.stderr.endswith(f"\n  hint: hfdlc build {training}\n")
    found = json.loads(receipt.read_text())
    assert found["cells"] == {built: "built", training: "failed"}
    assert 0 < found["written"] < found["unique"] <= found["alone"]
    assert found["known"] >= 5  # layers that the change does not touch
    again = hfdlc("build", BOTH)
    assert f"up to date  {built}\n" in again.stderr
