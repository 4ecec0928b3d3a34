"""Building a cell twice without a cache, and comparing the two images file by file."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hfdlc.build import assemble, builder, prepare
from hfdlc.build.differences import between
from hfdlc.build.session import Session
from hfdlc.engine import buildx, detect
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.oci.image import Image
from hfdlc.oci.store import LayerStore
from hfdlc.process import say
from hfdlc.state import State

SHOWN = 40  # differences


def reproduce(session: Session, cell: Cell, *, two_engines: bool = False) -> str:
    """Build the cell twice; the manifest digest of both.

    `two_engines`: the second time on a new private engine. Raises HfdlcError with the files that differ, or
    if a build fails.
    """
    builder.check_current(cell, session.project)
    with tempfile.TemporaryDirectory(prefix="reproduce-", dir=session.state.folder("tmp")) as folder:
        first = _build(session, cell, Path(folder, "first"))
        if two_engines:
            with _another(session) as elsewhere:
                second = _build(elsewhere, cell, Path(folder, "second"))
        else:
            second = _build(session, cell, Path(folder, "second"))
        if first.manifest.digest == second.manifest.digest:
            return first.manifest.digest
        found = list(between(first, second)) or ["only the manifests differ"]
    lines = [*found[:SHOWN], *([f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])]
    text = "\n".join(f"    {line}" for line in lines)
    raise HfdlcError(
        f"two builds differ: {first.manifest.digest} and {second.manifest.digest}\n{text}",
        location=cell.id,
        hint="set fixed times (`touch --date`), or remove what differs each time; then run this again",
    )


def _build(session: Session, cell: Cell, folder: Path) -> Image:
    """The cell's image, built without a cache and not loaded into the engine; its layers are in a folder."""
    with prepare.prepared(session, [cell]) as context:
        made = assemble.assemble(session, [cell], replace(context, cache=None), no_cache=LayerStore(folder))
    image = made.images[cell.id]
    say(f"built {cell.id}: {image.manifest.digest}")
    return image


@contextmanager
def _another(session: Session) -> Iterator[Session]:
    """A session on a new private engine, in a state folder of its own."""
    folder = tempfile.mkdtemp(prefix="second-", dir=session.state.folder("tmp"))
    # No engine answers at this address: so a private one is started. It builds itself.
    own = {"HFDLC_STATE": folder, "DOCKER_HOST": f"unix://{folder}/none.sock", buildx.VARIABLE: ""}
    environ = {**session.environ, **own}
    try:
        with Session(session.project, environ) as other:
            yield other
    finally:
        detect.stop(State(Path(folder)))
        shutil.rmtree(folder)
