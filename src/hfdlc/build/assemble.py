"""Images are assembled from stored layers; BuildKit builds the missing ones, packed as registries keep them.

BuildKit's own exporter would copy every layer, compare it with the ones below, and compress it with a program
that takes several times as long: half of a cold build.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from docker.errors import DockerException
from tenacity import Retrying, retry_if_exception_message, stop_after_attempt, wait_fixed

from hfdlc.build import bake, buildkit, classic, prepare
from hfdlc.build.bake import BuildContext
from hfdlc.build.buildkit import Done
from hfdlc.build.session import Session
from hfdlc.dockerfile import inputs, render
from hfdlc.dockerfile.cache_keys import distinct
from hfdlc.dockerfile.layers import Layer
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.oci import image as oci_image
from hfdlc.oci.image import Image, archive, compose
from hfdlc.oci.store import ZSTD, LayerStore, StoredLayer

# The engine is just removing a layer with an older image: errors of both image stores of Docker.
LOST = "parent snapshot .* does not exist|blobs/sha256/.*: no such file or directory"
INTERVAL = 0.2  # seconds between two looks for a layer
OnLayer = Callable[[StoredLayer, Cell], None]


@dataclass(frozen=True)
class Assembled:
    """Images by their cells' ids, and what making them took."""

    images: dict[str, Image]
    done: Done | None  # the result of BuildKit, where it was needed
    known: int  # layers that were in the layer store already


def assemble(
    session: Session,
    cells: Sequence[Cell],
    context: BuildContext,
    *,
    no_cache: LayerStore | None = None,
    on_layer: OnLayer | None = None,
) -> Assembled:
    """The images of cells, from stored layers; BuildKit builds those that are missing.

    `no_cache`: neither stored layers nor BuildKit's cache are used, and layers are kept in that store.
    `on_layer` is called with each layer that is stored, in a thread, while others are built. Raises
    BuildFailed if a build fails; the layers that were built before are kept.
    """
    project = session.project
    store = no_cache or LayerStore.of(session.state)
    images = (
        {}
        if no_cache
        else {cell.id: oci_image.load(store, inputs.digest(context.inputs[cell.id])) for cell in cells}
    )
    todo = [cell for cell in cells if not images.get(cell.id)]
    layers = {cell.id: bake.layers_of(cell, project, context) for cell in cells}
    wanted = distinct({cell.id: layers[cell.id] for cell in todo})
    missing = [layer for layer in wanted if no_cache or not store.get(layer.cache_key)]
    done, shells = None, {}
    if todo:
        with (
            tempfile.TemporaryDirectory(dir=session.state.folder("tmp")) as folder,
            prepare.with_packages(session, todo, context) as with_packages,
            classic.discarding(todo, session.engine),
        ):
            layout = store.root if session.builder.exports_images else None
            file = bake.of_layers(todo, missing, project.matrix, with_packages, layout, Path(folder))
            for target in file["target"].values() if no_cache else ():
                target["no-cache"] = True
            # BuildKit lists there what it writes, and nothing reads it; a damaged list would stop it.
            (store.root / "index.json").unlink(missing_ok=True)
            with _adding(missing, Path(folder), store, on_layer) as pool:
                for cell in todo:
                    pool.submit(_offer_base, cell, context, store, project.root, on_layer)
                done = buildkit.build(session, file, todo, sys.stderr)
            shells = {cell.id: _shell(session, cell, done, store) for cell in todo}
    for cell in todo:
        found = [_stored(layer, store) for layer in layers[cell.id]]
        image = compose(shells[cell.id], found, store, project.root, created=render.EPOCH)
        images[cell.id] = image
        if not no_cache:
            image.save(inputs.digest(context.inputs[cell.id]))
    known = len(distinct(layers)) - len(missing)
    return Assembled({name: image for name, image in images.items() if image}, done, known)


def _shell(session: Session, cell: Cell, done: Done, store: LayerStore) -> str:
    """The manifest digest of the stage `image` of a cell, in the store."""
    if session.builder.exports_images:
        return done.digests[bake.target_name(cell)]
    return classic.shell(cell, session.engine, store)


@contextmanager
def _adding(
    missing: Sequence[Layer], folder: Path, store: LayerStore, on_layer: OnLayer | None
) -> Iterator[ThreadPoolExecutor]:
    """Add each layer to the store as soon as BuildKit has written it to the folder."""
    ended = Event()

    def add(layer: Layer) -> None:
        stored = None
        while not stored:
            over = ended.is_set()  # before the look, so that the last file is seen
            stored = store.add(folder / layer.cache_key, layer.cache_key)
            if not stored:
                if over:
                    return
                ended.wait(INTERVAL)
        if on_layer:
            on_layer(stored, layer.cell)

    with ThreadPoolExecutor(len(missing) + 1) as pool:
        waiting = [pool.submit(add, layer) for layer in missing]
        try:
            yield pool
        finally:
            ended.set()
        for one in waiting:
            one.result()


def _stored(layer: Layer, store: LayerStore) -> StoredLayer:
    """A layer in the store; raises HfdlcError if it has been removed: no image is made without it."""
    if stored := store.get(layer.cache_key):
        return stored
    raise HfdlcError(
        f"the layer {layer.name} is not in the layer store any more",
        location=str(store.root),
        hint=f"run this again: hfdlc build {layer.cell.id}",
    )


def _offer_base(
    cell: Cell, context: BuildContext, store: LayerStore, root: Path, on_layer: OnLayer | None
) -> None:
    """Report the layer of a base that this machine made: it is known before anything is built."""
    name = context.base_images[cell.id].partition("@")[0].rpartition(":")[2]
    if on_layer and (base := store.get(name)):
        on_layer(store.compressed(base, ZSTD, root), cell)


def load(images: Mapping[str, Image], engine: Engine) -> None:
    """Give images to an engine, each under its cell's id, in one archive that has every layer once.

    Raises HfdlcError if it does not take them.
    """
    client = engine.client
    try:
        again = retry_if_exception_message(match=f"(?s).*({LOST})")
        for attempt in Retrying(retry=again, stop=stop_after_attempt(3), wait=wait_fixed(1), reraise=True):
            with attempt:
                without = set() if engine.containerd_store else classic.needless(images.values(), engine)
                client.images.load(archive(images, without))  # type: ignore[arg-type] # pieces are fine, says requests
    except (DockerException, OSError) as error:
        _discard(images, engine)
        raise HfdlcError(
            f"the engine could not load {', '.join(images)}: {error}",
            location=engine.host,
            hint=f"check the free disk space (`df -h`), then hfdlc build {' '.join(images)}",
        ) from error


def _discard(images: Mapping[str, Image], engine: Engine) -> None:
    """Remove images that were not loaded to their end: the engine lists them, as if they were up to date."""
    for name, image in images.items():
        with suppress(DockerException, OSError):
            if engine.client.images.get(name).id in (image.manifest.digest, image.config_digest):
                engine.client.images.remove(name, force=True)
