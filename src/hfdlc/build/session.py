"""What a build needs before it begins: engine, bases, a way to packages, nobody who builds the same."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import cache, partial

from hfdlc.build import bake, bases, packages, stand_in
from hfdlc.build.bake import Machine
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

# What is known of a machine before it is asked for its way to packages.
KNOWN = ("images", "dockerfiles", "inputs", "starts", "room", "output", "cache")
Failures = dict[str, HfdlcError]  # cell -> why


@contextmanager
def prepared(
    project: Project,
    cells: Sequence[Cell],
    environ: Mapping[str, str],
    *,
    stand_ins: bool = False,
    failures: Failures | None = None,
) -> Iterator[tuple[Engine, State, Machine]]:
    """The engine, with the cells' bases in it, while no other run builds the same cells; see `with_bases`.

    The machine has no way to packages yet: see `with_packages`.
    """
    state = State.of(environ)
    used = detect.ensure(environ, state)
    with ExitStack() as held:
        for cell in sorted(cells, key=lambda cell: cell.id):
            hold(held, f"build-{bake.target_name(cell)}", state)
        machine = Machine(cache=environ.get("HFDLC_CACHE") or None, room=_room(cells, used))
        yield used, state, with_bases(machine, project, cells, used, state, environ, stand_ins, failures)


@contextmanager
def with_packages(
    machine: Machine,
    cells: Sequence[Cell],
    project: Project,
    used: Engine,
    state: State,
    environ: Mapping[str, str],
) -> Iterator[Machine]:
    """The machine with its way to package indexes, while a build lasts: asking pip for it takes a while."""
    sources = package_sources(environ)
    with packages.package_access(sources, cells, project.root, state, near=used.private) as way:
        yield replace(way, **{name: getattr(machine, name) for name in KNOWN})


def check_store(used: Engine) -> None:
    """Raise HfdlcError where the engine's BuildKit gives out no layers."""
    if not used.containerd_store:
        raise HfdlcError(
            "keeps images in Docker's old store, whose BuildKit gives out no layers",
            where=used.host,
            then="turn on the feature containerd-snapshotter of the engine, or unset DOCKER_HOST",
        )


def hold(held: ExitStack, name: str, state: State) -> None:
    """Take a lock, and report which process has it if that takes a while."""
    try:
        held.enter_context(state.lock(name, wait=False))
    except HfdlcError as busy:
        say(f"waiting: {busy.what}")
        held.enter_context(state.lock(name))


def with_bases(
    machine: Machine,
    project: Project,
    cells: Sequence[Cell],
    used: Engine,
    state: State,
    environ: Mapping[str, str],
    stand_ins: bool = False,
    failures: Failures | None = None,
) -> Machine:
    """The machine's part of a plan: what takes the place of public images, what cells are made from.

    Raises HfdlcError where a base cannot be had, or adds that to `failures`.
    """
    installer = project.matrix.file.installer
    ensure = partial(bases.ensure, engine=used, state=state, environ=environ)
    identity = cache(partial(bases.identity, engine=used))
    images: dict[str, dict[str, str]] = {}
    made_from, dockerfiles, started = {}, {}, {}
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
        started[cell.id] = dict(starts)
        if stand_ins and lockfile.stood_in(cell, project.root):
            dockerfiles[cell.id] = stand_in.dockerfile(cell, project.root)
            starts["stand-in.lock"] = lockfile.packages(project.root / lockfile.stand_in_file(cell))
        made_from[cell.id] = inputs.of(cell, project.root, starts)
    return replace(machine, images=images, dockerfiles=dockerfiles, inputs=made_from, starts=started)


def _room(cells: Sequence[Cell], used: Engine) -> dict[str, str]:
    """Where layers are made before they are packed: in memory if it has room for all of them twice."""
    with closing(detect.client(used)) as client:
        memory = int(client.info()["MemTotal"])
    return {"room": "/memory" if 2 * sum(cell.size for cell in cells) < memory else "/var/tmp"}  # noqa: S108 - of a stage
