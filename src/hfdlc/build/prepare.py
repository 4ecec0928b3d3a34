"""What a build needs before it begins: its bases, access to package indexes, and locks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache as cached
from functools import partial

from hfdlc.build import bake, bases, cache, estimate, layouts, packages
from hfdlc.build.bake import BuildContext
from hfdlc.build.session import Session
from hfdlc.dockerfile import inputs, render
from hfdlc.engine import buildx
from hfdlc.errors import HfdlcError
from hfdlc.locks.indexes import index_config
from hfdlc.matrix.cells import Cell
from hfdlc.oci.store import LayerStore
from hfdlc.process import say
from hfdlc.state import State

Failures = dict[str, HfdlcError]  # cell -> why


@contextmanager
def prepared(
    session: Session, cells: Sequence[Cell], *, failures: Failures | None = None
) -> Iterator[BuildContext]:
    """The context of a build, with the cells' bases in the engine; no other run builds these cells meanwhile.

    Access to package indexes is not in it yet: see `with_packages`. Raises HfdlcError if a base is
    unreachable, or adds that to `failures`, if the engine is of another architecture, and if builds
    cannot run.
    """
    builder = session.builder  # first: without the builder that is named, nothing is started or downloaded
    session.engine.check_architecture()
    with ExitStack() as held:
        for cell in sorted(cells, key=lambda cell: cell.id):
            hold(held, f"build-{bake.target_name(cell)}", session.state)
        context = BuildContext(
            cache=cache.registry(session),
            scratch=scratch(cells, session),
            platform=buildx.PLATFORM if builder.name else "",
        )
        yield with_bases(session, cells, context, failures=failures)


@contextmanager
def with_packages(session: Session, cells: Sequence[Cell], context: BuildContext) -> Iterator[BuildContext]:
    """The context with access to package indexes and base images, while a build lasts.

    Only for what is built: reading pip's configuration takes a while.
    """
    sources = index_config(session.environ)
    with packages.with_access(
        replace(context, layouts=layouts.of(session, cells, context)),
        sources,
        cells,
        session.project.root,
        session.state,
        shares_host_network=session.builder.shares_host_network,
    ) as found:
        yield found


def hold(held: ExitStack, name: str, state: State) -> None:
    """Take a lock, and report which process has it if that takes a while."""
    try:
        held.enter_context(state.lock(name, wait=False))
    except HfdlcError as busy:
        say(f"waiting: {busy.message}")
        held.enter_context(state.lock(name))


def with_bases(
    session: Session,
    cells: Sequence[Cell],
    context: BuildContext,
    *,
    failures: Failures | None = None,
) -> BuildContext:
    """The context with the images that replace public ones here, and with the inputs of the cells."""
    identity = cached(partial(bases.identity, engine=session.engine))
    images: dict[str, dict[str, str]] = {}
    image_inputs: dict[str, dict[str, str]] = {}
    locks: dict[str, Mapping[str, str]] = {}
    dockerfiles, base_images = {}, {}
    project = session.project
    for cell in cells:
        public = render.images(cell, project.matrix)
        try:
            for name, image in public.items():
                _ensure(session, cell, name, image, images.setdefault(name, {}))
            if cell.bootstrap:
                archive = bases.archive(cell.bootstrap, session.state)
                LayerStore.of(session.state).add_base(archive, project.root)
        except HfdlcError as problem:
            if failures is None:
                raise
            failures[cell.id] = problem
            continue
        chosen = bake.chosen(public, images, cell)
        base_digests = {name: identity(image) for name, image in chosen.items()}
        base_images[cell.id] = base_digests["base"]
        image_inputs[cell.id] = inputs.of(cell, project.root, base_digests)
        if replaced := session.overrides.locks_of(cell):
            locks[cell.id] = replaced
            dockerfiles[cell.id] = render.dockerfile(cell, project, replaced)
            image_inputs[cell.id] |= {
                f"{group}.lock": inputs.of_file(f"{project.root}/{path}") for group, path in replaced.items()
            }
    return replace(
        context,
        images=images,
        dockerfiles=dockerfiles,
        locks=locks,
        inputs=image_inputs,
        base_images=base_images,
    )


def _ensure(session: Session, cell: Cell, name: str, image: str, here: dict[str, str]) -> None:
    """Get one of a cell's base images, and note what replaces it here; each only once."""
    bootstrap = render.bootstraps(cell, session.project.matrix).get(name)
    if other := session.overrides.image(name, image, cell):
        here[cell.id] = other
    elif image not in here:
        here[image] = bases.ensure(image, bootstrap, session)


def scratch(cells: Sequence[Cell], session: Session) -> str:
    """The folder of a build in which layers are written before they are packed: in memory if they fit."""
    in_memory = estimate.fits_in_memory(cells, memory(session))
    return "/memory" if in_memory else "/var/tmp"  # noqa: S108 - of a stage


def memory(session: Session) -> int:
    """Bytes of memory where builds run; 0 where that is not known."""
    return 0 if session.builder.name else int(session.engine.client.info()["MemTotal"])
