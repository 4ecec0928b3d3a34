"""Building a cell twice without a cache, and telling which files of the two images differ."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hfdlc.build import assemble, builder, session
from hfdlc.build.differences import between
from hfdlc.engine import detect
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.oci.image import Image
from hfdlc.oci.store import LayerStore
from hfdlc.process import say
from hfdlc.project import Project
from hfdlc.state import State

Environ = Mapping[str, str]
SHOWN = 40  # differences


def reproduce(
    project: Project, cell: Cell, environ: Environ, *, two_engines: bool = False, stand_ins: bool = False
) -> str:
    """Build the cell twice, the second time on a new private engine if told so; the digest of both.

    `stand_ins` may take the place of bases that are out of reach. Raises HfdlcError with the files that
    differ, or where a build fails.
    """
    builder.check_current(cell, project, stand_ins=stand_ins)
    state = State.of(environ)
    with tempfile.TemporaryDirectory(prefix="reproduce-", dir=state.folder("tmp")) as folder:
        first = _build(project, cell, environ, Path(folder, "first"), stand_ins)
        if two_engines:
            with _another(state, environ) as elsewhere:
                second = _build(project, cell, elsewhere, Path(folder, "second"), stand_ins)
        else:
            second = _build(project, cell, environ, Path(folder, "second"), stand_ins)
        if first.manifest.digest == second.manifest.digest:
            return first.manifest.digest
        found = list(between(first, second)) or [
            "nothing that an image shows: the manifests themselves differ"
        ]
    lines = [*found[:SHOWN], *([f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])]
    told = "\n".join(f"    {line}" for line in lines)
    raise HfdlcError(
        f"two builds differ: {first.manifest.digest} and {second.manifest.digest}\n{told}",
        where=cell.id,
        then="clamp the times (`touch --date`), or take out what is different each time; then run this again",
    )


def _build(project: Project, cell: Cell, environ: Environ, folder: Path, stand_ins: bool) -> Image:
    """The cell's image, made without a cache, and beside those of the engine; its layers are in a folder."""
    own = {name: value for name, value in environ.items() if name != "HFDLC_CACHE"}
    with session.prepared(project, [cell], own, stand_ins=stand_ins) as (used, state, machine):
        session.check_store(used)
        made = assemble.assemble([cell], project, machine, used, state, own, anew=LayerStore(folder))
    image = made.images[cell.id]
    say(f"built {cell.id}: {image.manifest.digest}")
    return image


@contextmanager
def _another(state: State, environ: Environ) -> Iterator[Environ]:
    """The environment of a private engine that has nothing yet, in a state folder of its own."""
    folder = tempfile.mkdtemp(prefix="second-", dir=state.folder("tmp"))
    other = State(Path(folder))
    try:
        # No engine answers there: so it is the private one that is used, and started.
        yield {**environ, "HFDLC_STATE": folder, "DOCKER_HOST": f"unix://{folder}/none.sock"}
    finally:
        detect.stop(other)
        shutil.rmtree(folder)
