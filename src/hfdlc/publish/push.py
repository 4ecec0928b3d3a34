"""Pushing images: a layer is compressed once, and sent where it is lacking."""

from collections.abc import Mapping, Sequence
from functools import partial

from hfdlc.build import assemble, builder, prepare
from hfdlc.build.buildkit import BuildFailed
from hfdlc.build.session import Session
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.oci.store import GZIP, ZSTD, LayerStore, StoredLayer
from hfdlc.process import say
from hfdlc.project import Project
from hfdlc.publish import targets
from hfdlc.publish.transfer import Moved, bring


def push(
    project: Project,
    cells: Sequence[Cell],
    environ: Mapping[str, str],
    registry: str,
    *,
    docker_media_types: bool = False,
) -> dict[str, str]:
    """Push cells to `registry` (HOST, or HOST/PREFIX), building what is not built; the digests, by cell.

    Raises HfdlcError where a lock or a Dockerfile is not current, a build fails, or the registry does.
    """
    for cell in cells:
        builder.check_current(cell, project)
    place, media_type = targets.plain(registry), GZIP if docker_media_types else ZSTD
    again = f"hfdlc push --registry {registry}"
    with Session(project, environ) as session, prepare.prepared(session, cells) as context:
        prepare.check_store(session.engine)

        def early(layer: StoredLayer, cell: Cell) -> None:
            """Send a layer while others are made; the registry holds it against its digest."""
            if media_type == ZSTD and not place.registry.has(cell.repository, layer.digest):
                opened = partial(LayerStore.of(session.state).reopen, layer.digest)
                place.registry.upload(cell.repository, layer.digest, layer.size, opened)

        try:
            images = assemble.assemble(session, cells, context, media_type=media_type, on_layer=early).images
        except BuildFailed as problem:
            then = problem.then.replace("hfdlc build", again, 1)
            raise HfdlcError(problem.what, where=problem.where, then=then) from problem
        repositories = sorted({cell.repository for cell in cells})
        for cell in cells:
            image, moved = images[cell.id], Moved()
            try:
                bring(image, place, cell.repository, repositories, moved)
                place.registry.put(cell.repository, cell.tag, image.manifest)
            except HfdlcError as problem:
                then = f"{again} {cell.id}"
                raise HfdlcError(problem.what, where=problem.where or registry, then=then) from problem
            say(f"pushed {registry}/{cell.id}@{image.manifest.digest} ({moved.sent / 1e6:.1f} MB sent)")
    return {cell.id: images[cell.id].manifest.digest for cell in cells}
