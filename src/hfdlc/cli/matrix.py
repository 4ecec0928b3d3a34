"""The commands `why`, `schema`, `uri`, `bump`, `retire` and `outdated`."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from hfdlc.cli.options import AsJson, current_project, print_json, some
from hfdlc.errors import UserError
from hfdlc.process import say

if TYPE_CHECKING:
    from hfdlc.matrix.cells import Cell
    from hfdlc.project import Project


def why(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="CELL|AXIS=VALUE...",
            help="A cell, or values of framework, framework_version, transformers, type, device, python, os.",
        ),
    ],
) -> None:
    """Print the cells of a combination, or the rule that excludes it.

    Example: hfdlc why framework=tensorflow python=3.6
    """
    from hfdlc.matrix import cells, rules

    project = current_project()
    wanted = cells.axes(words[0]) if ":" in words[0] else dict(rules.axis(word) for word in words)
    print(rules.why(project.matrix, project.cells, wanted))


def schema() -> None:
    """Print the JSON schema of matrix.yaml."""
    from hfdlc.generated import drift

    print(drift.schema(), end="")


def uri(
    image: Annotated[str, typer.Argument(metavar="CELL|URI", help="A cell, or a URI with --parse.")],
    region: Annotated[str | None, typer.Option(help="An AWS region.")] = None,
    parse: Annotated[bool, typer.Option("--parse", help="Parse a URI, and print its parts as JSON.")] = False,
) -> None:
    """Print the URI of an image in AWS's own registry of a region, or parse one."""
    from hfdlc.matrix.selector import Filter
    from hfdlc.publish import uri as uris

    project = current_project()
    if parse:
        parts = uris.parse(image)
        known = {cell.id for cell in project.cells}
        print_json(parts.json() | {"cell": parts.image if parts.image in known else None})
        return
    if not region:
        raise UserError("no region given", hint="add --region, for example --region eu-west-1")
    for cell in some(project, Filter(patterns=(image,))):
        print(uris.compose(cell.id, uris.region(region)))


def bump(
    wanted: Annotated[str, typer.Argument(metavar="NAME==VERSION", help="For example transformers==5.24.0")],
    of: Annotated[
        str | None, typer.Option(help="The cell whose release is copied. Default: the default cell.")
    ] = None,
) -> None:
    """Copy a release in matrix.yaml with a new version, lock it and render it."""
    from datetime import UTC, datetime

    from hfdlc.generated import bump as versions
    from hfdlc.locks import resolver as resolve
    from hfdlc.locks.indexes import index_config
    from hfdlc.matrix.selector import Filter, select
    from hfdlc.state import State

    project = current_project()
    resolver = resolve.Resolver(index_config(os.environ), State.of(os.environ), os.environ)
    cell = select(project.cells, Filter(patterns=(of,)))[0] if of else project.default

    def lock_one(new: "Cell", there: "Project") -> None:
        resolve.lock_installer(there.matrix, new.installer_python, there.root, resolver)
        resolve.lock(new, there.matrix, there.root, resolver)
        say(f"locked {new.id}")

    print(versions.bump(wanted, cell, project, datetime.now(UTC).date(), lock_one))


def retire(
    patterns: Annotated[
        list[str], typer.Argument(metavar="CELL...", help="Ids or globs: all cells of one or more releases.")
    ],
) -> None:
    """Remove old releases with their Dockerfiles and locks, and record them in docs/."""
    from datetime import UTC, datetime

    from hfdlc.generated import retire as releases
    from hfdlc.matrix.selector import Filter

    project = current_project()
    cells = some(project, Filter(patterns=tuple(patterns)))
    for cell in releases.retire(cells, project, datetime.now(UTC).date()):
        print(f"retired {cell}")
    say("records of published images in releases/ are kept; commit what was changed")


def outdated(as_json: AsJson = False) -> None:
    """List packages with newer releases on the package index."""
    from hfdlc.generated import bump as versions

    rows = list(versions.outdated(current_project()))
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print(f"{row['name']:14}{row['newest_in_matrix']:12}-> {row['newest_released']}")
    if not rows:
        say("no newer releases")
