"""What several commands need: arguments, the project, JSON and generated files."""

import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfdlc.process import say

if TYPE_CHECKING:
    from hfdlc.matrix.cells import Cell
    from hfdlc.matrix.selector import Filter
    from hfdlc.project import Project

Patterns = Annotated[list[str] | None, typer.Argument(metavar="[CELL]...", help="Ids or globs of cells.")]
Framework = Annotated[str | None, typer.Option(help="pytorch or tensorflow.")]
Type = Annotated[str | None, typer.Option(help="training or inference.")]
Device = Annotated[str | None, typer.Option(help="cpu, gpu, or a CUDA version: cu130.")]
Transformers = Annotated[str | None, typer.Option(help="A version, or a range like '>=5'.")]
PlainHttp = Annotated[
    bool, typer.Option("--plain-http", help="Use the registry without TLS, if it is outside AWS.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments that select cells; the command gets them as the Filter `wanted`."""
    options = {"framework": Framework, "type": Type, "device": Device, "transformers": Transformers}
    kind = inspect.Parameter.KEYWORD_ONLY
    chosen = [inspect.Parameter("cells", kind, default=None, annotation=Patterns)]
    chosen += [inspect.Parameter(name, kind, default=None, annotation=form) for name, form in options.items()]
    signature = inspect.signature(command)
    own = [p.replace(kind=kind) for p in signature.parameters.values() if p.name != "wanted"]

    @functools.wraps(command)
    def wrapper(cells: list[str] | None = None, **arguments: Any) -> None:
        from hfdlc.matrix.selector import Filter

        axes = {name: arguments.pop(name) for name in options}
        command(Filter(tuple(cells or ()), **axes), **arguments)

    wrapper.__signature__ = signature.replace(parameters=[*chosen, *own])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in [*chosen, *own]}
    return wrapper


def registries(words: list[str], *, plain_http: bool) -> list[str]:
    """The registries of --registry; with `http://` where they are to be used without TLS."""
    from hfdlc.engine import detect
    from hfdlc.oci.registry import PLAIN
    from hfdlc.publish import targets
    from hfdlc.state import State

    if plain_http:
        return [f"{region}{equals}{PLAIN}{at}" for region, equals, at in (w.rpartition("=") for w in words)]
    if not words:
        return []
    engine = detect.find(os.environ, State.of(os.environ))
    try:
        return [targets.without_tls(word, engine) for word in words]
    finally:
        if engine:
            engine.close()


def write_changed(project: "Project", texts: Mapping[str, str]) -> None:
    """Write the generated files (texts by path below the root) that are missing or not current."""
    from hfdlc.state import write_whole

    for path, text in texts.items():
        file = project.root / path
        if not file.is_file() or file.read_text() != text:
            write_whole(file, text)
            say(f"wrote {path}")


def current_project() -> "Project":
    """The project that contains the current folder."""
    from hfdlc import project

    return project.find(Path.cwd())


def some(project: "Project", wanted: "Filter", *, default: bool = False) -> "tuple[Cell, ...]":
    """The selected cells; without a filter all of them, or with `default` the default cell."""
    from hfdlc.matrix.selector import Filter, select

    if default and wanted == Filter():
        return (project.default,)
    return select(project.cells, wanted)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))
