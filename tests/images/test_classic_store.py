"""Docker's classic image store: in the engine that answers, or in a private one that is configured for it."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import copy_programs
from hfdlc.build import assemble, bake, prepare
from hfdlc.build.session import Session
from hfdlc.engine import detect, folders, private
from hfdlc.engine.detect import Engine
from hfdlc.engine.folders import Folders
from hfdlc.oci import image as oci_image
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
    try:
        copy_programs(state, own)
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
    classic_engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the same stored layers, on a stage `image` that each engine builds; nothing else stays in it."""
    cell = repository.default
    monkeypatch.setattr(oci_image, "load", lambda *_: None)
    other = Session(repository, session.environ)
    vars(other)["engine"] = classic_engine
    with prepare.prepared(session, [cell]) as context:
        expected = assemble.assemble(session, [cell], context).images[cell.id]
    with prepare.prepared(other, [cell]) as context:
        made = assemble.assemble(other, [cell], context)
    image = made.images[cell.id]
    assert made.known == len(bake.layers_of(cell, repository, context))
    assert image.settings["rootfs"] == expected.settings["rootfs"]
    assert image.settings["config"] == expected.settings["config"]
    if classic_engine.version == session.engine.version:  # the history is in the words of its BuildKit
        assert image.config_digest == expected.config_digest
    assemble.load(made.images, classic_engine)
    client = classic_engine.client
    assert client.images.get(cell.id).id == image.config_digest
    assert not client.images.list(bake.shell_tag(cell))
    command = ["python", "-c", "import torch, transformers; print(torch.ones(2).sum().item())"]
    assert client.containers.run(cell.id, command, network_mode="none", remove=True) == b"2.0\n"
