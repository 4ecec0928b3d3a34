"""Two builds that differ are told apart, file by file; builds of the real engine, of a small image."""

import itertools
import sys
from pathlib import Path
from typing import Any

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

    def build(session: Session, cell: Cell, folder: Path, stand_ins: bool) -> Image:
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
    session: Session,
) -> None:
    """The path, what of it differs, and from which byte on."""
    small(monkeypatch, f"RUN {made}", session, session.project.default)
    if "mode" in told:  # of eight modes, two builds may draw the same
        monkeypatch.setattr(reproduce, "_build", _until_another(reproduce._build))
    with pytest.raises(HfdlcError, match="two builds differ") as caught:
        reproduce.reproduce(session, session.project.default)
    assert told in str(caught.value)
    assert caught.value.exit_code == 1


def _until_another(build: Any) -> Any:
    seen: list[str] = []

    def again(session: Any, cell: Any, folder: Path, stand_ins: Any) -> Image:
        for number in itertools.count():
            image: Image = build(session, cell, folder / str(number), stand_ins)
            if image.manifest.digest not in seen:
                seen.append(image.manifest.digest)
                return image
        raise AssertionError

    return again


def test_the_same_twice(monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    """Nothing is told of what does not differ; the digest is."""
    dockerfile = f"RUN mkdir /one; echo 1 > /one/file; {CLAMPED}"
    small(monkeypatch, dockerfile, session, session.project.default)
    found = reproduce.reproduce(session, session.project.default)
    assert found.startswith("sha256:")
