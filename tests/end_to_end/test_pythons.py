"""Cells with other Pythons than the default: locked with the package index, and one built on Debian 13."""

import json
import os
import re
import subprocess

import pytest

from hfdlc.dockerfile import render
from hfdlc.locks import lockfile
from hfdlc.locks.indexes import index_config
from hfdlc.locks.resolver import Resolver
from hfdlc.matrix.selector import Filter, select
from hfdlc.project import Project
from hfdlc.state import State
from training_jobs import HFDLC, ROOT

CELL = "huggingface-tensorflow-inference:2.21.0-*-cpu-py313-debian13"


@pytest.mark.parametrize(("python", "names"), [("3.12", {"idna", "packaging"}), ("3.13", {"idna"})])
def test_lock_is_for_the_python_of_the_cell(state: State, python: str, names: set[str]) -> None:
    """Requirements for another Python are left out."""
    wanted = lockfile.LockInput(
        ("idna", "packaging; python_version < '3.13'"), python, "x86_64-manylinux_2_28", "2026-06-01"
    )
    found = Resolver(index_config(os.environ), state, os.environ).resolve(wanted, wanted.requirements)
    assert {entry.name for entry in found} == names


@pytest.mark.parametrize(("pattern", "python"), [("*-py312-debian12", "3.12"), ("*-py313-debian13", "3.13")])
def test_dockerfile_has_one_python(repository: Project, pattern: str, python: str) -> None:
    """That of the cell: base, installer, compiler, the folder of packages, and the installer's lock."""
    for cell in select(repository.cells, Filter((pattern,))):
        text = render.dockerfile(cell, repository)
        assert set(re.findall(r"python:?(3\.\d+)", text)) == {python}
        assert set(re.findall(r"installer/py(\d+)/", text)) == {python.replace(".", "")}


@pytest.mark.releases
@pytest.mark.engine
def test_cell_with_python_313_on_debian_13_is_built_and_checked() -> None:
    """Its base and its installer are made of Debian's packages where no registry answers."""
    ended = subprocess.run([HFDLC, "build", "--check", CELL], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    facts = subprocess.run([HFDLC, "facts", CELL, "--json"], cwd=ROOT, capture_output=True, text=True)
    found = json.loads(facts.stdout)
    assert (found["python"], found["os"]) == ("3.13", "debian13")
