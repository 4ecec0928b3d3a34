"""Images put together from layers: what a build waits for, and what the engine loads."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import DockerException, ImageLoadError

from hfdlc.build import assemble
from hfdlc.dockerfile.layers import Layer
from hfdlc.errors import HfdlcError
from hfdlc.oci.image import digest_of
from hfdlc.oci.store import LayerStore, StoredLayer
from hfdlc.project import Project


@pytest.fixture
def layers(tmp_path: Path) -> LayerStore:
    """An empty store."""
    return LayerStore(tmp_path / "store")


UNPACKING = "failed to unpack loaded image: parent snapshot sha256:a does not exist: not found"
REMOVED = "open /var/lib/docker/tmp/docker-import-1/blobs/sha256/1: no such file or directory"


@pytest.mark.parametrize(
    ("words", "failures", "attempts"),
    [(UNPACKING, 2, 3), (UNPACKING, 3, 3), (REMOVED, 1, 2), ("no space left on device", 1, 1)],
    ids=["passes", "stays", "classic", "another"],
)
def test_load_is_repeated_if_the_engine_removes_a_layer_meanwhile(
    monkeypatch: pytest.MonkeyPatch, words: str, failures: int, attempts: int
) -> None:
    """Three times in all; any other error is final. The cause is a race inside the engine."""
    given = []

    def load(_: object) -> None:
        given.append(1)
        if len(given) <= failures:
            raise ImageLoadError(words)

    client = SimpleNamespace(images=SimpleNamespace(load=load))
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    engine: Any = SimpleNamespace(host="here", client=client, containerd_store=True)
    with nullcontext() if failures < attempts else pytest.raises(HfdlcError, match=words):
        assemble.load({}, engine)
    assert len(given) == attempts


def test_image_without_one_of_its_layers_is_an_error(layers: LayerStore, repository: Project) -> None:
    """As when another program tidies while it is put together."""
    missing = Layer(repository.default, "framework", "framework.lock", cache_key="1")
    with pytest.raises(HfdlcError, match="the layer framework is not in the layer store"):
        assemble._stored(missing, layers)


def test_layer_that_appears_last_is_stored(layers: LayerStore, repository: Project, tmp_path: Path) -> None:
    """Also one that is whole only when BuildKit has ended; one that is never written delays nothing."""
    missing = [
        Layer(repository.default, "framework", "framework.lock", cache_key=key) for key in ("late", "never")
    ]
    added: list[StoredLayer] = []
    layers.root.mkdir(parents=True)
    with assemble._adding(missing, tmp_path, layers, lambda layer, _: added.append(layer)):
        (tmp_path / "late").mkdir()
        (tmp_path / "late/layer.tar.zst").write_bytes(b"packed")
        about = {"diff_id": "sha256:1", "digest": digest_of(b"packed"), "size": 6, "unpacked": 9}
        (tmp_path / "late/layer.json").write_text(json.dumps(about))
    assert layers.get("late") == added[0]
    assert layers.get("never") is None


def test_images_that_were_not_loaded_to_their_end_are_removed() -> None:
    """A full disk: the engine lists the image although it could not unpack it. Another image stays."""
    removed: list[str] = []

    def load(_: object) -> None:
        raise DockerException("no space left on device")

    known = {"new:1": "sha256:1", "other:1": "sha256:9"}
    images = SimpleNamespace(
        load=load,
        get=lambda name: SimpleNamespace(id=known[name]),
        remove=lambda name, **_: removed.append(name),
    )
    engine: Any = SimpleNamespace(
        client=SimpleNamespace(images=images), containerd_store=True, host="unix:///a"
    )
    made: Any = {
        name: SimpleNamespace(manifest=SimpleNamespace(digest="sha256:1"), config_digest="sha256:2")
        for name in known
    }
    with pytest.raises(HfdlcError, match="could not load new:1, other:1: no space left"):
        assemble.load(made, engine)
    assert removed == ["new:1"]
