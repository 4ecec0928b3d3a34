"""Starting programs. Each command line is logged without passwords; `--verbose` prints it."""

import logging
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from hfdlc.errors import CommandFailed, HfdlcError, without_logins

log = logging.getLogger("hfdlc.process")


def say(message: str) -> None:
    """Print a message to standard error: standard output is for results."""
    print(message, file=sys.stderr, flush=True)


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | IO[str] | None = subprocess.DEVNULL,
    stdout: int | IO[str] | None = None,
    stderr: int | IO[str] | None = None,
    new_session: bool = False,
) -> subprocess.Popen[str]:
    """Start a program with the environment `env`; None means that of this process.

    Raises HfdlcError if the program is not installed.
    """
    log.info("$ %s", without_logins(shlex.join(argv)))
    try:
        return subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=new_session,
        )
    except FileNotFoundError as error:
        raise HfdlcError(f"program not found: {argv[0]}", hint=f"install {argv[0]}") from error


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program and return its output.

    Raises CommandFailed if it exits with an error (unless `check` is false) or runs longer than `timeout`
    seconds.
    """
    process = start(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = process.communicate(stdin, timeout)
    except BaseException as error:
        process.kill()
        out, err = process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise CommandFailed(argv, 124, f"{out}{err}\n(stopped after {timeout:g} s)") from error
        raise
    if check and process.returncode:
        raise CommandFailed(argv, process.returncode, err or out)
    return subprocess.CompletedProcess(list(argv), process.returncode, out, err)
