"""What `hfdlc clean` removes, as far as it needs no engine."""

import os
import time
from pathlib import Path

from hfdlc.build.freshness import ImagesHere
from hfdlc.dockerfile import inputs
from hfdlc.oci.store import FOLDER
from hfdlc.project import Project
from hfdlc.state import State
from hfdlc.upkeep import clean


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
