"""The verbs that touch the world, one after another: engine, bases, build, checks, facts."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hfdlc import base, check_run, engine, lock, plan, render
from hfdlc import build as building
from hfdlc import facts as reading
from hfdlc.cells import Cell
from hfdlc.check_run import Report
from hfdlc.console import say
from hfdlc.engine import Engine
from hfdlc.errors import HfdlcError
from hfdlc.machine import package_sources
from hfdlc.plan import Machine
from hfdlc.project import Project
from hfdlc.state import State, write_whole

Environ = Mapping[str, str]
FACTS_FORM = "2"  # raised when facts are read in another way


def build(project: Project, cells: Sequence[Cell], environ: Environ) -> None:
    """Build the cells' images into the engine that answers, or into a private one.

    Raises HfdlcError where a lock or a Dockerfile is not current, or the build fails.
    """
    for cell in cells:
        lock.check(cell, project.matrix, project.root)
        _check_rendered(cell, project)
    state = State.of(environ)
    used = engine.ensure(environ, state)
    sources = package_sources(environ)
    with building.package_access(sources, cells, project.root, state) as machine:
        machine = _with_bases(machine, project, cells, used, state, environ)
        bake = plan.bake(cells, project.matrix, machine)
        log = building.build(bake, cells, used, project.root, state, sys.stderr)
    say(f"built {', '.join(cell.id for cell in cells)}\n  log: {log}")


def _check_rendered(cell: Cell, project: Project) -> None:
    file = project.root / cell.folder / "Dockerfile"
    if not file.is_file() or file.read_text() != render.dockerfile(cell, project.matrix, project.templates):
        raise HfdlcError(
            "is not what the matrix and the templates give",
            where=f"{cell.folder}/Dockerfile",
            then="hfdlc render",
        )


def _with_bases(
    machine: Machine, project: Project, cells: Sequence[Cell], used: Engine, state: State, environ: Environ
) -> Machine:
    """The machine's part of a plan, with what takes the place of public images, and the engine's store."""
    installer = project.matrix.file.installer
    ensure = partial(base.ensure, engine=used, state=state, environ=environ)
    images: dict[str, dict[str, str]] = {}
    for cell in cells:
        bootstraps = {"base": cell.bootstrap, "installer_base": installer.bootstrap}
        bootstraps["compiler_base"] = installer.bootstrap_compiler
        for name, image in render.images(cell, project.matrix).items():
            here = images.setdefault(name, {})
            here[image] = here.get(image) or ensure(image, bootstraps.get(name))
    return replace(
        machine,
        images=images,
        output=plan.UNCOMPRESSED if used.containerd_store else plan.Machine.output,
    )


def check(
    project: Project, cells: Sequence[Cell], environ: Environ, *, again: bool = False, gpus: bool = False
) -> list[dict[str, Any]]:
    """Hold built images against their cells, with the machine's GPUs if told so.

    What passed for the very same digest is not repeated, unless `again`. Raises HfdlcError where one fails.
    """
    state, sources = State.of(environ), package_sources(environ)
    used = engine.ensure(environ, state)
    reports = []
    for cell in cells:
        digest = str(reading.image_of(cell.id, used).id)
        report = None if again else check_run.remembered(digest, state)
        if report and facts(cell, environ)["size"] > cell.size:
            report = None  # its budget was cut since
        if not report:
            say(f"checking {cell.id}")
            with check_run.subject(cell, project, used, state, sources, gpus=gpus) as subject:
                report = check_run.run(subject)
            check_run.remember(report, state)
        say(_told(report))
        reports.append(report)
    if failed := [report.cell for report in reports if report.failed]:
        raise HfdlcError(f"checks failed on {', '.join(failed)}", then=f"hfdlc test {' '.join(failed)}")
    return [report.json() for report in reports]


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
