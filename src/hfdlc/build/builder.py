"""Making images: what is up to date is left alone, and what fails does not stop the rest."""

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from docker.errors import ImageNotFound

from hfdlc.build import assemble, bake, buildkit, estimate, prepare, records
from hfdlc.build.bake import BuildContext
from hfdlc.build.buildkit import BuildFailed, Done
from hfdlc.build.prepare import Failures
from hfdlc.build.receipt import Receipt, text
from hfdlc.build.records import Record
from hfdlc.build.session import Session
from hfdlc.dockerfile import inputs, render
from hfdlc.dockerfile.inputs import Inputs
from hfdlc.engine import images
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.process import say
from hfdlc.project import Project
from hfdlc.state import write_whole


class CellsFailed(HfdlcError):
    """Some of several cells could not be built; `fine` are the ids of those whose images are there."""

    def __init__(self, what: str, *, fine: Sequence[str], then: str) -> None:
        super().__init__(what, then=then)
        self.fine = tuple(fine)


def build(
    session: Session, cells: Sequence[Cell], file: Path | None = None, *, stand_ins: bool = False
) -> Receipt:
    """Build the images of cells that are not up to date, into the engine that answers or a private one.

    The receipt is kept with the state where something was built, and written to `file` where there is one.
    `stand_ins` may take the place of bases that are out of reach; the images cannot be published.

    Raises HfdlcError, after all else is done, where a lock or a Dockerfile is not current, or a build fails.
    """
    began = time.monotonic()
    receipt = Receipt()
    failures: Failures = {}
    ready = [cell for cell in cells if _is_current(cell, session.project, failures, stand_ins)]
    if ready:
        _make(session, ready, receipt, failures, stand_ins)
    receipt.cells |= dict.fromkeys(failures, "failed")
    receipt.seconds = round(time.monotonic() - began, 3)
    if "built" in receipt.cells.values():
        write_whole(session.state.root / "receipts" / f"{_now()}.json", text(receipt))
    if file:
        write_whole(file, text(receipt))
    _tell(receipt, failures, cells)
    return receipt


def check_current(cell: Cell, project: Project, *, stand_ins: bool = False) -> None:
    """Raise HfdlcError where a lock or the Dockerfile is not what the matrix and the templates give."""
    lockfile.check(cell, project.matrix, project.root, stand_ins=stand_ins)
    file = project.root / cell.folder / "Dockerfile"
    if not file.is_file() or file.read_text() != render.dockerfile(cell, project.matrix, project.templates):
        raise HfdlcError(
            "is not what the matrix and the templates give",
            where=f"{cell.folder}/Dockerfile",
            then="hfdlc render",
        )


def _is_current(cell: Cell, project: Project, failures: Failures, stand_ins: bool) -> bool:
    try:
        check_current(cell, project, stand_ins=stand_ins)
    except HfdlcError as problem:
        failures[cell.id] = problem
        return False
    return True


def _make(
    session: Session, cells: Sequence[Cell], receipt: Receipt, failures: Failures, stand_ins: bool
) -> None:
    with prepare.prepared(session, cells, stand_ins=stand_ins, failures=failures) as context:
        engine = session.engine
        cells = [cell for cell in cells if cell.id not in failures]
        todo = [cell for cell in cells if not is_up_to_date(cell, context.inputs[cell.id], engine)]
        if not stand_ins:  # a budget counts CUDA, which a stand-in lacks
            estimate.refuse_what_cannot_fit(todo, session.project, engine, session.state)
        before = _layers_there(engine) if todo else set()
        _rounds(session, todo, context, receipt, failures)
        fine = [cell for cell in cells if cell.id not in failures]
        receipt.cells = {cell.id: "built" if cell in todo else "up to date" for cell in fine}
        if todo:
            built = {cell.id: images.layers(images.image_of(cell.id, engine)) for cell in fine}
            receipt.weigh(built, before)
            for cell in fine:
                if cell in todo:
                    _record(session, cell, context)


def _rounds(
    session: Session, todo: Sequence[Cell], context: BuildContext, receipt: Receipt, failures: Failures
) -> None:
    """One bake of all cells; where a cell fails, another one of those that BuildKit stopped for it."""
    while todo:
        try:
            done, known = _built(session, todo, context)
        except BuildFailed as problem:
            receipt.time(problem.solve)
            failures |= dict.fromkeys(problem.cells if problem.alone else [cell.id for cell in todo], problem)
            todo = [cell for cell in todo if cell.id not in failures]
        else:
            if done:
                receipt.time(done.solve)
            receipt.known += known
            say(f"built {', '.join(cell.id for cell in todo)}" + (f"\n  log: {done.log}" if done else ""))
            return


def _built(session: Session, cells: Sequence[Cell], context: BuildContext) -> tuple[Done | None, int]:
    """Build cells into the engine: the result of BuildKit, if it was needed, and the stored layers used."""
    if not session.engine.containerd_store:  # its BuildKit cannot export layers
        with prepare.with_packages(session, cells, context) as with_packages:
            file = bake.of_images(cells, session.project.matrix, with_packages)
            return buildkit.build(session, file, cells, sys.stderr), 0
    made = assemble.assemble(session, cells, context)
    assemble.load(made.images, session.engine)
    return made.done, made.known


def inputs_of(session: Session, cells: Sequence[Cell]) -> dict[str, Inputs]:
    """The inputs of cells, by cell; bases that are not here yet are downloaded or made."""
    return dict(prepare.with_bases(session, cells, BuildContext()).inputs)


def built_from(session: Session, cells: Sequence[Cell]) -> dict[str, Inputs | None]:
    """The inputs of the images in the engine, by cell; None for cells that are not built."""
    labels = {cell.id: label(cell.id, session.engine) for cell in cells}
    return {cell: None if label is None else inputs.read(label) for cell, label in labels.items()}


def is_up_to_date(cell: Cell, made_from: Inputs, engine: Engine) -> bool:
    """Whether the engine has the cell's image, made from these very inputs."""
    return inputs.read(label(cell.id, engine)) == made_from


def label(image: str, engine: Engine) -> str | None:
    """What an image says that it was made from; None where there is no such image, or it says nothing."""
    try:
        found: str | None = (engine.client.images.get(image).labels or {}).get(inputs.LABEL)
    except ImageNotFound:
        return None
    return found


def _layers_there(engine: Engine) -> set[str]:
    """The digests of all layers of images in the engine."""
    images = engine.client.images.list()
    return {digest for image in images for digest in image.attrs["RootFS"].get("Layers", [])}


def _record(session: Session, cell: Cell, context: BuildContext) -> None:
    image = images.image_of(cell.id, session.engine)
    keys = [layer.cache_key for layer in bake.layers_of(cell, session.project, context)]
    sizes = [layer.size for layer in images.laid(image)[1:]]  # the first is the virtual environment
    record = Record(
        cell=cell.id,
        image=str(image.id),
        date=_now(),
        inputs=dict(context.inputs[cell.id]),
        layers=dict(zip(keys, sizes, strict=True)),
        below=sum(layer.size for layer in images.layers(image)) - sum(sizes),
    )
    records.keep(cell, record, session.state)


def _tell(receipt: Receipt, failures: Failures, cells: Sequence[Cell]) -> None:
    """A line a cell and the receipt, where there were several; then the error, if there was one."""
    if len(cells) > 1:
        for cell in cells:
            say(f"{receipt.cells[cell.id]:12}{cell.id}")
        if "built" in receipt.cells.values():
            receipt.print()
    elif "up to date" in receipt.cells.values():
        say(f"{cells[0].id} is up to date")
    if len(cells) == 1 and failures:
        raise next(iter(failures.values()))
    if failures:
        letters = "\n".join(dict.fromkeys(str(problem) for problem in failures.values()))
        raise CellsFailed(
            f"{len(failures)} of {len(cells)} cells failed\n{letters}",
            fine=[cell.id for cell in cells if cell.id not in failures],
            then=f"hfdlc build {' '.join(failures)}",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
