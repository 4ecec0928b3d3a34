"""Running a bake file with `docker buildx bake`."""

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

from hfdlc.build import cache
from hfdlc.build.bake import host_network, target_name
from hfdlc.build.log import BuildLog, Vertex
from hfdlc.build.progress import progress
from hfdlc.build.session import Session
from hfdlc.engine.buildx import VARIABLE, Builder
from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.process import say, start

# The bake file is ours, and its secrets and layers are outside the repository: buildx need not ask.
OWN_FILE = {"BUILDX_BAKE_ENTITLEMENTS_FS": "0"}
FULL = "no space left on device"


@dataclass(frozen=True)
class Done:
    """A build that succeeded: its log file, its vertices, and manifest digests by target."""

    log: Path
    build_log: BuildLog
    digests: dict[str, str]


class BuildFailed(HfdlcError):
    """A build failed: the cells that failed, and (`alone`) whether others can be built without them."""

    def __init__(
        self,
        message: str,
        *,
        build_log: BuildLog,
        cells: Sequence[str],
        alone: bool,
        location: str,
        hint: str,
    ) -> None:
        super().__init__(message, location=location, hint=hint)
        self.build_log, self.cells, self.alone = build_log, tuple(cells), alone


def build(session: Session, bake: dict[str, Any], cells: Sequence[Cell], out: TextIO) -> Done:
    """Run a bake file; progress goes to `out`.

    Raises BuildFailed with the cell, the instruction, its last lines and the command that repeats it.
    """
    builder, state = session.builder, session.state
    if builder.name:
        say(f"building with the builder {builder.name!r} of {VARIABLE}")
    log = state.folder("logs") / f"build-{datetime.now():%Y%m%d-%H%M%S.%f}-{os.getpid()}.log"
    build_log = BuildLog(list(bake["target"]))
    ids = _owners(bake, cells)
    with tempfile.TemporaryDirectory(dir=state.folder("tmp")) as folder, log.open("w") as text:
        files = _written(bake, builder, Path(folder))
        made = Path(folder, "made.json")
        # An attestation would turn the image into an index; published images get their own attestations.
        argv = [*builder.buildx, "bake", *files, "--progress", "rawjson", "--provenance=false"]
        argv += ["--metadata-file", str(made)]
        process = start(
            argv,
            env={**builder.environment, **cache.environment(session, Path(folder)), **OWN_FILE},
            cwd=session.project.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        _follow(process, build_log, text, out, ids)
        if process.returncode:
            raise _failure(build_log, ids, log)
        results = json.loads(made.read_text())
    digests = {target: result.get("containerimage.digest", "") for target, result in results.items()}
    return Done(log, build_log, digests)


def _owners(bake: dict[str, Any], cells: Sequence[Cell]) -> dict[str, str]:
    """The cell of each target; a layer belongs to the cell with the same Dockerfile."""
    targets = bake["target"]
    of_files = {_file(targets[target_name(cell)]): cell.id for cell in cells}
    return {name: of_files[_file(target)] for name, target in targets.items()}


def _file(target: dict[str, Any]) -> str:
    return str(target.get("dockerfile-inline") or target["dockerfile"])


def _written(bake: dict[str, Any], builder: Builder, folder: Path) -> list[str]:
    """The arguments of bake for the bake file, and for the network of a private engine."""
    files = {"bake.json": bake}
    if builder.shares_host_network:
        files["network.yaml"] = host_network(bake["target"])
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))  # JSON is YAML
    return [word for name in files for word in ("--file", str(folder / name))]


def _follow(
    process: subprocess.Popen[str], build_log: BuildLog, log: TextIO, out: TextIO, ids: dict[str, str]
) -> None:
    """Show the progress of a build, and write it to the log, until it ends."""
    assert process.stdout
    try:
        with progress(out, ids) as shown:
            for line in process.stdout:
                for event in build_log.read(line):
                    shown.show(event)
                    if event.kind != "bytes":
                        how = (
                            event.text or event.step.error or ("cached" if event.step.cached else event.kind)
                        )
                        log.write(f"{event.step.name.splitlines()[0][:120]} | {how}\n")
            process.wait()
    except BaseException:
        # The engine stops the containers of the build when its client disconnects.
        process.send_signal(signal.SIGINT)
        process.communicate()  # it ends only when all that it prints is read
        raise
    log.write("\n".join(build_log.output) + "\n")


def _failure(build_log: BuildLog, ids: dict[str, str], log: Path) -> BuildFailed:
    failed = build_log.failed()
    own = list(dict.fromkeys(ids[step.target] for step in failed if step.target))
    cells = own or list(dict.fromkeys(ids.values()))
    if failed:
        message = _message(failed[0])
    else:
        message = "the build failed\n" + "\n".join(f"    {line}" for line in list(build_log.output)[-15:])
    again = "hfdlc build " + " ".join(cells)
    # A full disk or a stopped engine is not the fault of one cell.
    alone = bool(own) and FULL not in message.lower()
    return BuildFailed(
        message,
        build_log=build_log,
        cells=cells,
        alone=alone,
        location=cells[0],
        hint=_advice(message, again, log),
    )


def _message(step: Vertex) -> str:
    instruction = " ".join(step.instruction.split())
    tail = "\n".join(f"    {line}" for line in list(step.lines)[-12:])
    stage = f"the stage {step.stage!r} failed at" if step.stage else "it failed at"
    return "\n".join(filter(None, [f"{stage}: {instruction}", tail, f"    {step.error.splitlines()[-1]}"]))


def _advice(message: str, again: str, log: Path) -> str:
    if FULL in message.lower():
        again = f"free disk space (`df -h`; `hfdlc engine prune` drops the build cache), then {again}"
    return f"{again}\n  log: {log}"
