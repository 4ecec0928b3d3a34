"""Environment variables for a container: `--env`, `--env-file`. Values may be secrets: no message has one."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hfdlc.errors import UserError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
ALLOWED = "NAME=VALUE, or NAME for the value in the environment of hfdlc"


def read(words: Sequence[str], files: Sequence[Path], environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of files in Docker's format, and of NAME[=VALUE], which replace those of files.

    Raises UserError if one is not valid, or not set in `environ`.
    """
    found = {}
    for path in files:
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise UserError(f"cannot be read: {reason}", location=str(path)) from None
        found.update(_variables(((f"{path}:{n}", line) for n, line in enumerate(lines, 1)), environ))
    return found | _variables((("--env", word) for word in words), environ)


def _variables(words: Iterable[tuple[str, str]], environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for location, word in words:
        if location != "--env" and (not word.strip() or word.lstrip().startswith("#")):
            continue
        name, equals, value = word.lstrip().partition("=")
        if not NAME.fullmatch(name):
            raise UserError("not an environment variable", location=location, allowed=ALLOWED)
        if not equals and name not in environ:
            raise UserError(f"{name} is not set", location=location, allowed=ALLOWED)
        found[name] = value if equals else environ[name]
    return found
