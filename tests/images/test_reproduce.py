"""Two builds of a small image by the real engine are compared file by file."""

import sys
from pathlib import Path

import pytest

from hfdlc.build import bake, bases, buildkit, reproduce
from hfdlc.build.session import Session
from hfdlc.dockerfile import render
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.oci.image import Image, compose
from hfdlc.oci.store import LayerStore

pytestmark = pytest.mark.engine

CLAMPED = "touch --date=@1577836800 /one /one/*"


def small(monkeypatch: pytest.MonkeyPatch, dockerfile: str, session: Session, cell: Cell) -> None:
    """Let `reproduce` build this instead of a cell, which would take minutes."""
    bootstrap = cell.bootstrap
    assert bootstrap
    text = f"FROM {bases.ensure(cell.base_image(), bootstrap, session)} AS system\n{dockerfile}"

    def build(session: Session, cell: Cell, folder: Path) -> Image:
        target = {
            "dockerfile-inline": f"{text}\nFROM scratch\nCOPY --from=system /one /\n",
            "args": {"SOURCE_DATE_EPOCH": "1577836800"},
            "no-cache": True,
            "output": [f"{bake.LAYOUT},dest={folder}"],
        }
        name = bake.target_name(cell)
        file = {"group": {"default": {"targets": [name]}}, "target": {name: target}}
        made = buildkit.build(session, file, [cell], sys.stderr).digests[name]
        return compose(made, [], LayerStore(folder), session.project.root, created=render.EPOCH)

    monkeypatch.setattr(reproduce, "_build", build)


def test_file_that_differs_between_two_builds_is_named(
    monkeypatch: pytest.MonkeyPatch, session: Session
) -> None:
    """With the first byte that differs."""
    dockerfile = f"RUN mkdir /one; date +%N > /one/moment; {CLAMPED}"
    small(monkeypatch, dockerfile, session, session.project.default)
    with pytest.raises(HfdlcError, match="two builds differ") as caught:
        reproduce.reproduce(session, session.project.default)
    assert "/moment: content, from byte " in str(caught.value)
    assert caught.value.exit_code == 1


def test_equal_builds_give_their_digest(monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    dockerfile = f"RUN mkdir /one; echo 1 > /one/file; {CLAMPED}"
    small(monkeypatch, dockerfile, session, session.project.default)
    found = reproduce.reproduce(session, session.project.default)
    assert found.startswith("sha256:")
