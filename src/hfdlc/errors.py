"""Every error that a user can meet: a short letter that says where, what, what is allowed and what next."""

from collections.abc import Sequence


class HfdlcError(Exception):
    """Something failed: the command ends with exit code 1."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", allowed: str = "", then: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.allowed, self.then = what, where, allowed, then

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.then:
            lines.append(f"  next: {self.then}")
        return "\n".join(lines)


class UserError(HfdlcError):
    """What the user wrote cannot be used: the command ends with exit code 2."""

    exit_code = 2


class Problems(UserError):
    """Several errors of one file, told in one go."""

    def __init__(self, problems: Sequence[UserError]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class CommandFailed(HfdlcError):
    """A program that was started ended with an error."""

    def __init__(self, argv: Sequence[str], status: int, output: str, *, then: str = "") -> None:
        self.argv, self.status, self.output = tuple(argv), status, output
        tail = "\n".join(f"    {line}" for line in output.strip().splitlines()[-15:])
        super().__init__(f"`{' '.join(argv)}` ended with {status}\n{tail}", then=then)
