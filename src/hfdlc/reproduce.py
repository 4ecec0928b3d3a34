"""Building a cell twice without a cache, and telling which files of the two images differ."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hfdlc import build as building
from hfdlc import engine as engines
from hfdlc import making, plan
from hfdlc.cells import Cell
from hfdlc.console import say
from hfdlc.errors import HfdlcError
from hfdlc.oci_archive import differences
from hfdlc.project import Project
from hfdlc.state import State

Environ = Mapping[str, str]
# Beside the engine's images, which stay as they are; uncompressed, so that layers can be looked into.
OUTPUT = "type=oci,compression=uncompressed,force-compression=true,dest="
SHOWN = 40  # differences


def reproduce(
    project: Project, cell: Cell, environ: Environ, *, two_engines: bool = False, stand_ins: bool = False
) -> str:
    """Build the cell twice, the second time on a new private engine if told so; the digest of both.

    `stand_ins` may take the place of bases that are out of reach. Raises HfdlcError with the files that
    differ, or where a build fails.
    """
    making.check_current(cell, project, stand_ins=stand_ins)
    state = State.of(environ)
    with tempfile.TemporaryDirectory(prefix="reproduce-", dir=state.folder("tmp")) as folder:
        files = Path(folder, "first.tar"), Path(folder, "second.tar")
        first = _build(project, cell, environ, files[0], stand_ins)
        if two_engines:
            with _another(state, environ) as elsewhere:
                second = _build(project, cell, elsewhere, files[1], stand_ins)
        else:
            second = _build(project, cell, environ, files[1], stand_ins)
        if first == second:
            return first
        found = list(differences(*files)) or ["nothing that an image shows: the manifests themselves differ"]
    lines = [*found[:SHOWN], *([f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])]
    told = "\n".join(f"    {line}" for line in lines)
    raise HfdlcError(
        f"two builds differ: {first} and {second}\n{told}",
        where=cell.id,
        then="clamp the times (`touch --date`), or take out what is different each time; then run this again",
    )


def _build(project: Project, cell: Cell, environ: Environ, archive: Path, stand_ins: bool) -> str:
    """Build without a cache into an archive; the image's digest."""
    own = {name: value for name, value in environ.items() if name != "HFDLC_CACHE"}
    with making.prepared(project, [cell], own, stand_ins=stand_ins) as (used, state, machine):
        if not used.containerd_store:
            raise HfdlcError(
                "keeps images in Docker's old store, which does not write OCI archives",
                where=used.host,
                then="turn on the feature containerd-snapshotter of the engine, or unset DOCKER_HOST",
            )
        bake, name = plan.bake([cell], project.matrix, machine), plan.target_name(cell)
        bake["target"][name] |= {"no-cache": True, "output": [f"{OUTPUT}{archive}"]}
        digest = building.build(bake, [cell], used, project.root, state, sys.stderr).digests[name]
    say(f"built {cell.id}: {digest}")
    return digest


@contextmanager
def _another(state: State, environ: Environ) -> Iterator[Environ]:
    """The environment of a private engine that has nothing yet, in a state folder of its own."""
    folder = tempfile.mkdtemp(prefix="second-", dir=state.folder("tmp"))
    other = State(Path(folder))
    try:
        # No engine answers there: so it is the private one that is used, and started.
        yield {**environ, "HFDLC_STATE": folder, "DOCKER_HOST": f"unix://{folder}/none.sock"}
    finally:
        engines.stop(other)
        shutil.rmtree(folder)
