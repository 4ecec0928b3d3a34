"""Images put together from layers: BuildKit makes what is missing, each layer packed as registries keep it.

BuildKit's own exporter would copy every layer, compare it with what is below, and compress it with a program
that takes several times as long: half of a cold build.
"""

import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

from docker.errors import DockerException

from hfdlc import build as building
from hfdlc import engine as engines
from hfdlc import graph, inputs, plan, render
from hfdlc.build import Done
from hfdlc.cells import Cell
from hfdlc.engine import Engine
from hfdlc.errors import HfdlcError
from hfdlc.packed import GZIP, PIECE, ZSTD, Layer, Layers
from hfdlc.plan import Machine, Part
from hfdlc.project import Project
from hfdlc.publish.registry import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Manifest, digest_of
from hfdlc.state import State, write_whole

CONFIG = "application/vnd.oci.image.config.v1+json"
# The same in Docker's words, for registries and services that take nothing newer.
DOCKER = {
    OCI_MANIFEST: DOCKER_MANIFEST,
    CONFIG: "application/vnd.docker.container.image.v1+json",
    GZIP: "application/vnd.docker.image.rootfs.diff.tar.gzip",
}


@dataclass(frozen=True)
class Image:
    """A cell's image, whose blobs lie on this machine."""

    manifest: Manifest
    config: bytes
    layers: Layers

    def open(self, digest: str, offset: int) -> IO[bytes]:
        """One of its blobs from an offset on."""
        if digest == digest_of(self.config):
            return io.BytesIO(self.config[offset:])
        return self.layers.open(digest, offset)


def assemble(
    cells: Sequence[Cell],
    project: Project,
    machine: Machine,
    used: Engine,
    state: State,
    *,
    media_type: str = ZSTD,
    anew: Layers | None = None,
) -> tuple[dict[str, Image], Done | None]:
    """The images of cells, by id, and what BuildKit told, if it was asked for something.

    `media_type` of the layers is ZSTD, or GZIP for Docker's schema 2. `anew`: nothing that is known counts,
    no cache of BuildKit's either, and layers are kept there. Raises BuildFailed where a build fails.
    """
    layers = anew or Layers.of(state)
    images = {} if anew else {cell.id: _known(cell, machine, layers, media_type) for cell in cells}
    todo = [cell for cell in cells if not images.get(cell.id)]
    laid = {cell.id: _parts(cell, project, machine) for cell in todo}
    parts = {part.name: part for cell in todo for part in laid[cell.id]}
    missing = [part for part in parts.values() if anew or not layers.known(part.name)]
    done = None
    if todo:
        with tempfile.TemporaryDirectory(dir=state.folder("tmp")) as folder:
            bake = plan.parts(todo, laid, missing, project.matrix, machine, layers.root, Path(folder))
            if anew:
                bake["target"] = {name: target | {"no-cache": True} for name, target in bake["target"].items()}
            done = building.build(bake, todo, used, project.root, state, sys.stderr)
            for part in missing:
                layers.take(Path(folder, part.name), part.name)
    for cell in todo:
        assert done
        above = [layer for part in laid[cell.id] if (layer := layers.known(part.name))]
        shell = done.digests[plan.target_name(cell)]
        images[cell.id] = _image(shell, above, layers, media_type, project.root)
        if not anew:
            _remember(cell, machine, images[cell.id], media_type)
    return {name: image for name, image in images.items() if image}, done


def _parts(cell: Cell, project: Project, machine: Machine) -> list[Part]:
    """The layers of a cell that are made apart from it, in the order in which they are laid."""
    text = machine.dockerfiles.get(cell.id) or (project.root / cell.folder / "Dockerfile").read_text()
    found = graph.parts(text, project.root, machine.starts[cell.id])
    return [Part(name, stage, cell) for stage, name in found.items()]


def _image(shell: str, above: Sequence[Layer], layers: Layers, media_type: str, root: Path) -> Image:
    """What BuildKit made without packages, with the layers of packages on it."""
    made = layers.read(shell)
    config = layers.read(made["config"]["digest"])
    pairs = zip(config["rootfs"]["diff_ids"], made["layers"], strict=True)
    below = [Layer(diff_id, each["digest"], each["size"], each["mediaType"]) for diff_id, each in pairs]
    laid = [layers.packed(layer, media_type, root) for layer in (*below, *above)]
    moment = datetime.fromtimestamp(render.EPOCH, UTC).isoformat().replace("+00:00", "Z")
    config["rootfs"]["diff_ids"] = [layer.diff_id for layer in laid]
    config["history"] += [{"created": moment, "created_by": "COPY /layer/ / # hfdlc"}] * len(above)
    content = _text(config)
    names = DOCKER if media_type == GZIP else {}
    manifest = {
        "schemaVersion": 2,
        "mediaType": names.get(OCI_MANIFEST, OCI_MANIFEST),
        "config": _descriptor(names.get(CONFIG, CONFIG), digest_of(content), len(content)),
        "layers": [
            _descriptor(names.get(each.media_type, each.media_type), each.digest, each.size) for each in laid
        ],
    }
    return Image(Manifest(_text(manifest), manifest["mediaType"]), content, layers)


def _known(cell: Cell, machine: Machine, layers: Layers, media_type: str) -> Image | None:
    """The image that was put together from the same inputs, if all its blobs are there."""
    try:
        told = json.loads(_memory(cell, machine, layers, media_type).read_text())
        content = told["manifest"].encode()
        manifest = Manifest(content, json.loads(content)["mediaType"])
        config = told["config"].encode()
        there = [layers.path(each["digest"]).stat().st_size for each in manifest.parsed["layers"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = there == [each["size"] for each in manifest.parsed["layers"]]
    right = digest_of(config) == manifest.parsed["config"]["digest"]
    return Image(manifest, config, layers) if whole and right else None


def _remember(cell: Cell, machine: Machine, image: Image, media_type: str) -> None:
    told = {"manifest": image.manifest.content.decode(), "config": image.config.decode()}
    write_whole(_memory(cell, machine, image.layers, media_type), json.dumps(told))


def _memory(cell: Cell, machine: Machine, layers: Layers, media_type: str) -> Path:
    """Where the image of the cell's inputs is told."""
    address = inputs.digest(machine.inputs[cell.id]).partition(":")[2]
    return layers.root / "images" / f"{address}-{media_type.rpartition('+')[2]}.json"


def load(images: Mapping[str, Image], used: Engine) -> None:
    """Give images to an engine, each under its cell's id, in one archive that has every layer once.

    Raises HfdlcError where it does not take them.
    """
    with closing(engines.client(used)) as client:
        try:
            client.images.load(archive(images))
        except (DockerException, OSError) as error:
            raise HfdlcError(
                f"the engine could not load {', '.join(images)}: {error}",
                where=used.host,
                then=f"see that `df -h` shows room, then hfdlc build {' '.join(images)}",
            ) from error


def archive(images: Mapping[str, Image]) -> Iterator[bytes]:
    """An OCI archive of images by their names, piece by piece."""
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            _descriptor(image.manifest.media_type, image.manifest.digest, len(image.manifest.content))
            | {"annotations": {"io.containerd.image.name": f"docker.io/library/{name}"}}
            for name, image in images.items()
        ],
    }
    yield from _whole("oci-layout", _text({"imageLayoutVersion": "1.0.0"}))
    yield from _whole("index.json", _text(index))
    seen: set[str] = set()
    for image in images.values():
        yield from _whole(_place(image.manifest.digest), image.manifest.content)
        for blob in image.manifest.blobs:
            if blob["digest"] not in seen:
                seen.add(blob["digest"])
                with image.open(blob["digest"], 0) as content:
                    pieces = iter(partial(content.read, PIECE), b"")
                    yield from _member(_place(blob["digest"]), pieces, blob["size"])
    yield bytes(2 * tarfile.BLOCKSIZE)


def _whole(name: str, content: bytes) -> Iterator[bytes]:
    return _member(name, [content], len(content))


def _member(name: str, pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size = size
    yield info.tobuf(tarfile.USTAR_FORMAT)
    yield from pieces
    yield bytes(-size % tarfile.BLOCKSIZE)


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _text(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
