"""Pushing images from BuildKit's cache: a layer is compressed once, and sent where it is lacking."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hfdlc import build as building
from hfdlc import making, plan
from hfdlc.build import BuildFailed
from hfdlc.cells import Cell
from hfdlc.console import say
from hfdlc.errors import HfdlcError
from hfdlc.project import Project

# BuildKit pushes from its cache, and nothing goes into the engine's images: unpacking was 9.5 of 63 s.
# To it an empty `push` is true; at `true`, buildx has Docker push again, out of the engine's images.
# Level 3: `make bench-build` compares the levels. What was kept uncompressed is compressed now, and kept.
PUSH = "type=image,push=,store=false,force-compression=true"
ZSTD = f"{PUSH},oci-mediatypes=true,compression=zstd,compression-level=3"
# For registries and services that take nothing newer than Docker's schema 2.
GZIP = f"{PUSH},oci-mediatypes=false,compression=gzip"


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
        making.check_current(cell, project)
    with making.prepared(project, cells, environ) as (used, state, machine):
        if not used.containerd_store:
            raise HfdlcError(
                "keeps images in Docker's old store, which has no layers to push with zstd",
                where=used.host,
                then="turn on the feature containerd-snapshotter of the engine, or unset DOCKER_HOST",
            )
        machine = replace(machine, output=GZIP if docker_media_types else ZSTD)
        bake = plan.bake(cells, project.matrix, machine)
        names = {plan.target_name(cell): f"{registry}/{cell.id}" for cell in cells}
        for target, name in names.items():
            bake["target"][target]["tags"] = [name]
        try:
            pushed = building.build(bake, cells, used, project.root, state, sys.stderr).digests
        except BuildFailed as problem:
            again = problem.then.replace("hfdlc build", f"hfdlc push --registry {registry}", 1)
            raise HfdlcError(problem.what, where=problem.where, then=again) from problem
    digests = {cell.id: pushed[plan.target_name(cell)] for cell in cells}
    for name, digest in digests.items():
        say(f"pushed {registry}/{name}@{digest}")
    return digests
