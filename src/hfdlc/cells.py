"""Cells: the supported combinations, each one image."""

from dataclasses import dataclass
from datetime import date

from hfdlc.errors import Problems, UserError
from hfdlc.matrix import Base, Matrix, Release, Source


@dataclass(frozen=True)
class Cell:
    """One supported combination = one image."""

    framework: str
    framework_version: str
    transformers_version: str
    datasets_version: str
    type: str
    cuda: str | None  # as in the tag: cu130
    python: str  # 3.11
    os: str
    cutoff: date
    module: str  # what `import` says: torch
    source: Source
    base: Base
    packages: tuple[str, ...]  # what this type of image holds beside framework and transformers
    size: int  # bytes that the image may have

    @property
    def device(self) -> str:
        """`cpu` or `gpu`."""
        return "gpu" if self.cuda else "cpu"

    @property
    def repository(self) -> str:
        """The image's name without its tag."""
        return f"huggingface-{self.framework}-{self.type}"

    @property
    def tag(self) -> str:
        """The image's tag: every axis of the matrix that its name has not said yet."""
        parts = [self.framework_version, f"transformers{self.transformers_version}", self.device]
        parts += ["py" + self.python.replace(".", ""), *([self.cuda] if self.cuda else []), self.os]
        return "-".join(parts)

    @property
    def id(self) -> str:
        """The name by which Docker, the folders, the logs and the tests call it."""
        return f"{self.repository}:{self.tag}"

    @property
    def folder(self) -> str:
        """Where its Dockerfile and locks are, below the repository's root."""
        return f"images/{self.repository}/{self.tag}"

    def base_image(self) -> str:
        """The public image that it starts from."""
        return self.base.image.format(python=self.python)

    def requirements(self) -> tuple[str, ...]:
        """What is asked of the package index for it, without the toolkit's part."""
        framework = self.source.package.format(version=self.framework_version)
        return (framework, f"transformers=={self.transformers_version}", *self.packages)


def cells(matrix: Matrix) -> tuple[Cell, ...]:
    """All cells, in the order of the file.

    Raises Problems where two releases give the same cell, or the default is no cell.
    """
    found: dict[str, Cell] = {}
    problems = []
    for index, release in enumerate(matrix.file.releases):
        for kind, devices in release.cells.items():
            for device in devices:
                cell = _cell(matrix, release, kind, device)
                if cell.id in found:
                    where = matrix.document.where(("releases", index, "cells", kind))
                    problems.append(
                        UserError(f"{cell.id} is there already", where=where, then="remove one of them")
                    )
                found[cell.id] = cell
    if matrix.file.default not in found:
        where = matrix.document.where(("default",))
        problems.append(
            UserError(f"{matrix.file.default} is no cell", where=where, then="`hfdlc list` shows all cells")
        )
    if problems:
        raise Problems(problems)
    return tuple(found.values())


def _cell(matrix: Matrix, release: Release, kind: str, device: str) -> Cell:
    name, version = release.framework
    framework = matrix.file.frameworks[name]  # type: ignore[index]
    image_type = matrix.file.types[kind]  # type: ignore[index]
    cuda = None if device == "cpu" else device
    return Cell(
        framework=name,
        framework_version=version,
        transformers_version=release.transformers,
        datasets_version=release.datasets,
        type=kind,
        cuda=cuda,
        python=release.python,
        os=release.os,
        cutoff=release.cutoff,
        module=framework.import_,
        source=framework.sources[device],
        base=matrix.file.bases[release.os],
        packages=tuple(image_type.packages),
        size=image_type.size["gpu" if cuda else "cpu"],
    )
