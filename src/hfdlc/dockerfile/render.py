"""Dockerfiles: a cell and its locks, printed through the templates."""

import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from hfdlc.errors import UserError
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import Matrix

# The time (seconds) that every file of every image carries, so that cells can share their layers.
EPOCH = 1577836800  # 2020-01-01


def labels(cell: Cell) -> dict[str, str]:
    """What the image says of itself."""
    said = {
        "org.opencontainers.image.title": cell.id,
        "org.opencontainers.image.base.name": cell.base_image(),
        "io.hfdlc.framework": f"{cell.framework}-{cell.framework_version}",
        "io.hfdlc.transformers": cell.transformers_version,
        "io.hfdlc.type": cell.type,
        "io.hfdlc.device": cell.cuda or cell.device,
        "com.amazonaws.sagemaker.capabilities.accept-bind-to-port": "true",
    }
    return said | ({"io.hfdlc.cuda.driver": cell.driver} if cell.driver else {})


def variables(cell: Cell) -> dict[str, str]:
    """The image's environment, beside PATH."""
    found = {"HF_HOME": "/tmp/huggingface", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}  # noqa: S108
    # What NVIDIA's container runtime looks for; NVIDIA's own bases say it too.
    gpu = {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility", "NVIDIA_VISIBLE_DEVICES": "all"}
    site = f"/opt/venv/lib/python{cell.python}/site-packages"
    path = ":".join(f"{site}/{folder}" for folder in cell.source.library_path)
    return found | (gpu if cell.cuda else {}) | ({"LD_LIBRARY_PATH": path} if path else {})


def command(cell: Cell) -> list[str]:
    """What a plain `docker run` starts."""
    return ["train" if cell.type == "training" else "serve"]


def images(cell: Cell, matrix: Matrix) -> dict[str, str]:
    """The public images that the Dockerfile starts from, by the build argument that replaces each."""
    installer = matrix.file.installer
    found = {"base": cell.base_image(), "installer_base": installer.image}
    if cell.pip_image:
        found["pip_base"] = cell.pip_image
    elif compiles(cell):
        found["compiler_base"] = installer.compiler
    return found


def compiles(cell: Cell) -> bool:
    """Whether one of its packages has no wheel."""
    return any(lockfile.name_of(text) in cell.base.sources_only for text in cell.requirements(cell.packages))


def values(cell: Cell, matrix: Matrix) -> dict[str, Any]:
    """Every decision that a template prints."""
    return {
        "cell": cell,
        "images": images(cell, matrix),
        "installer_lock": lockfile.INSTALLER_FILE,
        "locks": {group: lockfile.group_file(cell, group) for group in cell.groups},
        "labels": labels(cell),
        "variables": variables(cell),
        "compiles": compiles(cell),
        # The stages whose layers it holds: the last group is what the toolkit needs.
        "laid": (*cell.groups[:-1], "toolkit-needs", "toolkit"),
        "epoch": EPOCH,
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


def dockerfile(cell: Cell, matrix: Matrix, templates: Path) -> str:
    """The text of the cell's Dockerfile.

    Raises UserError with the template's line and the cell where the template is wrong.
    """
    try:
        return _environment(templates).get_template(f"{cell.type}.Dockerfile.j2").render(values(cell, matrix))
    except TemplateError as error:
        raise UserError(
            str(error.message), where=_place(error, templates), then=f"for the cell {cell.id}"
        ) from error


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
