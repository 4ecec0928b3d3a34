"""Substitute bases: the Python that they get, and the framework that replaces one."""

from pathlib import Path

import pytest

import substitutes
from hfdlc.build import bake, builder
from hfdlc.build.session import Session
from hfdlc.dockerfile import render
from hfdlc.errors import HfdlcError
from hfdlc.matrix.selector import Filter, select
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
    substitutes._gather(python, "3.6", tmp_path / "context", pip=False)
    files = {str(file.relative_to(tmp_path / "context")) for file in (tmp_path / "context").rglob("*.*")}
    kept = {"bin/python3.6", "lib/libpython3.6m.so.1.0", "lib/python3.6/os.py", "include/Python.h"}
    assert {file for file in files if (tmp_path / "context" / file).is_file()} == {
        f"python/{name}" for name in kept
    }


def test_the_newest_release_of_a_python_is_taken(tmp_path: Path) -> None:
    """By number: 3.7.16 is newer than 3.7.9."""
    for release in ("3.7.9", "3.7.16", "3.6.15"):
        (tmp_path / "versions" / release / "bin").mkdir(parents=True)
    assert substitutes._python("3.7", {"PYENV_ROOT": str(tmp_path)}).name == "3.7.16"
    with pytest.raises(HfdlcError, match=r"pyenv has no CPython 3.8(.|\n)*hint: pyenv install 3.8"):
        substitutes._python("3.8", {"PYENV_ROOT": str(tmp_path)})


def test_a_replaced_lock_file_changes_only_the_layer_of_the_framework(repository: Project) -> None:
    """Only the layer of the framework differs. bake's own variables are kept apart."""
    cell = next(cell for cell in repository.cells if cell.id == CELL)
    locks = {"framework": substitutes.LOCKS[cell.id]}
    text = render.dockerfile(cell, repository, locks)
    own = (repository.root / cell.folder / "Dockerfile").read_text()
    more = set(text.splitlines()) - set(own.splitlines())
    (line,) = [line for line in more if "source=" in line]
    assert f"source={substitutes.LOCKS[cell.id]}," in line
    # Also what the framework loses: its own lock file is empty.
    assert all("torch/" in line for line in more if "source=" not in line)
    context = bake.BuildContext(dockerfiles={cell.id: text}, images={"base": {cell.id: "substitute:1"}})
    (target,) = bake.of_images([cell], repository.matrix, context)["target"].values()
    assert target["args"]["base"] == "substitute:1"
    assert "FROM $${base}" in target["dockerfile-inline"]
    assert "dockerfile" not in target


def test_the_replaced_framework_is_the_only_input_that_differs(repository: Project) -> None:
    cell = next(cell for cell in repository.cells if cell.id == CELL)
    session = Session(repository, {})
    session.overrides = substitutes.overrides(session)
    locks = session.overrides.locks_of(cell)
    assert list(locks) == ["framework"]
    builder.check_current(cell, repository, locks)
    with pytest.raises(HfdlcError, match="its lock is incomplete: torch==1"):
        builder.check_current(cell, repository)


@pytest.mark.parametrize(
    ("pattern", "checks"),
    [
        ("*-inference:1.7.1-*-cpu-*", {"test_os", "test_cuda", "test_size", "test_no_cuda_libraries"}),
        ("*-inference:2.4.1-*-cpu-*", {"test_os"}),
        ("*-inference:2.4.1-*-gpu-*", {"test_os", "test_cuda_libraries_are_there"}),
    ],
)
def test_checks_that_a_substitute_cannot_pass_are_skipped_with_a_reason(
    repository: Project, pattern: str, checks: set[str]
) -> None:
    (cell,) = select(repository.cells, Filter((pattern,)))
    session = Session(repository, {})
    session.overrides = substitutes.overrides(session)
    found = substitutes.skipped(cell, "Debian 12", session)
    assert set(found) == checks
    assert all(found.values())


@pytest.mark.parametrize(
    ("pattern", "replaced"),
    [
        ("*-training:2.8.0-*-py312-*", {"base", "installer_base", "compiler_base"}),
        ("*-inference:2.4.1-*-cpu-py37-*", {"base", "pip_base"}),
        ("*-tensorflow-training:2.21.0-*-cpu-py313-*", set()),
    ],
)
def test_only_images_without_a_bootstrap_are_replaced(
    repository: Project, pattern: str, replaced: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's packages have Python 3.11 and 3.13: what is made of them is no substitute."""
    monkeypatch.setattr("hfdlc.build.bases.in_reach", lambda *_: False)
    monkeypatch.setattr(substitutes, "ensure", lambda argument, *_: argument)
    (cell,) = select(repository.cells, Filter((pattern,)))
    session = Session(repository, {})
    session.__dict__["engine"] = None
    images = render.images(cell, repository.matrix)
    assert {
        name for name, image in images.items() if substitutes._image(session, name, image, cell)
    } == replaced
