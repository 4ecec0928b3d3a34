"""Substitute bases: Debian 12 with a CPython that pyenv built, for images that are unreachable.

An image on a substitute base shows that the packages of a release install, train and serve. It is not the
image of the cell: it has a label that publishing refuses.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from docker.errors import ImageNotFound
from packaging.version import Version

from hfdlc.build import bake, bases
from hfdlc.build.overrides import Overrides
from hfdlc.build.session import Session
from hfdlc.dockerfile import render
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import OLDEST_OF_UV, Bootstrap
from hfdlc.process import run, say
from hfdlc.publish.preflight import SUBSTITUTE as LABEL

COMPILE, INSTALL = ("pip_base", "compiler_base"), ("pip_base", "installer_base")  # that need a compiler, pip
DATA = "tools/data"  # below the repository's root
# The package index's build for another CUDA: the cell's own build was unreachable when it was locked.
TORCH_1_7_1_CPU = "huggingface-pytorch-inference:1.7.1-transformers4.6.1-cpu-py36-ubuntu18.04"
LOCKS = {TORCH_1_7_1_CPU: f"{DATA}/torch-1.7.1-cu102.lock"}
NAME = "hfdlc.local/stand-in"  # in an engine
LAYOUT = "3"  # raised when a substitute is made in another way
# What installs in the public image; versions near its own.
TOOLS = ("pip==26.3",)
OLD_TOOLS = ("pip==21.3.1", "setuptools==57.5.0", "wheel==0.37.1")  # for Pythons that uv does not support
# Libraries that pyenv's CPython opens, and packages that the Dockerfiles of cells install.
LIBRARIES = (
    "ca-certificates",
    "libbz2-1.0",
    "libcrypt1",
    "libexpat1",
    "libffi8",
    "libgomp1",
    "liblzma5",
    "libncursesw6",
    "libnsl2",
    "libreadline8",
    "libsqlite3-0",
    "libssl3",
    "libtirpc3",
    "libuuid1",
    "zlib1g",
)
COMPILER = ("gcc", "libc6-dev")
# `.pth` files name paths of the building machine. Debian leaves out the rest too.
LEFT_OUT = ("*.pth", "*.a", "__pycache__", "test", "tests", "idlelib", "tkinter", "lib2to3", "share")
# For apt, the Python is installed: it downloads no other.
INSTALLED = (
    "Package: {name}\\nStatus: install ok installed\\nArchitecture: amd64\\nVersion: 0-stand-in\\n"
    "Maintainer: nobody\\nDescription: in /usr/local\\n\\n"
)
DOCKERFILE = """ARG base
FROM ${{base}}
COPY python /usr/local/
RUN --network=none ldconfig && rm /var/cache/ldconfig/aux-cache \\
    && printf '{installed}' >> /var/lib/dpkg/status{pip} \\
    && find / -xdev -writable ! -path /dev ! -path /proc ! -path /sys -newermt @{epoch} \\
        -exec touch --no-dereference --date=@{epoch} {{}} +
LABEL {label}={says}
"""


def overrides(session: Session) -> Overrides:
    """What replaces unreachable bases, and the frameworks of `LOCKS`, in builds of a session."""
    project = session.project
    cells = [cell for cell in project.cells if cell.id in LOCKS and lockfile.missing(cell, project.root)]
    locks = {cell.id: {cell.group_of_rest("framework"): LOCKS[cell.id]} for cell in cells}
    return Overrides(partial(_image, session), locks)


def _image(session: Session, argument: str, image: str, cell: Cell) -> str | None:
    """What replaces a public image; None where it is reachable, or the product can make it."""
    bootstraps = render.bootstraps(cell, session.project.matrix)
    if bootstraps.get(argument) or (cell.source.image and not argument.startswith("installer")):
        return None
    if bases.in_reach(image, session.engine, session.state):
        return None
    return ensure(argument, image, cell, session)


def ensure(argument: str, image: str, cell: Cell, session: Session) -> str:
    """The substitute for a public image, made where it is missing.

    Raises HfdlcError if pyenv has no such Python.
    """
    compiles, pip = argument in COMPILE, argument in INSTALL
    python = _python(cell.python, session.environ)
    tag = f"{NAME}:{LAYOUT}-python{python.name}-{bases.digest(system(compiles))}"
    if pip != compiles:
        tag += "-pip" if pip else "-gcc"
    with session.state.lock("bases"):
        try:
            session.engine.client.images.get(tag)
        except ImageNotFound:
            say(f"{image} is unreachable: Debian 12 with pyenv's {python.name} replaces it")
        else:
            return tag
    below = bases.ensure("hfdlc.local/debian:12", system(compiles), session)
    with tempfile.TemporaryDirectory(prefix="substitute-", dir=session.state.folder("tmp")) as folder:
        _gather(python, cell.python, Path(folder), pip=pip)
        text = _dockerfile(python.name, cell.python, pip=pip)
        _build(text, Path(folder), tag, below, session.engine)
    return tag


def skipped(cell: Cell, substitute: str, session: Session) -> dict[str, str]:
    """The checks that an image on a substitute base cannot pass, each with the reason."""
    found = {"test_os": f"{substitute} replaces {cell.os}"}
    if cell.cuda and cell.base.cuda:
        found["test_cuda_libraries_are_there"] = f"the base has CUDA, and {substitute} has none"
    if session.overrides.locks_of(cell):
        why = "the framework is a build for another CUDA"
        found |= dict.fromkeys(("test_cuda", "test_size", "test_no_cuda_libraries"), why)
    return found


def system(compiles: bool) -> Bootstrap:
    """The system below pyenv's Python."""
    return Bootstrap(suite="bookworm", packages=[*LIBRARIES, *(COMPILER if compiles else ())])


def of(image: str, engine: Engine) -> str | None:
    """The substitute base of an image; None where it is on its own base."""
    found: str | None = (engine.client.images.get(image).labels or {}).get(LABEL)
    return found


def _python(version: str, environ: Mapping[str, str]) -> Path:
    """The folder of pyenv's newest release of a Python."""
    root = Path(environ.get("PYENV_ROOT") or Path(environ.get("HOME", "/root")) / ".pyenv")
    found = [folder for folder in root.glob(f"versions/{version}.*") if (folder / "bin").is_dir()]
    if not found:
        raise HfdlcError(
            f"no substitute can be made: pyenv has no CPython {version}",
            location=str(root),
            hint=f"pyenv install {version}, or run this where the base itself is reachable",
        )
    return max(found, key=lambda folder: int(folder.name.rpartition(".")[2]))


def _gather(python: Path, version: str, folder: Path, *, pip: bool) -> None:
    """The Python without what belongs to the machine, and pip, as a build context."""
    ignore = shutil.ignore_patterns(*LEFT_OUT)
    for part in (f"lib/python{version}", "include"):
        shutil.copytree(python / part, folder / "python" / part, ignore=ignore, symlinks=True)
    for pattern in (f"bin/python{version}*", "lib/libpython*.so*"):
        for file in python.glob(pattern):
            target = folder / "python" / file.relative_to(python)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target, follow_symlinks=False)
    if not _is_old(version):
        (folder / "python/bin/python3").symlink_to(f"python{version}")
    site = folder / "python" / "lib" / f"python{version}" / "site-packages"
    shutil.rmtree(site)
    site.mkdir()
    if pip:
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        tools = OLD_TOOLS if _is_old(version) else TOOLS
        run([*fetch, "--python-version", version, "--dest", str(folder), *tools])
        for wheel in folder.glob("*.whl"):
            shutil.unpack_archive(wheel, site, "zip")
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (render.EPOCH,) * 2, follow_symlinks=False)


def _is_old(version: str) -> bool:
    return Version(version) < OLDEST_OF_UV


def _dockerfile(release: str, version: str, *, pip: bool) -> str:
    names = (f"python{version}", "python3-distutils")
    return DOCKERFILE.format(
        installed="".join(INSTALLED.format(name=name) for name in names),
        pip="" if not pip else f" && python{version} -m pip --version",
        epoch=render.EPOCH,
        label=LABEL,
        says=json.dumps(f"Debian 12 with pyenv's CPython {release}"),
    )


def _build(text: str, context: Path, tag: str, below: str, engine: Engine) -> None:
    target = {
        "context": str(context),
        "args": {"base": below, "SOURCE_DATE_EPOCH": str(render.EPOCH)},
        "tags": [tag],
        "output": [bake.LOADED if engine.containerd_store else bake.BuildContext.output],
    }
    (context / "Dockerfile").write_text(text)
    file = context / "bake.json"
    file.write_text(json.dumps({"target": {"stand-in": target}}))
    argv = [*engine.buildx, "bake", "--file", str(file), "--provenance=false", "stand-in"]
    run(argv, env=engine.environment)
