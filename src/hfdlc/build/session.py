"""What a build needs before it begins: engine, bases, a way to packages, nobody who builds the same."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from hfdlc.build import bake, bases, packages, stand_in
from hfdlc.build.bake import BuildContext
from hfdlc.dockerfile import inputs, render
from hfdlc.engine import detect
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.locks.indexes import package_sources
from hfdlc.matrix.cells import Cell
from hfdlc.oci.store import LayerStore
from hfdlc.process import say
from hfdlc.project import Project
from hfdlc.state import State

if TYPE_CHECKING:
    from hfdlc.dockerfile.inputs import Inputs

Failures = dict[str, HfdlcError]  # cell -> why


@contextmanager
def prepared(
    project: Project,
    cells: Sequence[Cell],
    environ: Mapping[str, str],
    *,
    stand_ins: bool = False,
    failures: Failures | None = None,
) -> Iterator[tuple[Engine, State, BuildContext]]:
    """The engine, with the cells' bases in it, while no other run builds the same cells; see `with_bases`.

    The machine has no way to packages yet: see `with_packages`.
    """
    state = State.of(environ)
    used = detect.ensure(environ, state)
    with ExitStack() as held:
        for cell in sorted(cells, key=lambda cell: cell.id):
            _hold(held, f"build-{bake.target_name(cell)}", state)
        context = BuildContext(cache=environ.get("HFDLC_CACHE") or None, scratch=_scratch(cells, used))
        yield used, state, with_bases(context, project, cells, used, state, environ, stand_ins, failures)


@contextmanager
def with_packages(
    context: BuildContext,
    cells: Sequence[Cell],
    project: Project,
    used: Engine,
    state: State,
    environ: Mapping[str, str],
) -> Iterator[BuildContext]:
    """The machine with its way to package indexes, while a build lasts: asking pip for it takes a while."""
    sources = package_sources(environ)
    with packages.with_access(
        context, sources, cells, project.root, state, shares_host_network=used.private
    ) as found:
        yield found


def check_store(used: Engine) -> None:
    """Raise HfdlcError where the engine's BuildKit gives out no layers."""
    if not used.containerd_store:
        raise HfdlcError(
            "keeps images in Docker's old store, whose BuildKit gives out no layers",
            where=used.host,
            then="turn on the feature containerd-snapshotter of the engine, or unset DOCKER_HOST",
        )


def _hold(held: ExitStack, name: str, state: State) -> None:
    try:
        held.enter_context(state.lock(name, wait=False))
    except HfdlcError as busy:
        say(f"waiting: {busy.what}")
        held.enter_context(state.lock(name))


def with_bases(
    context: BuildContext,
    project: Project,
    cells: Sequence[Cell],
    used: Engine,
    state: State,
    environ: Mapping[str, str],
    stand_ins: bool = False,
    failures: Failures | None = None,
) -> BuildContext:
    """The machine's part of a plan: what takes the place of public images, what cells are made from.

    Raises HfdlcError where a base cannot be had, or adds that to `failures`.
    """
    installer = project.matrix.file.installer
    ensure = partial(bases.ensure, engine=used, state=state, environ=environ)
    identity = cache(partial(bases.identity, engine=used))
    images: dict[str, dict[str, str]] = {}
    made_from: dict[str, Inputs] = {}
    dockerfiles, locks, base_images = {}, {}, {}
    for cell in cells:
        bootstraps = {"base": cell.bootstrap, "installer_base": installer.bootstrap}
        bootstraps["compiler_base"] = installer.bootstrap_compiler
        public = render.images(cell, project.matrix)
        try:
            for name, image in public.items():
                here = images.setdefault(name, {})
                if stand_ins and name in stand_in.REPLACED and not bootstraps.get(name):
                    here[cell.id] = stand_in.ensure(name, image, cell, used, state, environ)
                else:
                    here[image] = here.get(image) or ensure(image, bootstraps.get(name))
            if bootstraps["base"]:
                LayerStore.of(state).add_base(bases.archive(bootstraps["base"], state), project.root)
        except HfdlcError as problem:
            if failures is None:
                raise
            failures[cell.id] = problem
            continue
        chosen = bake.chosen(public, images, cell)
        starts = {name: identity(image) for name, image in chosen.items()}
        base_images[cell.id] = starts["base"]
        if stand_ins and lockfile.stood_in(cell, project.root):
            locks[cell.id] = {cell.group_of_rest("framework"): lockfile.stand_in_file(cell)}
            dockerfiles[cell.id] = render.dockerfile(cell, project.matrix, project.templates, locks[cell.id])
            starts["stand-in.lock"] = lockfile.packages(project.root / lockfile.stand_in_file(cell))
        made_from[cell.id] = inputs.of(cell, project.root, starts)
    return replace(
        context,
        images=images,
        dockerfiles=dockerfiles,
        locks=locks,
        inputs=made_from,
        base_images=base_images,
    )


def _scratch(cells: Sequence[Cell], used: Engine) -> str:
    """Where layers are made before they are packed: in memory if it has room for all of them twice."""
    with closing(detect.client(used)) as client:
        memory = int(client.info()["MemTotal"])
    return "/memory" if 2 * sum(cell.size for cell in cells) < memory else "/var/tmp"  # noqa: S108 - of a stage
