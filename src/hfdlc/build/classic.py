"""Docker's classic image store (the default up to Docker 28), whose BuildKit has no OCI exporter.

The stage `image` of a cell goes into the engine, and is read back as `docker save` writes it. All else is
the same as with the containerd image store.
"""

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO, cast

from docker.errors import ImageNotFound

from hfdlc.build import bake
from hfdlc.engine import images
from hfdlc.engine.detect import Engine
from hfdlc.matrix.cells import Cell
from hfdlc.oci.image import Image
from hfdlc.oci.store import PIECE, LayerStore


@contextmanager
def discarding(cells: Iterable[Cell], engine: Engine) -> Iterator[None]:
    """Remove the stage `image` of cells from the engine at the end, also where the build fails."""
    try:
        yield
    finally:
        for cell in () if engine.containerd_store else cells:
            with suppress(ImageNotFound):
                engine.client.images.remove(bake.shell_tag(cell), force=True)


def shell(cell: Cell, engine: Engine, store: LayerStore) -> str:
    """Store the stage `image` of a cell, which the engine has; its manifest digest."""
    with images.saved(engine.client.images.get(bake.shell_tag(cell))) as archive:
        return read(archive, store)


def read(archive: tarfile.TarFile, store: LayerStore) -> str:
    """Store the image in an archive that `docker save` wrote; its manifest digest.

    The archive may be a stream. From Docker 25 on its files are named by digest: a layer that is in the store
    already is skipped. Older releases name a layer `ID/layer.tar`.
    """
    files: dict[str, Path] = {}  # by name
    digests: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(dir=store.root) as folder:
        for member in archive:
            if not member.isfile() or store.packed(f"sha256:{PurePath(member.name).name}"):
                continue
            file = files[member.name] = Path(folder, str(len(files)))
            seen = hashlib.sha256()
            content = cast("IO[bytes]", archive.extractfile(member))
            with file.open("wb") as target:
                while piece := content.read(PIECE):
                    seen.update(piece)
                    target.write(piece)
            digests[f"sha256:{seen.hexdigest()}"] = file
        (about,) = json.loads(files["manifest.json"].read_bytes())
        config = files[about["Config"]].read_bytes()
        layers = tuple(
            store.packed(diff_id) or store.add_archive(digests[diff_id])
            for diff_id in json.loads(config)["rootfs"]["diff_ids"]
        )
    store.put(config)
    return store.put(Image(config, layers, store).manifest.content)


def needless(made: Iterable[Image], engine: Engine) -> set[str]:
    """The blobs that an archive for the engine need not have: of layers that it has in the same place."""
    here = [image.attrs["RootFS"].get("Layers") or [] for image in images.every(engine)]
    known, needed = set(), set()
    for image in made:
        diff_ids = [layer.diff_id for layer in image.layers]
        shared = max((_shared(diff_ids, layers) for layers in here), default=0)
        known |= {layer.digest for layer in image.layers[:shared]}
        needed |= {layer.digest for layer in image.layers[shared:]}
    return known - needed


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many layers two images share from the base up: the engine finds a layer by all that are below."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count
