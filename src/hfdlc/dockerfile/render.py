"""Dockerfiles, rendered from the templates stage by stage."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from hfdlc.dockerfile.layers import NO_LOCKS, Layer, compiles, layers
from hfdlc.errors import UserError
from hfdlc.locks import files, lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Bootstrap, Matrix
from hfdlc.project import Project

if TYPE_CHECKING:
    from jinja2.environment import TemplateModule

# The time (seconds) that every file of every image carries, so that cells can share their layers.
EPOCH = 1577836800  # 2020-01-01
LAST = "partials/last.Dockerfile.j2"
BASE_NAME, BASE_DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"


def labels(cell: Cell) -> dict[str, str]:
    """The labels of the image. A build replaces the name of the base by that of the image it started from."""
    found = {
        "org.opencontainers.image.title": cell.id,
        "org.opencontainers.image.version": cell.tag,
        "org.opencontainers.image.licenses": "Apache-2.0",
        BASE_NAME: cell.base_image(),
        "io.hfdlc.framework": f"{cell.framework}-{cell.framework_version}",
        "io.hfdlc.transformers": cell.transformers_version,
        "io.hfdlc.type": cell.type,
        "io.hfdlc.device": cell.cuda or cell.device,
        "com.amazonaws.sagemaker.capabilities.accept-bind-to-port": "true",
    }
    # The inference toolkit serves many models with SAGEMAKER_MULTI_MODEL=true.
    many = {"com.amazonaws.sagemaker.capabilities.multi-models": "true"} if cell.type == "inference" else {}
    source = {"org.opencontainers.image.source": cell.source_url} if cell.source_url else {}
    return found | many | source | ({"io.hfdlc.cuda.driver": cell.driver} if cell.driver else {})


def variables(cell: Cell) -> dict[str, str]:
    """The environment variables of the image, beside PATH."""
    found = {
        "HF_HOME": "/tmp/huggingface",  # noqa: S108
        "LANG": "C.UTF-8",  # without it, Python 3.6 reads and writes ASCII
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    # NVIDIA's container runtime reads these; NVIDIA's own base images have them too.
    gpu = {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility", "NVIDIA_VISIBLE_DEVICES": "all"}
    site = f"/opt/venv/lib/python{cell.python}/site-packages"
    path = ":".join(f"{site}/{folder}" for folder in cell.source.library_path)
    return found | (gpu if cell.cuda else {}) | ({"LD_LIBRARY_PATH": path} if path else {})


def images(cell: Cell, matrix: Matrix) -> dict[str, str]:
    """The base images of the Dockerfile, by build argument."""
    installer = matrix.file.installer
    found = {
        "base": cell.base_image(),
        "installer_base": installer.image.format(python=cell.installer_python),
    }
    if cell.pip_image:
        found["pip_base"] = cell.pip_image
    elif compiles(cell):
        found["compiler_base"] = installer.compiler.format(python=cell.installer_python)
    return found


def bootstraps(cell: Cell, matrix: Matrix) -> dict[str, Bootstrap | None]:
    """How equivalents of the base images are built from Debian packages, by build argument."""
    installer = matrix.file.installer
    return {
        "base": cell.bootstrap,
        "installer_base": installer.bootstrap.get(cell.installer_python),
        "compiler_base": installer.bootstrap_compiler.get(cell.installer_python),
    }


@functools.cache
def _environment(templates: Path) -> Environment:
    return Environment(
        loader=FileSystemLoader(templates),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the output is a Dockerfile
    )


@dataclass(frozen=True)
class Tools:
    """What templates know of a cell where they make its layers: such a stage is equal for equal tools.

    They have it as `cell`. What they need beyond it is added here.
    """

    python: str
    installer_python: str
    pip_image: str | None


class LayerValues(NamedTuple):
    """What templates know of a layer."""

    name: str
    page: str | None
    compiles: bool
    trains: bool
    finish: tuple[str, ...]


class Macros:
    """The texts of macros for the same tools. Many cells have stages in common."""

    def __init__(self, templates: Path, tools: Tools) -> None:
        self._environment = _environment(templates)
        self._values = {
            "cell": tools,
            "installer_lock": lockfile.installer_file(tools.installer_python),
            "epoch": EPOCH,
        }
        self._modules: dict[str, TemplateModule] = {}
        self._texts: dict[tuple[object, ...], str] = {}

    def text(self, name: str, macro: str, arguments: tuple[object, ...]) -> str:
        """The text of a macro of a template."""
        key = (name, macro, arguments)
        if key not in self._texts:
            if name not in self._modules:
                self._modules[name] = self._environment.get_template(name).make_module(self._values)
            self._texts[key] = str(getattr(self._modules[name], macro)(*arguments))
        return self._texts[key]


@functools.cache
def _macros(templates: Path, _stamp: files.Stamp, tools: Tools) -> Macros:
    """The macros of the templates as they are now; they may change while a program runs."""
    return Macros(templates, tools)


def _values(layer: Layer) -> LayerValues:
    return LayerValues(layer.name, layer.page, layer.compiles, layer.trains, layer.finish)


class Stages:
    """The stages of a cell's Dockerfile, each rendered from a macro or a template of its own.

    A Dockerfile is these and nothing else, so that a cache key can be made of the stages that make a layer.
    Methods raise UserError with the template's line and the cell where a template is wrong.
    """

    def __init__(self, cell: Cell, matrix: Matrix, templates: Path) -> None:
        self._cell, self._matrix, self._templates = cell, matrix, templates
        tools = Tools(cell.python, cell.installer_python, cell.pip_image)
        self._macros = _macros(templates, files.stamp(templates / "partials"), tools)
        self._installer = f"partials/{'pip' if cell.pip_image else 'uv'}.Dockerfile.j2"

    def start(self) -> str:
        """The header, the build arguments, and the stage of local wheels."""
        return self._rendered("partials/start.Dockerfile.j2")

    def tools(self) -> str:
        """The stages in which packages are installed."""
        return self._macro(self._installer, "tools")

    def compiler(self) -> str:
        """The stage of layers that compile packages."""
        return self._macro(self._installer, "compiler")

    def layer(self, layer: Layer, lock: str | None = None) -> str:
        """The stages that make one layer; `lock` replaces the path of its lock file."""
        if not layer.lock:
            return self._macro(self._installer, "toolkit", _values(layer))
        return self._macro(self._installer, "layer", _values(layer), lock or layer.lock)

    def image(self) -> str:
        """The stages of the image without its layers."""
        return self._rendered(f"{self._cell.type}.Dockerfile.j2")

    def archive(self) -> str:
        """The stages that pack one layer."""
        return self._macro(LAST, "archive")

    def last(self, found: Sequence[Layer]) -> str:
        """The last stage: the layers on the image.

        Images are assembled without building this stage: raises UserError if it has any instruction
        that does not copy a layer.
        """
        text = self._macro(LAST, "last", tuple(map(_values, found)))
        wanted = ["FROM image", *(f"COPY --link --from={layer.name} /layer/ /" for layer in found)]
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        wrong = [line for line, right in zip_longest(lines, wanted) if line != right]
        if wrong:
            raise UserError(
                f"the last stage must only copy the layers in their order, and has {wrong[0]!r}",
                location=f"templates/{LAST}{_line_of(wrong[0], self._templates / LAST)}",
                allowed="FROM image, then `COPY --link --from=LAYER /layer/ /` for each layer",
                hint="move other instructions to the stage `image`, which is below the layers",
            )
        return text

    def _rendered(self, name: str) -> str:
        values = {
            "cell": self._cell,
            "images": images(self._cell, self._matrix),
            "labels": labels(self._cell),
            "variables": variables(self._cell),
            "epoch": EPOCH,
        }
        try:
            return _environment(self._templates).get_template(name).render(values)
        except TemplateError as error:
            raise self._wrong(error) from error

    def _macro(self, name: str, macro: str, *arguments: object) -> str:
        try:
            return self._macros.text(name, macro, arguments)
        except TemplateError as error:
            raise self._wrong(error) from error

    def _wrong(self, error: TemplateError) -> UserError:
        where = _place(error, self._templates)
        return UserError(str(error.message), location=where, hint=f"for the cell {self._cell.id}")


def dockerfile(cell: Cell, project: Project, locks: Mapping[str, str] = NO_LOCKS) -> str:
    """The text of the cell's Dockerfile; `locks`: see `layers`."""
    stages, found = Stages(cell, project.matrix, project.templates), layers(cell, project.root, locks)
    parts = [stages.start(), stages.tools()]
    for layer in found:
        if layer.compiles and stages.compiler() not in parts:
            parts.append(stages.compiler())
        parts.append(stages.layer(layer))
    return "\n".join([*parts, stages.image(), stages.archive(), stages.last(found)])


def _line_of(line: str | None, template: Path) -> str:
    """`:LINE` of a text in a template; nothing where it is not there as it is."""
    texts = template.read_text().splitlines()
    return f":{texts.index(line) + 1}" if line in texts else ""


def _place(error: TemplateError, templates: Path) -> str:
    """The innermost line of a template in the error's traceback."""
    line = getattr(error, "lineno", None)
    if line:
        return f"templates/{error.name}:{line}"  # type: ignore[attr-defined]
    place, trace = "templates", error.__traceback__
    while trace:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(templates):
            place = f"templates/{file.relative_to(templates)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
