"""Cells: the supported combinations. Image ids are composed and parsed here, and nowhere else."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache, cached_property
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from hfdlc.errors import Problems, UserError
from hfdlc.matrix.axes import meets
from hfdlc.matrix.schema import (
    OS,
    Base,
    Bootstrap,
    Framework,
    Group,
    Matrix,
    Release,
    Removals,
    Rest,
    Source,
    Type,
)

ID = (
    r"huggingface-(?P<framework>pytorch|tensorflow)-(?P<type>training|inference)"
    r":(?P<framework_version>[0-9][\w.]*)-transformers(?P<transformers_version>[0-9][\w.]*)"
    r"-(?P<device>cpu|gpu)-py(?P<python>\d{2,3})(-(?P<cuda>cu\d{3}))?"
    rf"-(?P<os>{OS})"
)
SHAPE = "huggingface-FRAMEWORK-TYPE:VERSION-transformersVERSION-cpu|gpu-pyXY[-cuXYZ]-OS"


def compose_tag(
    *, framework_version: str, transformers_version: str, python: str, cuda: str | None, os: str
) -> str:
    """The tag of an image: the axes that are not in the name of the repository."""
    parts = [framework_version, f"transformers{transformers_version}", "gpu" if cuda else "cpu"]
    parts += ["py" + python.replace(".", ""), *([cuda] if cuda else []), os]
    return "-".join(parts)


@dataclass(frozen=True)
class LayerGroup:
    """Which packages one layer has."""

    name: str
    rest: Rest | None  # it also has the packages that no group names and that this requires first
    named: tuple[str, ...]  # canonical package names, or patterns of names


@dataclass(frozen=True)
class Cell:
    """One supported combination, which is one image."""

    release: int  # the position of its release in the matrix
    framework: str
    framework_version: str
    transformers_version: str
    datasets_version: str
    type: str
    cuda: str | None  # as in the tag: cu130
    python: str  # 3.11
    installer_python: str  # of the image that installs the packages
    os: str
    cutoff: date
    source: Source
    base: Base
    packages: tuple[str, ...]  # requirements of this type of image, without framework and transformers
    of_all_types: tuple[str, ...]  # requirements of all types, resolved together for equal versions
    toolkit_packages: tuple[str, ...]  # requirements of the toolkit
    layer_groups: tuple[LayerGroup, ...]  # from the lowest layer to the highest
    slim: Removals  # files that are removed
    size: int  # size budget in bytes
    driver: str | None  # the oldest NVIDIA driver
    source_url: str | None  # for the labels

    @property
    def device(self) -> str:
        """`cpu` or `gpu`."""
        return "gpu" if self.cuda else "cpu"

    @cached_property
    def repository(self) -> str:
        return f"huggingface-{self.framework}-{self.type}"

    @cached_property
    def tag(self) -> str:
        return compose_tag(
            framework_version=self.framework_version,
            transformers_version=self.transformers_version,
            python=self.python,
            cuda=self.cuda,
            os=self.os,
        )

    @cached_property
    def id(self) -> str:
        """The name of the image in Docker."""
        return f"{self.repository}:{self.tag}"

    @cached_property
    def folder(self) -> str:
        """The folder of its Dockerfile and lock files, relative to the repository."""
        return f"images/{self.repository}/{self.tag}"

    def base_image(self) -> str:
        image = self.source.image or self.base.cuda.get(self.cuda or "") or self.base.image
        return image.format(python=self.python)

    @property
    def bootstrap(self) -> Bootstrap | None:
        """How to build an equivalent base image; None for those with CUDA, a framework or another Python."""
        if self.source.image or (self.cuda or "") in self.base.cuda:
            return None
        return self.base.bootstrap.get(self.python)

    @property
    def apt(self) -> tuple[str, ...]:
        """Distribution packages to install on the base image."""
        return () if self.source.image else tuple(name.format(python=self.python) for name in self.base.apt)

    @property
    def pip_image(self) -> str | None:
        """The image whose pip installs the packages; None if uv does."""
        return self.base.pip.format(python=self.python) if self.base.pip else None

    @cached_property
    def axes(self) -> dict[str, str]:
        """Its values on the axes of rules and layer groups."""
        return {
            "framework": self.framework,
            "framework_version": self.framework_version,
            "transformers": self.transformers_version,
            "type": self.type,
            "device": self.cuda or self.device,
            "python": self.python,
            "os": self.os,
        }

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The names of its layer groups, lowest layer first."""
        return tuple(group.name for group in self.layer_groups)

    def group_of_rest(self, rest: Rest) -> str:
        """The group with `rest`: it has the packages that no group names and that `rest` requires first."""
        return next(group.name for group in self.layer_groups if group.rest == rest)

    def framework_requirements(self) -> tuple[str, ...]:
        """The requirements that the framework's source provides; the framework is the first."""
        return tuple(package.format(version=self.framework_version) for package in self.source.packages)

    def requirements(self, packages: Sequence[str] = ()) -> tuple[str, ...]:
        """Its requirements without those of the toolkit.

        `packages`: those of the cell's type, or of several types that are resolved together.
        """
        versions = {"datasets": self.datasets_version}
        own = (package.format(**versions) for package in packages)
        return (*self.framework_requirements(), f"transformers=={self.transformers_version}", *own)


def parse(text: str) -> dict[str, Any]:
    """The parts of an image id. The matrix need not have such a cell.

    Raises UserError if the text is not an id.
    """
    match = re.fullmatch(ID, text)
    if not match:
        raise UserError("not an image id", location=text, allowed=SHAPE)
    parts = match.groupdict()
    if (parts["device"] == "gpu") != (parts["cuda"] is not None):
        raise UserError(
            "a gpu image needs a CUDA version, and a cpu image has none", location=text, allowed=SHAPE
        )
    return {**parts, "python": f"{parts['python'][0]}.{parts['python'][1:]}"}


def axes(image: str) -> dict[str, str]:
    """The values of an image id on the axes of rules. The matrix need not have such a cell."""
    parts = {name: part or "" for name, part in parse(image).items()}
    return {
        "framework": parts["framework"],
        "framework_version": parts["framework_version"],
        "transformers": parts["transformers_version"],
        "type": parts["type"],
        "device": parts["cuda"] or parts["device"],
        "python": parts["python"],
        "os": parts["os"],
    }


def source(framework: Framework, version: str, device: str) -> Source | None:
    """The first source of a framework for a version and device."""
    return next(
        (
            each
            for each in framework.sources
            if each.device == device and SpecifierSet(each.versions, prereleases=True).contains(version)
        ),
        None,
    )


def cells(matrix: Matrix) -> tuple[Cell, ...]:
    """All cells, in the order of the file.

    Raises Problems for duplicate cells, missing sources, and an unknown default.
    """
    found: dict[str, Cell] = {}
    places: dict[str, str] = {}
    problems = []
    for index, release in enumerate(matrix.file.releases):
        for kind, devices in release.cells.items():
            for device in devices:
                where = matrix.document.where(("releases", index, "cells", kind))
                cell = _cell(matrix, index, kind, device)
                if not cell:
                    what = f"no source for {' '.join(release.framework)} on {device}"
                    problems.append(UserError(what, location=where, hint="add a source to `frameworks`"))
                    continue
                if cell.id in found:
                    what = f"duplicate cell {cell.id} (first at {places[cell.id]})"
                    problems.append(UserError(what, location=where, hint="remove one of them"))
                places.setdefault(cell.id, where)
                found[cell.id] = cell
    if matrix.file.default not in found:
        where = matrix.document.where(("default",))
        problems.append(
            UserError(
                f"no such cell: {matrix.file.default}",
                location=where,
                hint="run `hfdlc list` to see all cells",
            )
        )
    if problems:
        raise Problems(problems)
    return tuple(found.values())


def _cell(matrix: Matrix, index: int, kind: str, device: str) -> Cell | None:
    release = matrix.file.releases[index]
    name, version = release.framework
    framework = matrix.file.frameworks[name]  # type: ignore[index]
    image_type = matrix.file.types[kind]  # type: ignore[index]
    cuda = None if device == "cpu" else device
    its_source = source(framework, version, device)
    if not its_source:
        return None
    base = matrix.file.bases[release.os]
    groups = {each: _groups(matrix, release, each, device) for each in matrix.file.types}
    packages = {each: _packages(matrix, framework, each, groups[each]) for each in matrix.file.types}
    return Cell(
        release=index,
        framework=name,
        framework_version=version,
        transformers_version=release.transformers,
        datasets_version=release.datasets,
        type=kind,
        cuda=cuda,
        python=release.python,
        installer_python=matrix.file.installer.python if base.pip else release.python,
        os=release.os,
        cutoff=release.cutoff,
        source=its_source,
        base=base,
        packages=packages[kind],  # type: ignore[index]
        of_all_types=tuple(dict.fromkeys(text for each in packages.values() for text in each)),
        toolkit_packages=tuple(
            text
            for group in groups[kind].values()  # type: ignore[index]
            if group.rest == "toolkit"
            for text in group.requires
        ),
        layer_groups=tuple(
            LayerGroup(name, group.rest, (*map(_name_of, group.requires), *group.packages))
            for name, group in groups[kind].items()  # type: ignore[index]
        ),
        slim=matrix.removals,
        size=(image_type.size | framework.size.get(kind, {}))["gpu" if cuda else "cpu"],  # type: ignore[call-overload]
        driver=matrix.file.drivers.get(cuda) if cuda else None,
        source_url=matrix.file.source,
    )


def _groups(matrix: Matrix, release: Release, kind: str, device: str) -> dict[str, Group]:
    """The layer groups of a cell: those whose conditions it meets."""
    framework, version = release.framework
    combination = {
        "framework": framework,
        "framework_version": version,
        "transformers": release.transformers,
        "type": kind,
        "device": device,
        "python": release.python,
        "os": release.os,
    }
    return {name: group for name, group in matrix.file.groups.items() if meets(combination, group.when)}


def _packages(
    matrix: Matrix, framework: Framework, kind: Type, groups: Mapping[str, Group]
) -> tuple[str, ...]:
    """The requirements of a type of image, without framework, transformers and toolkit."""
    required = [text for group in groups.values() if group.rest != "toolkit" for text in group.requires]
    return (*matrix.file.types[kind].packages, *framework.packages.get(kind, []), *required)


@cache
def _name_of(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)
