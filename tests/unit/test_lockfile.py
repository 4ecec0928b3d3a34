"""Locks are split into groups, read, and reported when they are stale or edited."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import private_index
from hfdlc.build import packages
from hfdlc.errors import CommandFailed, HfdlcError
from hfdlc.locks import lockfile, resolver
from hfdlc.locks.indexes import IndexConfig
from hfdlc.locks.lockfile import LockedPackage
from hfdlc.matrix import schema
from hfdlc.project import Project
from hfdlc.state import State
from matrices import some_cells, write
from private_index import USER, WORD

LOCKED = """\
# a comment
torch==2.13.0+cpu \\
    --hash=sha256:aa
Typing_Extensions==4.16.0 ; python_version < "4" \\
    --hash=sha256:bb \\
    --hash=sha256:cc
"""


def test_entries_keep_their_hashes() -> None:
    """A block is a package with everything that is indented below it."""
    torch, typing_extensions = lockfile.entries(LOCKED)
    assert (torch.name, torch.version) == ("torch", "2.13.0+cpu")
    assert (typing_extensions.name, typing_extensions.version) == ("typing-extensions", "4.16.0")
    assert typing_extensions.text.endswith("--hash=sha256:cc")


@pytest.fixture
def wanted(tmp_path: Path) -> lockfile.LockInput:
    return lockfile.lock_input(some_cells(tmp_path)[0])


def locked(folder: Path, wanted: lockfile.LockInput) -> Path:
    """A lock of one package, with what is kept beside it."""
    file = folder / "framework.lock"
    lockfile.write(
        {file.name: lockfile.text([LockedPackage("torch", "2.13.0", "torch==2.13.0")])}, wanted, folder
    )
    return file


def test_lock_is_stale_if_the_request_changed(tmp_path: Path, wanted: lockfile.LockInput) -> None:
    """A lock is whole, until the matrix asks for something else."""
    file = locked(tmp_path, wanted)
    assert lockfile.fault(file, wanted) is None
    other = lockfile.LockInput((*wanted.requirements, "more"), wanted.python, wanted.platform, wanted.cutoff)
    assert lockfile.fault(file, other) == "is out of date: the matrix has changed"


def test_edited_lock_is_reported(tmp_path: Path, wanted: lockfile.LockInput) -> None:
    """One changed digit is enough; so is a record that is damaged or gone."""
    file = locked(tmp_path, wanted)
    file.write_text(file.read_text().replace("torch==2.13.0", "torch==2.13.11"))
    assert lockfile.fault(file, wanted) == "was edited by hand"
    locked(tmp_path, wanted)
    for damage in ("[]", "{", ""):
        (tmp_path / lockfile.RECORD).write_text(damage)
        assert lockfile.fault(file, wanted) == "was edited by hand"
    (tmp_path / lockfile.RECORD).unlink()
    assert lockfile.fault(file, wanted) == "was edited by hand"


def test_locks_of_the_same_packages_are_the_same_bytes(repository: Project) -> None:
    """Training and inference share stages, and a patch of transformers leaves the stages of others alone."""
    names = ("framework", "libraries", "transformers")
    for kind in ("training", "inference"):
        cells = [
            c
            for c in repository.cells
            if c.type == kind and c.framework_version == "2.13.0" and c.python == "3.11"
        ]
        for cell in cells:
            (twin,) = [c for c in repository.cells if c.tag == cell.tag and c.type != kind]
            for name in names:
                mine, other = (repository.root / lockfile.group_file(c, name) for c in (cell, twin))
                assert mine.read_bytes() == other.read_bytes()
                assert cell.transformers_version not in mine.read_text() or name == "transformers"


def test_building_without_a_lock_says_what_to_run(tmp_path: Path) -> None:
    """The message names the file and the command that makes it."""
    cell = some_cells(tmp_path)[0]
    with pytest.raises(
        HfdlcError, match=r"framework\.lock: the lock file is missing\n  hint: hfdlc lock hugging"
    ):
        lockfile.check(cell, schema.read(write(tmp_path)), tmp_path)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("transformers", "transformers"),
        ("torch", "framework"),
        ("numpy", "libraries"),
        ("pyarrow", "type"),
        ("anyio", "toolkit"),
        ("nvidia-cublas", "cuda"),
        ("psutil", "named-first"),
    ],
)
def test_a_package_belongs_to_the_first_group_that_needs_it(name: str, group: str) -> None:
    """Named wins; then what the framework needs; what only the toolkit needs is the toolkit's."""
    framework = {"torch", "transformers", "nvidia-cublas"}
    libraries = framework | {"numpy"}
    layers = {"framework": framework, "libraries": libraries, "type": libraries | {"pyarrow"}}
    everything = {"toolkit": layers["type"] | {"anyio"}}
    named = [("transformers", "transformers"), ("nvidia-*", "cuda")]
    named += [("psutil", "named-first"), ("psutil", "named-later")]
    assert resolver.group_of(name, named, layers | everything) == group


def test_cuda_has_a_layer_where_it_comes_as_packages(repository: Project) -> None:
    """Training and inference share it; where the base brings CUDA there is none, nor on a processor."""
    locked = {cell.id: lockfile.read(cell, repository.root) for cell in repository.cells}
    with_layer = [cell for cell in repository.cells if "cuda" in cell.groups]
    assert {cell.framework_version for cell in with_layer} >= {"2.13.0", "2.21.0"}
    releases: dict[tuple[str, ...], list[object]] = {}
    for cell in with_layer:
        release = (cell.framework, cell.framework_version, cell.transformers_version, cell.python)
        releases.setdefault(release, []).append(locked[cell.id]["cuda"])
    for own in releases.values():
        assert all(each == own[0] for each in own)
    for cell in repository.cells:
        assert not any(entry.name.startswith("nvidia-") for entry in locked[cell.id].get("framework", ()))


def test_unreachable_index_is_named_in_the_error(wanted: lockfile.LockInput) -> None:
    """The message names the unreachable source, and how to see the configuration."""
    failed = CommandFailed(["uv"], 2, "error: Failed to fetch: `https://index.example/simple/torch/`")
    output = str(resolver._unresolved(wanted, failed))
    assert "a package index is unreachable" in output
    assert "pip config list" in output


def page_arguments(wanted: lockfile.LockInput, page: str, folder: Path, **sources: Any) -> list[str]:
    """The options of uv for a framework with this page, on a machine with a folder of wheels."""
    here = IndexConfig(wheel_folders=(Path("/wheels"),), **sources)
    return resolver.Resolver(here, State(folder), {})._page(replace(wanted, page=page))


def test_page_is_reached_with_the_certificates_of_pip(
    wanted: lockfile.LockInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only those verify it, the framework counted as unreachable, and its cell as incomplete."""
    with private_index.serving(tmp_path, tmp_path) as index:
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {USER} password {WORD}\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        page, client = f"https://{index.host}/", {"client_certificate": index.certificate}
        assert page_arguments(wanted, page, tmp_path, **client) == ["--find-links", "/wheels"]
        found = page_arguments(wanted, page, tmp_path, **client, certificates=index.certificate)
        assert found == ["--find-links", page]


def test_page_is_reached_through_the_proxy_of_pip(wanted: lockfile.LockInput, tmp_path: Path) -> None:
    """Unless `no_proxy` lists it."""
    page = "http://pages.invalid/whl/"
    with packages.served(tmp_path) as proxy:
        (tmp_path / "http:" / "pages.invalid" / "whl").mkdir(parents=True)
        proxies = {"http_proxy": proxy}
        assert page_arguments(wanted, page, tmp_path, proxies=proxies) == ["--find-links", page]
        proxies["no_proxy"] = "invalid"
        assert page_arguments(wanted, page, tmp_path, proxies=proxies) == ["--find-links", "/wheels"]


@pytest.mark.parametrize(
    ("day", "end"), [("2026-06-01", "2026-06-02T00:00:00Z"), ("2025-12-31", "2026-01-01T00:00:00Z")]
)
def test_the_cutoff_ends_with_the_day_in_utc(day: str, end: str) -> None:
    assert resolver._end_of(day) == end


def test_new_release_leaves_the_locks_of_the_installer_alone(tmp_path: Path) -> None:
    """Its cutoff is newer; the installer has one of its own, and a lock for each Python."""

    class Used(Exception):
        """The resolver was used."""

    class Resolver:
        def resolve(self, *_: object) -> tuple[lockfile.LockedPackage, ...]:
            raise Used

    uv: Any = Resolver()
    before = schema.read(write(tmp_path))
    wanted = lockfile.installer_input(before, "3.11")
    lockfile.write({lockfile.installer_file("3.11"): "uv==1\n"}, wanted, tmp_path)
    after = schema.read(write(tmp_path, ("cutoff: 2026-11-20", "cutoff: 2027-01-31")))
    assert not resolver.lock_installer(after, "3.11", tmp_path, uv)
    for python in ("3.12", "3.11"):
        with pytest.raises(Used):
            resolver.lock_installer(after, python, tmp_path, uv)
        (tmp_path / lockfile.installer_file("3.11")).write_text("edited\n")


def test_lock_of_a_removed_layer_group_is_removed(tmp_path: Path, wanted: lockfile.LockInput) -> None:
    """It stayed beside the others, and `hfdlc check` did not find it."""
    (tmp_path / "peft.lock").write_text(lockfile.HEADER)
    locked(tmp_path, wanted)
    assert sorted(file.name for file in tmp_path.glob("*.lock")) == ["framework.lock"]
