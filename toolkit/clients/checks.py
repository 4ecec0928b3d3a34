"""What the client programs share: each of their functions checks one call, for one task of the server.

A program runs in the environment of its client, as `python PROGRAM TASK`, with the addresses in environment
variables. It prints a line for each check: outcome, name and reason, separated by tabs. Outcomes are `passed`,
`failed`, and `unsupported` for what the server does not answer, with the reason in the check's declaration: such a
check fails when the call works.
"""

import os
import sys
import traceback
from pathlib import Path

SERVER = os.environ.get("CLIENT_SERVER", "")
# Where SageMaker's runtime API is imitated, in front of the server.
SAGEMAKER = os.environ.get("CLIENT_SAGEMAKER", "")
MEDIA = Path(os.environ.get("CLIENT_MEDIA", ""))
_CHECKS = []


def check(task, unsupported=None, routes=("",)):
    """Register a check. It gets the server's address with each of the routes appended."""

    def register(function):
        for route in routes:
            reason = unsupported.get(route) if isinstance(unsupported, dict) else unsupported
            _CHECKS.append((task, function, route, reason))
        return function

    return register


def error_of(call, expected=Exception):
    """The exception of a call that must fail."""
    try:
        answer = call()
    except expected as error:
        return error
    raise AssertionError(f"the call did not fail but answered {answer!r}")


def answers_or_refuses(call, name):
    """A parameter is honoured, or refused by its name."""
    try:
        return call()
    except Exception as error:
        assert f"'{name}'" in str(error), f"{name} was not refused by its name: {error}"
        return None


def main():
    for task, function, route, unsupported in _CHECKS:
        if task == sys.argv[1]:
            outcome, reason = _run(function, route, unsupported)
            name = function.__name__ + (f" at {route}" if route else "")
            print(outcome, name, " ".join(reason.split()), sep="\t", flush=True)


def _run(function, route, unsupported):
    try:
        function(SERVER + route)
    except Exception as error:
        if unsupported:
            return "unsupported", unsupported
        last = traceback.extract_tb(error.__traceback__)
        lines = [frame for frame in last if Path(frame.filename).parent == Path(__file__).parent]
        return "failed", f"line {lines[-1].lineno}: {type(error).__name__}: {str(error)[:1500]}"
    if unsupported:
        return "failed", f"works now, and is declared as unsupported: {unsupported}"
    return "passed", ""
