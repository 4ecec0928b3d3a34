"""Building cells: up-to-date cells are left alone, and a cell that fails does not stop the others."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from hfdlc.build import assemble, estimate, freshness, history, prepare
from hfdlc.build.bake import BuildContext
from hfdlc.build.buildkit import BuildFailed, Done
from hfdlc.build.history import Build
from hfdlc.build.prepare import Failures
from hfdlc.build.receipt import Receipt, text
from hfdlc.build.session import Session
from hfdlc.dockerfile import inputs, layers, render
from hfdlc.dockerfile.inputs import Inputs
from hfdlc.dockerfile.layers import NO_LOCKS
from hfdlc.engine import detect, images
from hfdlc.engine.detect import Engine
from hfdlc.engine.folders import Folders
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.oci.image import Image
from hfdlc.oci.store import LayerStore
from hfdlc.process import say
from hfdlc.project import Project
from hfdlc.state import State, write_whole


class CellsFailed(HfdlcError):
    """Some of several cells failed; `fine`: the ids of the others."""

    def __init__(self, message: str, *, fine: Sequence[str], hint: str) -> None:
        super().__init__(message, hint=hint)
        self.fine = tuple(fine)


def build(
    session: Session,
    cells: Sequence[Cell],
    file: Path | None = None,
    *,
    strict: bool = False,
    disk_check: bool = True,
) -> Receipt:
    """Build the images of cells that are not up to date, in batches that fit the disk.

    A receipt is written to `file`. Incomplete cells are skipped beside others, unless `strict`. Without
    `disk_check` all cells are one batch.

    Raises HfdlcError, after all else is done, where a lock or a Dockerfile is not current, or a build fails.
    """
    began = time.monotonic()
    receipt = Receipt()
    failures: Failures = {}
    skipped = [] if strict else _incomplete(session, cells)
    chosen = [cell for cell in cells if cell not in skipped]
    ready = [cell for cell in chosen if _is_current(session, cell, failures)]
    if ready:
        _make(session, ready, receipt, failures, disk_check=disk_check)
    receipt.cells |= dict.fromkeys(failures, "failed") | {cell.id: "skipped" for cell in skipped}
    receipt.seconds = round(time.monotonic() - began, 3)
    if file:
        write_whole(file, text(receipt))
    _report(session.project, receipt, failures, cells)
    return receipt


def _incomplete(session: Session, cells: Sequence[Cell]) -> list[Cell]:
    """The cells whose locks lack something, where there are others."""
    found = [
        cell
        for cell in cells
        if lockfile.state(cell, session.project.root) == "incomplete" and not session.overrides.locks_of(cell)
    ]
    return found if len(found) < len(cells) else []


def check_current(cell: Cell, project: Project, locks: Mapping[str, str] = NO_LOCKS) -> None:
    """Raise HfdlcError if a lock file or the Dockerfile does not match the matrix and the templates."""
    lockfile.check(cell, project.matrix, project.root, locks)
    file = project.root / cell.folder / "Dockerfile"
    if not file.is_file() or file.read_text() != render.dockerfile(cell, project):
        raise HfdlcError(
            "does not match the matrix and the templates",
            location=f"{cell.folder}/Dockerfile",
            hint="hfdlc render",
        )


def _is_current(session: Session, cell: Cell, failures: Failures) -> bool:
    try:
        check_current(cell, session.project, session.overrides.locks_of(cell))
    except HfdlcError as problem:
        failures[cell.id] = problem
        return False
    return True


def _make(
    session: Session,
    cells: Sequence[Cell],
    receipt: Receipt,
    failures: Failures,
    *,
    disk_check: bool,
) -> None:
    with prepare.prepared(session, cells, failures=failures) as context:
        engine = session.engine
        cells = [cell for cell in cells if cell.id not in failures]
        todo = [cell for cell in cells if not freshness.is_up_to_date(cell, context.inputs[cell.id], engine)]
        before = _layers_there(engine) if todo else set()
        _batches(session, todo, context, receipt, failures, disk_check=disk_check)
        fine = [cell for cell in cells if cell.id not in failures]
        receipt.cells = {cell.id: "built" if cell in todo else "up to date" for cell in fine}
        if todo:
            built = {cell.id: images.layers(images.image_of(cell.id, engine)) for cell in fine}
            receipt.weigh(built, before)


def _batches(
    session: Session,
    todo: Sequence[Cell],
    context: BuildContext,
    receipt: Receipt,
    failures: Failures,
    *,
    disk_check: bool,
) -> None:
    """Build cells in batches that fit the disk; each removes what only the last one needed."""
    while todo:
        batch = _fitting(session, todo, context, failures) if disk_check else todo
        if not batch:
            return
        began = time.monotonic()
        scratch = prepare.scratch(batch, session)
        _rounds(session, batch, replace(context, scratch=scratch), receipt, failures)
        for cell in batch:
            if cell.id not in failures:
                _remember(session, cell, time.monotonic() - began)
        todo = [cell for cell in todo if cell not in batch]
        if todo:
            detect.prune(session.engine, 0)


def _fitting(
    session: Session, todo: Sequence[Cell], context: BuildContext, failures: Failures
) -> Sequence[Cell]:
    """The cells that fit the disk together; where none does, all of them are added to `failures`."""
    engine, state = session.engine, session.state
    costs, memory = estimate.Costs(session.project, engine, state), prepare.memory(session)
    for cell in todo:
        costs.layers(cell, context.inputs[cell.id])
    room = estimate.free(state, engine)
    batch = estimate.batch(todo, room, costs, memory=memory)
    if not batch and detect.prune(engine, 0):
        room = estimate.free(state, engine)
        batch = estimate.batch(todo, room, costs, memory=memory)
    if batch and len(batch) < len(todo):
        needed = estimate.disk(costs, batch, memory)
        say(
            f"building {len(batch)} of {len(todo)} cells first; they need about {needed / 1e9:.0f} GB of disk"
        )
    if not batch:
        failures |= {
            cell.id: _no_room(cell, estimate.disk(costs, [cell], memory), room or 0, state) for cell in todo
        }
    return batch


def _no_room(cell: Cell, needed: int, room: int, state: State) -> HfdlcError:
    return HfdlcError(
        f"building {cell.id} needs about {needed / 1e9:.0f} GB of disk, and {room / 1e9:.0f} GB are free",
        location=str(state.root),
        allowed="--no-disk-check, which builds all the same",
        hint="free disk space (`hfdlc clean`, `hfdlc engine prune`), then run this again",
    )


def _rounds(
    session: Session, todo: Sequence[Cell], context: BuildContext, receipt: Receipt, failures: Failures
) -> None:
    """One bake of all cells; where a cell fails, another one of those that BuildKit stopped for it.

    What is no failure of BuildKit, such as an engine that cannot load the images, fails these cells only.
    """
    while todo:
        try:
            done, known = _built(session, todo, context)
        except BuildFailed as problem:
            receipt.time(problem.build_log)
            failures |= dict.fromkeys(problem.cells if problem.alone else [cell.id for cell in todo], problem)
            todo = [cell for cell in todo if cell.id not in failures]
        except HfdlcError as problem:
            failures |= dict.fromkeys([cell.id for cell in todo], problem)
            return
        else:
            if done:
                receipt.time(done.build_log)
            receipt.known += known
            say(f"built {', '.join(cell.id for cell in todo)}" + (f"\n  log: {done.log}" if done else ""))
            return


def _built(session: Session, cells: Sequence[Cell], context: BuildContext) -> tuple[Done | None, int]:
    """Build cells into the engine: the result of BuildKit, if it was needed, and the stored layers used."""
    made = assemble.assemble(session, cells, context)
    _make_room(session, cells, context)
    assemble.load(made.images, session.engine)
    _keep_once(made.images.values(), session)
    return made.done, made.known


def _keep_once(built: Iterable[Image], session: Session) -> None:
    """Let the layer store and the private engine have each layer as one file."""
    if not session.engine.private:
        return
    store, blobs = LayerStore.of(session.state), Folders.of(session.state).blobs
    for layer in {layer for image in built for layer in image.layers}:
        store.share(layer, blobs)


def _make_room(session: Session, cells: Sequence[Cell], context: BuildContext) -> None:
    """Drop the build cache where images do not fit beside it: their layers are in the layer store now."""
    room = estimate.free(session.state, session.engine)
    costs = estimate.Costs(session.project, session.engine, session.state)
    for cell in cells:
        costs.layers(cell, context.inputs[cell.id])
    if room is not None and costs.disk(cells) > room:
        detect.prune(session.engine, 0)


def inputs_of(session: Session, cells: Sequence[Cell]) -> dict[str, Inputs]:
    """The inputs of cells, by cell; bases that are not here yet are downloaded or made."""
    return dict(prepare.with_bases(session, cells, BuildContext()).inputs)


def built_from(session: Session, cells: Sequence[Cell]) -> dict[str, Inputs | None]:
    """The inputs of the images in the engine, by cell; None for cells that are not built."""
    labels = {cell.id: freshness.label(cell.id, session.engine) for cell in cells}
    return {cell: None if label is None else inputs.read(label) for cell, label in labels.items()}


def _layers_there(engine: Engine) -> set[str]:
    """The digests of all layers of images in the engine."""
    return {digest for image in images.every(engine) for digest in image.attrs["RootFS"].get("Layers", [])}


def _remember(session: Session, cell: Cell, seconds: float) -> None:
    image = images.image_of(cell.id, session.engine)
    names = [layer.name for layer in layers.layers(cell, session.project.root)]
    # The first one that is copied is the virtual environment.
    sizes = [layer.size for layer in images.package_layers(image)[1:]]
    total = sum(layer.size for layer in images.layers(image))
    build = Build(cell.id, _now(), round(seconds, 1), total, dict(zip(names, sizes, strict=True)))
    history.add(build, session.state)


def _report(project: Project, receipt: Receipt, failures: Failures, cells: Sequence[Cell]) -> None:
    """A line for each cell and the receipt, where there were several; then the error, if there was one."""
    if len(cells) > 1:
        for cell in cells:
            state = receipt.cells[cell.id]
            why = f" (its lock lacks {lockfile.missing(cell, project.root)})" if state == "skipped" else ""
            say(f"{state:12}{cell.id}{why}")
        if "built" in receipt.cells.values():
            receipt.print()
    elif "up to date" in receipt.cells.values():
        say(f"{cells[0].id} is up to date")
    if len(cells) == 1 and failures:
        raise next(iter(failures.values()))
    if failures:
        messages = "\n".join(dict.fromkeys(str(problem) for problem in failures.values()))
        built = ("built", "up to date")
        raise CellsFailed(
            f"{len(failures)} of {len(cells)} cells failed\n{messages}",
            fine=[cell.id for cell in cells if receipt.cells[cell.id] in built],
            hint=f"hfdlc build {' '.join(failures)}",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
