"""Which engine is used, and what is said where there is none."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fake_engine
from hfdlc.build import prepare
from hfdlc.engine import debian, detect, private
from hfdlc.engine.context import Address
from hfdlc.engine.detect import Answer, Engine
from hfdlc.errors import HfdlcError
from hfdlc.project import Project
from hfdlc.state import State


@pytest.fixture
def old_engine() -> Iterator[str]:
    """The address of an engine that is too old."""
    with fake_engine.answering("20.10.24+dfsg1") as host:
        yield host


@pytest.mark.parametrize(
    ("version", "recent"),
    [("26.1.5+dfsg1", True), ("23.0.0", True), ("20.10.24+dfsg1", False), ("dev", False)],
)
def test_an_engine_is_recent_from_23_on(version: str, recent: bool) -> None:
    """Docker 23 is the first whose own BuildKit builds these Dockerfiles."""
    assert Answer("unix:///x", version, containerd_store=False).is_recent is recent


def test_an_engine_that_is_too_old_is_passed_over(old_engine: str, tmp_path: Path) -> None:
    """It is not used, and without a private one there is none."""
    assert detect.find({"DOCKER_HOST": old_engine}, State(tmp_path)) is None


def test_too_old_and_no_private_one_says_both(
    old_engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where, which version, what is allowed, what to do."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(HfdlcError) as caught:
        detect.ensure({"DOCKER_HOST": old_engine}, State(tmp_path))
    output = str(caught.value)
    assert output.startswith(f"{old_engine}: the engine is too old: 20.10.24")
    assert "allowed: Docker 23.0 or newer" in output


def test_engine_without_buildkit_is_passed_over_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Podman answers, however new its version is."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with fake_engine.answering("99.0.0", builder="") as host:
        assert detect.find({"DOCKER_HOST": host}, State(tmp_path)) is None
        with pytest.raises(HfdlcError, match=f"{host}: the engine has no BuildKit"):
            detect.ensure({"DOCKER_HOST": host}, State(tmp_path))


def test_registries_that_an_engine_lists_as_insecure(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, or by network."""
    listed = {
        "IndexConfigs": {"docker.io": {"Secure": True}, "plain.example:5000": {"Secure": False}},
        "InsecureRegistryCIDRs": ["10.1.0.0/16", "127.0.0.0/8"],
    }
    engine = detect.Engine("unix:///x", "28", False, (), True, "", Address("unix:///x"), {})
    client = SimpleNamespace(info=lambda: {"RegistryConfig": listed})
    engine.__dict__["client"] = client
    hosts = ("plain.example:5000", "10.1.2.3:5000", "docker.io", "10.2.0.1", "other.example:5000")
    assert [engine.is_insecure(host) for host in hosts] == [True, True, False, False, False]


def test_no_engine_and_not_root_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Become root, or start Docker."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(
        HfdlcError, match=r"only root can(.|\n)*hint: start Docker 23 or newer .*, or run this as root"
    ):
        detect.ensure({"DOCKER_HOST": "unix:///nowhere.sock"}, State(tmp_path))


def test_a_state_folder_with_a_long_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's address ends at 108 bytes."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(HfdlcError, match="too long for a Unix socket"):
        private.start(State(tmp_path / ("x" * 80)), {})


def test_a_process_id_that_went_to_another_program_is_no_engine(tmp_path: Path) -> None:
    """The pid file of an engine that was killed may name anything."""
    state = State(tmp_path)
    (state.folder("engine") / "docker.pid").write_text("1")
    assert private.running(state) is None


def test_packages_can_only_be_taken_from_debian(tmp_path: Path) -> None:
    """The message names the system that it found."""
    file = tmp_path / "os-release"
    file.write_text('ID=alpine\nPRETTY_NAME="Alpine Linux v3.21"\n')
    with pytest.raises(HfdlcError, match=r"cannot run on Alpine Linux v3\.21"):
        debian.release(file)


def engine_at(host: str) -> Engine:
    """An engine that a server says it is."""
    return Engine(host, "29.1.0", False, ("buildx",), True, "", Address(host), {})


def test_engine_of_another_architecture_is_refused_before_a_build(repository: Project) -> None:
    """The packages are locked for one architecture. No base is requested."""
    with fake_engine.answering("29.1.0", more={"Architecture": "aarch64"}) as host:
        session: Any = SimpleNamespace(engine=engine_at(host), builder=None)
        with pytest.raises(HfdlcError) as caught, prepare.prepared(session, [repository.default]):
            pass
        session.engine.close()
    output = str(caught.value)
    assert output.startswith(f"{host}: this engine is on aarch64, and the packages")
    assert "hint: set DOCKER_HOST" in output


# `GET /v1.53/system/df?type=build-cache&verbose=1` in the form of the API's reference.
RECORDS = [
    {"ID": "ndlpt0hhvkqcdfkputsk4cq9c", "Type": "regular", "InUse": False, "Shared": True, "Size": 51},
    {"ID": "xlpt0hhvkqcdfkputsk4cq9cb", "Type": "regular", "InUse": True, "Shared": False, "Size": 7},
    {"ID": "mlpt0hhvkqcdfkputsk4cq9cb", "Type": "source.local", "InUse": False, "Shared": False, "Size": 42},
]
USAGE = {"ActiveCount": 1, "TotalCount": 3, "Reclaimable": 93, "TotalSize": 100, "Items": RECORDS}


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        ({"ApiVersion": "1.53", "BuildCacheUsage": USAGE}, 93),
        ({"ApiVersion": "1.52", "BuildCacheUsage": USAGE, "BuildCache": None}, 93),
        ({"ApiVersion": "1.51", "BuildCache": RECORDS}, 93),
        ({"ApiVersion": "1.53", "BuildCacheUsage": {"TotalSize": 0}}, 0),
        ({"ApiVersion": "1.44", "BuildCache": None}, 0),
    ],
)
def test_unused_build_cache_is_read_from_each_version_of_the_api(answer: dict[str, Any], size: int) -> None:
    """Version 1.53 has no `BuildCache`."""
    with fake_engine.answering("29.1.0", more=answer) as host:
        engine = engine_at(host)
        assert detect.unused_cache(engine) == size
        engine.close()
