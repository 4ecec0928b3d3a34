"""A matrix of 400 cells: the time to list, plan, check and render it, beside bake printing the plan."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import Row, report

from hfdlc import project
from hfdlc.build import bake
from hfdlc.engine import detect
from hfdlc.generated import ci, drift
from hfdlc.locks import lockfile
from hfdlc.state import State

ROOT = Path(__file__).parents[1]
HFDLC = str(Path(sys.executable).with_name("hfdlc"))
RELEASE = """\
  - framework: pytorch 2.13.{number}
    transformers: 5.23.{number}
    datasets: 5.2.0
    python: 3.11
    os: debian12
    cutoff: 2026-11-20
    cells: {{training: [cpu, cu130], inference: [cpu, cu130]}}
"""
DEFAULT = "default: huggingface-pytorch-inference:2.13.0-transformers5.23.0-cpu-py311-debian12"
RUNS = 5


def large(folder: Path) -> project.Project:
    """The repository's matrix with 100 releases of four cells instead of its own, locked and rendered.

    Their locks hold the hashes of the default cell: what is timed is reading and comparing.
    """
    text = (ROOT / "matrix.yaml").read_text()
    _, found, rest = text.partition("\nframeworks:\n")  # without the rules of its own releases
    assert found, "the matrix has no frameworks"
    releases = "".join(RELEASE.format(number=number) for number in range(100))
    # The default cell is one of them, as number 0.
    (folder / "matrix.yaml").write_text(f"{DEFAULT}\n\nreleases:\n{releases}{found}{rest}")
    for part in ("image", "templates"):
        shutil.copytree(ROOT / part, folder / part)
    here = project.find(folder)
    known = lockfile.read(project.find(ROOT).default, ROOT)
    for cell in here.cells:
        asked = lockfile.lock_input(cell)
        files = {
            lockfile.group_file(cell, group): lockfile.text(known.get(group, known["arrays"]))
            for group in cell.groups
        }
        lockfile.write(files, asked, folder)
    for python in {cell.installer_python for cell in here.cells}:
        asked = lockfile.installer_input(here.matrix, python)
        lockfile.write({lockfile.installer_file(python): lockfile.text(())}, asked, folder)
    generated = {**drift.dockerfiles(here, here.cells), **drift.pages(here), **ci.files(here)}
    for path, content in generated.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    return here


def seconds(folder: Path, *argv: str, runs: int = RUNS) -> float:
    """The best of some runs, by wall clock."""
    best = 1e9
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run(argv, cwd=folder, check=True, capture_output=True)
        best = min(best, time.perf_counter() - began)
    return best


def rendered(folder: Path, here: project.Project) -> float:
    """The best of some runs that write every Dockerfile."""
    best = 1e9
    for _ in range(RUNS):
        for cell in here.cells:
            (folder / cell.folder / "Dockerfile").unlink()
        best = min(best, seconds(folder, HFDLC, "render", runs=1))
    return best


def main() -> int:
    """Make the matrix, time the commands."""
    used = detect.ensure(os.environ, State.of(os.environ))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        here = large(folder)
        assert len(here.cells) == 400, len(here.cells)
        (folder / "bake.json").write_text(
            json.dumps(bake.of_images(here.cells, here.matrix, bake.BuildContext()))
        )
        os.environ.update(used.environment)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled modules are kept, as for users
        printed = seconds(folder, *used.buildx, "bake", "--file", "bake.json", "--print")
        planned = seconds(folder, HFDLC, "plan", "--json")
        rows = [
            Row("hfdlc list --json, 400 cells", seconds(folder, HFDLC, "list", "--json"), None, "s", 0.5),
            Row("hfdlc plan --json, 400 cells", planned, None, "s", 0.5),
            Row("hfdlc check, 400 cells", seconds(folder, HFDLC, "check"), None, "s", 2.0),
            Row("hfdlc render, 400 cells, no Dockerfile yet", rendered(folder, here), None, "s", 3.0),
            Row(
                "hfdlc plan, against bake --print",
                seconds(folder, HFDLC, "plan", "--json"),
                printed,
                "s",
                10.0,
            ),
        ]
    return report("matrix", rows)


if __name__ == "__main__":
    sys.exit(main())
