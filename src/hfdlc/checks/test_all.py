"""Checks of every image."""

import json

import pytest

from hfdlc.build import bake
from hfdlc.build.estimate import LAYERS
from hfdlc.checks import layers, secrets, sizes
from hfdlc.checks.subject import Subject
from hfdlc.dockerfile import render
from hfdlc.engine import images

COMMANDS = {"training": "train", "inference": "serve"}
# Compilers, and the programs that install packages while an image is built.
BUILD_TOOLS = (
    "gcc",
    "cc",
    "g++",
    "c++",
    "ld",
    "as",
    "make",
    "cmake",
    "ninja",
    "cargo",
    "nvcc",
    "uv",
    "hatchling",
)
# Files that match the patterns, and rows of RECORD files without a file.
LEFT_OUT = """
import csv, glob, json
from pathlib import Path
found = []
for site in map(Path, glob.glob("/opt/venv/lib/python*/site-packages")):
    found += [str(file) for pattern in patterns for file in site.glob(pattern)]
    for record in site.glob("*.dist-info/RECORD"):
        with record.open(newline="", encoding="utf-8") as file:
            rows = [row[0] for row in csv.reader(file) if row]
        found += ["%s lists %s" % (record, row) for row in rows if not (site / row).exists()]
print(json.dumps(found[:20]))
"""
# Modules that compile and have no byte code, so that each start compiles them again. Folders that match
# `patterns` are left out.
BYTE_CODE = """
import glob, importlib.util, json, os
from pathlib import Path
found = []
for site in map(Path, glob.glob("/opt/venv/lib/python*/site-packages")):
    excluded = {folder for pattern in patterns for folder in site.glob(pattern)}
    for path in site.rglob("*.py"):
        if path.parent not in excluded and not os.path.isfile(importlib.util.cache_from_source(str(path))):
            try:
                compile(path.read_bytes(), str(path), "exec")
            except (SyntaxError, ValueError):
                continue
            found.append("%s has no byte code" % path)
print(json.dumps(found[:20]))
"""
# Libraries with a symbol table behind all that is loaded (segments of type 1, sections of type 2).
SYMBOLS = """
import glob, json, struct
from pathlib import Path
found = []
for site in map(Path, glob.glob("/opt/venv/lib/python*/site-packages")):
    for path in {file for pattern in patterns for file in site.glob(pattern) if file.is_file()}:
        with path.open("rb") as file:
            head = file.read(64).ljust(64)
            if not head.startswith(b"\\x7fELF\\2\\1"):
                continue
            starts = struct.unpack_from("<QQ", head, 32)
            sizes = struct.unpack_from("<4H", head, 54)
            tables = []
            for start, size, number in zip(starts, sizes[::2], sizes[1::2]):
                file.seek(start)
                tables.append([file.read(size) for _ in range(number)])
        segments = [struct.unpack_from("<IIQQQQ", row) for row in tables[0]]
        end = max([row[2] + row[5] for row in segments if row[0] == 1] or [0])
        sections = [struct.unpack_from("<IIQQQQ", row) for row in tables[1]]
        found += [str(path) for row in sections if row[1] == 2 and row[4] >= end]
print(json.dumps(found[:20]))
"""
CACHES = ("/root/.cache", "/var/cache/apt/archives", "/var/lib/apt/lists", "/tmp")  # noqa: S108 - inside the image


def test_python(subject: Subject) -> None:
    """Python has the version in the tag."""
    assert subject.facts.python == subject.cell.python


def test_framework(subject: Subject) -> None:
    """The framework has the version in the tag."""
    assert subject.facts.framework_version == subject.cell.framework_version


def test_cuda(subject: Subject) -> None:
    """The framework was built for the CUDA version in the tag, or for none."""
    assert subject.facts.cuda == subject.cell.cuda


def test_transformers(subject: Subject) -> None:
    """Transformers has the version in the tag."""
    assert subject.facts.transformers_version == subject.cell.transformers_version


def test_toolkit(subject: Subject) -> None:
    """The inference toolkit is installed, in the version of the repository."""
    assert subject.facts.toolkit_version == subject.toolkit_version


def test_os(subject: Subject) -> None:
    """The operating system is the one in the tag."""
    assert subject.facts.os == subject.cell.os


def test_no_conflicts(subject: Subject) -> None:
    """The requirements of every package are installed, in versions that it allows."""
    result = subject.host.run("/opt/venv/bin/python -m pip check")
    # tensorflow-cpu is tensorflow under another name.
    replaced = f"requires {subject.cell.source.replaces}, which is not installed."
    conflicts = [line for line in result.stdout.splitlines() if not line.endswith(replaced)]
    assert result.succeeded or not conflicts, "\n".join(conflicts)
    # pip ends with 1 if it found conflicts. A crash is not a result.
    found = result.rc == 1 and result.stdout and "Traceback" not in result.stderr
    assert result.succeeded or found, f"pip check ended with {result.rc}: {result.stderr[-400:]}"


def test_packages_are_the_locked_ones(subject: Subject) -> None:
    """The installed packages are the locked ones, in the locked versions."""
    expected = {**subject.locked, "hf-inference-toolkit": subject.toolkit_version}
    there = subject.facts.packages
    differ = [
        f"{name}: {there.get(name, 'not installed')}, locked: {expected.get(name, 'none')}"
        for name in sorted({*expected, *there})
        if there.get(name) != expected.get(name)
    ]
    assert not differ, "\n".join(differ)


def test_entry_point(subject: Subject) -> None:
    """A plain `docker run` serves (or trains), with that program as process 1."""
    command = COMMANDS[subject.cell.type]
    assert subject.config["Entrypoint"] == ["/usr/bin/env"]
    assert subject.config["Cmd"] == [command]
    assert subject.host.check_output("command -v %s", command) == f"/opt/venv/bin/{command}"


def test_port(subject: Subject) -> None:
    """SageMaker's port is exposed."""
    assert list(subject.config.get("ExposedPorts") or {}) == ["8080/tcp"]


def test_working_folder(subject: Subject) -> None:
    """The working directory is /opt/ml."""
    assert subject.config["WorkingDir"] == "/opt/ml"


def test_labels(subject: Subject) -> None:
    """The labels describe the cell, and name the base image that the build started from."""
    labels = subject.config["Labels"] or {}
    base = labels.get("io.hfdlc.base")
    assert base, "the label io.hfdlc.base does not name the base image"
    expected = render.labels(subject.cell) | bake.base_labels(base)
    assert {name: labels.get(name) for name in expected} == expected


def test_size(subject: Subject) -> None:
    """The image is within its size budget; if not, its largest layers and packages are listed."""
    size, budget = subject.facts.size, subject.cell.size
    if size > budget:
        largest = "\n  ".join(["the largest:", *sizes.largest(sizes.read(subject))])
        pytest.fail(f"{size} bytes, {budget} allowed; {largest}")


def test_layers(subject: Subject) -> None:
    """The Dockerfile adds no more layers than a cell may have."""
    layers = subject.facts.layers
    added = layers[layers.index(images.package_layers(subject.built)[0]) :]
    assert len(added) <= LAYERS, f"{len(added)} layers, {LAYERS} allowed"


def _patterns(subject: Subject, remove: str) -> list[str]:
    return [pattern for each in subject.cell.slim if each.remove == remove for pattern in each.files]


def test_what_is_left_out(subject: Subject) -> None:
    """No file exists that `slim` in the matrix removes, and no RECORD lists one."""
    script = f"patterns = {_patterns(subject, 'files')!r}\n{LEFT_OUT}"
    assert json.loads(subject.python(script)) == []


def test_byte_code(subject: Subject) -> None:
    """Every module of the packages is compiled, except those whose `__pycache__` is removed (`slim`)."""
    end = "/__pycache__"
    folders = [name.removesuffix(end) for name in _patterns(subject, "files") if name.endswith(end)]
    assert json.loads(subject.python(f"patterns = {folders!r}\n{BYTE_CODE}")) == []


def test_symbols(subject: Subject) -> None:
    """No library has symbols that `slim` removes and that can be stripped."""
    assert json.loads(subject.python(f"patterns = {_patterns(subject, 'symbols')!r}\n{SYMBOLS}")) == []


def test_no_build_tools(subject: Subject) -> None:
    """The image has no compiler, and not the installer."""
    found = [name for name in BUILD_TOOLS if subject.host.exists(name)]
    assert found == []
    assert not subject.host.file("/opt/installer").exists


def test_no_caches(subject: Subject) -> None:
    """The image has no package cache."""
    there = [folder for folder in CACHES if subject.host.file(folder).exists]
    assert subject.host.check_output(f"find {' '.join(there)} -type f -size +0") == ""


def test_no_headers(subject: Subject) -> None:
    """The image has no headers of libraries, except inside locked packages."""
    assert (
        subject.host.check_output("find /usr/include /usr/local/include -name '*.h' -not -path '*/python3*'")
        == ""
    )


def test_text_is_utf8(subject: Subject) -> None:
    """Files and output have this encoding by default; without LANG, Python 3.6 has ASCII."""
    script = "import locale, sys; print(locale.getpreferredencoding(False), sys.stdout.encoding)"
    assert subject.python(script).lower().split() == ["utf-8", "utf-8"]


def test_user(subject: Subject) -> None:
    """The container runs as root, which SageMaker requires."""
    assert subject.config.get("User") in (None, "", "root", "0")


def test_no_secrets_in_configuration(subject: Subject) -> None:
    """History, environment and labels contain nothing of the building machine's package configuration."""
    text = json.dumps([subject.config, subject.built.history()]).encode()
    found = secrets.found_in(text, subject.machine.forbidden_strings())
    found += secrets.settings(subject.config.get("Env") or [])
    assert not found, "\n".join(found)


def test_no_secrets_in_layers(subject: Subject) -> None:
    """No layer contains an address, a folder or a certificate of the building machine, hidden or not."""
    forbidden = subject.machine.forbidden_strings()
    if not forbidden:
        pytest.skip("this machine has no package configuration that could be in an image")
    client, folder = subject.engine.client, subject.state.folder("tmp")
    found = layers.search(client, subject.built, forbidden, folder)
    assert not found, "\n".join(map(str, found))
