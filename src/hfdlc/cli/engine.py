"""The commands about this machine: the engine, and what is missing."""

import os
from typing import Annotated

import typer

from hfdlc.cli.options import AsJson, print_json
from hfdlc.errors import HfdlcError
from hfdlc.process import say

app = typer.Typer(
    help="The container engine: which one is used, and the private one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def doctor(as_json: AsJson = False) -> None:
    """Say what was found on this machine, what is missing, and what to do about it."""
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
    """Say which engine is used."""
    from hfdlc.engine import detect
    from hfdlc.state import State

    found = detect.find(os.environ, State.of(os.environ))
    if not found:
        raise HfdlcError("no engine answers", hint="`hfdlc engine start`, or `hfdlc doctor`")
    row = {"host": found.host, "version": found.version, "buildkit": found.buildkit, "private": found.private}
    if as_json:
        print_json(row)
        return
    for key, value in row.items():
        print(f"{key:10}{value}")


@app.command()
def start() -> None:
    """Start the private engine, below the state folder."""
    from hfdlc.engine import detect
    from hfdlc.state import State

    print(detect.start(os.environ, State.of(os.environ)).host)


@app.command()
def stop() -> None:
    """Stop the private engine; what it built stays."""
    from hfdlc.engine import detect
    from hfdlc.state import State

    say("stopped" if detect.stop(State.of(os.environ)) else "no private engine was running")


@app.command()
def prune(
    keep: Annotated[float, typer.Option(help="GB of build cache that stay.")] = 10.0,
) -> None:
    """Drop build cache that was not used lately, and images without a name."""
    from hfdlc.engine import detect
    from hfdlc.state import State

    freed = detect.prune(detect.ensure(os.environ, State.of(os.environ)), keep)
    say(f"freed of build cache: {freed / 1e9:.2f} GB")
