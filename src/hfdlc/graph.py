"""The layers that a Dockerfile lays, addressed by what makes them: cells with the same address share one."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from hfdlc import inputs, lock
from hfdlc.cells import Cell

STAGE = re.compile(r"^FROM (?P<parent>\S+)(?: AS (?P<name>\S+))?$", re.MULTILINE)
LAID = re.compile(r"^COPY --link --from=(\S+) /layer/ /$", re.MULTILINE)
LOCK = re.compile(r"source=([^,\s]+\.lock)")


def layers(cell: Cell, root: Path) -> dict[str, str]:
    """The address of each layer of the cell above its base, by stage, in the order in which they are laid."""
    dockerfile = (root / cell.folder / "Dockerfile").read_text()
    stages = _stages(dockerfile)
    # Each is asked for twice, by its own name and as a parent.
    known: dict[str, str] = {}
    return {name: _address(name, stages, root, known, {}) for name in LAID.findall(dockerfile)}


def parts(dockerfile: str, root: Path, starts: Mapping[str, str]) -> dict[str, str]:
    """The layers that can be made apart and laid on the stage `image`, by stage: an address of their bytes.

    `starts`: what stages start from, with its digest, by build argument. None where the last stage does more
    than lay layers.
    """
    stages = _stages(dockerfile)
    parent, last = stages[""]
    rest = [line for line in last.splitlines() if line and not line.startswith("#")]
    if parent != "image" or "packed" not in stages or not all(map(LAID.fullmatch, rest)):
        return {}
    known: dict[str, str] = {}
    packing = inputs.pack(root) + _address("installer", stages, root, known, starts)
    found = {name: _address(name, stages, root, known, starts) for name in LAID.findall(last)}
    return {name: hashlib.sha256((packing + address).encode()).hexdigest()[:24] for name, address in found.items()}


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
    """Changes with the stage's instructions, the packages of its lock, its parent, and the toolkit it has."""
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
    if parent in stages:
        said += _address(parent, stages, root, known, starts)
    else:
        said += starts.get(parent.strip("${}"), parent)
    known[name] = hashlib.sha256(said.encode()).hexdigest()[:16]
    return known[name]
