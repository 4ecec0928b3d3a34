"""The software bill of materials: what the layers hold, compared with the lock files, as CycloneDX 1.6.

Python packages come from the metadata of installed distributions, Debian's from dpkg's status file, licences
from the metadata and from Debian's copyright files.
"""

import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path
from typing import IO, Any
from uuid import NAMESPACE_URL, uuid5

from packaging.utils import canonicalize_name

from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell
from hfdlc.oci.store import PIECE, decompressed

DIST_INFO = re.compile(
    r"opt/venv/lib/python[^/]+/site-packages/(?P<inside>([^/]+/)*)"
    r"(?P<name>[^/]+?)-(?P<version>[^/-]+)(-py[\d.]+)?\.(dist|egg)-info(/|$)"
)
METADATA = ("METADATA", "PKG-INFO")
STATUS = "var/lib/dpkg/status"
DOCUMENTATION = re.compile(r"usr/share/doc/(?P<package>[^/]+)(?P<copyright>/copyright)?")
RELEASES = ("etc/os-release", "usr/lib/os-release")  # the first is usually a link to the second
# Debian's machine-readable copyright files have fields; the others refer to the texts of common licences.
# https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
LICENSE_FIELD = re.compile(r"^License:[ \t]*(\S[^\n]*)$", re.MULTILINE)
COMMON_LICENSE = re.compile(r"/usr/share/common-licenses/([A-Za-z][\w.+-]*\w)")
LONGEST = 80  # characters of a licence's name; what is longer is its text

BUNDLED = "hfdlc:bundled"  # the property of a package inside another one


@dataclass(frozen=True, order=True)
class Package:
    """One package of an image."""

    kind: str  # pypi, deb
    name: str
    version: str
    bundled: bool = False  # a copy inside another package, which no lock file lists

    def __str__(self) -> str:
        return f"{self.name} {self.version}" + " (bundled)" * self.bundled


@dataclass
class Contents:
    """The packages in the layers of an image, with the names of their licences."""

    licenses: dict[Package, tuple[str, ...]] = field(default_factory=dict)
    os: str = "debian"

    @property
    def packages(self) -> frozenset[Package]:
        return frozenset(self.licenses)

    def installed(self, kind: str) -> dict[str, str]:
        """Versions by name, without bundled packages."""
        return {each.name: each.version for each in self.licenses if each.kind == kind and not each.bundled}


def read(layers: Iterable[IO[bytes]]) -> Contents:
    """Read the layers of an image (archives, compressed or not) from the base up."""
    reader = _Reader()
    for layer in layers:
        stream = decompressed(layer)
        with tarfile.open(fileobj=stream, mode="r|", bufsize=PIECE) as archive:
            for member in archive:
                reader.add(member, archive)
    return reader.contents()


class _Reader:
    """Collects what the members of layers say about packages."""

    def __init__(self) -> None:
        self._python: dict[Package, tuple[str, ...]] = {}
        self._debian: dict[str, str] = {}
        self._copyright: dict[str, tuple[str, ...]] = {}
        self._links: dict[str, str] = {}  # of documentation: package -> the package that it links to
        self._os = "debian"

    def add(self, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        path = member.name.removeprefix("./")
        if match := DIST_INFO.match(path):
            package = Package(
                "pypi", canonicalize_name(match["name"]), match["version"], bool(match["inside"])
            )
            licenses = self._python.setdefault(package, ())
            if member.isfile() and path.rpartition("/")[2] in METADATA:
                self._python[package] = licenses or tuple(_licenses(_text(archive, member)))
        elif path == STATUS:
            self._debian = _installed(_text(archive, member))
        elif path in RELEASES and member.isfile():
            self._os = _os(_text(archive, member))
        elif match := DOCUMENTATION.fullmatch(path):
            self._document(match["package"], member, archive)

    def _document(self, package: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        if member.issym() or member.islnk():
            self._links[package] = member.linkname.removesuffix("/copyright").rstrip("/").rpartition("/")[2]
        elif member.isfile():
            self._copyright[package] = tuple(_of_copyright(_text(archive, member)))

    def contents(self) -> Contents:
        found = Contents(dict(self._python), self._os)
        for name, version in self._debian.items():
            found.licenses[Package("deb", name, version)] = self._copyright.get(self._documented_as(name), ())
        return found

    def _documented_as(self, package: str) -> str:
        """The package whose copyright file is also that of this one, through links."""
        for _ in self._links:
            if package in self._copyright or package not in self._links:
                break
            package = self._links[package]
        return package


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    return file.read().decode(errors="replace") if file else ""


def _licenses(metadata: str) -> list[str]:
    """The licences of a Python package: https://packaging.python.org/specifications/core-metadata/."""
    headers = HeaderParser().parsestr(metadata)
    if expression := headers.get("License-Expression"):
        return [str(expression)]
    classifiers = [
        str(line).rpartition(" :: ")[2]
        for line in headers.get_all("Classifier", [])
        if str(line).startswith("License :: ") and not str(line).endswith(":: OSI Approved")
    ]
    stated = str(headers.get("License") or "").strip()
    if stated and stated != "UNKNOWN" and "\n" not in stated and len(stated) <= LONGEST:
        return [stated]
    return sorted(set(classifiers))


def _of_copyright(text: str) -> list[str]:
    """The licences that a copyright file of Debian names."""
    if text.startswith("Format:"):
        return sorted({match.strip() for match in LICENSE_FIELD.findall(text) if len(match) <= LONGEST})
    return sorted(set(COMMON_LICENSE.findall(text)))


def _installed(status: str) -> dict[str, str]:
    """The installed packages of a dpkg status file."""
    found = {}
    for block in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
        if fields.get("Status", "").endswith(" ok installed"):  # "hold ok installed" after apt-mark hold
            found[fields["Package"]] = fields["Version"]
    return found


def _os(release: str) -> str:
    names = [line.partition("=")[2].strip('"') for line in release.splitlines() if line.startswith("ID=")]
    return names[0] if names else "debian"


def locked(cell: Cell, root: Path) -> dict[str, str]:
    """The Python packages that the cell's lock files list, and the toolkit: versions by name."""
    found = {entry.name: entry.version for group in lockfile.read(cell, root).values() for entry in group}
    return found | {"hf-inference-toolkit": lockfile.toolkit_version(root)}


def compare(expected: Iterable[Package], contents: Iterable[Package], where: str) -> None:
    """Raise HfdlcError that names each package in which an SBOM and an image differ."""
    expected, contents = frozenset(expected), frozenset(contents)
    lines = [f"not in the SBOM: {package}" for package in sorted(contents - expected)]
    lines += [f"not in the image: {package}" for package in sorted(expected - contents)]
    if lines:
        raise HfdlcError(
            "the SBOM does not match the image\n  " + "\n  ".join(lines),
            location=where,
            hint="do not use it if it is published; else hfdlc build --check it, and publish again",
        )


def compare_with_locks(cell: Cell, root: Path, contents: Contents) -> None:
    """Raise HfdlcError if the image has other Python packages than its lock files list."""
    expected = {Package("pypi", name, version) for name, version in locked(cell, root).items()}
    found = {each for each in contents.packages if each.kind == "pypi" and not each.bundled}
    compare(expected, found, cell.id)


def make(cell: Cell, config_digest: str, contents: Contents) -> dict[str, Any]:
    """CycloneDX 1.6: the same for the same image, so it has no time in it."""
    # Imported here: they are slow to import, and most commands make no SBOM.
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    bom = Bom(serial_number=uuid5(NAMESPACE_URL, config_digest))
    bom.metadata.component = Component(
        name=cell.repository, version=cell.tag, type=ComponentType.CONTAINER, bom_ref=cell.id
    )
    for package, licenses in contents.licenses.items():
        space = contents.os if package.kind == "deb" else None
        url = PackageURL(package.kind, space, package.name, package.version)
        bom.components.add(
            Component(
                name=package.name,
                version=package.version,
                type=ComponentType.LIBRARY,
                purl=url,
                bom_ref=url.to_string() + "#bundled" * package.bundled,
                licenses=_described(licenses),
                properties=[Property(name=BUNDLED, value="true")] if package.bundled else [],
            )
        )
    bom.register_dependency(bom.metadata.component, bom.components)
    found: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    found["metadata"].pop("timestamp", None)
    return found


def _described(licenses: Sequence[str]) -> list[Any]:
    """Licences in CycloneDX: one SPDX expression alone, or any number of ids and names."""
    from cyclonedx.contrib.license.exceptions import InvalidSpdxLicenseException
    from cyclonedx.contrib.license.factories import LicenseFactory

    factory = LicenseFactory()
    if len(licenses) == 1:
        return [factory.make_from_string(licenses[0])]

    def one(text: str) -> Any:
        try:
            return factory.make_with_id(text)
        except InvalidSpdxLicenseException:
            return factory.make_with_name(text)

    return [one(text) for text in licenses]


def packages(document: Mapping[str, Any]) -> Iterator[Package]:
    """The packages of an SBOM."""
    for part in document.get("components", []):
        kind = part.get("purl", "").removeprefix("pkg:").partition("/")[0]
        yield Package(kind, part["name"], part["version"], "properties" in part)


def installed(document: Mapping[str, Any], kind: str) -> dict[str, str]:
    """The packages of a kind (`pypi`, `deb`) without bundled ones: versions by name."""
    return {each.name: each.version for each in packages(document) if each.kind == kind and not each.bundled}


def with_license(document: Mapping[str, Any]) -> int:
    """How many packages of an SBOM have a licence."""
    return sum(bool(part.get("licenses")) for part in document.get("components", []))
