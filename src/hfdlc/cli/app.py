"""The commands, grouped in panels.

Commands import what they need themselves: importing everything at the start would slow down `hfdlc --help`.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from hfdlc.cli import engine, images, matrix, publish, sagemaker, upkeep
from hfdlc.cli.options import AsJson, current_project, print_json, selecting, some, write_changed
from hfdlc.errors import HfdlcError, UserError
from hfdlc.process import say

if TYPE_CHECKING:
    from hfdlc.matrix.selector import Filter

MATRIX, GENERATED, IMAGES = "Matrix", "Generated files", "Images"
RUN, REGISTRY, MACHINE = "Run", "Registry", "This machine"


class Grouped(TyperGroup):
    """Lists commands by panel. Typer does this only with rich, which is slow to import."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for panel in (MATRIX, GENERATED, IMAGES, RUN, REGISTRY, MACHINE):
            with formatter.section(panel):
                names = self.list_commands(ctx)
                commands = [(name, command) for name in names if (command := self.get_command(ctx, name))]
                formatter.write_dl(
                    [
                        (name, command.get_short_help_str(limit=90))
                        for name, command in commands
                        if getattr(command, "rich_help_panel", None) == panel
                    ]
                )


app = typer.Typer(
    cls=Grouped,
    help="Build, check and publish Hugging Face Deep Learning Containers from matrix.yaml.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print the programs that are started.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks.")] = False,
) -> None:
    """Configure logging."""
    logging.basicConfig(format="%(message)s", level=logging.INFO if verbose or debug else logging.WARNING)


@app.command("list", rich_help_panel=MATRIX)
@selecting
def list_(wanted: "Filter", as_json: AsJson = False) -> None:
    """List cells and the state of their locks."""
    from hfdlc.locks import lockfile
    from hfdlc.locks.listing import listed

    project = current_project()
    by_id = {cell.id: cell for cell in some(project, wanted)}
    rows = [listed(cell, project) for cell in by_id.values()]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        lacking = lockfile.missing(by_id[row["id"]], project.root)
        print(f"{row['id']}  {row['state']}" + (f": {lacking}" if lacking else ""))


@app.command(rich_help_panel=MATRIX)
@selecting
def show(wanted: "Filter", as_json: AsJson = False) -> None:
    """Print the base image, requirements and locked packages of cells. Default: the default cell."""
    from hfdlc.locks.listing import shown

    project = current_project()
    rows = [shown(cell, project) for cell in some(project, wanted, default=True)]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        packages = row.pop("packages")
        for key, value in row.items():
            print(f"{key:22}{', '.join(value) if isinstance(value, list) else value}")
        for group, locked in packages.items():
            print(f"{group:22}{' '.join(f'{name}=={version}' for name, version in locked.items())}")


@app.command(rich_help_panel=GENERATED)
@selecting
def lock(wanted: "Filter") -> None:
    """Resolve, pin and hash the packages of cells, from the package index. Default: all cells."""
    from hfdlc.locks import resolver as resolve
    from hfdlc.locks.indexes import index_config
    from hfdlc.state import State

    project = current_project()
    resolver = resolve.Resolver(index_config(os.environ), State.of(os.environ), os.environ)
    for cell in some(project, wanted):
        if resolve.lock_installer(project.matrix, cell.installer_python, project.root, resolver):
            say(f"locked the installer for Python {cell.installer_python}")
        missing = resolve.lock(cell, project.matrix, project.root, resolver)
        say(f"locked {cell.id}" + (f", without {missing}: unreachable" if missing else ""))


@app.command(rich_help_panel=GENERATED)
@selecting
def render(wanted: "Filter") -> None:
    """Write the Dockerfiles of cells; without a filter also the generated files in docs/."""
    from hfdlc.generated import drift
    from hfdlc.matrix.selector import Filter

    project = current_project()
    cells = some(project, wanted)
    pages = drift.pages(project) if wanted == Filter() else {}
    write_changed(project, {**drift.dockerfiles(project, cells), **pages})


@app.command(rich_help_panel=GENERATED)
def check() -> None:
    """Compare generated files and locks with the matrix and the templates, offline."""
    from hfdlc.generated import drift

    project = current_project()
    found = list(drift.differences(project))
    if found:
        print("\n".join(found))
        raise HfdlcError(
            f"{len(found)} generated files or locks are not current",
            hint="run `hfdlc lock`, `hfdlc render` and `hfdlc ci`, and commit the result",
        )
    say(f"{len(project.cells)} cells: all generated files are current")


@app.command(rich_help_panel=IMAGES)
@selecting
def build(
    wanted: "Filter",
    check: Annotated[
        bool, typer.Option("--check", help="Run the checks, and print the facts of the images.")
    ] = False,
    receipt: Annotated[
        Path | None, typer.Option(help="Write the result of the run to this file, as JSON.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on incomplete cells instead of skipping them.")
    ] = False,
    no_disk_check: Annotated[
        bool,
        typer.Option("--no-disk-check", help="Build all cells in one batch, without checking disk space."),
    ] = False,
) -> None:
    """Build images that are not up to date. Default: the default cell."""
    from hfdlc.build import builder
    from hfdlc.build.builder import CellsFailed
    from hfdlc.build.session import Session

    project = current_project()
    cells = some(project, wanted, default=True)
    with Session(project, os.environ) as session:
        try:
            result = builder.build(session, cells, receipt, strict=strict, disk_check=not no_disk_check)
            failed, fine = None, [cell for cell in cells if result.cells[cell.id] != "skipped"]
        except CellsFailed as problem:
            failed, fine = problem, [cell for cell in cells if cell.id in problem.fine]
        if check:
            from hfdlc.checks import facts, runner  # imports pytest

            try:
                runner.check(session, fine)
            except HfdlcError as problem:
                if not failed:
                    raise
                raise HfdlcError(f"{failed.message}\n{problem.message}", hint=failed.hint) from problem
            for cell in fine:
                print(facts.summary(session, cell))
    if failed:
        raise failed


@app.command(rich_help_panel=IMAGES)
@selecting
def test(
    wanted: "Filter",
    gpus: Annotated[
        bool, typer.Option("--gpus", help="Give containers access to the GPUs of this machine.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the checks on built images. Default: the default cell."""
    from hfdlc.build.session import Session
    from hfdlc.checks import runner

    project = current_project()
    cells = some(project, wanted, default=True)
    with Session(project, os.environ) as session:
        reports = runner.checked(session, cells, again=True, gpus=gpus)
    if as_json:
        print_json([report.json() for report in reports])
    runner.require_passed(reports)


@app.command(rich_help_panel=IMAGES)
@selecting
def facts(wanted: "Filter", as_json: AsJson = False) -> None:
    """Print versions, CUDA, size and layers, read in built images. Default: the default cell."""
    from hfdlc.build.session import Session
    from hfdlc.checks import facts as reading

    project = current_project()
    cells = some(project, wanted, default=True)
    if as_json and len(cells) > 1:
        raise UserError("selects several cells", location=str(wanted), allowed="one cell with --json")
    with Session(project, os.environ) as session:
        if as_json:
            print_json(reading.remembered(session, cells[0]))
            return
        for cell in cells:
            print(reading.summary(session, cell))


PANELS = {
    MATRIX: (matrix.why, matrix.uri, matrix.schema, matrix.bump, matrix.retire, matrix.outdated),
    GENERATED: (publish.ci,),
    IMAGES: (images.plan, upkeep.reproduce),
    RUN: (sagemaker.train, sagemaker.serve),
    REGISTRY: (images.push, publish.publish, publish.verify, publish.diff, publish.prune),
    MACHINE: (engine.doctor, upkeep.clean),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(engine.app, name="engine", rich_help_panel=MACHINE)


def main() -> None:
    """Run a command. Errors are printed without a traceback, except with --debug."""
    # SIGTERM is handled like Ctrl-C, so that containers and temporary files are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except KeyboardInterrupt:
        say("interrupted; run the command again to continue")
        sys.exit(130)
    except HfdlcError as error:
        if "--debug" in sys.argv:
            raise
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a file without permission, an engine that ended
        if "--debug" in sys.argv:
            raise
        say(f"error: {error}\n  hint: check free disk space and permissions; --debug prints the traceback")
        sys.exit(1)
