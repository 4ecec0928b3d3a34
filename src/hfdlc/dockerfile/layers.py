"""The layers that a Dockerfile lays, addressed by what makes them: cells with the same address share one."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hfdlc.dockerfile import inputs
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell

STAGE = re.compile(r"^FROM (?P<parent>\S+)(?: AS (?P<name>\S+))?$", re.MULTILINE)
LAID = re.compile(r"^COPY --link --from=(\S+) /layer/ /$", re.MULTILINE)
USED = re.compile(r"\bfrom=([^\s,]+)")
LOCK = re.compile(r"source=([^,\s]+\.lock)")


@dataclass(frozen=True)
class Part:
    """A layer that is made apart from the image that it is laid on."""

    name: str  # the address of its bytes
    stage: str
    cell: Cell  # one that has it


def layers(cell: Cell, root: Path) -> dict[str, str]:
    """The address of each layer of the cell above its base, by stage, in the order in which they are laid."""
    dockerfile = (root / cell.folder / "Dockerfile").read_text()
    stages = _stages(dockerfile)
    # Each is asked for twice, by its own name and as a parent.
    known: dict[str, str] = {}
    return {name: _address(name, stages, root, known, {}) for name in LAID.findall(dockerfile)}


def parts(
    cell: Cell, root: Path, *, base_digests: Mapping[str, str], dockerfile: str | None = None
) -> list[Part]:
    """The layers of a cell that can be made apart and laid on its stage `image`, in their order.

    `base_digests`: what its Dockerfile starts from, with its digest, by build argument. `dockerfile`: in
    place of the repository's. Empty where the last stage does more than copy layers (such an image is built
    as a whole), or where there is no Dockerfile yet.
    """
    file = root / cell.folder / "Dockerfile"
    if not file.is_file():
        return []
    stages = _stages(dockerfile or file.read_text())
    parent, last = stages[""]
    rest = [line for line in last.splitlines() if line and not line.startswith("#")]
    if parent != "image" or "packed" not in stages or not all(map(LAID.fullmatch, rest)):
        return []
    known = dict[str, str]()
    packing = inputs.pack(root) + _address("installer", stages, root, known, base_digests)
    return [
        Part(_digest(packing + _address(stage, stages, root, known, base_digests))[:24], stage, cell)
        for stage in LAID.findall(last)
    ]


def distinct(laid: Mapping[str, Sequence[Part]]) -> list[Part]:
    """The layers of cells, each once."""
    return list({part.name: part for each in laid.values() for part in each}.values())


def _stages(dockerfile: str) -> dict[str, tuple[str, str]]:
    """Each stage's parent and text."""
    starts = list(STAGE.finditer(dockerfile))
    ends = [*(match.start() for match in starts[1:]), len(dockerfile)]
    return {
        match["name"] or "": (match["parent"], dockerfile[match.end() : end])
        for match, end in zip(starts, ends, strict=True)
    }


def _address(
    name: str,
    stages: Mapping[str, tuple[str, str]],
    root: Path,
    known: dict[str, str],
    starts: Mapping[str, str],
) -> str:
    """Changes with the stage's instructions, its lock's packages, the toolkit, and the stages it uses."""
    if name in known:
        return known[name]
    parent, text = stages[name]
    said = "\n".join(line for line in text.splitlines() if line and not line.startswith("#"))
    said = LOCK.sub(lambda match: lockfile.packages(root / match[1]), said)
    if "source=toolkit," in said:
        said += inputs.toolkit(root)
    if f"source={inputs.TRAIN}," in said:
        said += inputs.train(root)
    if f" {inputs.FINISH} " in said:
        said += inputs.finish(root)
    for used in USED.findall(said):
        if used in stages:  # an image is named in what was said already
            said += _address(used, stages, root, known, starts)
    if parent in stages:
        said += _address(parent, stages, root, known, starts)
    else:
        said += starts.get(parent.strip("${}"), parent)
    known[name] = _digest(said)[:16]
    return known[name]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
