"""Facts: versions, sizes and packages that are read inside a built image."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from docker.models.containers import Container
from docker.models.images import Image
from packaging.utils import canonicalize_name
from packaging.version import Version

from hfdlc.build.session import Session
from hfdlc.engine import containers
from hfdlc.engine.detect import Engine
from hfdlc.engine.images import Layer, config_digest, image_of, layers
from hfdlc.matrix.cells import Cell
from hfdlc.oci.image import config_digest_of
from hfdlc.oci.store import LayerStore
from hfdlc.state import State, write_whole

FORM = "3"  # increased when facts are read in another way
# Runs inside the image, on every Python from 3.6 on, with the standard library only. Frameworks have a small
# file with what they were built for: they are not imported, which would take seconds.
SCRIPT = """
import json, os, sys
from importlib.util import find_spec

def headers(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.strip():
                return
            name, _, value = line.partition(":")
            yield name, value.strip()

def packages():
    for folder in filter(os.path.isdir, sys.path):
        for entry in sorted(os.listdir(folder)):
            file = {".dist-info": "METADATA", ".egg-info": "PKG-INFO"}.get(os.path.splitext(entry)[1])
            path = os.path.join(folder, entry, file or "")
            path = path if os.path.isfile(path) else os.path.join(folder, entry)
            if file and os.path.isfile(path):
                found = dict(headers(path))
                yield found["Name"], found["Version"]

def said(module, file):
    spec, scope = find_spec(module), {}
    if spec and spec.origin:
        with open(os.path.join(os.path.dirname(spec.origin), file), encoding="utf-8") as text:
            exec(text.read(), scope)
    return scope

with open("/etc/os-release", encoding="utf-8") as file:
    release = dict(line.strip().replace('"', "").split("=", 1) for line in file if "=" in line)
cuda = said("torch", "version.py").get("cuda")
build = said("tensorflow", "python/platform/build_info.py").get("build_info", {})
print(json.dumps({
    "python": "%d.%d" % sys.version_info[:2],
    "cuda": cuda or build.get("cuda_version"),
    "os": release["ID"] + release["VERSION_ID"],
    "packages": list(packages()),
}))
"""
# The packages that contain a framework.
FRAMEWORKS = {"pytorch": ("torch",), "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-gpu")}


@dataclass(frozen=True)
class Facts:
    """What is in an image, whatever its tag says."""

    python: str  # 3.11
    framework_version: str | None  # 2.13.0; `packages` has its local part too
    transformers_version: str | None
    toolkit_version: str | None
    cuda: str | None  # as in a tag: cu130
    os: str  # debian12
    size: int  # bytes, uncompressed
    layers: tuple[Layer, ...]
    digest: str  # the engine's id of the image
    packages: dict[
        str, str
    ]  # canonical name -> version; packages that exist twice have both, separated by a comma
    config_digest: str = ""  # the identity of the image

    def json(self) -> dict[str, Any]:
        """The documented keys of `hfdlc facts --json`; they do not change."""
        return {
            "python": self.python,
            "framework_version": self.framework_version,
            "transformers_version": self.transformers_version,
            "toolkit_version": self.toolkit_version,
            "cuda": self.cuda,
            "os": self.os,
            "size": self.size,
            "layers": [vars(layer) for layer in self.layers],
            "digest": self.digest,
            "config_digest": self.config_digest,
        }


def identity(image: Image, engine: Engine, state: State) -> str:
    """The config digest of an image; for one that was built here, without a request to the engine."""
    known = config_digest_of(LayerStore.of(state), str(image.id)) if engine.containerd_store else None
    return known or config_digest(image, engine)


def read(cell: Cell, engine: Engine, state: State, image: str | None = None) -> Facts:
    """Read the facts of the cell's image (or of another one) in a new container.

    Raises HfdlcError if there is no such image, or no Python in it.
    """
    with containers.idle(image or cell.id, engine) as container:
        found = image_of(image or cell.id, engine)
        return look(cell, container, found, identity(found, engine, state))


def look(cell: Cell, container: Container, image: Image, config_digest: str = "") -> Facts:
    """Read the facts of an image in a container of it."""
    inside = json.loads(containers.python(container, SCRIPT))
    packages = _by_name(inside["packages"])
    framework = next((packages[name] for name in FRAMEWORKS[cell.framework] if name in packages), None)
    found = layers(image)
    return Facts(
        python=inside["python"],
        framework_version=_public(framework),
        transformers_version=packages.get("transformers"),
        toolkit_version=packages.get("hf-inference-toolkit"),
        cuda=cuda_tag(inside["cuda"]),
        os=inside["os"],
        size=sum(layer.size for layer in found),
        layers=found,
        digest=str(image.id),
        packages=packages,
        config_digest=config_digest,
    )


def _by_name(found: Sequence[tuple[str, str]]) -> dict[str, str]:
    packages: dict[str, str] = {}
    for name, version in found:
        known = packages.get(canonicalize_name(name))
        packages[canonicalize_name(name)] = f"{known}, {version}" if known else version
    return packages


def _public(version: str | None) -> str | None:
    """A version as a tag writes it, without `+cpu`."""
    return version and (Version(version).public if "," not in version else version)


def cuda_tag(version: str | None) -> str | None:
    """`13.0` (or `12.5.1`) as tags write it: `cu130`, `cu125`."""
    return "cu" + "".join(version.split(".")[:2]) if version else None


def remembered(session: Session, cell: Cell) -> dict[str, Any]:
    """The documented object of `hfdlc facts --json`; each digest is read once."""
    digest = str(image_of(cell.id, session.engine).id)
    file = session.state.root / "facts" / FORM / f"{digest.replace(':', '-')}.json"
    if not file.is_file():
        write_whole(file, json.dumps(read(cell, session.engine, session.state).json()))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def summary(session: Session, cell: Cell) -> str:
    """A built image's facts, and how to run it, as text."""
    found = remembered(session, cell)
    layers = len(found.pop("layers"))
    found["size"] = f"{found['size'] / 1e9:.2f} GB in {layers} layers"
    lines = [cell.id, *(f"  {key:22}{value}" for key, value in found.items())]
    used = session.engine
    host = f"DOCKER_HOST={used.host} " if used.private else ""
    network = "--network host -e HF_BIND_HOST=127.0.0.1" if used.private else "-p 127.0.0.1:8080:8080"
    gpus = " --gpus all" if cell.cuda else ""
    docker = f"{host}docker run --rm{gpus} {network} -v /path/to/model:/opt/ml/model:ro {cell.id}"
    return "\n".join([*lines, "run it:", f"  hfdlc serve {cell.id} /path/to/model", f"  {docker}"])
