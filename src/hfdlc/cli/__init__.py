"""The command line: arguments and output only."""

from hfdlc.cli.app import main

__all__ = ["main"]
