"""Base images for builders that have no images of the engine: OCI layouts, as named contexts of a build."""

import json
import tarfile
from collections.abc import Sequence
from typing import IO, cast

from hfdlc.build import bake, bases
from hfdlc.build.bake import BuildContext
from hfdlc.build.session import Session
from hfdlc.dockerfile import render
from hfdlc.engine import buildx
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Bootstrap
from hfdlc.oci.image import Image
from hfdlc.oci.store import ZSTD, LayerStore


def of(session: Session, cells: Sequence[Cell], context: BuildContext) -> dict[str, str]:
    """The base images that no registry has, as OCI layouts for a builder that has no images of the engine.

    Raises HfdlcError for an image that only the engine has.
    """
    if not session.builder.name:
        return {}
    matrix, found = session.project.matrix, dict[str, str]()
    for cell in cells:
        public, bootstraps = render.images(cell, matrix), render.bootstraps(cell, matrix)
        for name, image in bake.chosen(public, context.images, cell).items():
            if image in found or not image.startswith(bases.LOCAL):
                continue
            bootstrap = bootstraps.get(name)
            if not bootstrap or image != bases.tag(bootstrap):
                raise HfdlcError(
                    f"the base image {image} is only in the engine, where other builders cannot use it",
                    location=cell.id,
                    hint=f"unset {buildx.VARIABLE}",
                )
            found[image] = layout(public[name], bootstrap, session)
    return found


def layout(image: str, bootstrap: Bootstrap, session: Session) -> str:
    """A bootstrapped base in the layer store, as a named context for builders without the engine's images."""
    root = session.project.root
    with session.state.lock("bases"):
        archive = bases.make(image, bases.tag(bootstrap), bootstrap, session.state, session.environ)
    store = LayerStore.of(session.state)
    store.add_base(archive, root)
    layer = store.get(archive.stem)
    assert layer
    with tarfile.open(archive) as made:
        (about,) = json.load(cast("IO[bytes]", made.extractfile("manifest.json")))
        config = cast("IO[bytes]", made.extractfile(about["Config"])).read()
    manifest = Image(config, (store.compressed(layer, ZSTD, root),), store).manifest
    store.put(config)
    return f"oci-layout://{store.root.absolute()}@{store.put(manifest.content)}"
