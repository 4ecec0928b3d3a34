"""The commands `doctor` and `engine`."""

import os
from typing import Annotated

import typer

from hfdlc.cli.options import AsJson, print_json
from hfdlc.errors import HfdlcError
from hfdlc.process import say

app = typer.Typer(
    help="Show, start, stop or clean the container engine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def doctor(as_json: AsJson = False) -> None:
    """Check that this machine has what builds need, and print how to fix what is missing."""
    from dataclasses import asdict

    from hfdlc.state import State
    from hfdlc.upkeep import doctor as examination

    findings = examination.examine(os.environ, State.of(os.environ))
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    print(examination.screen(findings))


@app.command()
def status(as_json: AsJson = False) -> None:
    """Print which engine is used."""
    from hfdlc.engine import detect
    from hfdlc.state import State

    found = detect.find(os.environ, State.of(os.environ))
    if not found:
        raise HfdlcError("no Docker engine answers", hint="run `hfdlc engine start` or `hfdlc doctor`")
    row = {"host": found.host, "version": found.version, "buildkit": found.buildkit, "private": found.private}
    if as_json:
        print_json(row)
        return
    for key, value in row.items():
        print(f"{key:10}{value}")


@app.command()
def start() -> None:
    """Start the private engine of the state folder."""
    from hfdlc.engine import detect
    from hfdlc.state import State

    print(detect.start(os.environ, State.of(os.environ)).host)


@app.command()
def stop() -> None:
    """Stop the private engine. Its images and caches are kept."""
    from hfdlc.engine import detect
    from hfdlc.state import State

    say("stopped" if detect.stop(State.of(os.environ)) else "no private engine was running")


@app.command()
def prune(
    keep: Annotated[float, typer.Option(help="GB of build cache to keep.")] = 10.0,
) -> None:
    """Remove dangling images, and the least recently used build cache."""
    from hfdlc.build import session
    from hfdlc.engine import detect
    from hfdlc.state import State

    with session.using(detect.ensure(os.environ, State.of(os.environ))) as engine:
        freed = detect.prune(engine, keep)
    say(f"removed {freed / 1e9:.2f} GB of build cache")
