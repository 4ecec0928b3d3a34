"""The commands that keep things in order: is it built the same twice, and what can go."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from hfdlc.cli_cells import current_project, selecting, some

if TYPE_CHECKING:
    from hfdlc.select import Filter


@selecting
def reproduce(
    wanted: "Filter",
    engines: Annotated[
        bool, typer.Option("--engines", help="The second time on a new private engine, with nothing fetched.")
    ] = False,
) -> None:
    """Build cells twice without a cache, and name what differs (without a filter: the default cell)."""
    from hfdlc import reproduce as reproducing

    project = current_project()
    for cell in some(project, wanted, default=True):
        digest = reproducing.reproduce(project, cell, os.environ, two_engines=engines)
        print(f"{digest}  {cell.id}", flush=True)
