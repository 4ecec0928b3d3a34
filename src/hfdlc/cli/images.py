"""The commands `plan` and `push`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hfdlc.cli.options import AsJson, PlainHttp, current_project, print_json, registries, selecting, some

if TYPE_CHECKING:
    from hfdlc.build.estimate import Plan
    from hfdlc.matrix.selector import Filter


@selecting
def plan(
    wanted: "Filter",
    explain: Annotated[
        bool, typer.Option("--explain", help="Print the digest of the inputs and the layers to build.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print what `build` would do, why, and how much disk it needs. Default: all cells."""
    from hfdlc.build import bake, estimate
    from hfdlc.build.bake import BuildContext
    from hfdlc.dockerfile import cache_keys
    from hfdlc.engine import detect
    from hfdlc.state import State

    project, state = current_project(), State.of(os.environ)
    cells = some(project, wanted)
    engine = detect.find(os.environ, state)
    found = estimate.plan(cells, project, engine, state)
    if as_json:
        layers, folders = cache_keys.distinct(found.keyed), (Path("layers"), Path("tmp"))
        file = bake.of_layers(cells, layers, project.matrix, BuildContext(), *folders)
        print_json({"bake": file, "forecast": found.json()})
        return
    _print(found, explain=explain)


def _print(found: "Plan", *, explain: bool) -> None:
    for one in found.cells:
        why = f" ({', '.join(one.changed)} changed)" if one.changed else ""
        print(f"{one.state:12}{one.cell}{why}")
        if explain and one.inputs:
            print(f"            inputs  {one.inputs}")
            print(f"            layers to build: {', '.join(one.layers) or 'none'}")
        for limit in one.breaks:
            print(f"            exceeds a limit: {limit}")
    if number := sum(one.state == "to build" for one in found.cells):
        free = "" if found.free is None else f", {found.free / 1e9:.0f} GB are free"
        print(
            f"{number} to build: {found.layers} new layers, {found.shared} of them shared; "
            f"about {found.disk / 1e9:.0f} GB of disk in one batch{free}"
        )


@selecting
def push(
    wanted: "Filter",
    registry: Annotated[str, typer.Option(help="HOST or HOST/PREFIX.")],
    docker_media_types: Annotated[
        bool,
        typer.Option(
            "--docker-media-types", help="Use Docker schema 2 with gzip layers instead of OCI with zstd."
        ),
    ] = False,
    plain_http: PlainHttp = False,
    as_json: AsJson = False,
) -> None:
    """Build and push images, without checks or signature. Default: the default cell."""
    from hfdlc.publish import publisher

    project = current_project()
    cells = some(project, wanted, default=True)
    (address,) = registries([registry], plain_http=plain_http)
    digests = publisher.push(project, cells, os.environ, address, docker_media_types=docker_media_types)
    if as_json:
        print_json(digests)
