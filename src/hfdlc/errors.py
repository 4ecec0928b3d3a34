"""Errors that a user can meet. The command line prints them without a traceback."""

import re
from collections.abc import Sequence

LOGIN = re.compile(r"(?<=://)([^/\s:@]*:)?[^/\s@]+(?=@)")  # a user and a password in a URL, or a token


class HfdlcError(Exception):
    """Something failed: the command ends with exit code 1.

    `location`: file:line:column, cell, host or option. `allowed`: the accepted values. `hint`: the next
    command.
    """

    exit_code = 1

    def __init__(self, message: str, *, location: str = "", allowed: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.location, self.allowed, self.hint = message, location, allowed, hint

    def __str__(self) -> str:
        lines = [f"{self.location}: {self.message}" if self.location else self.message]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class UserError(HfdlcError):
    """The user's input is not valid: the command ends with exit code 2."""

    exit_code = 2


class Problems(UserError):
    """Several errors, reported together."""

    def __init__(self, problems: Sequence[UserError]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def without_logins(text: str) -> str:
    """A text with `***` for the passwords and tokens in its URLs."""
    return LOGIN.sub(lambda match: f"{match[1] or ''}***", text)


class CommandFailed(HfdlcError):
    """A program ended with an error; the message has the last 15 lines of its output.

    Passwords in URLs are left out.
    """

    def __init__(self, argv: Sequence[str], status: int, output: str, *, hint: str = "") -> None:
        command, output = without_logins(" ".join(argv)), without_logins(output)
        self.output = output
        tail = "\n".join(f"    {line}" for line in output.strip().splitlines()[-15:])
        super().__init__(f"`{command}` ended with exit code {status}\n{tail}", hint=hint)
