"""Manifests and configurations that are made from stored layers, in OCI's and in Docker's media types."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from hfdlc.oci import image as oci_image
from hfdlc.oci import store as layer_store
from hfdlc.oci.image import DOCKER_MANIFEST, OCI_MANIFEST, Image, archive, compose, digest_of
from hfdlc.oci.store import GZIP, PLAIN, ZSTD, Damaged, LayerStore, StoredLayer, decompressed
from parts import stored_layer

ROOT = Path("nowhere")  # the repository's folder, of which nothing is needed for layers of zstd


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    """An empty store."""
    (tmp_path / "store").mkdir()
    return LayerStore(tmp_path / "store")


def shell(store: LayerStore, base: StoredLayer) -> str:
    """What BuildKit writes of an image that has one layer so far; its digest."""
    config = {
        "config": {"Entrypoint": ["/usr/bin/env"], "Labels": {"a": "b"}},
        "rootfs": {"type": "layers", "diff_ids": [base.diff_id]},
        "history": [{"created_by": "base"}, {"created_by": "ENTRYPOINT", "empty_layer": True}],
    }
    described = {"mediaType": base.media_type, "digest": base.digest, "size": base.size}
    manifest = {"config": {"digest": store.put(json.dumps(config).encode())}, "layers": [described]}
    return store.put(json.dumps(manifest).encode())


@pytest.fixture
def image(store: LayerStore) -> Image:
    """A base and one layer of packages."""
    base, packages = stored_layer(store, b"base" * 999), stored_layer(store, b"packages" * 999)
    return compose(shell(store, base), [packages], store, ROOT, created=0)


def test_package_layers_are_added_to_the_base(image: Image) -> None:
    """Each with a step of the history; the base's configuration stays."""
    base, packages = image.layers
    assert image.settings["rootfs"]["diff_ids"] == [base.diff_id, packages.diff_id]
    assert image.settings["config"]["Labels"] == {"a": "b"}
    steps = [step for step in image.settings["history"] if not step.get("empty_layer")]
    assert [step["created_by"] for step in steps] == ["base", "COPY /layer/ / # hfdlc"]
    assert [each["digest"] for each in image.manifest.parsed["layers"]] == [base.digest, packages.digest]


def test_config_digest_does_not_depend_on_compression(image: Image) -> None:
    """Only manifest digest, layers and media types differ."""
    docker = image.as_docker(ROOT)
    assert docker.config_digest == image.config_digest == docker.manifest.config_digest
    assert docker.manifest.digest != image.manifest.digest
    assert (image.manifest.media_type, docker.manifest.media_type) == (OCI_MANIFEST, DOCKER_MANIFEST)
    text, other = docker.manifest.content.decode(), image.manifest.content.decode()
    assert ("vnd.oci" in text, "vnd.docker" in other) == (False, False)
    for layer, original in zip(docker.layers, image.layers, strict=True):
        with docker.open(layer.digest, 0) as blob:
            assert digest_of(decompressed(blob).read()) == original.diff_id


def test_gzip_layers_are_made_once(image: Image) -> None:
    """Before that, `known_as_docker` says that they would have to be made."""
    assert image.known_as_docker() is None
    made = image.as_docker(ROOT)
    assert image.known_as_docker() == made
    times = [image.store.path(layer.digest).stat().st_ino for layer in made.layers]
    assert image.as_docker(ROOT) == made
    assert [image.store.path(layer.digest).stat().st_ino for layer in made.layers] == times


def test_gzip_bytes_are_fixed(store: LayerStore) -> None:
    """Another release of zlib-ng that compresses differently would give published images another digest."""
    archive = b"".join(hashlib.sha256(b"%d" % (number // 3)).digest() for number in range(100_000))
    made = store.compressed(stored_layer(store, archive), GZIP, ROOT)
    assert made.digest == "sha256:9180d64f174c26214a6032cd0fa489183c42bc81d72c060658c73ed5fe6990f5"


def test_gzip_of_another_level_is_another_layer(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an older version compressed is not taken for what this one would."""
    image.as_docker(ROOT)
    monkeypatch.setitem(layer_store.SUFFIXES, GZIP, "gzip-ng9")
    assert image.known_as_docker() is None


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_damaged_layer_is_found_before_it_is_sent(how: str, image: Image) -> None:
    """It is set aside, so that the image is no longer known and its layer is made again."""
    image.save("sha256:1")
    path = image.store.path(image.layers[1].digest)
    content = path.read_bytes()
    path.unlink()  # a layer's file may have other names
    if how == "changed":
        path.write_bytes(content[:-1] + b"x")
    with pytest.raises(Damaged):
        image.verify()
    assert not path.exists()
    assert path.with_suffix(".set-aside").exists() == (how == "changed")
    assert oci_image.load(image.store, "sha256:1") is None


def test_damaged_layer_is_not_compressed_again(image: Image) -> None:
    """No gzip layer is made of it."""
    path = image.store.path(image.layers[0].digest)
    content = zstd.compress(b"another archive")
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(Damaged):
        image.as_docker(ROOT)
    assert image.known_as_docker() is None


def test_gzip_of_a_layer_with_a_wrong_diff_id_is_refused(store: LayerStore) -> None:
    """The blob is intact, but it is not the archive that the image names."""
    layer = stored_layer(store, b"an archive")
    wrong = StoredLayer(digest_of(b"another"), layer.digest, layer.size, ZSTD)
    with pytest.raises(Damaged):
        store.compressed(wrong, GZIP, ROOT)


def test_saved_image_is_found_by_each_of_its_names(image: Image) -> None:
    """By the inputs' digest, by the config digest, and by the manifest digest."""
    image.save("sha256:1")
    for name in ("sha256:1", image.config_digest, image.manifest.digest):
        assert oci_image.load(image.store, name) == image
    assert oci_image.load(image.store, "sha256:2") is None
    assert oci_image.config_digest_of(image.store, image.manifest.digest) == image.config_digest
    assert oci_image.config_digest_of(image.store, "sha256:2") is None


@pytest.mark.parametrize("what", ["record", "manifest", "config", "layer"])
def test_image_with_a_damaged_part_is_unknown(what: str, image: Image) -> None:
    """Whatever it is, the image is made again, and saving it repairs the rest."""
    image.save("sha256:1")
    paths = {
        "record": image.store.root / "images/1.json",
        "manifest": image.store.path(image.manifest.digest),
        "config": image.store.path(image.config_digest),
        "layer": image.store.path(image.layers[0].digest),
    }
    content = paths[what].read_bytes()
    for damaged in (content[:-9], b"[]", b""):
        paths[what].write_bytes(damaged)
        assert oci_image.load(image.store, "sha256:1") is None
    paths[what].write_bytes(content)
    if what in ("manifest", "config"):  # of the same size
        paths[what].write_bytes(content.replace(b"sha256", b"sha255"))
        assert oci_image.load(image.store, "sha256:1") is None
    image.save("sha256:1")
    assert oci_image.load(image.store, "sha256:1") == image


def test_blob_can_be_read_from_an_offset(image: Image) -> None:
    """Where an upload continues."""
    layer = image.layers[0]
    with image.open(layer.digest, 0) as blob, image.open(layer.digest, 2) as rest:
        assert blob.read()[2:] == rest.read()
    with image.open(image.config_digest, 1) as blob:
        assert blob.read() == image.config[1:]


def test_layer_of_a_registry_keeps_its_compression(store: LayerStore) -> None:
    """Also with Docker's media type, which is the same as OCI's."""
    blob = store.compressed(stored_layer(store, b"base"), GZIP, ROOT)
    docker = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    base = StoredLayer(blob.diff_id, blob.digest, blob.size, docker)
    made = compose(shell(store, base), [], store, ROOT, created=0)
    assert made.layers == (blob,)
    assert made.as_docker(ROOT).layers == (blob,)


def test_archive_has_every_layer_once(store: LayerStore) -> None:
    """Two images share their base, and both have their name."""
    base = stored_layer(store, b"base")
    made = {
        name: compose(shell(store, base), [stored_layer(store, name.encode())], store, ROOT, created=0)
        for name in ("one:1", "two:2")
    }
    content = io.BytesIO(b"".join(archive(made)))
    with tarfile.open(fileobj=content) as tar:
        names = tar.getnames()
        index: dict[str, Any] = json.load(tar.extractfile("index.json") or io.BytesIO())
        for name in names:
            if name.startswith("blobs/"):
                blob = tar.extractfile(name)
                assert blob
                assert digest_of(blob.read()).endswith(name.rpartition("/")[2])
    assert len(names) == len(set(names))
    named = [each["annotations"]["io.containerd.image.name"] for each in index["manifests"]]
    assert named == ["docker.io/library/one:1", "docker.io/library/two:2"]


def test_uncompressed_layer_has_a_name_of_its_own(store: LayerStore) -> None:
    """It is found again, and not taken for the compressed one."""
    assert store.known(StoredLayer("sha256:1", "sha256:1", 1, PLAIN), ZSTD) is None
