"""New versions: adding a release to the matrix, and listing newer releases."""

import difflib
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from hfdlc import project
from hfdlc.errors import HfdlcError, UserError
from hfdlc.generated import drift
from hfdlc.generated.text import lines_of
from hfdlc.matrix.cells import Cell
from hfdlc.matrix.schema import nearest
from hfdlc.process import run
from hfdlc.project import Project
from hfdlc.state import write_whole

# The versions of a release, and the names of their packages.
PACKAGES = {
    "transformers": "transformers",
    "datasets": "datasets",
    "pytorch": "torch",
    "tensorflow": "tensorflow",
}


def bump(wanted: str, of: Cell, here: Project, today: date, lock: Callable[[Cell, Project], object]) -> str:
    """Copy the release of a cell with one new version, lock and render it; returns the diff of the matrix.

    Comments and order are kept. Raises UserError if the version is not valid or not new, HfdlcError if it
    cannot be locked; then nothing is changed.
    """
    name, version = _wanted(wanted)
    file = here.root / "matrix.yaml"
    before = file.read_text()
    after = _with_release(before, here, of, name, version, today)
    with TemporaryDirectory() as folder:
        Path(folder, "matrix.yaml").write_text(after)
        then = project.find(Path(folder))
    known = {cell.id for cell in here.cells}
    new = [cell for cell in then.cells if cell.id not in known]
    there = Project(here.root, then.matrix, then.cells)
    try:
        for cell in new:
            lock(cell, there)
    except BaseException:
        for cell in new:
            shutil.rmtree(here.root / cell.folder, ignore_errors=True)
        raise
    write_whole(file, after)
    for path, text in {**drift.dockerfiles(there, new), **drift.pages(there)}.items():
        write_whole(here.root / path, text)
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), "matrix.yaml", "matrix.yaml", lineterm=""
    )
    return "\n".join([*lines, *(f"added {cell.id}" for cell in new)])


def _wanted(text: str) -> tuple[str, str]:
    try:
        requirement = Requirement(text)
        (pin,) = requirement.specifier
    except (InvalidRequirement, ValueError):
        raise UserError(
            f"not NAME==VERSION: {text!r}", allowed=", ".join(f"{each}==…" for each in PACKAGES)
        ) from None
    if pin.operator != "==":
        raise UserError(f"not NAME==VERSION: {text!r}", allowed=f"{requirement.name}==VERSION")
    if requirement.name not in PACKAGES:
        raise UserError(
            f"releases have no version of {requirement.name!r}{nearest(requirement.name, list(PACKAGES))}",
            allowed=", ".join(f"{each}==VERSION" for each in PACKAGES),
        )
    return requirement.name, pin.version


def _with_release(text: str, here: Project, of: Cell, name: str, version: str, today: date) -> str:
    """The text of the matrix with the new release before the one that it is copied from."""
    lines = text.splitlines(keepends=True)
    start, end = lines_of(text, here, of.release)
    block = lines[start:end]
    changed = "".join(block)
    old = f"framework: {name} " if name == of.framework else f"{name}: "
    if name in ("pytorch", "tensorflow") and name != of.framework:
        raise UserError(f"{of.id} has {of.framework}", hint=f"add --of with a cell of {name}")
    changed, count = re.subn(rf"({old})\S+", rf"\g<1>{version}", changed, count=1)
    changed = re.sub(r"(cutoff: )\S+", rf"\g<1>{today.isoformat()}", changed)
    if not count or f"{old}{version}\n" in "".join(block):
        raise UserError(f"this release has {name} {version} already", location=of.id)
    return "".join([*lines[:start], changed, *lines[start:]])


def outdated(here: Project) -> Iterator[dict[str, str]]:
    """Packages with a newer release on the index than the newest one in the matrix."""
    newest: dict[str, Version] = {}
    for cell in here.cells:
        said = {
            "transformers": cell.transformers_version,
            "datasets": cell.datasets_version,
            cell.framework: cell.framework_version,
        }
        for name, text in said.items():
            newest[name] = max(newest.get(name, Version("0")), Version(text))
    for name, version in newest.items():
        released = _released(PACKAGES[name])
        if released > version:
            yield {"name": name, "newest_in_matrix": str(version), "newest_released": str(released)}


def _released(package: str) -> Version:
    """The newest version of a package on the index that pip is configured with."""
    output = run([sys.executable, "-m", "pip", "index", "versions", package]).stdout
    match = re.search(r"^Available versions: ([^,\s]+)", output, re.MULTILINE)
    if not match:
        raise HfdlcError(
            f"the package index has no version of {package}",
            hint="check the index that `pip config list` prints",
        )
    return Version(match[1])
