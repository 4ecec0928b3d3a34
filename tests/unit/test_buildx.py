"""The builder that BUILDX_BUILDER names: whether it can be used, and what is reported where it cannot."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from hfdlc.build.session import Session
from hfdlc.engine import buildx, detect
from hfdlc.engine.buildx import Builder
from hfdlc.engine.context import Address
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError, UserError
from hfdlc.project import Project
from hfdlc.state import State
from hfdlc.upkeep import doctor

# What buildx 0.29.1 prints with DEBUG=1 for a builder that is another Docker context, without its labels.
RUNNING = """\
Name:   other
Driver: docker

Nodes:
Name:             other
Endpoint:         other
Status:           running
BuildKit version: v0.25.1
Platforms:        linux/amd64, linux/amd64/v2, linux/386
Features:
 Automatically load images to the Docker Engine image store: true
 Cache export:                                               true
 Direct push:                                                true
 Docker exporter:                                            true
 Multi-platform build:                                       true
 OCI exporter:                                               true
GC Policy rule#0:
 All:            false
 Keep Duration:  48h0m0s
"""
CLASSIC = re.sub(r"(OCI exporter: +)true", r"\1false", RUNNING)
SILENT = """\
Name:   other
Driver: 
Error:  Cannot connect to the Docker daemon at tcp://127.0.0.1:1. Is the docker daemon running?

Nodes:
"""  # noqa: W291
LISTED = """\
NAME/NODE     DRIVER/ENDPOINT   STATUS    BUILDKIT         PLATFORMS
other         docker
 \\_ other      \\_ other         running   v0.0.0+unknown   linux/amd64 (+4)
default*                        error
"""
PROGRAM = """
import os, pathlib, sys
assert os.environ["BUILDX_GIT_INFO"] == "false"
answer = pathlib.Path(__file__).with_name(sys.argv[1])
if not answer.exists():
    print("some warning", file=sys.stderr)
    sys.exit(f"ERROR: no builder {sys.argv[-1]!r} found")
print(answer.read_text(), end="")
"""


class Program:
    """A stand-in for buildx with recorded answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "program.py").write_text(PROGRAM)
        self.answers("ls", LISTED)

    def answers(self, command: str, text: str) -> None:
        (self.folder / command).write_text(text)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """What commands use as buildx."""
    (tmp_path / "buildx").mkdir()
    argv = (sys.executable, str(tmp_path / "buildx" / "program.py"))
    monkeypatch.setattr(detect, "find_buildx", lambda _: argv)
    return Program(tmp_path / "buildx")


def test_builder_is_used_with_the_configuration_of_the_user(program: Program, tmp_path: Path) -> None:
    """Its Docker contexts and its builders; not with those of the engine."""
    program.answers("inspect", RUNNING)
    environ = {"BUILDX_BUILDER": "other", "DOCKER_CONFIG": "/mine", "DOCKER_HOST": "unix:///mine.sock"}
    found = buildx.named(environ, State(tmp_path))
    assert found
    assert (found.name, found.version, found.exports_images) == ("other", "0.25.1", True)
    context = {"DOCKER_CONTEXT": "other", "DOCKER_HOST": ""}  # of the driver docker alone
    assert found.environment == {**environ, "BUILDX_GIT_INFO": "false", **context}
    assert not found.shares_host_network
    program.answers("inspect", RUNNING.replace("Driver: docker", "Driver: kubernetes"))
    pods = buildx.named(environ, State(tmp_path))
    assert pods
    assert pods.environment == {**environ, "BUILDX_GIT_INFO": "false"}


@pytest.mark.parametrize("name", ["", "default"])
def test_builder_of_the_engine_needs_no_name(name: str, tmp_path: Path) -> None:
    assert buildx.named({"BUILDX_BUILDER": name}, State(tmp_path)) is None
    assert buildx.named({}, State(tmp_path)) is None


def test_builder_that_does_not_exist_is_reported_beside_those_that_do(
    program: Program, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        buildx.named({"BUILDX_BUILDER": "nowhere"}, State(tmp_path))
    assert str(caught.value) == "BUILDX_BUILDER: buildx has no builder 'nowhere'; it has other, default"


def test_builder_that_does_not_exist_ends_a_run_before_an_engine_is_found(
    program: Program, repository: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "ensure", lambda *_: pytest.fail("an engine was started"))
    from hfdlc.build import builder

    with Session(repository, {"BUILDX_BUILDER": "nowhere"}) as session, pytest.raises(UserError):
        builder.build(session, [repository.default])


def test_builder_that_does_not_start_is_reported_with_the_reason(program: Program, tmp_path: Path) -> None:
    """`inspect --bootstrap` fails, although buildx knows it."""
    with pytest.raises(HfdlcError) as caught:
        buildx.named({"BUILDX_BUILDER": "other"}, State(tmp_path))
    assert caught.value.exit_code == 1
    assert "BUILDX_BUILDER: the builder 'other' does not start: no builder 'other' found" in str(caught.value)
    assert "hint: docker buildx inspect --bootstrap other" in str(caught.value)


@pytest.mark.parametrize(
    ("about", "why"),
    [
        (SILENT, "does not answer: Cannot connect to the Docker daemon at tcp://127.0.0.1:1."),
        (RUNNING.replace("running", "inactive"), "does not answer: inactive"),
        (CLASSIC, "cannot export images: its engine uses Docker's classic image store"),
        (
            RUNNING.replace("linux/amd64, linux/amd64/v2, linux/386", "linux/arm64"),
            "builds for linux/arm64, and the packages of images are locked for linux/amd64",
        ),
        ("Name: other\nDriver: remote\n\nNodes:\n", "does not answer: it has no nodes"),
    ],
    ids=["silent", "inactive", "classic", "architecture", "empty"],
)
def test_builder_that_cannot_build_is_reported_with_the_reason(
    program: Program, tmp_path: Path, about: str, why: str
) -> None:
    program.answers("inspect", about)
    with pytest.raises(HfdlcError) as caught:
        buildx.named({"BUILDX_BUILDER": "other"}, State(tmp_path))
    assert caught.value.exit_code == 1
    assert str(caught.value).startswith(f"BUILDX_BUILDER: the builder 'other' {why}")
    assert "\n  hint: " in str(caught.value)


def test_one_running_node_is_enough(program: Program, tmp_path: Path) -> None:
    """Another one may be stopped, or of another architecture."""
    other = "\nName: arm\nEndpoint: arm\nStatus: stopped\nPlatforms: linux/arm64\n"
    program.answers("inspect", RUNNING + other)
    assert buildx.named({"BUILDX_BUILDER": "other"}, State(tmp_path))


def test_doctor_shows_the_builder(program: Program, tmp_path: Path) -> None:
    """And what is wrong with it; nothing where builds run on the engine."""
    state = State(tmp_path)
    (missing,) = doctor.builder({"BUILDX_BUILDER": "nowhere"}, state)
    assert (missing.state, missing.found) == (
        "missing", "buildx has no builder 'nowhere'; it has other, default",
    )  # fmt: skip
    program.answers("inspect", RUNNING)
    (there,) = doctor.builder({"BUILDX_BUILDER": "other"}, state)
    assert (there.state, there.found) == ("ok", "other, BuildKit 0.25.1")
    assert doctor.builder({}, state) == []


@pytest.mark.parametrize("private", [True, False])
def test_builder_of_an_engine_is_that_of_its_client(*, private: bool) -> None:
    """The private one has no bridge network."""
    engine = Engine("unix:///a", "28", private, ("buildx",), True, "config", Address("unix:///a"), {})
    found = buildx.of_engine(engine)
    assert found == Builder(("buildx",), engine.environment, True, private)
    assert found.environment["BUILDX_BUILDER"] == "default"
    classic: Any = Engine("unix:///a", "28", private, ("b",), False, "config", Address("unix:///a"), {})
    assert not buildx.of_engine(classic).exports_images
