"""Images and containers that somebody removes while they are used: errors that name them, no tracebacks."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from docker.models.images import Image as DockerImage

from hfdlc.build import assemble
from hfdlc.checks import runner
from hfdlc.checks.subject import Subject
from hfdlc.engine import containers, images
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.locks.indexes import IndexConfig
from hfdlc.oci.image import Image
from hfdlc.oci.store import LayerStore
from hfdlc.project import Project
from hfdlc.state import State

pytestmark = pytest.mark.engine

NAME = "hfdlc.test/removed:1"


@pytest.fixture
def removed(used_engine: Engine) -> DockerImage:
    """An image that the engine had until just now."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    repository, _, tag = NAME.partition(":")
    used_engine.client.api.import_image_from_data(content.getvalue(), repository=repository, tag=tag)
    image = images.image_of(NAME, used_engine)
    assert images.layers(image)
    used_engine.client.images.remove(NAME, force=True)
    return image


def test_error_names_the_image_and_the_command(removed: DockerImage) -> None:
    for use in (images.layers, images.package_layers, lambda image: images.saved(image).__enter__()):
        with pytest.raises(HfdlcError, match="was removed from the engine") as caught:
            use(removed)
        assert str(caught.value).startswith(f"{NAME}: ")
        assert f"hfdlc build {NAME}" in caught.value.hint
        assert caught.value.exit_code == 1


def test_image_that_replaced_one_with_the_same_layers_is_unpacked_again(
    used_engine: Engine, tmp_path: Path
) -> None:
    """Docker 26 forgets its layers sooner or later: about once in 20 images."""
    store, name = LayerStore(tmp_path), "hfdlc-test-replaced:1"
    archive = tmp_path / "layer.tar"
    with tarfile.open(archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    layer = store.add_archive(archive, "layer")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created_by": "COPY /layer/ /"}],
    }
    try:
        for number in range(40):
            labelled = config | {"config": {"Labels": {"number": str(number)}}}
            assemble.load({name: Image(json.dumps(labelled).encode(), (layer,), store)}, used_engine)
            assert len(images.layers(images.image_of(name, used_engine))) == 1
    finally:
        used_engine.client.images.remove(name, force=True)


def test_images_are_listed_again_where_one_is_removed_meanwhile(
    removed: DockerImage, used_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = used_engine.client.api.images(all=False)
    answers = iter([[*listed, {"Id": removed.id}], listed])
    monkeypatch.setattr(used_engine.client.api, "images", lambda **_: next(answers))
    assert {image.id for image in images.every(used_engine)} == {image["Id"] for image in listed}


def test_removed_container_ends_the_checks_with_one_error(
    repository: Project, built: str, used_engine: Engine, state: State
) -> None:
    """Not with one failed check for each check, which would be kept as the image's result."""
    cell = repository.default
    with runner.subject(cell, repository, used_engine, state, IndexConfig()) as about:
        about.expect_unchanged()
        about.container.remove(force=True, v=True)
        assert runner.run(about, only="test_no_conflicts").failed
        with pytest.raises(HfdlcError, match="container of the checks was removed") as caught:
            about.expect_unchanged()
        assert f"hfdlc test {built}" in caught.value.hint
        containers.remove(about.container)  # once more: not an error


def test_moved_name_ends_the_checks_with_one_error(subject: Subject) -> None:
    other = replace(subject, facts=replace(subject.facts, digest="sha256:1"))
    with pytest.raises(HfdlcError, match="another image got this name"):
        other.expect_unchanged()
