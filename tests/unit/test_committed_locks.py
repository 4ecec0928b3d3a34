"""The locks in images/: they fit the matrix, and layers are shared between cells."""

from pathlib import Path

import pytest

from hfdlc import project
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell

ROOT = Path(__file__).parents[2]
PROJECT = project.find(ROOT)
each_cell = pytest.mark.parametrize("cell", PROJECT.cells, ids=lambda cell: cell.id)


# Packages whose source was unreachable when the cell was locked; the locks of all other cells are complete.
AWS = "torch==1.6.0 from 763104351884.dkr.ecr."
PAGE = "from https://download.pytorch.org/whl/torch_stable.html"
CPU_PAGE = "from https://download.pytorch.org/whl/cpu/torch/"
UNREACHABLE = {
    "pytorch-training:2.13.0-transformers5.23.0-cpu-py313-debian13": f"torch==2.13.0+cpu {CPU_PAGE}",
    "pytorch-inference:2.13.0-transformers5.23.0-cpu-py313-debian13": f"torch==2.13.0+cpu {CPU_PAGE}",
    "pytorch-inference:2.6.0-transformers4.51.3-cpu-py312-debian12": f"torch==2.6.0+cpu {CPU_PAGE}",
    "pytorch-training:1.6.0-transformers4.4.2-gpu-py36-cu110-ubuntu18.04": AWS,
    "pytorch-training:1.6.0-transformers4.5.0-gpu-py36-cu110-ubuntu18.04": AWS,
    "pytorch-training:1.6.0-transformers4.6.1-gpu-py36-cu110-ubuntu18.04": AWS,
    "pytorch-training:1.7.1-transformers4.6.1-gpu-py36-cu110-ubuntu18.04": f"torch==1.7.1+cu110 {PAGE}",
    "pytorch-inference:1.7.1-transformers4.6.1-cpu-py36-ubuntu18.04": f"torch==1.7.1+cpu {PAGE}",
    "pytorch-inference:1.7.1-transformers4.6.1-gpu-py36-cu110-ubuntu18.04": f"torch==1.7.1+cu110 {PAGE}",
}


def unreachable(cell: Cell) -> str | None:
    """The package that the cell's lock lacks, and its source."""
    return UNREACHABLE.get(cell.id.removeprefix("huggingface-"))


@each_cell
def test_framework_layer_holds_the_framework_alone(cell: Cell) -> None:
    """Its dependencies change more often, and would change the largest layer with them."""
    own = {lockfile.name_of(text) for text in cell.framework_requirements()}
    assert {entry.name for entry in lockfile.read(cell, ROOT)["framework"]} <= own


@each_cell
def test_lock_is_complete_except_for_known_packages(cell: Cell) -> None:
    known = unreachable(cell)
    assert lockfile.state(cell, ROOT) == ("incomplete" if known else "locked")
    missing = lockfile.missing(cell, ROOT)
    assert missing is None if known is None else str(missing).startswith(known)


@each_cell
def test_lock_has_the_versions_of_the_tag(cell: Cell) -> None:
    """A cell for CPUs holds no CUDA."""
    locked = {
        entry.name: entry.version for entries in lockfile.read(cell, ROOT).values() for entry in entries
    }
    assert locked["transformers"] == cell.transformers_version
    name = lockfile.name_of(cell.framework_requirements()[0])
    if not unreachable(cell):
        assert locked[name].partition("+")[0] == cell.framework_version
    else:
        assert name not in locked, "a build for another CUDA does not fit the tag"
    if cell.type == "training":
        assert locked["datasets"] == cell.datasets_version
    if cell.device == "cpu":
        assert not [name for name in locked if name.startswith("nvidia")]


def test_training_and_inference_of_a_release_lock_the_same_libraries() -> None:
    """So that they share these layers."""
    shared: dict[tuple[str | None, ...], list[tuple[lockfile.LockedPackage, ...]]] = {}
    for cell in PROJECT.cells:
        locked = lockfile.read(cell, ROOT)
        release = (cell.framework, cell.framework_version, cell.transformers_version, cell.cuda, cell.os)
        groups = [locked[group] for group in ("framework", "libraries", "transformers")]
        assert shared.setdefault(release, groups) == groups, cell.id
