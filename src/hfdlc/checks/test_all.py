"""What holds for every image."""

import json
import re
from pathlib import Path

import certifi
import pytest

from hfdlc import facts, render
from hfdlc.checks.subject import Subject

# Programs that make programs, and what installs packages while an image is built.
BUILD_TOOLS = ("gcc", "cc", "g++", "make", "cmake", "cargo", "uv", "hatchling", "hatch")
CACHES = ("/root/.cache", "/var/cache/apt/archives", "/var/lib/apt/lists", "/tmp")  # noqa: S108 - inside the image

SETTINGS = ("COPY /layer/ /", "WORKDIR ", "LABEL ", "ENV ", "EXPOSE ", "ENTRYPOINT ", "CMD ")
PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
# Runs inside: names every file of the image that holds one of some texts.
SEARCH = """
import json, mmap, os
needles = [text.encode() for text in json.loads(%r)]
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/dev")]
    for path in (os.path.join(folder, name) for name in files):
        if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path):
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                for needle in needles:
                    if content.find(needle) >= 0:
                        print(path, needle[:60])
"""


def test_python(subject: Subject) -> None:
    """Python is the tag's."""
    assert subject.facts.python == subject.cell.python


def test_framework(subject: Subject) -> None:
    """The framework has the tag's version."""
    assert subject.facts.framework_version.partition("+")[0] == subject.cell.framework_version


def test_cuda(subject: Subject) -> None:
    """The framework was built for the tag's CUDA, and for none where the tag names none."""
    assert subject.facts.cuda == subject.cell.cuda


def test_transformers(subject: Subject) -> None:
    """Transformers has the tag's version."""
    assert subject.facts.transformers_version == subject.cell.transformers_version


def test_toolkit(subject: Subject) -> None:
    """The inference toolkit is there, in the version of the repository."""
    assert subject.facts.toolkit_version == subject.toolkit_version


def test_os(subject: Subject) -> None:
    """The operating system is the tag's."""
    assert subject.facts.os == subject.cell.os


def test_no_conflicts(subject: Subject) -> None:
    """Every package finds the packages that it asks for, in versions that it allows."""
    told = subject.host.run("/opt/venv/bin/python -m pip check")
    assert told.succeeded, told.stdout


def test_packages_are_the_locked_ones(subject: Subject) -> None:
    """Every locked package is there in its locked version, and nothing else is."""
    expected = {**subject.locked, "hf-inference-toolkit": subject.toolkit_version}
    there = subject.facts.packages
    assert {name: version for name, version in there.items() if expected.get(name) != version} == {}
    assert sorted(set(expected) - set(there)) == []


def test_entry_point(subject: Subject) -> None:
    """A plain `docker run` serves, with the server as process 1."""
    assert subject.config["Entrypoint"] == ["/usr/bin/env"]
    assert subject.config["Cmd"] == ["serve"]
    assert subject.host.check_output("command -v serve") == "/opt/venv/bin/serve"


def test_port(subject: Subject) -> None:
    """The port of SageMaker is declared."""
    assert list(subject.config.get("ExposedPorts") or {}) == ["8080/tcp"]


def test_working_folder(subject: Subject) -> None:
    """Work begins in /opt/ml."""
    assert subject.config["WorkingDir"] == "/opt/ml"


def test_labels(subject: Subject) -> None:
    """The image says what it is, and what its base came from."""
    labels = subject.config["Labels"] or {}
    expected = render.labels(subject.cell)
    assert {name: labels.get(name) for name in expected} == expected


def test_size(subject: Subject) -> None:
    """The image keeps within its budget; where it does not, its largest layers are named."""
    size, budget = subject.facts.size, subject.cell.size
    largest = sorted(subject.facts.layers, key=lambda layer: layer.size, reverse=True)[:3]
    assert size <= budget, f"{size} bytes; the largest layers: {largest}"


def test_no_build_tools(subject: Subject) -> None:
    """No compiler and no installer of ours is left behind."""
    there = [name for name in BUILD_TOOLS if subject.host.exists(name)]
    assert there == []
    assert not subject.host.file("/opt/installer").exists


def test_no_caches(subject: Subject) -> None:
    """No package cache is left behind."""
    there = [folder for folder in CACHES if subject.host.file(folder).exists]
    assert subject.host.check_output(f"find {' '.join(there)} -type f -size +0") == ""


def test_no_secrets_in_configuration(subject: Subject) -> None:
    """Neither history nor environment nor labels tell how the building machine reaches packages."""
    history = facts.image_of(subject.image, subject.engine).history()
    told = json.dumps([subject.config, history])
    assert [needle for needle in _addresses(subject) if needle in told] == []


def test_nothing_hides_in_a_layer(subject: Subject) -> None:
    """Above the base there are only copies and settings, so no layer hides what an earlier one holds."""
    steps = [step["CreatedBy"] for step in facts.image_of(subject.image, subject.engine).history()]
    ours = steps[: next(i for i, step in enumerate(steps) if step.startswith("LABEL ")) + 1]
    assert [step for step in ours if not step.startswith(SETTINGS)] == []


def test_no_secrets_in_files(subject: Subject) -> None:
    """No file holds an address, a folder or a certificate of the building machine."""
    needles = {*_addresses(subject), *(needle.decode() for needle in _own_certificates(subject))}
    if not needles:
        pytest.skip("this machine is configured with nothing that could be left in an image")
    told = subject.python(SEARCH % json.dumps(sorted(needles)))
    assert told == ""


def _addresses(subject: Subject) -> list[str]:
    """Where this machine takes packages from, as it is configured."""
    sources = subject.sources
    proxies = (sources.proxies or {}).values()
    folders = (str(folder) for folder in sources.wheel_folders)
    return [word for word in (sources.index, *sources.extra_indexes, *folders, *proxies) if word]


def _own_certificates(subject: Subject) -> frozenset[bytes]:
    """Certificates that this machine trusts, and neither the public nor the image's base does."""
    if not subject.sources.certificates:
        return frozenset()
    of_base: bytes = subject.host.file("/etc/ssl/certs/ca-certificates.crt").content
    known = PEM.findall(Path(certifi.where()).read_bytes()) + PEM.findall(of_base)
    return frozenset(PEM.findall(subject.sources.certificates.read_bytes())) - frozenset(known)
