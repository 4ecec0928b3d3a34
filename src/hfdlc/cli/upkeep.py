"""The commands that keep things in order: is it built the same twice, and what can go."""

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
        bool, typer.Option("--engines", help="The second time on a new private engine, with nothing fetched.")
    ] = False,
    stand_in: Annotated[
        bool, typer.Option("--stand-in", help="Debian 12 for bases out of reach, the same one each time.")
    ] = False,
) -> None:
    """Build cells twice without a cache, and name what differs (without a filter: the default cell)."""
    from hfdlc.build import reproduce as reproducing
    from hfdlc.build.session import Session

    project = current_project()
    for cell in some(project, wanted, default=True):
        with Session(project, os.environ) as session:
            digest = reproducing.reproduce(session, cell, two_engines=engines, stand_ins=stand_in)
        print(f"{digest}  {cell.id}", flush=True)


def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it, without asking.")] = False,
    keep: Annotated[float, typer.Option(min=0, help="GB of build cache that stay.")] = 10.0,
    older: Annotated[float, typer.Option(min=0, help="Days that logs, receipts and caches stay.")] = 14.0,
    as_json: AsJson = False,
) -> None:
    """Show what the matrix does not reach (images, bases, records, logs, caches); remove it if told so."""
    from hfdlc.upkeep import clean as cleaning

    found = cleaning.find(current_project(), os.environ, keep=keep, older=older)
    rows = [{"kind": one.kind, "name": one.name, "why": one.why, "size": one.size} for one in found]
    if as_json:
        print_json(rows)
    else:
        print(cleaning.screen(found), end="")
    if not found:
        say("nothing that the matrix does not reach")
        return
    total = (
        f"{len(found)} things, at most {sum(one.size for one in found) / 1e9:.2f} GB (images share layers)"
    )
    if not (yes or (sys.stdin.isatty() and typer.confirm(f"Remove {total}?", err=True))):
        say(f"{total}: nothing was removed\n  hint: hfdlc clean --yes, with the same options")
        return
    freed = sum(one.remove() for one in found)
    say(f"removed; at most {freed / 1e9:.2f} GB are free again")
