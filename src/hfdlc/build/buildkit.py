"""Building: a plan, carried out by `docker buildx bake`."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from hfdlc.build.bake import host_network, target_name
from hfdlc.build.log import Solve, Step
from hfdlc.build.progress import for_people
from hfdlc.build.session import Session
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.process import start

FULL = "no space left on device"


@dataclass(frozen=True)
class Done:
    """A build that succeeded: its log, what BuildKit told, and the images' digests by target."""

    log: Path
    solve: Solve
    digests: dict[str, str]


class BuildFailed(HfdlcError):
    """A build did not succeed: which of its cells failed by themselves, and whether others can go on."""

    def __init__(
        self, message: str, *, solve: Solve, cells: Sequence[str], alone: bool, location: str, hint: str
    ) -> None:
        super().__init__(message, location=location, hint=hint)
        self.solve, self.cells, self.alone = solve, tuple(cells), alone


def build(session: Session, bake: dict[str, Any], cells: Sequence[Cell], out: TextIO) -> Done:
    """Run a bake file; progress goes to `out`.

    Raises BuildFailed with the cell, the instruction, its last lines and the command that repeats it.
    """
    engine, state = session.engine, session.state
    log = state.folder("logs") / f"build-{datetime.now():%Y%m%d-%H%M%S.%f}-{os.getpid()}.log"
    solve = Solve(list(bake["target"]))
    ids = _owners(bake, cells)
    with tempfile.TemporaryDirectory(dir=state.folder("tmp")) as folder, log.open("w") as text:
        files = _written(bake, engine, Path(folder))
        made = Path(folder, "made.json")
        # An attestation would make an index of the image; what is published gets its own.
        argv = [*engine.buildx, "bake", *files, "--progress", "rawjson", "--provenance=false"]
        argv += ["--metadata-file", str(made)]
        process = start(
            argv,
            env=engine.environment,
            cwd=session.project.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        _follow(process, solve, text, out, ids)
        if process.returncode:
            raise _failure(solve, ids, log)
        told = json.loads(made.read_text())
    digests = {target: about.get("containerimage.digest", "") for target, about in told.items()}
    return Done(log, solve, digests)


def _owners(bake: dict[str, Any], cells: Sequence[Cell]) -> dict[str, str]:
    """The cell of each target; of a layer's, the one with the same Dockerfile."""
    targets = bake["target"]
    of_files = {_file(targets[target_name(cell)]): cell.id for cell in cells}
    return {name: of_files[_file(target)] for name, target in targets.items()}


def _file(target: dict[str, Any]) -> str:
    return str(target.get("dockerfile-inline") or target["dockerfile"])


def _written(bake: dict[str, Any], engine: Engine, folder: Path) -> list[str]:
    """The bake file, and what a private engine needs beside it, as arguments of bake."""
    files = {"bake.json": bake}
    if engine.private:
        files["network.yaml"] = host_network(bake["target"])
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))  # JSON is YAML
    return [word for name in files for word in ("--file", str(folder / name))]


def _follow(
    process: subprocess.Popen[str], solve: Solve, log: TextIO, out: TextIO, ids: dict[str, str]
) -> None:
    """Show and keep what a build says until it ends."""
    assert process.stdout
    try:
        with for_people(out, ids) as progress:
            for line in process.stdout:
                for event in solve.read(line):
                    progress.show(event)
                    if event.kind != "bytes":
                        how = (
                            event.text or event.step.error or ("cached" if event.step.cached else event.kind)
                        )
                        log.write(f"{event.step.name.splitlines()[0][:120]} | {how}\n")
            process.wait()
    except BaseException:
        # The engine ends what runs in its containers when its client goes away.
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    log.write("\n".join(solve.said) + "\n")


def _failure(solve: Solve, ids: dict[str, str], log: Path) -> BuildFailed:
    failed = solve.failed()
    own = list(dict.fromkeys(ids[step.target] for step in failed if step.target))
    cells = own or list(dict.fromkeys(ids.values()))
    if failed:
        told = _told(failed[0])
    else:
        told = "the build did not succeed\n" + "\n".join(f"    {line}" for line in list(solve.said)[-15:])
    again = "hfdlc build " + " ".join(cells)
    # A full disk, or an engine that is gone, is no fault of a cell's.
    alone = bool(own) and FULL not in told.lower()
    return BuildFailed(
        told, solve=solve, cells=cells, alone=alone, location=cells[0], hint=_advice(told, again, log)
    )


def _told(step: Step) -> str:
    instruction = " ".join(step.instruction.split())
    tail = "\n".join(f"    {line}" for line in list(step.lines)[-12:])
    stage = f"the stage {step.stage!r} failed at" if step.stage else "it failed at"
    return "\n".join(filter(None, [f"{stage}: {instruction}", tail, f"    {step.error.splitlines()[-1]}"]))


def _advice(told: str, again: str, log: Path) -> str:
    if FULL in told.lower():
        again = f"make room (`df -h`; `hfdlc engine prune` drops the build cache), then {again}"
    return f"{again}\n  log: {log}"
