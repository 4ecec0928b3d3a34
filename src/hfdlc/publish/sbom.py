"""An image's bill of materials: what its locks and its distribution say, held against its layers."""

import json
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from uuid import NAMESPACE_URL, uuid5

from packaging.utils import canonicalize_name

from hfdlc.errors import HfdlcError
from hfdlc.locks import lockfile
from hfdlc.matrix.cells import Cell

DIST_INFO = re.compile(
    r"opt/venv/lib/python[^/]+/site-packages/(?P<inside>([^/]+/)*)"
    r"(?P<name>[^/]+?)-(?P<version>[^/-]+)(-py[\d.]+)?\.(dist|egg)-info(/|$)"
)
STATUS = "var/lib/dpkg/status"
RELEASES = ("etc/os-release", "usr/lib/os-release")  # the first is mostly a link to the second

BUNDLED = "hfdlc:bundled"  # the property of a package that lies inside another one

Packages = Mapping[str, str]  # name -> version


@dataclass
class Seen:
    """What the layers of an image hold."""

    python: dict[str, str] = field(default_factory=dict)  # in /opt/venv
    bundled: set[tuple[str, str]] = field(default_factory=set)  # name and version of what others carry along
    system: dict[str, str] = field(default_factory=dict)  # of the distribution
    os: str = "debian"


def look(layers: Iterable[IO[bytes]]) -> Seen:
    """Read layers (archives, gzipped or not) from the base up."""
    seen = Seen()
    for layer in layers:
        with tarfile.open(fileobj=layer, mode="r|*") as archive:
            for member in archive:
                path = member.name.removeprefix("./")
                if match := DIST_INFO.match(path):
                    name = canonicalize_name(match["name"])
                    if match["inside"]:
                        seen.bundled.add((name, match["version"]))
                    else:
                        seen.python[name] = match["version"]
                elif path == STATUS:
                    seen.system = _installed(_text(archive, member))
                elif path in RELEASES and member.isfile():
                    seen.os = _os(_text(archive, member))
    return seen


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    return file.read().decode(errors="replace") if file else ""


def _installed(status: str) -> dict[str, str]:
    """The packages of a dpkg status file that are installed."""
    found = {}
    for block in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
        if fields.get("Status") == "install ok installed":
            found[fields["Package"]] = fields["Version"]
    return found


def _os(release: str) -> str:
    names = [line.partition("=")[2].strip('"') for line in release.splitlines() if line.startswith("ID=")]
    return names[0] if names else "debian"


def expected(cell: Cell, root: Path) -> dict[str, str]:
    """The Python packages that the cell's locks say it has, and the toolkit."""
    locked = {e.name: e.version for group in lockfile.read(cell, root).values() for e in group}
    return locked | {"hf-inference-toolkit": lockfile.toolkit_version(root)}


def compare(said: Packages, seen: Packages, cell: str) -> None:
    """Raise HfdlcError that names each package that a bill and an image differ in."""
    differ = [
        f"{name}: {said.get(name, 'not in the SBOM')}, in the image {seen.get(name, 'not there')}"
        for name in sorted({*said, *seen})
        if said.get(name) != seen.get(name)
    ]
    if differ:
        raise HfdlcError(
            "the SBOM does not match the image\n  " + "\n  ".join(differ),
            where=cell,
            then=f"hfdlc build --check {cell}, and publish again",
        )


def make(cell: Cell, digest: str, python: Packages, seen: Seen) -> dict[str, Any]:
    """The bill as CycloneDX 1.6; the same for the same image, so nothing in it tells the time."""
    # Imported here: publishing again what is there makes no bill, and does not wait for these.
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    bom = Bom(serial_number=uuid5(NAMESPACE_URL, digest))
    bom.metadata.component = Component(
        name=cell.repository, version=cell.tag, type=ComponentType.CONTAINER, bom_ref=cell.id
    )
    distribution = [("deb", seen.os, name, version) for name, version in seen.system.items()]
    for kind, space, name, version in [*(("pypi", None, n, v) for n, v in python.items()), *distribution]:
        url = PackageURL(kind, space, name, version)
        bom.components.add(
            Component(
                name=name, version=version, type=ComponentType.LIBRARY, purl=url, bom_ref=url.to_string()
            )
        )
    for name, version in sorted(seen.bundled):
        url = PackageURL("pypi", None, name, version)
        bundled = Property(name=BUNDLED, value="true")
        bom.components.add(
            Component(
                name=name,
                version=version,
                type=ComponentType.LIBRARY,
                purl=url,
                bom_ref=f"{url.to_string()}#bundled",
                properties=[bundled],
            )
        )
    bom.register_dependency(bom.metadata.component, bom.components)
    told: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    told["metadata"].pop("timestamp", None)
    return told


def bundled(bill: Mapping[str, Any]) -> set[tuple[str, str]]:
    """The names and versions of what is carried along inside other packages."""
    return {(part["name"], part["version"]) for part in bill.get("components", []) if "properties" in part}


def packages(bill: Mapping[str, Any], kind: str) -> dict[str, str]:
    """The packages of a kind (`pypi`, `deb`) that a bill lists as installed."""
    return {
        part["name"]: part["version"]
        for part in bill.get("components", [])
        if part.get("purl", "").startswith(f"pkg:{kind}/") and "properties" not in part
    }
