"""Stand-ins: what of the machine's Python comes along, and what a cell is built from."""

from pathlib import Path

import pytest

from hfdlc.build import bake, stand_in
from hfdlc.dockerfile import render
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.project import Project

CELL = "huggingface-pytorch-inference:1.7.1-transformers4.6.1-cpu-py36-ubuntu18.04"


def test_what_belongs_to_the_machine_stays_there(tmp_path: Path) -> None:
    """Its site-packages, and with them every `.pth`; tests and caches too."""
    python = tmp_path / "3.6.15"
    for name in (
        "bin/python3.6", "bin/pip3.6", "lib/libpython3.6m.so.1.0", "lib/python3.6/os.py",
        "lib/python3.6/site-packages/machine.pth", "lib/python3.6/test/big.py", "include/Python.h",
    ):  # fmt: skip
        (python / name).parent.mkdir(parents=True, exist_ok=True)
        (python / name).touch()
    stand_in._gather(python, "3.6", tmp_path / "context", pip=False)
    files = {str(file.relative_to(tmp_path / "context")) for file in (tmp_path / "context").rglob("*.*")}
    kept = {"bin/python3.6", "lib/libpython3.6m.so.1.0", "lib/python3.6/os.py", "include/Python.h"}
    assert {file for file in files if (tmp_path / "context" / file).is_file()} == {
        f"python/{name}" for name in kept
    }


def test_the_newest_release_of_a_python_is_taken(tmp_path: Path) -> None:
    """By number: 3.7.16 is newer than 3.7.9."""
    for release in ("3.7.9", "3.7.16", "3.6.15"):
        (tmp_path / "versions" / release / "bin").mkdir(parents=True)
    assert stand_in._python("3.7", {"PYENV_ROOT": str(tmp_path)}).name == "3.7.16"
    with pytest.raises(HfdlcError, match=r"pyenv has no CPython 3.8(.|\n)*hint: pyenv install 3.8"):
        stand_in._python("3.8", {"PYENV_ROOT": str(tmp_path)})


def test_a_cell_on_a_stand_in_has_the_other_framework_and_nothing_else_changed(repository: Project) -> None:
    """Only the layer of the framework differs. bake's own variables are kept apart."""
    cell = next(cell for cell in repository.cells if cell.id == CELL)
    locks = {"framework": lockfile.stand_in_file(cell)}
    text = render.dockerfile(cell, repository, locks)
    own = (repository.root / cell.folder / "Dockerfile").read_text()
    more = set(text.splitlines()) - set(own.splitlines())
    (line,) = [line for line in more if "source=" in line]
    assert f"source={cell.folder}/stand-in.lock," in line
    # Also what the framework loses: its own lock file is empty.
    assert all("torch/" in line for line in more if "source=" not in line)
    context = bake.BuildContext(dockerfiles={cell.id: text}, images={"base": {cell.id: "stand-in:1"}})
    (target,) = bake.of_images([cell], repository.matrix, context)["target"].values()
    assert target["args"]["base"] == "stand-in:1"
    assert "FROM $${base}" in target["dockerfile-inline"]
    assert "dockerfile" not in target
