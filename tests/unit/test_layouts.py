"""Base images for builders that have no images of the engine."""

import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hfdlc.build import bases, layouts
from hfdlc.build.bake import BuildContext
from hfdlc.dockerfile import render
from hfdlc.errors import HfdlcError
from hfdlc.matrix.schema import Bootstrap
from hfdlc.oci import image as oci_image
from hfdlc.oci.image import digest_of
from hfdlc.oci.store import LayerStore
from hfdlc.project import Project
from hfdlc.state import State

DEBIAN = Bootstrap(suite="bookworm", packages=["python3"])


def test_base_for_other_builders_is_in_the_layer_store(repository: Project, tmp_path: Path) -> None:
    """With the configuration that engines load, so that images made from it are the same."""
    state = State(tmp_path / "state")
    archive, root = bases.archive(DEBIAN, state), tmp_path / "root.tar"
    archive.parent.mkdir(parents=True)
    with tarfile.open(root, "w") as system:
        system.add(__file__, "etc/file")
    bases._pack(root, bases.tag(DEBIAN), bases.labels("example.org/python:3.11", DEBIAN), archive)
    session: Any = SimpleNamespace(project=repository, state=state, environ={})
    address = layouts.layout("example.org/python:3.11", DEBIAN, session)
    store = LayerStore.of(state)
    where, _, digest = address.partition("@")
    assert where == f"oci-layout://{store.root}"
    image = oci_image.load(store, digest)
    assert image
    assert image.settings["config"]["Labels"]["io.hfdlc.base.suite"] == "bookworm"
    (layer,) = image.layers
    assert layer.diff_id == digest_of(root.read_bytes())
    assert layouts.layout("example.org/python:3.11", DEBIAN, session) == address


def test_base_that_only_the_engine_has_is_refused_for_another_builder(
    repository: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A substitute base, for example. One from Debian's packages is passed as an OCI layout."""
    cell = repository.default
    assert cell.bootstrap
    made: list[str] = []

    def layout(image: str, *_: object) -> str:
        made.append(image)
        return "oci-layout:///state/layers@sha256:1"

    monkeypatch.setattr(layouts, "layout", layout)
    session: Any = SimpleNamespace(builder=SimpleNamespace(name="other"), project=repository)
    public = render.images(cell, repository.matrix)
    bootstraps = render.bootstraps(cell, repository.matrix)
    here = {name: {image: bases.tag(cast("Bootstrap", bootstraps[name]))} for name, image in public.items()}
    found = layouts.of(session, [cell], BuildContext(images=here))
    assert set(found) == {image for each in here.values() for image in each.values()}
    assert len(made) == len(found)
    pinned = {name: {image: f"{image}@sha256:1"} for name, image in public.items()}
    assert layouts.of(session, [cell], BuildContext(images=pinned)) == {}
    with pytest.raises(HfdlcError, match=r"the base image hfdlc\.local/stand-in:1 is only in the engine"):
        layouts.of(session, [cell], BuildContext(images={"base": {cell.id: "hfdlc.local/stand-in:1"}}))
    session.builder.name = ""
    assert layouts.of(session, [cell], BuildContext(images=here)) == {}
