"""Two builds that differ are told apart, file by file; builds of the real engine, of a small image."""

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

from hfdlc.build import bake as plan
from hfdlc.build import bases, buildkit, reproduce
from hfdlc.dockerfile import render
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.oci.image import Image, compose
from hfdlc.oci.store import LayerStore
from hfdlc.project import Project
from hfdlc.state import State

CLAMPED = "touch --date=@1577836800 /one /one/*"


def small(monkeypatch: pytest.MonkeyPatch, dockerfile: str, used: Engine, state: State, cell: Cell) -> None:
    """Let `reproduce` build this instead of a cell, which would take minutes."""
    bootstrap = cell.bootstrap
    assert bootstrap
    text = f"FROM {bases.ensure(cell.base_image(), bootstrap, used, state, {})} AS system\n{dockerfile}"

    def build(project: Project, cell: Cell, environ: Any, folder: Path, stand_ins: bool) -> Image:
        target = {
            "dockerfile-inline": f"{text}\nFROM scratch\nCOPY --from=system /one /\n",
            "args": {"SOURCE_DATE_EPOCH": "1577836800"},
            "no-cache": True,
            "output": [f"{plan.AS_IT_IS},dest={folder}"],
        }
        name = plan.target_name(cell)
        bake = {"group": {"default": {"targets": [name]}}, "target": {name: target}}
        made = buildkit.build(bake, [cell], used, project.root, state, sys.stderr).digests[name]
        return compose(made, [], LayerStore(folder), project.root, created=render.EPOCH)

    monkeypatch.setattr(reproduce, "_build", build)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (f"mkdir /one; date +%N > /one/moment; {CLAMPED}", "/moment: content, from byte "),
        ("mkdir /one; echo 1 > /one/file; touch --date=@$(date +%s%N | cut -c8-16) /one/*", "/file: mtime "),
        (f"mkdir /one; echo > /one/$(date +%N); {CLAMPED}", "only the second has it"),
        (
            f"mkdir /one; echo > /one/a; chmod 60$(($(od -An -N1 -tu1 /dev/urandom) % 8)) /one/a; {CLAMPED}",
            "/a: mode ",
        ),
    ],
)
def test_what_differs_is_named(
    made: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    repository: Project,
    used_engine: Engine,
    state: State,
) -> None:
    """The path, what of it differs, and from which byte on."""
    small(monkeypatch, f"RUN {made}", used_engine, state, repository.default)
    if "mode" in told:  # of eight modes, two builds may draw the same
        monkeypatch.setattr(reproduce, "_build", _until_another(reproduce._build))
    with pytest.raises(HfdlcError, match="two builds differ") as caught:
        reproduce.reproduce(repository, repository.default, {"HFDLC_STATE": str(state.root)})
    assert told in str(caught.value)
    assert caught.value.exit_code == 1


def _until_another(build: Any) -> Any:
    seen: list[str] = []

    def again(project: Any, cell: Any, environ: Any, folder: Path, stand_ins: Any) -> Image:
        for number in itertools.count():
            image: Image = build(project, cell, environ, folder / str(number), stand_ins)
            if image.manifest.digest not in seen:
                seen.append(image.manifest.digest)
                return image
        raise AssertionError

    return again


def test_the_same_twice(
    monkeypatch: pytest.MonkeyPatch, repository: Project, used_engine: Engine, state: State
) -> None:
    """Nothing is told of what does not differ; the digest is."""
    dockerfile = f"RUN mkdir /one; echo 1 > /one/file; {CLAMPED}"
    small(monkeypatch, dockerfile, used_engine, state, repository.default)
    found = reproduce.reproduce(repository, repository.default, {"HFDLC_STATE": str(state.root)})
    assert found.startswith("sha256:")
