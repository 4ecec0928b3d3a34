"""Finding and removing images, base images, results, layers, logs and caches that are no longer used."""

import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from docker.errors import APIError, ImageNotFound
from docker.models.images import Image

from hfdlc.build import bases as base
from hfdlc.build import freshness
from hfdlc.build.freshness import ImagesHere
from hfdlc.build.session import using
from hfdlc.checks.facts import FORM as FACTS_FORM
from hfdlc.dockerfile import inputs
from hfdlc.engine import detect
from hfdlc.engine.detect import Engine
from hfdlc.engine.images import every
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Bootstrap
from hfdlc.oci.store import FOLDER
from hfdlc.process import say
from hfdlc.project import Project
from hfdlc.state import State

DAY = 86400.0
OURS = "io.hfdlc.type"  # a label of every image of a cell
TITLE = "org.opencontainers.image.title"
# Kinds that are listed by name; of the others only the number is printed.
NAMED = ("image", "base", "cache", "build cache")
CACHES = ("uv", "pip", "models")  # wheels and weights, which are downloaded again when needed


@dataclass(frozen=True)
class Unused:
    """One thing that can be removed."""

    kind: str
    name: str
    why: str
    size: int  # bytes; of an image with layers that others share
    remove: Callable[[], int]  # removes it, and returns the freed bytes


def find(
    project: Project,
    environ: Mapping[str, str],
    *,
    keep: float,
    older: float,
    now: Callable[[], float] = time.time,
) -> list[Unused]:
    """What can be removed; `keep` GB each of build cache and layers, and what was used in `older` days, stay.

    Without a running engine, images and their results are not listed.
    """
    state = State.of(environ)
    before = now() - older * DAY
    found = [*_older(state), *_archives(project, state), *_aged(state, before)]
    found += _packed(state, keep, before)
    engine = detect.find(environ, state)
    if not engine:
        say("no engine is running: images and build cache are not listed")
        return found
    with using(engine):
        images = every(engine)
        going = list(_images(project, images, engine))
        gone = {one.name for one in going}
        digests = {str(image.id) for image in images if not set(image.tags) <= gone}
        return [*going, *found, *_readings(state, digests), *_build_cache(engine, keep)]


def screen(found: Iterable[Unused]) -> str:
    """The list as text, with one line for equal kinds and reasons."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for one in found:
        name = one.name if one.kind in NAMED else f"in {Path(one.name).parent}"
        groups.setdefault((one.kind, name, one.why), []).append(one.size)
    lines = [
        f"{sum(sizes) / 1e6:10.1f} MB  {kind:12} {name}"
        + f" x {len(sizes)}" * (len(sizes) > 1)
        + f" ({why})\n"
        for (kind, name, why), sizes in groups.items()
    ]
    return "".join(lines)


def _images(project: Project, images: Iterable[Image], engine: Engine) -> Iterator[Unused]:
    """Images of cells that are not in the matrix or out of date, and unused base images."""
    cells = {cell.id: cell for cell in project.cells}
    bases = {base.tag(bootstrap) for bootstrap in _bootstraps(project)}
    here = ImagesHere(engine)
    for image in images:
        for tag in image.tags:
            if why := _why(tag, image.labels, project, cells, bases, here):
                remove = partial(_remove_image, tag, str(image.id), engine)
                yield Unused("image", tag, why, int(image.attrs["Size"]), remove)


def _why(
    tag: str,
    labels: Mapping[str, str],
    project: Project,
    cells: Mapping[str, Cell],
    bases: set[str],
    here: ImagesHere,
) -> str:
    """Why an image can be removed; empty if it is kept."""
    if tag.startswith(f"{base.NAME}:"):
        return "" if tag in bases else "no cell uses it"
    if OURS not in labels or labels.get(TITLE) != tag:
        return ""
    if tag not in cells:
        return "not in the matrix"
    now = here.inputs(cells[tag], project)
    changed = freshness.changed(labels.get(inputs.LABEL, ""), now)
    return f"out of date: {', '.join(changed)}" if changed else ""


def _bootstraps(project: Project) -> list[Bootstrap]:
    installer = project.matrix.file.installer
    pythons = {cell.installer_python for cell in project.cells}
    tools = [installer.bootstrap, installer.bootstrap_compiler]
    every = [bootstraps.get(python) for bootstraps in tools for python in pythons]
    return list(filter(None, [*every, *(cell.bootstrap for cell in project.cells)]))


def _remove_image(tag: str, digest: str, engine: Engine) -> int:
    """Remove an image, unless its name has moved to another image or a container uses it."""
    client = engine.client
    try:
        image = client.images.get(tag)
        if image.id != digest:
            return 0
        client.images.remove(tag)
    except ImageNotFound:
        return 0
    except APIError as error:
        say(f"kept {tag}: {error.explanation}")
        return 0
    return int(image.attrs["Size"])


def _older(state: State) -> Iterator[Unused]:
    """Files of earlier versions of hfdlc, which this one does not read."""
    for name in ("builds", "receipts"):
        if (state.root / name).is_dir():
            yield _file("record", state.root / name, "from an older version of hfdlc")


def _archives(project: Project, state: State) -> Iterator[Unused]:
    """Archives of base images that no cell uses."""
    known = {base.archive(bootstrap, state) for bootstrap in _bootstraps(project)}
    for file in sorted((state.root / "bases").glob("*.tar")):
        if file not in known:
            yield _file("base", file, "no cell uses it")


def _readings(state: State, digests: set[str]) -> Iterator[Unused]:
    """Facts and check results of removed images, or in an older format."""
    known = {f"{digest.replace(':', '-')}.json" for digest in digests}
    for folder in ("checks", "facts", f"facts/{FACTS_FORM}"):
        for file in sorted((state.root / folder).glob("*.json")):
            gone = file.name not in known and not (folder == "checks" and _digest(file) in digests)
            if folder == "facts" or gone:
                yield _file("record", file, "its image was removed" if gone else "older format")


def _digest(report: Path) -> str | None:
    """The image id in a report of checks."""
    try:
        found: str | None = json.loads(report.read_text())["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def _aged(state: State, before: float) -> Iterator[Unused]:
    """Old logs, temporary files of killed runs, and unused caches."""
    logs = sorted((state.root / "logs").glob("*"))
    store = state.root / FOLDER
    left = sorted([*(state.root / "tmp").glob("*"), *store.glob("tmp*"), *store.glob("ingest/*")])
    for kind, paths in (("log", logs), ("temporary", left)):
        yield from (_file(kind, path, "old") for path in paths if _touched(path) < before)
    for name in CACHES:
        folder = state.root / name
        if folder.is_dir() and any(folder.iterdir()) and _touched(folder) < before:
            yield _file("cache", folder, "not used recently")


def _packed(state: State, keep: float, before: float) -> Iterator[Unused]:
    """Layers beyond `keep` GB (least recently used first), old ones and damaged ones."""
    total = 0
    for file in sorted((state.root / FOLDER / "blobs").glob("*/*"), key=_touched, reverse=True):
        total += _size(file)
        if _touched(file) < before or file.suffix:
            yield _file("layer", file, "damaged" if file.suffix else "not used recently")
        elif total > keep * 1e9:
            yield _file("layer", file, f"more than {keep:g} GB, least recently used")


def _build_cache(engine: Engine, keep: float) -> Iterator[Unused]:
    over = detect.unused_cache(engine) - int(keep * 1e9)
    if over > 0:
        prune = partial(_prune, engine, keep)
        yield Unused("build cache", "BuildKit", f"more than {keep:g} GB, least recently used", over, prune)


def _prune(engine: Engine, keep: float) -> int:
    """Remove build cache, unless another program is doing that."""
    try:
        with using(engine):
            return detect.prune(engine, keep)
    except HfdlcError as error:
        say(f"kept the build cache: {error.message}")
        return 0


def _file(kind: str, path: Path, why: str) -> Unused:
    return Unused(kind, str(path), why, _size(path), partial(_remove_file, path))


def _remove_file(path: Path) -> int:
    size = _size(path)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)  # another run may remove parts of it meanwhile
        if path.exists():
            say(f"kept {path}: it cannot be removed")
            return size - _size(path)
    else:
        path.unlink(missing_ok=True)
    return size


def _within(path: Path) -> Iterator[Path]:
    yield path
    for folder, folders, names in os.walk(path):  # it goes on where a folder is gone
        yield from (Path(folder, name) for name in (*folders, *names))


def _sizes_and_times(path: Path) -> Iterator[tuple[int, float]]:
    """Of a file, or a folder and all in it; another run may remove files meanwhile."""
    for each in _within(path):
        with suppress(FileNotFoundError):
            found = each.lstat()
            yield (0 if stat.S_ISDIR(found.st_mode) else found.st_size), found.st_mtime


def _size(path: Path) -> int:
    return sum(size for size, _ in _sizes_and_times(path))


def _touched(path: Path) -> float:
    """The last change; of what is gone, now."""
    return max((changed for _, changed in _sizes_and_times(path)), default=time.time())
