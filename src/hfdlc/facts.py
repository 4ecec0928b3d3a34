"""Facts: what is read inside a built image."""

import json
from dataclasses import dataclass
from typing import Any

from docker.errors import ImageNotFound
from docker.models.images import Image
from packaging.utils import canonicalize_name

from hfdlc import containers
from hfdlc import engine as engines
from hfdlc.cells import Cell
from hfdlc.engine import Engine
from hfdlc.errors import HfdlcError

# Runs inside the image, on every Python from 3.6 on.
SCRIPT = """
import json, sys
try:
    from importlib.metadata import distributions
    packages = {d.metadata["Name"]: d.version for d in distributions()}
except ImportError:  # Python 3.6 and 3.7
    import pkg_resources
    packages = {d.project_name: d.version for d in pkg_resources.working_set}
release = dict(
    line.strip().replace('"', "").split("=", 1) for line in open("/etc/os-release") if "=" in line
)
framework, cuda = %(module)r, None
if framework == "torch":
    import torch
    version, cuda = torch.__version__, torch.version.cuda
else:
    import tensorflow
    version = tensorflow.__version__
    cuda = tensorflow.sysconfig.get_build_info().get("cuda_version")
print(json.dumps({
    "python": "%%d.%%d" %% sys.version_info[:2],
    "framework_version": version,
    "cuda": cuda,
    "os": release["ID"] + release["VERSION_ID"],
    "packages": packages,
}))
"""


@dataclass(frozen=True)
class Layer:
    """One layer of an image, uncompressed."""

    digest: str
    size: int  # bytes


@dataclass(frozen=True)
class Facts:
    """What an image is, whatever its tag says."""

    python: str  # 3.11
    framework_version: str  # 2.13.0+cpu
    transformers_version: str | None
    toolkit_version: str | None
    cuda: str | None  # as in a tag: cu130
    os: str  # debian12
    size: int  # bytes, uncompressed
    layers: tuple[Layer, ...]
    digest: str
    packages: dict[str, str]  # canonical name -> version

    def json(self) -> dict[str, Any]:
        """The documented keys of `hfdlc facts --json`; they stay what they are."""
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
        }


def image_of(name: str, engine: Engine) -> Image:
    """An image in the engine.

    Raises HfdlcError where it is not built.
    """
    try:
        return engines.client(engine).images.get(name)
    except ImageNotFound as error:
        raise HfdlcError("is not built", where=name, then=f"hfdlc build {name}") from error


def read(cell: Cell, engine: Engine, image: str | None = None) -> Facts:
    """Start a container of the cell's image (or of another one) and look.

    Raises HfdlcError where there is no such image, or its framework does not import.
    """
    built = image_of(image or cell.id, engine)
    with containers.idle(image or cell.id, engine) as container:
        inside = json.loads(containers.python(container, SCRIPT % {"module": cell.module}))
    layers = tuple(_layers(built))
    packages: dict[str, str] = {
        canonicalize_name(name): version for name, version in inside["packages"].items()
    }
    return Facts(
        python=inside["python"],
        framework_version=inside["framework_version"],
        transformers_version=packages.get("transformers"),
        toolkit_version=packages.get("hf-inference-toolkit"),
        cuda=cuda_tag(inside["cuda"]),
        os=inside["os"],
        size=sum(layer.size for layer in layers),
        layers=layers,
        digest=str(built.id),
        packages=packages,
    )


def cuda_tag(version: str | None) -> str | None:
    """`13.0` (or `12.5.1`) as tags write it: `cu130`, `cu125`."""
    return "cu" + "".join(version.split(".")[:2]) if version else None


def _layers(image: Image) -> list[Layer]:
    """The layers from the base up; the history tells their sizes, and has steps without a layer too."""
    sizes = [step["Size"] for step in reversed(image.history())]
    digests = image.attrs["RootFS"]["Layers"]
    with_layer = [size for size in sizes if size] if len(sizes) != len(digests) else sizes
    # An empty layer cannot be told from a step without one: it counts as nothing.
    padded = with_layer + [0] * (len(digests) - len(with_layer))
    return [Layer(digest, size) for digest, size in zip(digests, padded, strict=False)]
