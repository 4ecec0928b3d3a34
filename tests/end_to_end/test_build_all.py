"""Building many cells: nothing twice, and one that fails does not stop the others."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from hfdlc.build import bake
from hfdlc.project import Project
from hfdlc.state import State

ROOT = Path(__file__).parents[2]
HFDLC = str(Path(sys.executable).with_name("hfdlc"))
BOTH = "huggingface-pytorch-*:2.13.0-*-cpu-*"

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_what_is_up_to_date_is_not_asked_of_buildkit(built: str, state: State) -> None:
    """A second build says so, and no build has left a log."""
    before = set(state.folder("logs").iterdir())
    ended = subprocess.run([HFDLC, "build"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert f"{built} is up to date" in ended.stderr
    assert set(state.folder("logs").iterdir()) == before


def test_a_run_waits_for_another_that_builds_the_same_cell(repository: Project, state: State) -> None:
    """It says for whom, and goes on when that one has ended."""
    with state.lock(f"build-{bake.target_name(repository.default)}"):
        process = subprocess.Popen([HFDLC, "build"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        line = process.stderr.readline()
        assert line.startswith("waiting: build-huggingface-pytorch-inference"), line
        assert "is in use by process" in line
        assert process.poll() is None
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told


def test_what_changed_is_named(built: str, hfdlc: Command, clone: Path) -> None:
    """By `why-rebuild`, against the image in the engine; by `plan`, against the last build."""
    assert hfdlc("why-rebuild").stdout == f"{built}: up to date\n"
    source = clone / "toolkit" / "src" / "hf_inference_toolkit" / "__init__.py"
    source.write_text(source.read_text() + "\n# another\n")
    assert hfdlc("why-rebuild").stdout == f"{built}: toolkit changed\n"
    planned = hfdlc("plan", built)
    assert f"to build    {built} (toolkit changed)\n1 to build: 1 new layers" in planned.stdout
    assert (
        hfdlc("digest").stdout
        != subprocess.run([HFDLC, "digest"], cwd=ROOT, capture_output=True, text=True).stdout
    )


def test_a_cell_that_fails_does_not_stop_the_others(
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
    assert ended.stderr.endswith(f"\n  next: hfdlc build {training}\n")
    found = json.loads(receipt.read_text())
    assert found["cells"] == {built: "built", training: "failed"}
    assert 0 < found["written"] < found["unique"] <= found["alone"]
    assert found["known"] >= 5  # layers that the change does not touch
    again = hfdlc("build", BOTH)
    assert f"up to date  {built}\n" in again.stderr
