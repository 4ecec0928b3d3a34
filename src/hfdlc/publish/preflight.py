"""What may be published: an image on its cell's own base, whose checks passed for its config digest."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from docker import DockerClient
from docker.errors import ImageNotFound

from hfdlc.checks import facts
from hfdlc.checks import report as reports
from hfdlc.checks.report import Report
from hfdlc.dockerfile import inputs
from hfdlc.engine.detect import Engine
from hfdlc.errors import Problems, UserError
from hfdlc.matrix.cells import Cell
from hfdlc.state import State

SUBSTITUTE = "io.hfdlc.stand-in"  # the label of images on a substitute base; only tools/ makes them
BASE = "io.hfdlc.base"  # the label with the base image that was used


@dataclass(frozen=True)
class Candidate:
    """A checked image of a cell, in the engine."""

    cell: Cell
    image: str  # the engine's id
    config_digest: str  # the identity of the image
    layers: tuple[str, ...]  # digests of the uncompressed archives
    labels: dict[str, str]
    report: Report

    @property
    def inputs(self) -> dict[str, str]:
        """What the image was built from, from its label."""
        return inputs.read(self.labels.get(inputs.LABEL))


def candidates(
    cells: Sequence[Cell], engine: Engine, state: State, *, gpu_checks: bool = True
) -> list[Candidate]:
    """The images of cells; without `gpu_checks` those whose GPU checks were not run are among them.

    Raises Refused that names each image that may not be published, and why.
    """
    client = engine.client
    with ThreadPoolExecutor(8) as pool:

        def one(cell: Cell) -> Candidate | UserError:
            try:
                found = _candidate(cell, client, engine, state)
                if gpu_checks:
                    _require_gpu_checks(found)
                return found
            except UserError as problem:
                return problem

        results = list(pool.map(one, cells))
    if problems := [each for each in results if isinstance(each, UserError)]:
        raise Refused(problems)
    return [each for each in results if isinstance(each, Candidate)]


class Refused(Problems):
    """Images that may not be published."""

    exit_code = 1


def _candidate(cell: Cell, client: DockerClient, engine: Engine, state: State) -> Candidate:
    try:
        image = client.images.get(cell.id)
    except ImageNotFound as error:
        raise UserError(
            "the image is not built", location=cell.id, hint=f"hfdlc build --check {cell.id}"
        ) from error
    labels = image.attrs["Config"].get("Labels") or {}
    if SUBSTITUTE in labels:
        raise UserError(
            f"is on the substitute base {labels[SUBSTITUTE]}, not on {cell.base_image()}: never published",
            location=cell.id,
            hint="build it where its own base image is reachable",
        )
    identity = facts.identity(image, engine, state)
    report = reports.remembered(identity, state)
    if not report:
        raise UserError(_why_not(cell, identity, state), location=cell.id, hint=f"hfdlc test {cell.id}")
    layers = tuple(image.attrs["RootFS"]["Layers"])
    return Candidate(cell, str(image.id), identity, layers, labels, report)


def _require_gpu_checks(found: Candidate) -> None:
    """Raise UserError if checks were not run because they had no GPU."""
    if found.report.needs_gpu:
        raise UserError(
            f"checks that need a GPU were not run on it: {', '.join(found.report.needs_gpu)}",
            location=found.cell.id,
            allowed="--without-gpu-checks, which attests them as not run",
            hint=f"hfdlc test --gpus {found.cell.id}",
        )


def _why_not(cell: Cell, identity: str, state: State) -> str:
    """Why the checks of an image do not count: failed, of older checks, of an older image, or none."""
    known = []
    for file in sorted((state.root / "checks").glob("*.json")):
        try:
            known.append(Report(**json.loads(file.read_text())))
        except (OSError, ValueError, TypeError):
            continue
    own = [report for report in known if report.config_digest == identity]
    if own and own[0].failed:
        return f"its checks failed for {identity}: {', '.join(own[0].failed)}"
    if own:
        return f"the checks themselves have changed since they passed for {identity} ({own[0].date})"
    older = [report for report in known if report.cell == cell.id]
    if older:
        last = max(older, key=lambda report: report.date)
        return (
            f"its checks are older than the image: they were run on {last.config_digest or last.digest}, "
            f"this is {identity}"
        )
    return f"no check was run on {identity}"
