"""The commands `reproduce` and `clean`."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from hfdlc.cli.options import AsJson, current_project, print_json, selecting, some
from hfdlc.process import say

if TYPE_CHECKING:
    from hfdlc.matrix.selector import Filter


@selecting
def reproduce(
    wanted: "Filter",
    engines: Annotated[
        bool,
        typer.Option("--engines", help="Run the second build on a new private engine with empty caches."),
    ] = False,
) -> None:
    """Build cells twice without caches and compare the images. Default: the default cell."""
    from hfdlc.build import reproduce as reproducing
    from hfdlc.build.session import Session

    project = current_project()
    for cell in some(project, wanted, default=True):
        with Session(project, os.environ) as session:
            digest = reproducing.reproduce(session, cell, two_engines=engines)
        print(f"{digest}  {cell.id}", flush=True)


def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Remove without confirmation.")] = False,
    keep: Annotated[float, typer.Option(min=0, help="GB of build cache and of layers to keep.")] = 10.0,
    older: Annotated[float, typer.Option(min=0, help="Days to keep logs, layers and caches.")] = 14.0,
    as_json: AsJson = False,
) -> None:
    """List unused images, layers, logs and caches, and remove them after confirmation."""
    from hfdlc.upkeep import clean as cleaning

    found = cleaning.find(current_project(), os.environ, keep=keep, older=older)
    rows = [{"kind": one.kind, "name": one.name, "why": one.why, "size": one.size} for one in found]
    if as_json:
        print_json(rows)
    else:
        print(cleaning.screen(found), end="")
    if not found:
        say("nothing to remove")
        return
    total = f"{len(found)} items, at most {sum(one.size for one in found) / 1e9:.2f} GB (images share layers)"
    if not (yes or (sys.stdin.isatty() and typer.confirm(f"Remove {total}?", err=True))):
        say(f"{total}; nothing was removed\n  hint: add --yes to remove them")
        return
    freed = sum(one.remove() for one in found)
    say(f"removed at most {freed / 1e9:.2f} GB")
