"""What may be published: an image on its own base, whose checks passed for that very digest."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from docker import DockerClient
from docker.errors import ImageNotFound

from hfdlc.build.stand_in import LABEL as STAND_IN
from hfdlc.checks import report as reports
from hfdlc.checks.report import Report
from hfdlc.dockerfile import inputs
from hfdlc.engine import detect
from hfdlc.engine.detect import Engine
from hfdlc.errors import Problems, UserError
from hfdlc.matrix.cells import Cell
from hfdlc.state import State

BASE = "io.hfdlc.base"  # the label that says what an image really came from


@dataclass(frozen=True)
class Candidate:
    """A checked image of a cell."""

    cell: Cell
    image: str  # its digest in the engine
    layers: tuple[str, ...]  # digests of what they hold, uncompressed
    labels: dict[str, str]
    report: Report

    @property
    def made_from(self) -> dict[str, str]:
        """Its inputs, as its label tells them."""
        return inputs.read(self.labels.get(inputs.LABEL))


def candidates(
    cells: Sequence[Cell], engine: Engine, state: State, *, gpu_checks: bool = True
) -> list[Candidate]:
    """The cells' images; without `gpu_checks` what needs a GPU may be among what was not run.

    Raises Problems that name each one that may not be published, and why.
    """
    with closing(detect.client(engine)) as client, ThreadPoolExecutor(8) as pool:

        def one(cell: Cell) -> Candidate | UserError:
            try:
                found = _candidate(cell, client, state)
                if gpu_checks:
                    _see_gpu_checks(found)
                return found
            except UserError as problem:
                return problem

        asked = list(pool.map(one, cells))
    if problems := [each for each in asked if isinstance(each, UserError)]:
        raise Refused(problems)
    return [each for each in asked if isinstance(each, Candidate)]


class Refused(Problems):
    """Images that may not be published."""

    exit_code = 1


def _candidate(cell: Cell, client: DockerClient, state: State) -> Candidate:
    try:
        seen: dict[str, Any] = client.images.get(cell.id).attrs
    except ImageNotFound as error:
        raise UserError("is not built", where=cell.id, then=f"hfdlc build --check {cell.id}") from error
    labels = seen["Config"].get("Labels") or {}
    if STAND_IN in labels:
        raise UserError(
            f"stands on {labels[STAND_IN]}, in place of {cell.base_image()}: a stand-in is never published",
            where=cell.id,
            then="build it where its own base is in reach",
        )
    report = reports.remembered(seen["Id"], state)
    if not report:
        raise UserError(_why_not(cell, seen["Id"], state), where=cell.id, then=f"hfdlc test {cell.id}")
    return Candidate(cell, seen["Id"], tuple(seen["RootFS"]["Layers"]), labels, report)


def _see_gpu_checks(found: Candidate) -> None:
    """Raise UserError where checks were not run for want of a GPU."""
    if found.report.needs_gpu:
        raise UserError(
            f"checks that need a GPU were not run on it: {', '.join(found.report.needs_gpu)}",
            where=found.cell.id,
            allowed="--without-gpu-checks, which attests them as not run",
            then=f"hfdlc test --gpus {found.cell.id}",
        )


def _why_not(cell: Cell, image: str, state: State) -> str:
    """What is wrong with the checks of an image: failed, of older checks, of an older image, or none."""
    known = []
    for file in sorted((state.root / "checks").glob("*.json")):
        try:
            known.append(Report(**json.loads(file.read_text())))
        except (OSError, ValueError, TypeError):
            continue
    own = [report for report in known if report.digest == image]
    if own and own[0].failed:
        return f"its checks failed for {image}: {', '.join(own[0].failed)}"
    if own:
        return f"the checks themselves have changed since they passed for {image} ({own[0].date})"
    older = [report for report in known if report.cell == cell.id]
    if older:
        last = max(older, key=lambda report: report.date)
        return f"its checks are older than the image: they were run on {last.digest}, this is {image}"
    return f"no check was run on {image}"
