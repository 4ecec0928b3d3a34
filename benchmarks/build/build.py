"""Building and pushing cells, against what a user would write: one Dockerfile a cell, one stage, pip, gzip.

Both use the same locks and bases, the same package index, bake on a private engine with an empty cache, and
an empty registry on loopback. Arguments name pieces of work (below); without one, all are done that the disk
has room for.
"""

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests/helpers"))
import plain
from results import Row, report
from rig import Rig, rig

from hfdlc import project
from hfdlc.build import bases
from hfdlc.engine import detect, images
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.selector import Filter, select
from hfdlc.oci.store import LayerStore, decompressed
from hfdlc.process import run
from hfdlc.project import Project
from hfdlc.publish import releases, signing

ROOT = Path(__file__).parents[2]
PACK = ROOT / "image/pack.py"
LEVEL = 3  # the one that it has
# What the images are made from: a copy of it can be changed.
PARTS = ("image", "images", "templates", "toolkit", "docs", ".dockerignore", "matrix.yaml")
FOUR = ("*:2.13.0-*-cpu-py311-*", "*:2.21.0-*-cpu-py311-*")
TWO = ("*:2.13.0-*-cpu-py311-*",)
GPU = ("*-inference:2.13.0-*-py311-cu130-*",)
PATCH = ("5.22.1", "5.22.2")  # a patch release of transformers, and the one before it


# ext4 without a journal does not reuse an inode for six minutes, and looks at each one that it passes over:
# creating files took twice the time. So nothing is deleted in a piece of work, and the next one waits.
REST = 5  # seconds


def main(names: Sequence[str]) -> int:
    """Do the named pieces of work, or all; say what was not run."""
    found, code, rest = project.find(ROOT), 0, 0
    if unknown := [name for name in names if name not in WORK]:
        print(f"no such work: {', '.join(unknown)}; there is: {', '.join(WORK)}", file=sys.stderr)
        return 2
    for name, (_, room) in WORK.items():
        free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
        if names and name not in names:
            print(f"not run: {name}: not selected")
        elif free < room:
            print(f"not run: {name}: {free:.0f} GB are free, it needs {room}")
        else:
            time.sleep(rest)
            code |= _measured(name, found)
            rest = REST
    return code


def _measured(name: str, found: Project) -> int:
    """Do a piece of work, and report as far as it came; the exit code."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="hb-") as folder:
        try:
            rows.extend(WORK[name][0](found, Path(folder)))
        finally:
            code = report(f"build-{name}", rows)
    return code


def one(found: Project, below: Path) -> Iterator[Row]:
    """The default cell, cold; again; its size."""
    cells = [found.default]
    theirs = plain.cost(found, cells, below)
    with rig(below) as here:
        here.prepare(found, cells)
        yield Row("one CPU inference cell, cold, pushed", here.push(found, cells), theirs.seconds, "s", 0.20)
        here.hfdlc(found, "build", found.default.id)
        yield Row("  its size, uncompressed", _size(here, cells) / 1e9, theirs.size / 1e9, "GB", 0.65)


def published(found: Project, below: Path) -> Iterator[Row]:
    """The default cell, cold, published as SageMaker takes it; the checks in between are not counted."""
    cell, password = found.default, {"COSIGN_PASSWORD": ""}
    theirs = plain.cost(found, [cell], below)
    with rig(below) as here:
        here.prepare(found, [cell])
        cosign = signing.find_program(here.state, here.environ)
        run([cosign, "generate-key-pair"], cwd=below, env=password)
        here = replace(here, environ={**here.environ, **password, "COSIGN_KEY": str(below / "cosign.key")})
        built = here.hfdlc(found, "build", cell.id)
        checked = here.hfdlc(found, "test", cell.id)
        record = releases.file(cell.id, found.root)
        try:
            sent = here.hfdlc(found, "publish", cell.id, "--registry", here.host)
        finally:
            record.unlink(missing_ok=True)
        yield Row(
            "one CPU inference cell, cold, built and published", built + sent, theirs.seconds, "s", 0.35
        )
        yield Row("  of which publishing", sent, theirs.seconds, "s", None)
        yield Row("  its checks, not counted above", checked, None, "s", None)
        yield Row("  bytes in the registry", here.stored() / 1e9, theirs.stored / 1e9, "GB", None)


def four(found: Project, below: Path) -> Iterator[Row]:
    """The CPU cells of today's releases, cold; with another base; with a patch of transformers."""
    cells, two = select(found.cells, Filter(FOUR)), select(found.cells, Filter(TWO))
    theirs, of_two = plain.cost(found, cells, below), plain.cost(found, two, below)
    with rig(below) as here:
        here.prepare(found, cells)
        yield Row("the four CPU cells, cold, pushed", here.push(found, cells), theirs.seconds, "s", 0.15)
        yield Row("  bytes in the registry", here.stored() / 1e9, theirs.stored / 1e9, "GB", 0.3)
        # A Dockerfile of one stage repeats all of it, so what it cost cold is what it costs again.
        _change_base(here, found.default)
        seconds, sent = _pushed(here, found, cells)
        yield Row("base image changed, the four, pushed", seconds, theirs.seconds, "s", 0.02)
        yield Row("  bytes sent", sent / 1e6, theirs.stored / 1e6, "MB", None)
        with _bumped(found, PATCH[0], here) as before:
            here.push(before, select(before.cells, Filter(TWO)))
        with _bumped(found, PATCH[1], here) as after:
            seconds, sent = _pushed(here, after, select(after.cells, Filter(TWO)))
        yield Row(f"transformers {PATCH[1]}, both PyTorch CPU cells", seconds, of_two.seconds, "s", 0.05)
        yield Row("  bytes sent", sent / 1e6, None, "MB", 20)


def again(found: Project, below: Path) -> Iterator[Row]:
    """The CPU cells of today's releases, built; again."""
    ids = [cell.id for cell in select(found.cells, Filter(FOUR))]
    with rig(below) as here:
        here.hfdlc(found, "build", *ids)
        yield Row("nothing changed, the four", here.hfdlc(found, "build", *ids), None, "s", 1.0)


def gpu(found: Project, below: Path) -> Iterator[Row]:
    """PyTorch's inference cell with CUDA, cold."""
    cells = select(found.cells, Filter(GPU))
    theirs = plain.cost(found, cells, below)
    with rig(below) as here:
        here.prepare(found, cells)
        yield Row("one PyTorch GPU cell, cold, pushed", here.push(found, cells), theirs.seconds, "s", 0.35)
        yield Row("  bytes in the registry", here.stored() / 1e9, theirs.stored / 1e9, "GB", None)


def levels(found: Project, below: Path) -> Iterator[Row]:
    """What packing the default cell's layers costs, by level, against BuildKit that packs them with gzip."""
    with rig(below) as here:
        here.prepare(found, [found.default])
        here.hfdlc(found, "build", found.default.id)
        seconds, size = _with_gzip(here, found.default)
        archives = list(_archives(LayerStore.of(here.state).root, below))
        for level in (1, 2, 3, 4, 6, 9):
            ours, packed = _with_zstd(archives, level, below)
            bound = 1.0 if level == LEVEL else None
            yield Row(f"zstd {level}, all layers, by BuildKit's gzip", ours, seconds, "s", bound)
            yield Row("  bytes", packed / 1e6, size / 1e6, "MB", bound)


# By name, with the GB of disk that each needs at its peak.
WORK: Mapping[str, tuple[Callable[[Project, Path], Iterator[Row]], int]] = {
    "one": (one, 10),
    "published": (published, 10),
    "four": (four, 50),
    "again": (again, 22),
    "gpu": (gpu, 45),
    "levels": (levels, 12),
}


def _pushed(here: Rig, found: Project, cells: Sequence[Cell]) -> tuple[float, int]:
    """The seconds of a push, and the bytes that the registry did not have."""
    before = here.stored()
    return here.push(found, cells), here.stored() - before


def _with_gzip(here: Rig, cell: Cell) -> tuple[float, int]:
    """The seconds and bytes of the cell's packages as one layer of BuildKit's, pushed."""
    used = detect.ensure(here.environ, here.state)
    build = [*used.buildx, "build", "--provenance=false", f"--build-context=cell=docker-image://{cell.id}"]
    output = f"type=image,name={here.host}/levels,push=,store=false,force-compression=true,compression=gzip"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Dockerfile").write_text("FROM scratch\nCOPY --from=cell /opt/venv /\n")
        run([*build, "--output=type=cacheonly", folder], env=used.environment)
        before, began = here.stored(), time.monotonic()
        run([*build, f"--output={output}", folder], env=used.environment)
        return time.monotonic() - began, here.stored() - before


def _archives(layers: Path, below: Path) -> Iterator[Path]:
    """The layers of zstd, unpacked."""
    for blob in sorted((layers / "blobs").glob("*/*")):
        with blob.open("rb") as content:
            if content.read(4) != b"\x28\xb5\x2f\xfd":
                continue
            content.seek(0)
            file = below / f"{blob.name}.tar"
            with file.open("wb") as target:
                shutil.copyfileobj(decompressed(content), target)
        yield file


def _with_zstd(archives: Sequence[Path], level: int, below: Path) -> tuple[float, int]:
    """The seconds and bytes of archives, packed by the program that packs layers, at another level."""
    program = below / "pack.py"
    program.write_text(re.sub(r"^LEVEL = \d+", f"LEVEL = {level}", PACK.read_text(), flags=re.MULTILINE))
    began, size = time.monotonic(), 0
    for archive in archives:
        run([sys.executable, str(program), str(archive), str(below / "packed")])
        size += (below / "packed" / "layer.tar.zst").stat().st_size
    return time.monotonic() - began, size


def _size(here: Rig, cells: Sequence[Cell]) -> int:
    """The bytes of images, uncompressed."""
    used = detect.ensure(here.environ, here.state)
    built = [images.layers(images.image_of(cell.id, used)) for cell in cells]
    return sum(layer.size for image in built for layer in image)


def _change_base(here: Rig, cell: Cell) -> None:
    """Give the base's name to an image with one file more, as a security update does."""
    if not cell.bootstrap:
        raise SystemExit(f"{cell.id} has no base that could be changed here")
    used, name = detect.ensure(here.environ, here.state), bases.tag(cell.bootstrap)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Dockerfile").write_text(f"FROM {name}\nRUN --network=none date > /etc/updated\n")
        run([*used.buildx, "build", "--tag", name, "--provenance=false", folder], env=used.environment)


@contextmanager
def _bumped(found: Project, version: str, here: Rig) -> Iterator[Project]:
    """A copy of the repository with another transformers for PyTorch, locked and rendered."""
    release = found.default.transformers_version
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, Path(folder, part))
        file = Path(folder, "matrix.yaml")
        file.write_text(file.read_text().replace(release, version))
        copy = project.find(Path(folder))
        here.hfdlc(copy, "lock", *(cell.id for cell in select(copy.cells, Filter(TWO))))
        here.hfdlc(copy, "render")
        yield project.find(Path(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
