"""The layers that a Dockerfile lays, addressed by what makes them: cells with the same address share one."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hfdlc import inputs, lock
from hfdlc.cells import Cell
from hfdlc.plan import Machine, Part

STAGE = re.compile(r"^FROM (?P<parent>\S+)(?: AS (?P<name>\S+))?$", re.MULTILINE)
LAID = re.compile(r"^COPY --link --from=(\S+) /layer/ /$", re.MULTILINE)
USED = re.compile(r"\bfrom=([^\s,]+)")
LOCK = re.compile(r"source=([^,\s]+\.lock)")


def layers(cell: Cell, root: Path) -> dict[str, str]:
    """The address of each layer of the cell above its base, by stage, in the order in which they are laid."""
    dockerfile = (root / cell.folder / "Dockerfile").read_text()
    stages = _stages(dockerfile)
    # Each is asked for twice, by its own name and as a parent.
    known: dict[str, str] = {}
    return {name: _address(name, stages, root, known, {}) for name in LAID.findall(dockerfile)}


def parts(cell: Cell, root: Path, machine: Machine) -> list[Part]:
    """The layers of a cell that can be made apart and laid on its stage `image`, in their order.

    None where the Dockerfile's last stage does more than lay layers (such an image is made whole), or where
    there is none yet.
    """
    file = root / cell.folder / "Dockerfile"
    if not file.is_file():
        return []
    stages = _stages(machine.dockerfiles.get(cell.id) or file.read_text())
    parent, last = stages[""]
    rest = [line for line in last.splitlines() if line and not line.startswith("#")]
    if parent != "image" or "packed" not in stages or not all(map(LAID.fullmatch, rest)):
        return []
    starts, known = machine.starts.get(cell.id, {}), dict[str, str]()
    packing = inputs.pack(root) + _address("installer", stages, root, known, starts)
    return [
        Part(_digest(packing + _address(stage, stages, root, known, starts))[:24], stage, cell)
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
    said = LOCK.sub(lambda match: lock.packages(root / match[1]), said)
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
