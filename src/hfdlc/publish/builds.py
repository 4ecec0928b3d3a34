"""Building and checking what a target lacks, for `hfdlc publish --build`."""

import json
from collections.abc import Mapping, Sequence

from hfdlc.build import builder, freshness
from hfdlc.build.session import Session
from hfdlc.dockerfile import inputs
from hfdlc.engine.containers import NoGpu
from hfdlc.errors import HfdlcError, UserError
from hfdlc.matrix.cells import Cell
from hfdlc.process import say
from hfdlc.project import Project
from hfdlc.publish import publisher
from hfdlc.publish.publisher import Differs, Options
from hfdlc.publish.targets import Target
from hfdlc.publish.transfer import TagStatus


def publish(
    project: Project,
    cells: Sequence[Cell],
    environ: Mapping[str, str],
    to: Sequence[Target],
    options: Options,
) -> list[TagStatus]:
    """Build, check and publish what the first target lacks; the others get also what it has already.

    Gives the status that tags had before. Raises what `built` and those of `publisher` raise.
    """
    new = built(project, cells, environ, to[0], gpu_checks=options.gpu_checks)
    found = publisher.publish(project, new, environ, to, options)
    published = [cell for cell in cells if cell not in new]
    if published and to[1:]:
        found += publisher.copy(project, published, to[0], to[1:], dry_run=options.dry_run)
    return found


def built(
    project: Project,
    cells: Sequence[Cell],
    environ: Mapping[str, str],
    target: Target,
    *,
    gpu_checks: bool = True,
) -> tuple[Cell, ...]:
    """Build and check the cells that a target does not have from the same inputs; those that were built.

    Raises Differs, before anything is built, if a tag was built from other inputs, and HfdlcError if GPU
    images are to be checked on a machine without a GPU.
    """
    with Session(project, environ) as session:
        now = builder.inputs_of(session, cells)
    todo, problems = [], []
    for cell in cells:
        label = published_label(target, cell)
        if label is None:
            todo.append(cell)
        elif changed := freshness.changed(label, now[cell.id]):
            what = f"{target.name} has it from other inputs ({', '.join(changed)}): a tag never moves"
            problems.append(UserError(what, location=cell.id, hint=f"hfdlc bump --of {cell.id} ..."))
        else:
            say(f"{target.name}: {cell.id} is published from the same inputs: nothing to build")
    if problems:
        raise Differs(problems)
    if todo:
        with Session(project, environ) as session:
            builder.build(session, todo)
            _check(session, todo, gpu_checks=gpu_checks)
    return tuple(todo)


def _check(session: Session, cells: Sequence[Cell], *, gpu_checks: bool) -> None:
    """Check what was built; GPU images with this machine's GPUs."""
    from hfdlc.checks import runner  # it imports pytest, which nothing else here needs

    without = [cell for cell in cells if not (cell.cuda and gpu_checks)]
    with_gpus = [cell for cell in cells if cell.cuda and gpu_checks]
    runner.check(session, without)
    try:
        runner.check(session, with_gpus, gpus=True)
    except NoGpu as problem:
        raise HfdlcError(
            f"{problem.message}, and the checks that need one must run before publishing",
            location=", ".join(cell.id for cell in with_gpus),
            allowed="--without-gpu-checks, which attests them as not run",
            hint=problem.hint.replace(", or omit --gpus", "") or "run this on a machine with a GPU",
        ) from problem


def published_label(target: Target, cell: Cell) -> str | None:
    """The label of a published image's inputs, as `freshness.label`; None if it is not published."""
    if not target.has(cell.repository) or not target.registry.head(cell.repository, cell.tag):
        return None
    manifest = target.registry.manifest(cell.repository, cell.tag)
    config = json.loads(target.registry.read(cell.repository, manifest.parsed["config"]["digest"]))
    return str((config.get("config", {}).get("Labels") or {}).get(inputs.LABEL, ""))
