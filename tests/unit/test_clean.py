"""What `hfdlc clean` removes, as far as it needs no engine."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn, cast

import pytest
from docker.errors import APIError

from hfdlc.build.freshness import ImagesHere
from hfdlc.dockerfile import inputs
from hfdlc.engine import detect
from hfdlc.oci.store import FOLDER
from hfdlc.project import Project
from hfdlc.state import State
from hfdlc.upkeep import clean

if TYPE_CHECKING:
    from hfdlc.engine.detect import Engine


def test_changed_inputs_are_named_but_not_a_changed_base(repository: Project) -> None:
    """The digest of a base is looked up by builds only."""
    cell = repository.default
    now = inputs.of(cell, repository.root, {})

    def why(**changed: str) -> str:
        said = {clean.TITLE: cell.id, clean.OURS: "inference", inputs.LABEL: inputs.text({**now, **changed})}
        return clean._why(cell.id, said, repository, {cell.id: cell}, set(), ImagesHere(None))

    assert why(toolkit="other") == "out of date: toolkit"
    assert why(base="some@sha256:1") == ""


def test_layer_store_keeps_recent_layers_up_to_a_size(repository: Project, tmp_path: Path) -> None:
    """A damaged layer is removed at any age."""
    own = State(tmp_path)
    now, blobs = time.time(), own.folder(f"{FOLDER}/blobs/sha256")
    for name, days in (("new", 0), ("older", 1), ("oldest", 2), ("forgotten", 30)):
        (blobs / name).write_bytes(bytes(100))
        os.utime(blobs / name, (now - days * clean.DAY,) * 2)
    (blobs / "cut.set-aside").touch()
    environ = {"HFDLC_STATE": str(tmp_path), "DOCKER_HOST": "unix:///nowhere.sock"}
    going = list(clean.find(repository, environ, keep=250e-9, older=14))
    reasons = {Path(one.name).name: one.why for one in going}
    assert reasons.keys() == {"oldest", "forgotten", "cut.set-aside"}
    assert (len(set(reasons.values())), reasons["cut.set-aside"]) == (3, "damaged")
    assert sum(one.remove() for one in going) == 200
    assert sorted(file.name for file in blobs.iterdir()) == ["new", "older"]


def test_files_of_an_older_version_are_removed(repository: Project, tmp_path: Path) -> None:
    own = State(tmp_path)
    for name in ("builds", "receipts"):
        (own.folder(name) / "0.json").write_text("{}")
    (own.folder("locks") / "kept").touch()
    environ = {"HFDLC_STATE": str(tmp_path), "DOCKER_HOST": "unix:///nowhere.sock"}
    for one in clean.find(repository, environ, keep=1, older=14):
        one.remove()
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["kept"]


def test_temporary_files_of_killed_runs_are_removed(repository: Project, tmp_path: Path) -> None:
    """Those of the layer store too: of hfdlc, and of BuildKit, which writes images into it."""
    own, old = State(tmp_path), time.time() - 30 * clean.DAY
    for name in ("tmp/access-1", f"{FOLDER}/tmpab12", f"{FOLDER}/ingest/0a", f"{FOLDER}/tmpnew"):
        (own.folder(name) / "data").write_bytes(bytes(100))
    for path in (path for path in tmp_path.rglob("*") if "tmpnew" not in path.parts):
        os.utime(path, (old, old))
    environ = {"HFDLC_STATE": str(tmp_path), "DOCKER_HOST": "unix:///nowhere.sock"}
    going = clean.find(repository, environ, keep=1, older=14)
    assert {Path(one.name).name for one in going} == {"access-1", "tmpab12", "0a"}
    assert sum(one.remove() for one in going) == 300
    assert [path.parent.name for path in tmp_path.rglob("data")] == ["tmpnew"]


def test_files_that_another_run_removes_meanwhile_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build has temporary files that come and go."""
    (tmp_path / "kept").write_bytes(bytes(7))
    (tmp_path / "folder").mkdir()
    listed = [(str(tmp_path), ["folder", "gone"], ["kept", "gone.part"])]
    monkeypatch.setattr(os, "walk", lambda _: iter(listed))
    assert clean._size(tmp_path) == 7
    assert clean._touched(tmp_path) > 0
    assert clean._touched(tmp_path / "gone.part") > 0


def test_build_cache_that_another_program_prunes_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine refuses to do both."""

    def refuse(*_: object) -> NoReturn:
        raise APIError("409", explanation="a prune operation is already running")

    engine = cast("Engine", SimpleNamespace(host="unix:///a", close=lambda: None))
    monkeypatch.setattr(detect, "prune", refuse)
    monkeypatch.setattr(detect, "unused_cache", lambda _: 10**10)
    (cache,) = clean._build_cache(engine, 1)
    assert cache.remove() == 0
    assert "kept the build cache: a request failed: a prune operation is" in capsys.readouterr().err
