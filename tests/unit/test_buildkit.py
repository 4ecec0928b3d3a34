"""What a failed build says: each cell once, however many targets it has."""

import io
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from hfdlc.build import bake, buildkit
from hfdlc.build.bake import BuildContext
from hfdlc.build.log import BuildLog, Vertex
from hfdlc.dockerfile.cache_keys import distinct
from hfdlc.engine.buildx import Builder
from hfdlc.process import start
from hfdlc.project import Project
from hfdlc.state import State

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def test_lost_engine_is_not_attributed_to_a_cell() -> None:
    """All of them are repeated, each named once."""
    ids = {"image": "one:1", "framework-1": "one:1", "libraries-1": "one:1", "other": "two:2"}
    build_log = BuildLog(list(ids))
    build_log.output.append("ERROR: failed to receive status: error reading from server: EOF")
    failed = buildkit._failure(build_log, ids, Path("log"))
    assert not failed.alone
    assert failed.cells == ("one:1", "two:2")
    assert failed.hint == "hfdlc build one:1 two:2\n  log: log"
    assert "error reading from server: EOF" in failed.message


@pytest.mark.parametrize("words", ["No space left on device (os error 28)", "no space left on device"])
def test_full_disk_is_not_attributed_to_a_cell(words: str) -> None:
    """Whichever component reports it."""
    build_log = BuildLog(["one"])
    build_log.steps["1"] = Vertex(
        "[x]", "one", "framework", "RUN uv", error=f"exit code: 2: {words}", failed_at=NOW
    )
    failed = buildkit._failure(build_log, {"one": "one:1", "two": "two:2"}, Path("log"))
    assert not failed.alone
    assert failed.hint.startswith("free disk space")


def test_failed_layer_is_attributed_to_the_cells_that_have_it(repository: Project) -> None:
    """Its target has another name than the cell's."""
    cell, context = repository.default, BuildContext()
    layers = {cell.id: bake.layers_of(cell, repository, context)}
    missing = distinct(layers)
    file = bake.of_layers([cell], missing, repository.matrix, context, Path("layers"), Path("tmp"))
    owners = buildkit._owners(file, [cell])
    assert set(owners.values()) == {cell.id}
    assert len(owners) == len(missing) + 1
    name = bake.layer_target(missing[0])
    build_log = BuildLog(list(owners))
    build_log.steps["1"] = Vertex(
        "[x]", name, "framework", "RUN uv pip install", error="exit code: 1", failed_at=NOW
    )
    failed = buildkit._failure(build_log, owners, Path("log"))
    assert failed.alone
    assert failed.cells == (cell.id,)
    assert "the stage 'framework' failed at: RUN uv pip install" in failed.message


def test_a_layer_of_a_replaced_dockerfile_belongs_to_its_own_cell(repository: Project) -> None:
    """Its Dockerfile is another text, and no file."""
    cells = [repository.default, next(cell for cell in repository.cells if cell.python == "3.6")]
    text = (repository.root / cells[1].folder / "Dockerfile").read_text()
    context = BuildContext(dockerfiles={cells[1].id: text})
    layers = {cell.id: bake.layers_of(cell, repository, context) for cell in cells}
    missing, folders = distinct(layers), (Path("layers"), Path("tmp"))
    file = bake.of_layers(cells, missing, repository.matrix, context, *folders)
    owners = buildkit._owners(file, cells)
    assert {bake.layer_target(layer): layer.cell.id for layer in missing}.items() <= owners.items()


@pytest.mark.parametrize(("name", "host_network"), [("other", False), ("", True)])
def test_builder_that_runs_the_build_is_named(
    repository: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, *, host_network: bool
) -> None:
    """That of the engine is not. Only the private engine needs the network of the machine."""
    prints = (sys.executable, "-c", "import sys; sys.exit(' '.join(sys.argv))")
    builder = Builder(prints, {}, True, shares_host_network=host_network, name=name)
    session = SimpleNamespace(builder=builder, state=State(tmp_path), environ={}, project=repository)
    target = {bake.target_name(repository.default): {"dockerfile": "x"}}
    with pytest.raises(buildkit.BuildFailed) as caught:
        buildkit.build(session, {"target": target}, [repository.default], sys.stderr)  # type: ignore[arg-type]
    said = "building with the builder 'other' of BUILDX_BUILDER\n"
    assert capsys.readouterr().err.startswith(said) == bool(name)
    assert ("network.yaml" in caught.value.message) == host_network


def test_interrupted_build_ends_whatever_it_still_prints() -> None:
    """More than fits into the pipe: buildx waited until somebody read it, and hfdlc for buildx."""
    script = (
        "import signal, sys, time\n"
        "def stop(*_):\n    print('x' * (1 << 20))\n    sys.exit(3)\n"
        "signal.signal(signal.SIGINT, stop)\n"
        "signal.alarm(20)\n"  # ends this program if nothing reads its output
        "print('started', flush=True)\ntime.sleep(60)\n"
    )

    class Interrupted(BuildLog):
        def read(self, line: str) -> NoReturn:
            raise KeyboardInterrupt

    process = start([sys.executable, "-c", script], stdout=subprocess.PIPE)
    with pytest.raises(KeyboardInterrupt):
        buildkit._follow(process, Interrupted(["one"]), io.StringIO(), io.StringIO(), {"one": "one:1"})
    assert process.returncode == 3
