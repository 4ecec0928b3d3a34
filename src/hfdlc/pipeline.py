"""The verbs that touch the world, one after another: engine, bases, build, checks, facts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hfdlc import engine, inputs, making, preparing, reports
from hfdlc import facts as reading
from hfdlc.cells import Cell
from hfdlc.console import say
from hfdlc.engine import Engine
from hfdlc.errors import HfdlcError
from hfdlc.inputs import Inputs
from hfdlc.machine import package_sources
from hfdlc.plan import Machine
from hfdlc.project import Project
from hfdlc.receipt import Receipt
from hfdlc.reports import Report
from hfdlc.state import State, write_whole

Environ = Mapping[str, str]
FACTS_FORM = "2"  # raised when facts are read in another way


def build(
    project: Project,
    cells: Sequence[Cell],
    environ: Environ,
    receipt: Path | None = None,
    *,
    stand_ins: bool = False,
) -> Receipt:
    """Build what is not up to date, and write a receipt where one is asked for; see `making.make`."""
    return making.make(project, cells, environ, receipt, stand_ins=stand_ins)


def inputs_of(project: Project, cells: Sequence[Cell], environ: Environ) -> dict[str, Inputs]:
    """What the cells' images are made from, by cell; bases that are not here yet are fetched or made."""
    machine = preparing.with_bases(Machine(), project, cells, _engine(environ), State.of(environ), environ)
    return dict(machine.inputs)


def built_from(cells: Sequence[Cell], environ: Environ) -> dict[str, Inputs | None]:
    """What the images in the engine were made from, by cell; None for what is not built."""
    used = _engine(environ)
    labels = {cell.id: making.label(cell.id, used) for cell in cells}
    return {cell: None if label is None else inputs.read(label) for cell, label in labels.items()}


def check(
    project: Project, cells: Sequence[Cell], environ: Environ, *, again: bool = False, gpus: bool = False
) -> list[dict[str, Any]]:
    """Hold built images against their cells, with the machine's GPUs if told so.

    What passed for the very same digest is not repeated, unless `again`, or unless there is a GPU now for
    what was not run without one. Raises HfdlcError where one fails.
    """
    from hfdlc import check_run  # pytest, which nothing else here needs

    state, sources = State.of(environ), package_sources(environ)
    used = engine.ensure(environ, state)
    shown = []
    for cell in cells:
        digest = str(reading.image_of(cell.id, used).id)
        report = None if again else reports.remembered(digest, state)
        if report and gpus and report.needs_gpu:
            report = None
        if report and facts(cell, environ)["size"] > cell.size:
            report = None  # its budget was cut since
        if not report:
            say(f"checking {cell.id}")
            with check_run.subject(cell, project, used, state, sources, gpus=gpus) as subject:
                report = check_run.run(subject)
            reports.remember(report, state)
        say(_told(report))
        shown.append(report)
    if failed := [report.cell for report in shown if report.failed]:
        raise HfdlcError(f"checks failed on {', '.join(failed)}", then=f"hfdlc test {' '.join(failed)}")
    return [report.json() for report in shown]


def _told(report: Report) -> str:
    """A report for people: what failed and what was not run by name, the rest as a number."""
    lines = [f"{report.cell}: {len(report.passed)} checks passed ({report.date})"]
    lines += [f"  FAILED   {name}: {said}" for name, said in report.failed.items()]
    lines += [f"  not run  {name}: {why}" for name, why in report.not_run.items()]
    return "\n".join(lines)


def facts(cell: Cell, environ: Environ) -> dict[str, Any]:
    """The documented object of `hfdlc facts --json`; what was read of a digest is not read again."""
    used, state = _engine(environ), State.of(environ)
    digest = str(reading.image_of(cell.id, used).id)
    file = state.root / "facts" / FACTS_FORM / f"{digest.replace(':', '-')}.json"
    if not file.is_file():
        write_whole(file, json.dumps(reading.read(cell, used).json()))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def summary(cell: Cell, environ: Environ) -> str:
    """A built image's facts, and how to run it, for people."""
    found = facts(cell, environ)
    layers = len(found.pop("layers"))
    found["size"] = f"{found['size'] / 1e9:.2f} GB in {layers} layers"
    lines = [cell.id, *(f"  {key:22}{value}" for key, value in found.items())]
    used = _engine(environ)
    host = f"DOCKER_HOST={used.host} " if used.private else ""
    network = "--network host -e HF_BIND_HOST=127.0.0.1" if used.private else "-p 127.0.0.1:8080:8080"
    gpus = " --gpus all" if cell.cuda else ""
    docker = f"{host}docker run --rm{gpus} {network} -v /path/to/model:/opt/ml/model:ro {cell.id}"
    return "\n".join([*lines, "run it:", f"  hfdlc serve {cell.id} --model /path/to/model", f"  {docker}"])


def _engine(environ: Environ) -> Engine:
    return engine.ensure(environ, State.of(environ))
