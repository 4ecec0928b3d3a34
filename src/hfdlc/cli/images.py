"""The commands about what a build would do, and why."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hfdlc.cli.options import AsJson, Patterns, current_project, print_json, selecting, some

if TYPE_CHECKING:
    from hfdlc.build.estimate import Forecast
    from hfdlc.matrix.selector import Filter


@selecting
def plan(wanted: "Filter", as_json: AsJson = False) -> None:
    """Show what would be built, what it would cost, and whether it fits; no engine is asked."""
    from hfdlc.build import bake as planning
    from hfdlc.build import estimate
    from hfdlc.dockerfile import layers
    from hfdlc.state import State

    project = current_project()
    cells = some(project, wanted)
    told = estimate.forecast(cells, project, State.of(os.environ))
    if as_json:
        machine = planning.Machine()
        laid = {cell.id: planning.layers_of(cell, project.root, machine) for cell in cells}
        folders = Path("layers"), Path("tmp")
        bake = planning.parts(cells, laid, layers.distinct(laid), project.matrix, machine, *folders)
        print_json({"bake": bake, "forecast": told.json()})
        return
    _print(told)


def _print(told: "Forecast") -> None:
    for one in told.cells:
        why = f" ({', '.join(one.changed)} changed)" if one.changed else ""
        print(f"{one.state:12}{one.cell}{why}")
        for limit in one.breaks:
            print(f"            breaks a limit: {limit}")
    number = sum(one.state == "to build" for one in told.cells)
    if not number:
        return
    how = f"as {told.rate_from} builds here took" if told.rate_from else "a guess: no build here has told yet"
    free = "" if told.free is None else f", {told.free / 1e9:.0f} GB are free"
    print(
        f"{number} to build: {told.layers} new layers, {told.shared} of them shared\n"
        f"  bytes   about {told.download / 1e9:.1f} GB to download, {told.write / 1e9:.1f} GB to write, "
        f"{told.push / 1e9:.1f} GB to push\n"
        f"  time    about {told.seconds / 60:.1f} min ({how})\n"
        f"  disk    about {told.disk / 1e9:.0f} GB while it is built{free}"
    )


def digest(cells: Patterns = None) -> None:
    """Print the content address of cells: of all that their images are made from."""
    from hfdlc.build import builder
    from hfdlc.dockerfile import inputs
    from hfdlc.matrix.selector import Filter

    project = current_project()
    chosen = some(project, Filter(tuple(cells or ())), default=True)
    for cell, made_from in builder.inputs_of(project, chosen, os.environ).items():
        print(f"{inputs.digest(made_from)}  {cell}")


@selecting
def push(
    wanted: "Filter",
    registry: Annotated[str, typer.Option(help="HOST or HOST/PREFIX.")],
    docker_media_types: Annotated[
        bool,
        typer.Option(
            "--docker-media-types", help="Docker's schema 2 with gzip layers, instead of OCI with zstd."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build images and push them to a registry, unchecked and unsigned (default: the default cell)."""
    from hfdlc.publish import publisher

    project = current_project()
    cells = some(project, wanted, default=True)
    digests = publisher.push(project, cells, os.environ, registry, docker_media_types=docker_media_types)
    if as_json:
        print_json(digests)


def why_rebuild(cells: Patterns = None) -> None:
    """Name the inputs that changed since the image in the engine was built."""
    from hfdlc.build import builder
    from hfdlc.dockerfile import inputs
    from hfdlc.matrix.selector import Filter

    project = current_project()
    chosen = some(project, Filter(tuple(cells or ())), default=True)
    before = builder.built_from(chosen, os.environ)
    for cell, now in builder.inputs_of(project, chosen, os.environ).items():
        if before[cell] is None:
            print(f"{cell}: not built")
            continue
        changed = inputs.changed(before[cell] or {}, now)
        print(f"{cell}: {', '.join(changed) + ' changed' if changed else 'up to date'}")
