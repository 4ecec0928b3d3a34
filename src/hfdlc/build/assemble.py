"""Images put together from layers: BuildKit makes what is missing, each layer packed as registries keep it.

BuildKit's own exporter would copy every layer, compare it with what is below, and compress it with a program
that takes several times as long: half of a cold build.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from docker.errors import DockerException
from tenacity import Retrying, retry_if_exception_message, stop_after_attempt, wait_fixed

from hfdlc.build import bake as plan
from hfdlc.build import buildkit, session
from hfdlc.build.bake import Machine
from hfdlc.build.buildkit import Done
from hfdlc.dockerfile import inputs, render
from hfdlc.dockerfile import layers as graph
from hfdlc.dockerfile.layers import Part
from hfdlc.engine import detect
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.oci import image as oci_image
from hfdlc.oci.image import Image, archive
from hfdlc.oci.store import ZSTD, Layer, LayerStore
from hfdlc.project import Project
from hfdlc.state import State

# What containerd says where it unpacks onto a layer that it is just removing with an older image.
LOST = "parent snapshot .* does not exist"
MOMENT = 0.2  # seconds between two looks for a layer
Taken = Callable[[Layer, Cell], None]


@dataclass(frozen=True)
class Assembled:
    """Images by their cells' ids, and what making them took."""

    images: dict[str, Image]
    done: Done | None  # what BuildKit told, if it was asked for something
    known: int  # layers that it was not asked for: they were packed before


def assemble(
    cells: Sequence[Cell],
    project: Project,
    machine: Machine,
    used: Engine,
    state: State,
    environ: Mapping[str, str],
    *,
    anew: LayerStore | None = None,
    taken: Taken | None = None,
) -> Assembled:
    """The images of cells.

    `anew`: nothing that is known counts, no cache of BuildKit's either, and layers are kept there. `taken` is
    called with each layer of zstd that is there or made, in a thread, while others are made. Raises
    BuildFailed where a build fails; the layers that were made before are kept.
    """
    layers = anew or LayerStore.of(state)
    images = {} if anew else {cell.id: _known(cell, machine, layers) for cell in cells}
    todo = [cell for cell in cells if not images.get(cell.id)]
    laid = {cell.id: plan.layers_of(cell, project.root, machine) for cell in cells}
    wanted = graph.distinct({cell.id: laid[cell.id] for cell in todo})
    missing = [part for part in wanted if anew or not layers.get(part.name)]
    done = None
    if todo:
        with (
            tempfile.TemporaryDirectory(dir=state.folder("tmp")) as folder,
            session.with_packages(machine, todo, project, used, state, environ) as machine,
        ):
            bake = plan.parts(todo, laid, missing, project.matrix, machine, layers.root, Path(folder))
            for target in bake["target"].values() if anew else ():
                target["no-cache"] = True
            # BuildKit lists there what it writes, for nobody; a damaged list would stop it.
            (layers.root / "index.json").unlink(missing_ok=True)
            with _taking(missing, Path(folder), layers, taken) as pool:
                for cell in todo:
                    pool.submit(_offer_base, cell, machine, layers, project.root, taken)
                done = buildkit.build(bake, todo, used, project.root, state, sys.stderr)
    for cell in todo:
        assert done
        above = [_there(part, layers) for part in laid[cell.id]]
        shell = done.digests[plan.target_name(cell)]
        image = oci_image.compose(shell, above, layers, project.root, created=render.EPOCH)
        images[cell.id] = image
        if not anew:
            image.save(inputs.digest(machine.inputs[cell.id]))
    known = len(graph.distinct(laid)) - len(missing)
    return Assembled({name: image for name, image in images.items() if image}, done, known)


@contextmanager
def _taking(
    missing: Sequence[Part], folder: Path, layers: LayerStore, taken: Taken | None
) -> Iterator[ThreadPoolExecutor]:
    """Take each layer out of the folder that BuildKit writes them to, as soon as it is there."""
    ended = Event()

    def take(part: Part) -> None:
        layer = None
        while not layer:
            over = ended.is_set()  # before the look: what was written last is seen
            layer = layers.add(folder / part.name, part.name)
            if not layer:
                if over:
                    return
                ended.wait(MOMENT)
        if taken:
            taken(layer, part.cell)

    with ThreadPoolExecutor(len(missing) + 1) as pool:
        waiting = [pool.submit(take, part) for part in missing]
        try:
            yield pool
        finally:
            ended.set()
        for one in waiting:
            one.result()


def _there(part: Part, layers: LayerStore) -> Layer:
    """A layer that was there or has been made; raises HfdlcError where it is gone: no image goes without."""
    if layer := layers.get(part.name):
        return layer
    raise HfdlcError(
        f"the layer {part.stage} is not there any more",
        where=str(layers.root),
        then=f"run this again: hfdlc build {part.cell.id}",
    )


def _offer_base(cell: Cell, machine: Machine, layers: LayerStore, root: Path, taken: Taken | None) -> None:
    """What is known before anything is made: the layer of a base of this machine."""
    name = machine.starts[cell.id]["base"].partition("@")[0].rpartition(":")[2]
    if taken and (base := layers.get(name)):
        taken(layers.compressed(base, ZSTD, root), cell)


def _known(cell: Cell, machine: Machine, layers: LayerStore) -> Image | None:
    """The image that was put together from the same inputs, if all its blobs are there."""
    return oci_image.load(layers, inputs.digest(machine.inputs[cell.id]))


def load(images: Mapping[str, Image], used: Engine) -> None:
    """Give images to an engine, each under its cell's id, in one archive that has every layer once.

    Raises HfdlcError where it does not take them.
    """
    with closing(detect.client(used)) as client:
        try:
            again = retry_if_exception_message(match=f"(?s).*{LOST}")
            for attempt in Retrying(
                retry=again, stop=stop_after_attempt(3), wait=wait_fixed(1), reraise=True
            ):
                with attempt:
                    client.images.load(archive(images))  # type: ignore[arg-type] # pieces are fine, says requests
        except (DockerException, OSError) as error:
            raise HfdlcError(
                f"the engine could not load {', '.join(images)}: {error}",
                where=used.host,
                then=f"see that `df -h` shows room, then hfdlc build {' '.join(images)}",
            ) from error
