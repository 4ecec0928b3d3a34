"""What has been proved of which cell: kept in docs/proved.json, shown in docs/proved.md."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hfdlc.dockerfile import inputs
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.project import Project
from hfdlc.state import write_whole

KEPT = "docs/proved.json"  # written by `hfdlc prove`
PAGE = "docs/proved.md"


class Proof(BaseModel):
    """What building, checking and using a cell's image showed, once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str  # of the image; empty where it could not be built
    date: str
    made_from: str  # the content address of the cell without its base
    stand_in: str | None = None  # what took the place of the base
    sizes: dict[str, int] = Field(default_factory=dict)  # layer or package -> bytes, within the budget
    passed: list[str] = Field(default_factory=list)
    failed: dict[str, str] = Field(default_factory=dict)  # check or use -> what it said
    not_run: dict[str, str] = Field(default_factory=dict)  # the same -> why


Proofs = Mapping[str, Proof]  # by cell


def address(cell: Cell, root: Path) -> str:
    """Of what a proof is a proof: everything but the base, which each machine has of its own."""
    return inputs.digest(inputs.of(cell, root, {}))


def read(root: Path) -> dict[str, Proof]:
    """The proofs that the repository keeps.

    Raises HfdlcError where the file is damaged.
    """
    file = root / KEPT
    if not file.is_file():
        return {}
    try:
        return TypeAdapter(dict[str, Proof]).validate_json(file.read_bytes())
    except ValidationError as error:
        raise HfdlcError(
            f"is damaged: {error.error_count()} errors", location=KEPT, hint=f"git checkout {KEPT}"
        ) from error


def keep(cell: Cell, proof: Proof, project: Project) -> None:
    """Write one proof, and the page anew."""
    proofs = read(project.root) | {cell.id: proof}
    order = {each.id: proofs[each.id].model_dump() for each in project.cells if each.id in proofs}
    write_whole(project.root / KEPT, json.dumps(order, indent=1) + "\n")
    write_whole(project.root / PAGE, page(project))


def page(project: Project) -> str:
    """What is proved, as a page: a line a cell, then what failed and what was not run."""
    proofs = read(project.root)
    lines = [
        "# What has been proved",
        "",
        f"Generated from `{KEPT}`, which `hfdlc prove` (`make test-all`) writes: each image was built,",
        "checked by `hfdlc test`, and used: a training image trained `examples/` and served the result, an",
        "inference image answered the documented requests. *On a stand-in* means that the public base was",
        "out of reach, and a Debian 12 with the same Python had its place: packages and toolkit are proved,",
        "the base is not. What a cell is made from may have changed since its date: `hfdlc prove CELL`",
        "knows, and repeats it then.",
        "",
        "| cell | image | date | base | passed | failed | not run |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(cell, proofs.get(cell.id), project.root) for cell in project.cells]
    for cell in project.cells:
        if (proof := proofs.get(cell.id)) and (proof.failed or proof.not_run):
            lines += ["", f"## {cell.id}", ""]
            lines += [f"- failed: {name}: {_line(said)}" for name, said in proof.failed.items()]
            lines += [f"- not run: {name}: {_line(why)}" for name, why in proof.not_run.items()]
    return "\n".join(lines) + "\n"


def _row(cell: Cell, proof: Proof | None, root: Path) -> str:
    if proof is None:
        lacking = lockfile.missing(cell, root)
        why = f"out of reach: {lacking}" if lacking else "-"
        return f"| `{cell.id}` | not proved | - | {why} | - | - | - |"
    base = "on a stand-in" if proof.stand_in else "its own"
    if proof.stand_in and lockfile.stood_in(cell, root):
        base += f", with the framework's build for {cell.source.stand_in_cuda}"
    image = f"`{proof.digest[:19]}`" if proof.digest else "not built"
    numbers = f"{len(proof.passed)} | {len(proof.failed)} | {len(proof.not_run)}"
    return f"| `{cell.id}` | {image} | {proof.date[:10]} | {base} | {numbers} |"


def _line(text: str) -> str:
    """The first line that says something, short enough for a list."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 200 else line[:199] + "…"
