"""`matrix.yaml` as written: parsing and validation."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails

from hfdlc.errors import Problems, UserError
from hfdlc.matrix import yaml
from hfdlc.matrix.yaml import Document

Axis = Literal["framework", "framework_version", "transformers", "type", "device", "python", "os"]
Rest = Literal["framework", "libraries", "type", "toolkit"]
OLDEST_OF_UV = Version("3.8")  # the oldest Python that uv supports
OS = "[a-z]+[0-9][0-9.]*"  # the name of a base, which is part of image ids
# Names of stages in the templates, which layer groups cannot have.
RESERVED = frozenset(
    {"compiler", "image", "inference-toolkit", "install-env", "installer", "layer", "layer-archive"}
    | {"pack", "pip", "system", "toolkit-wheel", "venv", "wheels"}
)


def _version(text: str) -> str:
    try:
        Version(text)
    except InvalidVersion:
        raise ValueError(f"{text!r} is not a version like 2.13.0") from None
    return text


def _framework(text: str) -> tuple[str, str]:
    name, _, version = str(text).partition(" ")
    if name not in ("pytorch", "tensorflow"):
        raise ValueError(f"{text!r} is not `pytorch VERSION` or `tensorflow VERSION`")
    return name, _version(version)


def _requirement(*placeholders: str) -> AfterValidator:
    """Requirements with these placeholders for versions of the release."""
    allowed = " or ".join(f"{{{name}}}" for name in placeholders) or "none"

    def check(text: str) -> str:
        try:
            Requirement(text.format(**dict.fromkeys(placeholders, "0")))
        except (InvalidRequirement, LookupError, ValueError):
            like = "torch==2.13.0; placeholders"
            raise ValueError(f"{text!r} is not a requirement like {like}: {allowed}") from None
        return text

    return AfterValidator(check)


def _image(text: str) -> str:
    try:
        text.format(python="3.11")
    except (AttributeError, LookupError, ValueError):
        raise ValueError(f"{text!r} has another placeholder than {{python}}") from None
    return text


def _specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        raise ValueError(f"{text!r} is not a version range like `>=5,<6`") from None
    return text


def _size(text: str) -> int:
    number, _, unit = str(text).partition(" ")
    try:
        return int(float(number) * {"MB": 10**6, "GB": 10**9}[unit])
    except (ValueError, KeyError, OverflowError):
        raise ValueError(f"{text!r} is not a size like `1.9 GB` or `850 MB`") from None


def _pattern(text: str) -> str:
    if not text or text.startswith("/") or ".." in text.split("/") or not set(text).isdisjoint(" \t\"'$\\"):
        raise ValueError(f"{text!r} is not a pattern below site-packages, like torch/include or **/tests")
    return text


def _base(text: str) -> str:
    if not re.fullmatch(OS, text):
        raise ValueError(f"{text!r} is not the name of a base: letters and a version, like debian12")
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9*?-]+", text):
        raise ValueError(
            f"{text!r} is not a canonical package name, or a pattern, like scikit-learn or nvidia-*"
        )
    return text


# Editors read `python: 3.11` as a number; here it stays text.
TEXT_OR_NUMBER = WithJsonSchema({"type": ["string", "number"]})
VersionText = Annotated[str, AfterValidator(_version), TEXT_OR_NUMBER]
PythonText = Annotated[str, Field(pattern=r"^3\.\d+$"), TEXT_OR_NUMBER]
VersionRange = Annotated[str, AfterValidator(_specifier)]
RequirementText = Annotated[str, _requirement()]
FrameworkRequirement = Annotated[str, _requirement("version")]
PackageRequirement = Annotated[str, _requirement("datasets")]
ImageText = Annotated[str, AfterValidator(_image)]  # or a distribution package
Size = Annotated[int, BeforeValidator(_size), WithJsonSchema({"type": "string", "examples": ["1.6 GB"]})]
Device = Annotated[str, Field(pattern=r"^(cpu|cu\d{3})$")]
Cuda = Annotated[str, Field(pattern=r"^cu\d{3}$")]
Pattern = Annotated[str, AfterValidator(_pattern)]
Name = Annotated[str, AfterValidator(_name)]
BaseName = Annotated[str, AfterValidator(_base)]
GroupName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
Type = Literal["training", "inference"]


class Written(BaseModel):
    """A mapping in the file. Unknown keys are errors."""

    # `defer_build`: one validator is built, of the whole file, when it is read.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Bootstrap(Written):
    """A base image that is built from Debian packages."""

    suite: str
    packages: list[str]


class Base(Written):
    """A base image, and how packages are installed for it."""

    image: ImageText
    pythons: list[PythonText] = Field(min_length=1)  # that the image has
    bootstrap: dict[PythonText, Bootstrap] = {}  # builds an equivalent image if no registry is reachable
    cuda: dict[Cuda, ImageText] = {}  # images with CUDA, for frameworks without
    apt: list[ImageText] = []  # distribution packages to install
    platform: str  # as uv names it
    sources_only: list[str] = []  # packages without wheels
    pip: ImageText | None = None  # whose pip installs packages, for Pythons that uv does not support


class Installer(Written):
    """The image that installs packages; pip installs `requires` in it."""

    python: PythonText  # for bases with `pip`; other cells use their own
    cutoff: date
    image: ImageText
    compiler: ImageText  # the same with a C compiler
    bootstrap: dict[PythonText, Bootstrap] = {}
    bootstrap_compiler: dict[PythonText, Bootstrap] = {}
    requires: list[RequirementText]


class Rule(Written):
    """Combinations that meet `when` must also meet `needs`."""

    when: dict[Axis, str]
    needs: dict[Axis, str]
    reason: str


class Source(Written):
    """A framework build for a device: from the package index, a page of wheels, or a base image."""

    device: Device
    versions: VersionRange = ""
    packages: list[FrameworkRequirement]  # the framework first
    page: str | None = None
    image: ImageText | None = None
    replaces: str | None = None  # a requirement that the first package replaces
    architectures: list[str] = []  # GPUs that it has code for
    library_path: list[str] = []  # folders below site-packages for LD_LIBRARY_PATH


class Framework(Written):
    """A framework and its sources. The first source for a device and version is used."""

    sources: list[Source]
    packages: dict[Type, list[PackageRequirement]] = {}  # additional packages of a type of image
    size: dict[Type, dict[Literal["cpu", "gpu"], Size]] = {}  # budgets that differ from the type's


class ImageType(Written):
    """The packages of a type of image, and its size budget (bytes) by device."""

    packages: list[PackageRequirement]
    size: dict[Literal["cpu", "gpu"], Size]


class Release(Written):
    """One version of a framework with one version of transformers, and its cells."""

    framework: Annotated[
        tuple[str, str],
        BeforeValidator(_framework),
        WithJsonSchema(
            {"type": "string", "pattern": r"^(pytorch|tensorflow) \d", "examples": ["pytorch 2.13.0"]}
        ),
    ]
    transformers: VersionText
    datasets: VersionText
    python: PythonText
    os: str
    cutoff: date
    cells: dict[Type, list[Device]]


class Group(Written):
    """A layer group; see the comment in `matrix.yaml`."""

    packages: list[Name] = []
    requires: list[RequirementText] = []
    rest: Rest | None = None
    when: dict[Axis, str] = {}


class Slim(Written):
    """What is removed from packages; see the comment in `matrix.yaml`."""

    files: list[Pattern] = Field(min_length=1)
    packages: list[Name] = []
    remove: Literal["files", "symbols"] = "files"
    reason: str


class Removals(tuple[Slim, ...]):
    """All of `slim`, with a hash that is computed once: it is the key of what each layer loses."""

    def __hash__(self) -> int:
        """Equal for equal texts."""
        if "known" not in self.__dict__:
            self.__dict__["known"] = hash(repr(tuple(self)))
        return int(self.__dict__["known"])


class MatrixFile(Written):
    """The whole file."""

    default: str
    source: str | None = None  # URL of the repository that the images are built from, for their labels
    releases: list[Release]
    frameworks: dict[Literal["pytorch", "tensorflow"], Framework]
    bases: dict[BaseName, Base]
    installer: Installer
    groups: dict[GroupName, Group]  # from the lowest layer to the highest
    rules: list[Rule] = []
    drivers: dict[Cuda, str] = {}
    types: dict[Type, ImageType]
    slim: list[Slim] = []


@dataclass(frozen=True)
class Matrix:
    """The content of the file, with positions for error messages."""

    file: MatrixFile
    document: Document

    @cached_property
    def removals(self) -> Removals:
        return Removals(self.file.slim)


def read(path: Path) -> Matrix:
    """Read and validate the file. Raises Problems with all errors, each with line and column."""
    document = yaml.read(path)
    try:
        file = MatrixFile.model_validate(document.data)
    except ValidationError as error:
        problems = [_problem(document, detail) for detail in error.errors()]
        raise Problems(sorted(problems, key=_line)) from None
    checks = (_unknown_names, _missing_pythons, _wrong_bases, _wrong_groups)
    if problems := [problem for check in checks for problem in check(document, file)]:
        raise Problems(problems)
    return Matrix(file, document)


def _unknown_names(document: Document, file: MatrixFile) -> Iterator[UserError]:
    for index, release in enumerate(file.releases):
        name = release.framework[0]
        if release.os not in file.bases:
            yield _unknown(document, ("releases", index, "os"), "base", release.os, list(file.bases))
        if name not in file.frameworks:
            yield _unknown(
                document, ("releases", index, "framework"), "framework", name, list(file.frameworks)
            )
            continue
        devices = {source.device for source in file.frameworks[name].sources}
        for kind, wanted in release.cells.items():
            path = ("releases", index, "cells", kind)
            if kind not in file.types:
                yield _unknown(document, path, "type", kind, list(file.types))
            for device in wanted:
                if device not in devices:
                    yield _unknown(document, path, f"source of {name}", device, sorted(devices))


def _missing_pythons(document: Document, file: MatrixFile) -> Iterator[UserError]:
    """Releases with a Python that their base does not have."""
    for index, release in enumerate(file.releases):
        base = file.bases.get(release.os)
        if base and release.python not in base.pythons:
            others = [name for name, base in file.bases.items() if release.python in base.pythons]
            yield UserError(
                f"the base {release.os!r} has no Python {release.python}",
                location=document.where(("releases", index, "python")),
                allowed=", ".join(base.pythons),
                hint=f"bases with Python {release.python}: {', '.join(others)}" if others else "",
            )


def _wrong_bases(document: Document, file: MatrixFile) -> Iterator[UserError]:
    for name, base in file.bases.items():
        where = document.where(("bases", name, "pythons"))
        old = [python for python in base.pythons if Version(python) < OLDEST_OF_UV]
        if old and not base.pip:
            message = f"the base {name!r} needs `pip`: uv does not support Python {', '.join(old)}"
            yield UserError(message, location=where, hint="add `pip`, the image whose pip installs packages")
        for python in base.bootstrap:
            if python not in base.pythons:
                yield UserError(
                    f"the base {name!r} has no Python {python}",
                    location=document.where(("bases", name, "bootstrap", python)),
                    allowed=", ".join(base.pythons),
                )


def _wrong_groups(document: Document, file: MatrixFile) -> Iterator[UserError]:
    """Errors in `groups`. Each `rest` must occur once, so that every package has a group."""
    for name, group in file.groups.items():
        where = document.where(("groups", name))
        if name in RESERVED:
            yield UserError(
                f"reserved layer group name {name!r}: a Dockerfile stage has this name", location=where
            )
        if not (group.packages or group.requires or group.rest):
            yield UserError(f"the layer group {name!r} has no packages", location=where)
    for rest in get_args(Rest):
        names = [name for name, group in file.groups.items() if group.rest == rest]
        if len(names) != 1:
            found = f"these have it: {', '.join(names)}" if names else "none has it"
            where = document.where(("groups",))
            yield UserError(f"exactly one layer group must have `rest: {rest}`; {found}", location=where)


def _line(problem: UserError) -> tuple[int, ...]:
    return tuple(int(part) for part in problem.location.split(":")[1:])


def _problem(document: Document, detail: ErrorDetails) -> UserError:
    path = _written_path(detail["loc"])
    where = document.where(path)
    if not path:
        return UserError("the file must be a mapping", location=where, hint="see docs/adding_an_image.md")
    key = str(detail["loc"][-1])
    if detail["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        return UserError(
            f"unknown key {key!r}{nearest(key, known)}", location=where, allowed=", ".join(known)
        )
    if detail["type"] == "missing":
        return UserError(f"missing key {key!r}", location=where)
    message = detail["msg"].removeprefix("Value error, ")
    return UserError(f"{_dotted(path)}: {message[0].lower()}{message[1:]}", location=where)


def _written_path(loc: tuple[int | str, ...]) -> yaml.Path_:
    """Pydantic's path as written in the file: without markers for keys of mappings."""
    return tuple(part for part in loc if part != "[key]")


def _known_keys(path: yaml.Path_) -> list[str]:
    """The keys that are allowed at a path."""
    model: Any = MatrixFile
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(part)].annotation
        else:
            model = _item(model)
    model = model if isinstance(model, type) else _item(model)
    return list(model.model_fields)


def _item(annotation: Any) -> Any:
    """The type inside a list, a mapping or an optional."""
    return next(part for part in reversed(annotation.__args__) if part is not type(None))


def _unknown(document: Document, path: yaml.Path_, kind: str, name: str, known: list[str]) -> UserError:
    return UserError(
        f"unknown {kind} {name!r}{nearest(name, known)}",
        location=document.where(path),
        allowed=", ".join(known),
    )


def nearest(name: str, known: list[str]) -> str:
    """`` (did you mean 'X'?)`` if a known name is similar, else an empty string."""
    match = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def _dotted(path: yaml.Path_) -> str:
    return ".".join(str(part) for part in path)
