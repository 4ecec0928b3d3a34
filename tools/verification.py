"""What was verified of which cell: kept in docs/verified.json, shown in docs/verified.md."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hfdlc.dockerfile import inputs
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.project import Project, find
from hfdlc.state import write_whole

KEPT = "docs/verified.json"
PAGE = "docs/verified.md"


class Verification(BaseModel):
    """What building, checking and using a cell's image showed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str  # of the image; empty where it could not be built
    date: str
    made_from: str  # the content address of the cell without its base
    toolkit: str  # its version
    substitute: str | None = None  # what replaced the base
    other_framework: bool = False  # whether the framework was a build for another CUDA
    passed: list[str] = Field(default_factory=list)
    failed: dict[str, str] = Field(default_factory=dict)  # check or use -> what it said
    not_run: dict[str, str] = Field(default_factory=dict)  # the same -> why


def address(cell: Cell, root: Path) -> str:
    """The digest of what was verified: the inputs of a cell without its base, which differs by machine."""
    return inputs.digest(inputs.of(cell, root, {}))


def read(root: Path) -> dict[str, Verification]:
    """The verifications in the repository.

    Raises HfdlcError if the file is damaged.
    """
    file = root / KEPT
    if not file.is_file():
        return {}
    try:
        return TypeAdapter(dict[str, Verification]).validate_json(file.read_bytes())
    except ValidationError as error:
        raise HfdlcError(
            f"is damaged: {error.error_count()} errors", location=KEPT, hint=f"git checkout {KEPT}"
        ) from error


def keep(cell: Cell, verification: Verification, project: Project) -> None:
    """Write one verification, and the page."""
    verifications = read(project.root) | {cell.id: verification}
    # Those of retired cells stay, after the others.
    ids = dict.fromkeys([*(each.id for each in project.cells), *verifications])
    order = {each: verifications[each].model_dump() for each in ids if each in verifications}
    write_whole(project.root / KEPT, json.dumps(order, indent=1) + "\n")
    write_whole(project.root / PAGE, page(project))


def page(project: Project) -> str:
    """The page: a line for each cell, then what failed and what was not run."""
    verifications = read(project.root)
    lines = [
        "# Verified releases",
        "",
        f"Generated from `{KEPT}`, which `make verify-releases` writes: each image was built, checked by",
        "the checks of `hfdlc test`, and used: a training image trained `examples/` and served the result,",
        "an inference image answered the documented requests. *Substitute* means that the public base was",
        "unreachable, and Debian 12 with the same Python replaced it: packages and toolkit were verified,",
        "the base was not. If the inputs of a cell have changed since, the command verifies it again.",
        "",
        "| cell | image | date | toolkit | base | passed | failed | not run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(cell, verifications.get(cell.id), project.root) for cell in project.cells]
    for cell in project.cells:
        if (verification := verifications.get(cell.id)) and (verification.failed or verification.not_run):
            lines += ["", f"## {cell.id}", ""]
            lines += [f"- failed: {name}: {_line(said)}" for name, said in verification.failed.items()]
            lines += [f"- not run: {name}: {_line(why)}" for name, why in verification.not_run.items()]
    return "\n".join(lines) + "\n"


def _row(cell: Cell, verification: Verification | None, root: Path) -> str:
    if verification is None:
        lacking = lockfile.missing(cell, root)
        why = f"unreachable: {lacking}" if lacking else "-"
        return f"| `{cell.id}` | not verified | - | - | {why} | - | - | - |"
    base = "substitute" if verification.substitute else "its own"
    if verification.other_framework:
        base += ", with a build of the framework for another CUDA"
    image = f"`{verification.digest[:19]}`" if verification.digest else "not built"
    numbers = " | ".join(
        str(len(each)) for each in (verification.passed, verification.failed, verification.not_run)
    )
    return (
        f"| `{cell.id}` | {image} | {verification.date[:10]} | {verification.toolkit} | {base} | {numbers} |"
    )


def _line(text: str) -> str:
    """The first line that says something, short enough for a list."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 200 else line[:199] + "…"


if __name__ == "__main__":
    here = find(Path.cwd())
    write_whole(here.root / PAGE, page(here))
