"""What the matrix does not reach is shown, and removed only if told so; images are real, and of the test."""

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
from hfdlc.build.freshness import ImagesHere
from hfdlc.checks.facts import FORM as FACTS_FORM
from hfdlc.dockerfile import inputs
from hfdlc.engine.detect import Engine
from hfdlc.oci.store import FOLDER
from hfdlc.project import Project
from hfdlc.state import State
from hfdlc.upkeep import clean

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


def test_an_image_of_no_cell_goes(image: str, repository: Project, used_engine: Engine, own: State) -> None:
    """With what was read in it."""
    reading = own.folder(f"facts/{FACTS_FORM}") / f"{image.replace(':', '-')}.json"
    reading.write_text("{}")
    found = find(repository, own, used_engine)
    assert found[NO_CELL].why == "no cell of the matrix"
    assert found[str(reading)].why == "its image was removed"
    found[NO_CELL].remove()
    client = used_engine.client
    with pytest.raises(ImageNotFound):
        client.images.get(NO_CELL)


def test_a_name_that_a_newer_image_has_stays(
    image: str, repository: Project, used_engine: Engine, own: State
) -> None:
    """A build that ended between looking and removing is not undone."""
    found = find(repository, own, used_engine)[NO_CELL]
    newer = make(used_engine, "newer=1")
    assert newer != image
    assert found.remove() == 0
    client = used_engine.client
    assert client.images.get(NO_CELL).id == newer


def test_what_changed_since_is_named(repository: Project) -> None:
    """The inputs in the repository are compared; what a base is now is not asked."""
    cell = repository.default
    now = inputs.of(cell, repository.root, {})

    def why(**changed: str) -> str:
        said = {clean.TITLE: cell.id, clean.OURS: "inference", inputs.LABEL: inputs.text({**now, **changed})}
        return clean._why(cell.id, said, repository, {cell.id: cell}, set(), ImagesHere(None))

    assert why(toolkit="other") == "out of date: toolkit"
    assert why(base="some@sha256:1") == ""


def test_the_matrix_is_what_keeps_bases(repository: Project, used_engine: Engine, own: State) -> None:
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


def test_nothing_goes_untold(own: State) -> None:
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
    assert "no engine runs" in shown.stderr
    assert "nothing was removed" in shown.stderr
    assert f"in {own.root}/logs (old)" in shown.stdout
    assert old.exists()
    assert run("--yes").returncode == 0
    assert sorted(path.name for path in own.root.rglob("*") if path.is_file()) == ["build-2.log"]


def test_packed_layers_stay_by_size_and_age(own: State) -> None:
    """Those that were used last; what was set aside goes in any case."""
    now, blobs = time.time(), own.folder(f"{FOLDER}/blobs/sha256")
    for name, days in (("new", 0), ("older", 1), ("oldest", 2), ("forgotten", 30)):
        (blobs / name).write_bytes(bytes(100))
        os.utime(blobs / name, (now - days * clean.DAY,) * 2)
    (blobs / "cut.set-aside").touch()
    going = list(clean._packed(own, 250e-9, now - 14 * clean.DAY))
    assert {Path(one.name).name: one.why for one in going} == {
        "oldest": "more than 2.5e-07 GB, least recently used",
        "forgotten": "not used recently",
        "cut.set-aside": "damaged",
    }
    assert sum(one.remove() for one in going) == 200
    assert sorted(file.name for file in blobs.iterdir()) == ["new", "older"]
