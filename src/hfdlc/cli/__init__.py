"""The command line: arguments and output only."""

import gc

# Imports and plans make many objects that stay: looking for cycles among them took a tenth of `hfdlc plan`.
gc.set_threshold(100_000)

from hfdlc.cli.app import main  # noqa: E402 - most of these objects are made by imports

__all__ = ["main"]
