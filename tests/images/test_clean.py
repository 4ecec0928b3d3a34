"""`hfdlc clean` lists what the matrix does not use, and removes it only with --yes. The images are real."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from docker.errors import ImageNotFound

from hfdlc.build import bases
from hfdlc.checks.facts import FORM as FACTS_FORM
from hfdlc.engine.detect import Engine
from hfdlc.project import Project
from hfdlc.state import State
from hfdlc.upkeep import clean

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
HFDLC = str(Path(sys.executable).with_name("hfdlc"))
NO_CELL = "huggingface-pytorch-inference:0.0.1-of-a-test"


@pytest.fixture
def own(tmp_path: Path) -> State:
    """A state folder of the test's."""
    return State(tmp_path / "state")


def make(used: Engine, *labels: str) -> str:
    """An image of a cell that is no more; its digest."""
    words = " ".join([f"{clean.OURS}=inference", f"{clean.TITLE}={NO_CELL}", *labels])
    dockerfile = io.BytesIO(f"FROM scratch\nLABEL {words}\n".encode())
    client = used.client
    made, _ = client.images.build(fileobj=dockerfile, tag=NO_CELL)
    return str(made.id)


@pytest.fixture
def image(used_engine: Engine) -> Iterator[str]:
    """Such an image, while a test lasts."""
    yield make(used_engine)
    client = used_engine.client
    with suppress(ImageNotFound):
        client.images.remove(NO_CELL)


def find(project: Project, state: State, used: Engine) -> dict[str, clean.Unused]:
    """By name; with the engine of the tests and a state folder of its own."""
    environ = {"HFDLC_STATE": str(state.root), "DOCKER_HOST": used.host, "PATH": os.environ["PATH"]}
    return {one.name: one for one in clean.find(project, environ, keep=1e6, older=14)}


def test_clean_removes_an_image_of_no_cell(
    image: str, repository: Project, used_engine: Engine, own: State
) -> None:
    """With what was read in it."""
    reading = own.folder(f"facts/{FACTS_FORM}") / f"{image.replace(':', '-')}.json"
    reading.write_text("{}")
    found = find(repository, own, used_engine)
    assert found[NO_CELL].why == "not in the matrix"
    assert found[str(reading)].why == "its image was removed"
    found[NO_CELL].remove()
    client = used_engine.client
    with pytest.raises(ImageNotFound):
        client.images.get(NO_CELL)


def test_clean_keeps_a_tag_that_moved_to_a_newer_image(
    image: str, repository: Project, used_engine: Engine, own: State
) -> None:
    """A build that ended between looking and removing is not undone."""
    found = find(repository, own, used_engine)[NO_CELL]
    newer = make(used_engine, "newer=1")
    assert newer != image
    assert found.remove() == 0
    client = used_engine.client
    assert client.images.get(NO_CELL).id == newer


def test_clean_keeps_bases_of_the_matrix(repository: Project, used_engine: Engine, own: State) -> None:
    """A base of a cell stays, another one goes."""
    bootstrap = repository.default.bootstrap
    assert bootstrap
    kept, other = bases.archive(bootstrap, own), own.folder("bases") / "bookworm-0123456789ab.tar"
    for file in (kept, other):
        file.write_bytes(b"1" * 1000)
    found = find(repository, own, used_engine)
    assert found[str(other)].size == 1000
    assert str(kept) not in found
    assert bases.tag(bootstrap) not in found


def test_clean_removes_nothing_without_yes(own: State) -> None:
    """The command shows what and how much; only with --yes it removes; what is young stays."""
    old, young = own.folder("logs") / "build-1.log", own.root / "logs" / "build-2.log"
    for file in (old, young):
        file.write_text("said")
    os.utime(old, (0, time.time() - 15 * clean.DAY))
    (own.folder("builds") / "no-cell.json").write_text("{}")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "HFDLC_STATE": str(own.root), "DOCKER_HOST": "unix:///nowhere.sock"}
        return subprocess.run(
            [HFDLC, "clean", *words], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60
        )

    shown = run()
    assert shown.returncode == 0
    assert "no engine is running" in shown.stderr
    assert "nothing was removed" in shown.stderr
    assert f"in {own.root}/logs (old)" in shown.stdout
    assert old.exists()
    assert run("--yes").returncode == 0
    assert sorted(path.name for path in own.root.rglob("*") if path.is_file()) == ["build-2.log"]
