"""Building what a place has not got yet, for `hfdlc publish --build`."""

import json
from collections.abc import Mapping, Sequence

from hfdlc.build import builder
from hfdlc.build.session import Session
from hfdlc.dockerfile import inputs
from hfdlc.engine.containers import NoGpu
from hfdlc.errors import HfdlcError, UserError
from hfdlc.matrix.cells import Cell
from hfdlc.process import say
from hfdlc.project import Project
from hfdlc.publish.publisher import Differs
from hfdlc.publish.targets import Place


def built(
    project: Project,
    cells: Sequence[Cell],
    environ: Mapping[str, str],
    place: Place,
    *,
    gpu_checks: bool = True,
) -> tuple[Cell, ...]:
    """Build and check the cells that a place has not got as they would be built now, and give these.

    Raises Differs, before anything is built, where it has a tag from other inputs, and HfdlcError where GPU
    images are to be checked on a machine without a GPU.
    """
    with Session(project, environ) as session:
        now = builder.inputs_of(session, cells)
    todo, problems = [], []
    for cell in cells:
        there = published_inputs(place, cell)
        if there == now[cell.id]:
            say(f"{place.name}: {cell.id} is published as it is now: nothing to build")
        elif there is None:
            todo.append(cell)
        else:
            differ = ", ".join(inputs.changed(there, now[cell.id]))
            what = f"{place.name} has it from other inputs ({differ}): a tag never moves"
            problems.append(UserError(what, where=cell.id, then=f"hfdlc bump --of {cell.id} ..."))
    if problems:
        raise Differs(problems)
    if todo:
        with Session(project, environ) as session:
            builder.build(session, todo)
            _check(session, todo, gpu_checks=gpu_checks)
    return tuple(todo)


def _check(session: Session, cells: Sequence[Cell], *, gpu_checks: bool) -> None:
    """Check what was built; GPU images with this machine's GPUs."""
    from hfdlc.checks import runner  # pytest, which nothing else here needs

    without = [cell for cell in cells if not (cell.cuda and gpu_checks)]
    with_gpus = [cell for cell in cells if cell.cuda and gpu_checks]
    runner.check(session, without)
    try:
        runner.check(session, with_gpus, gpus=True)
    except NoGpu as problem:
        raise HfdlcError(
            f"{problem.what}, and the checks that need one are to be run",
            where=", ".join(cell.id for cell in with_gpus),
            allowed="--without-gpu-checks, which attests them as not run",
            then=problem.then.replace(", or leave out --gpus", "") or "run this where there is a GPU",
        ) from problem


def published_inputs(place: Place, cell: Cell) -> dict[str, str] | None:
    """What a published image was made from, as its label tells; None where there is none."""
    if not place.has(cell.repository) or not place.registry.head(cell.repository, cell.tag):
        return None
    manifest = place.registry.manifest(cell.repository, cell.tag)
    config = json.loads(place.registry.small(cell.repository, manifest.parsed["config"]["digest"]))
    return inputs.read((config.get("config", {}).get("Labels") or {}).get(inputs.LABEL))
