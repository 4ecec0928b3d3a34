"""What an SBOM says of the packages in layers."""

import io
import tarfile
from collections.abc import Mapping

import pytest

from hfdlc.errors import HfdlcError
from hfdlc.publish import sbom
from hfdlc.publish.sbom import Package

SITE = "opt/venv/lib/python3.11/site-packages"
DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: GPL-3+ with Bison exception

License: Expat
 Permission is hereby granted
"""


def layer(files: Mapping[str, str], links: Mapping[str, str] | None = None) -> io.BytesIO:
    """An archive of files and symbolic links."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    written.seek(0)
    return written


def status(*packages: str) -> str:
    """A dpkg status file."""
    return "".join(f"Package: {name}\nStatus: install ok installed\nVersion: 1\n\n" for name in packages)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: MIT AND Apache-2.0\nLicense: other\n", ("MIT AND Apache-2.0",)),
        ("License: BSD\n", ("BSD",)),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n", ("MIT License",)),
        ("License: Copyright (c)\n  All rights\nClassifier: License :: OSI Approved\n", ()),
        (f"License: {'long ' * 30}\n", ()),
        ("Summary: none\n\nLicense: MIT is in the description\n", ()),
    ],
)
def test_licence_of_a_python_package(metadata: str, expected: tuple[str, ...]) -> None:
    """The SPDX expression, else the field if it is a name, else the classifiers."""
    found = sbom.read([layer({f"{SITE}/a-1.dist-info/METADATA": f"Name: a\n{metadata}"})])
    assert found.licenses == {Package("pypi", "a", "1"): expected}


def test_licences_of_debian_packages() -> None:
    """Of copyright files with fields, of those that refer to common texts, and of linked ones."""
    files = {
        "var/lib/dpkg/status": status("fields", "free", "linked", "twice", "none"),
        "usr/share/doc/fields/copyright": DEP5,
        "usr/share/doc/free/copyright": "see /usr/share/common-licenses/GPL-2.\nLicense: not a field\n",
    }
    links = {"usr/share/doc/linked": "fields", "usr/share/doc/twice/copyright": "../linked/copyright"}
    found = sbom.read([layer(files, links)])
    fields = ("Expat", "GPL-3+ with Bison exception")
    expected = {"fields": fields, "free": ("GPL-2",), "linked": fields, "twice": fields, "none": ()}
    assert {package.name: names for package, names in found.licenses.items()} == expected


def test_bundled_packages_are_counted_and_marked(repository: object) -> None:
    """They are in the document, in `packages` and in the comparison, but not among the installed ones."""
    from hfdlc.project import Project

    assert isinstance(repository, Project)
    files = {
        f"{SITE}/a-1.dist-info/METADATA": "Name: a\nLicense: MIT\n",
        f"{SITE}/a/_vendor/b-2.dist-info/METADATA": "Name: b\nLicense: x\nLicense-Expression: MIT OR ISC\n",
        "var/lib/dpkg/status": status("c"),
        "etc/os-release": "ID=ubuntu\n",
    }
    contents = sbom.read([layer(files)])
    document = sbom.make(repository.default, "sha256:1", contents)
    assert frozenset(sbom.packages(document)) == contents.packages
    assert len(contents.packages) == 3
    assert sbom.with_license(document) == 2
    assert sbom.installed(document, "pypi") == contents.installed("pypi") == {"a": "1"}
    urls = {part["name"]: part["purl"] for part in document["components"]}
    assert urls == {"a": "pkg:pypi/a@1", "b": "pkg:pypi/b@2", "c": "pkg:deb/ubuntu/c@1"}
    assert sbom.make(repository.default, "sha256:1", contents) == document
    sbom.compare(sbom.packages(document), contents.packages, "here")


def test_packages_on_hold_are_listed() -> None:
    """NVIDIA's images hold cuBLAS, cuDNN and NCCL at their versions; removed packages are not installed."""
    text = status("a", "held", "removed")
    for name, state in (("held", "hold ok installed"), ("removed", "deinstall ok config-files")):
        text = text.replace(f"{name}\nStatus: install ok installed", f"{name}\nStatus: {state}")
    found = sbom.read([layer({"var/lib/dpkg/status": text})])
    assert sorted(package.name for package in found.packages) == ["a", "held"]


def test_later_layer_replaces_the_list_of_packages() -> None:
    """As a package manager that ran in it did."""
    found = sbom.read([layer({"var/lib/dpkg/status": status(name)}) for name in ("a", "b")])
    assert [package.name for package in found.packages] == ["b"]


def test_differences_name_each_package() -> None:
    """On both sides, with version."""
    expected = [Package("pypi", "a", "1"), Package("pypi", "b", "1")]
    found = [Package("pypi", "a", "2"), Package("pypi", "b", "1"), Package("pypi", "c", "1", bundled=True)]
    with pytest.raises(HfdlcError) as caught:
        sbom.compare(expected, found, "here")
    assert caught.value.message.splitlines()[1:] == [
        "  not in the SBOM: a 2",
        "  not in the SBOM: c 1 (bundled)",
        "  not in the image: a 1",
    ]
