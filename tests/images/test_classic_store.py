"""Docker's classic image store: in the engine that answers, or in a private one that is configured for it."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hfdlc.build import assemble, bake, prepare
from hfdlc.build.session import Session
from hfdlc.checks import facts
from hfdlc.engine import detect, folders, private
from hfdlc.engine.detect import Engine
from hfdlc.engine.folders import Folders
from hfdlc.engine.images import image_of
from hfdlc.oci import image as oci_image
from hfdlc.oci.store import LayerStore
from hfdlc.project import Project
from hfdlc.state import State

NOWHERE = {"DOCKER_HOST": "unix:///nowhere.sock", "PATH": os.environ.get("PATH", os.defpath)}
pytestmark = pytest.mark.engine


def configure(found: Folders) -> None:
    """As for any private engine, but without the containerd image store."""
    folders.configure(found)
    file = found.base / "daemon.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"features": {"containerd-snapshotter": False}})
    )


@pytest.fixture(scope="module")
def classic_engine(used_engine: Engine, state: State) -> Iterator[Engine]:
    """An engine with the classic image store."""
    if not used_engine.containerd_store:
        yield used_engine
        return
    if os.geteuid():
        pytest.skip("no engine with the classic image store answers, and starting a private one needs root")
    own = State(Path("/tmp") / f"hfdlc-classic-{os.getpid()}")  # a short path, for the sockets below it
    here, there = Folders.of(state), Folders.of(own)
    try:
        if here.root.is_dir():  # nothing is downloaded twice
            shutil.copytree(here.root, there.root, symlinks=True)
            shutil.copy(here.base / "packages", there.base / "packages")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(private, "configure", configure)
            engine = detect.ensure(NOWHERE, own)
        assert not engine.containerd_store
        yield engine
        engine.close()
    finally:
        private.stop(own)
        shutil.rmtree(own.root)


def test_the_same_image_is_assembled_and_loaded(
    built: str,
    repository: Project,
    session: Session,
    used_engine: Engine,
    classic_engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the same stored layers, on a stage `image` that this engine built; nothing else stays in it."""
    cell = repository.default
    expected = facts.identity(image_of(built, used_engine), used_engine, session.state)
    known = oci_image.load(LayerStore.of(session.state), expected)
    monkeypatch.setattr(oci_image, "load", lambda *_: None)
    other = Session(repository, session.environ)
    vars(other)["engine"] = classic_engine
    with prepare.prepared(other, [cell]) as context:
        made = assemble.assemble(other, [cell], context)
    image = made.images[cell.id]
    assert known
    assert made.known == len(bake.layers_of(cell, repository, context))
    assert image.settings["rootfs"] == known.settings["rootfs"]
    assert image.settings["config"] == known.settings["config"]
    if classic_engine.version == used_engine.version:  # the history's texts are BuildKit's
        assert image.config_digest == expected
    assemble.load(made.images, classic_engine)
    client = classic_engine.client
    assert client.images.get(cell.id).id == image.config_digest
    assert not client.images.list(bake.shell_tag(cell))
    command = ["python", "-c", "import torch, transformers; print(torch.ones(2).sum().item())"]
    assert client.containers.run(cell.id, command, network_mode="none", remove=True) == b"2.0\n"
