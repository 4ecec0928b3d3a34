"""An engine with Docker's classic image store: what its stage images are read from, and what it is sent."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import ImageNotFound

from hfdlc.build import bake, classic
from hfdlc.build.bake import BuildContext
from hfdlc.oci.image import Image, archive, compose, digest_of
from hfdlc.oci.store import ZSTD, LayerStore
from hfdlc.project import Project
from parts import stored_layer

ROOT = Path("nowhere")  # the repository's folder, of which nothing is needed for layers of zstd
BASE, VENV = b"a base", b"a virtual environment"


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    """A store that has the base packed."""
    (tmp_path / "store").mkdir()
    made = LayerStore(tmp_path / "store")
    stored_layer(made, BASE)
    return made


def configuration() -> bytes:
    return json.dumps(
        {
            "config": {"Cmd": ["serve"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(BASE), digest_of(VENV)]},
            "history": [{"created_by": "base"}, {"created_by": "COPY /layer/ /"}],
        }
    ).encode()


def blob(content: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def saved(form: str) -> tuple[Mapping[str, bytes], str, list[str]]:
    """The files that `docker save` writes: their content, the configuration's name, the layers' names."""
    config = configuration()
    if form == "25.0":
        layers = [blob(BASE), blob(VENV)]
        return {blob(config): config, **dict(zip(layers, (BASE, VENV), strict=True))}, blob(config), layers
    layers = ["1/layer.tar", "2/layer.tar"]
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    return {"1/VERSION": b"1.0", **dict(zip(layers, (BASE, VENV), strict=True)), name: config}, name, layers


def stream(files: Mapping[str, bytes]) -> tarfile.TarFile:
    """An archive as a program reads it from the engine: once, from its start."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as writer:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            writer.addfile(member, io.BytesIO(content))
    target.seek(0)
    return tarfile.open(fileobj=target, mode="r|")


@pytest.mark.parametrize("form", ["25.0", "23.0"])
def test_saved_image_is_read_into_the_store(form: str, store: LayerStore) -> None:
    """The layouts of both generations of `docker save` give one manifest, which an image is composed from."""
    files, config, layers = saved(form)
    manifest = json.dumps([{"Config": config, "RepoTags": ["x:1"], "Layers": layers}]).encode()
    with stream({**files, "manifest.json": manifest}) as content:
        digest = classic.read(content, store)
    described = store.read_json(digest)
    assert described["config"]["digest"] == digest_of(configuration())
    assert [store.path(layer["digest"]).is_file() for layer in described["layers"]] == [True, True]
    assert described["layers"][0]["mediaType"] == ZSTD
    stored_layer(store, VENV)  # what `image/pack.py` would make of it
    top = stored_layer(store, b"packages")
    made = compose(digest, [top], store, ROOT, created=0)
    assert made.settings["rootfs"]["diff_ids"] == [digest_of(each) for each in (BASE, VENV, b"packages")]
    assert made.settings["config"] == {"Cmd": ["serve"]}
    assert {layer.media_type for layer in made.layers} == {ZSTD}


def test_a_layer_of_the_store_is_not_written_again(store: LayerStore) -> None:
    """The base is the largest part of the archive."""
    files, config, layers = saved("25.0")
    manifest = json.dumps([{"Config": config, "RepoTags": ["x:1"], "Layers": layers}]).encode()
    with stream({**files, "manifest.json": manifest}) as content:
        classic.read(content, store)
    assert not store.path(digest_of(BASE)).exists()
    assert store.path(digest_of(VENV)).exists()


class Engine:
    """The images of an engine, by name, each as the digests of its layers."""

    def __init__(self, *, containerd_store: bool = False, **held: list[str]) -> None:
        self.containerd_store, self.held, self.removed = containerd_store, held, list[str]()
        self.client = SimpleNamespace(images=self)

    def list(self, **_: object) -> list[Any]:
        return [SimpleNamespace(attrs={"RootFS": {"Layers": each}}) for each in self.held.values()]

    def remove(self, name: str, force: bool) -> None:
        self.removed.append(name)
        raise ImageNotFound(name)


def images(store: LayerStore, **contents: tuple[bytes, ...]) -> dict[str, Image]:
    """Images of layers with these contents."""
    config = b"{}"
    return {
        name: Image(config, tuple(stored_layer(store, each) for each in layers), store)
        for name, layers in contents.items()
    }


def sent(made: Mapping[str, Image], engine: Engine) -> set[str]:
    """The blobs of the archive for an engine."""
    content = io.BytesIO(b"".join(archive(made, classic.needless(made.values(), engine))))  # type: ignore[arg-type]
    with tarfile.open(fileobj=content) as tar:
        (about,) = json.load(tar.extractfile("manifest.json") or io.BytesIO())
        assert about["RepoTags"] == list(made)
        assert len(about["Layers"]) == len(next(iter(made.values())).layers)
        return set(tar.getnames())


def test_layers_that_the_engine_has_are_not_sent(store: LayerStore) -> None:
    """Only from the base up: the engine finds a layer by all that are below it."""
    made = images(store, one=(BASE, VENV, b"packages"))
    names = [f"blobs/{layer.digest.replace(':', '/')}" for layer in made["one"].layers]
    base, venv, packages = map(digest_of, (BASE, VENV, b"packages"))
    for here, kept in (
        ([], names),
        ([base], names[1:]),
        ([base, venv, "sha256:other"], names[2:]),
        ([venv, packages], names),
        ([base, venv, packages], []),
    ):
        found = sent(made, Engine(there=here))
        assert [name for name in names if name in found] == kept


def test_a_layer_that_one_of_two_images_needs_is_sent(store: LayerStore) -> None:
    """The engine has it on another base only."""
    made = images(store, one=(BASE, b"packages"), two=(b"another base", b"packages"))
    here = Engine(there=[digest_of(BASE), digest_of(b"packages")])
    needless = classic.needless(made.values(), here)  # type: ignore[arg-type]
    assert needless == {made["one"].layers[0].digest}


@pytest.mark.parametrize("containerd_store", [True, False])
def test_stage_images_leave_the_engine(containerd_store: bool, repository: Project) -> None:
    """Also where the build failed, and where one was never made."""
    engine = Engine(containerd_store=containerd_store)
    cells = [repository.default]
    with pytest.raises(ValueError, match="failed"), classic.discarding(cells, engine):  # type: ignore[arg-type]
        raise ValueError("failed")
    assert engine.removed == ([] if containerd_store else [bake.shell_tag(repository.default)])


def test_the_stage_image_goes_into_the_engine(repository: Project) -> None:
    """Without a layout, nothing has an output that needs an OCI exporter."""
    cell, context = repository.default, BuildContext()
    layers = bake.layers_of(cell, repository, context)
    file = bake.of_layers([cell], layers, repository.matrix, context, None, Path("tmp"))
    target = file["target"][bake.target_name(cell)]
    assert (target["target"], target["output"], target["tags"]) == (
        "image",
        ["type=docker"],
        [bake.shell_tag(cell)],
    )
    outputs = [each["output"][0].partition(",")[0] for each in file["target"].values()]
    assert set(outputs) == {"type=docker", "type=local"}
