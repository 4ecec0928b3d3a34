"""Running a training job in a container, until its model.tar.gz is written."""

import os
import re
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from docker.errors import DockerException
from docker.models.containers import Container
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hfdlc.build.session import Session
from hfdlc.engine import containers
from hfdlc.errors import HfdlcError, UserError
from hfdlc.matrix.cells import Cell
from hfdlc.process import say
from hfdlc.sagemaker import job as train_job
from hfdlc.sagemaker import source as source_folder
from hfdlc.sagemaker.job import Job
from hfdlc.sagemaker.source import Source

# `30/144 [` of tqdm and Keras, `Epoch 3/12` of Keras.
DONE = re.compile(r"\b(\d+)/(\d+) \[|^Epoch (\d+)/(\d+)")
Volumes = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Order:
    """The arguments of a training job."""

    source: Source
    data: Path
    output: Path
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    checkpoints: Path | None = None
    online: bool = False
    gpus: bool = False


def train(session: Session, cell: Cell, order: Order) -> None:
    """Run the training contract with the cell's image, print its log, and write model.tar.gz.

    Raises UserError if an argument is not valid, HfdlcError if the script fails (with its reason) or saves no
    model. On Ctrl-C the script gets SIGTERM, and time to save a checkpoint.
    """
    job, volumes = _job(cell, order)
    with train_job.created(
        cell.id, session.engine, job.files(), volumes, online=order.online, gpus=order.gpus
    ) as container:
        containers.start(container)
        try:
            _show(container)
            code = int(container.wait()["StatusCode"])
        except KeyboardInterrupt:
            say(f"stopping: the script has {train_job.PATIENCE} s to save a checkpoint")
            container.stop(timeout=train_job.PATIENCE)
            raise
        if code:
            reason = (
                train_job.read(container, train_job.FAILURE) or "no reason was written to the failure file"
            )
            raise HfdlcError(
                f"training failed with exit code {code}\n{reason}", location=str(order.source.script)
            )
        _keep_model(container, order.output)
    say(f"trained: {order.output}, {order.output.stat().st_size / 1e6:.1f} MB; serve it with")
    print(f"hfdlc serve {cell.id} {order.output}", flush=True)


def _job(cell: Cell, order: Order) -> tuple[Job, Volumes]:
    """The input of the container, and its volumes."""
    if cell.type != "training":
        raise UserError("not a training image", location=cell.id, hint="run `hfdlc list --type training`")
    if order.output.suffixes[-2:] != [".tar", ".gz"]:
        raise UserError("not the name of an archive", location=str(order.output), allowed="NAME.tar.gz")
    channels = _channels(order.data)
    bound = {f"/opt/ml/input/data/{name}": (folder, "ro") for name, folder in channels.items()}
    if order.checkpoints:
        order.checkpoints.mkdir(parents=True, exist_ok=True)
        bound[train_job.CHECKPOINTS] = (order.checkpoints, "rw")
    volumes = {
        str(folder.absolute()): {"bind": inside, "mode": mode} for inside, (folder, mode) in bound.items()
    }
    mounted = [order.output, *(folder for folder, _ in bound.values())]
    code = source_folder.files(order.source, without=mounted)
    return Job(str(order.source.entry_point), code, order.hyperparameters, tuple(channels)), volumes


def _channels(data: Path) -> dict[str, Path]:
    """Folders by channel: the subfolders of a folder that has only folders, else the channel `training`."""
    if not data.is_dir():
        raise UserError("no such folder", location=str(data))
    inside = [path for path in sorted(data.iterdir()) if not path.name.startswith(".")]
    if not inside:
        raise UserError("the data folder is empty", location=str(data))
    if all(path.is_dir() for path in inside):
        return {path.name: path for path in inside}
    return {"training": data}


def _show(container: Container) -> None:
    """Print the log, and a progress bar if the script reports progress."""
    columns = (TextColumn("training"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        for line in lines(container.logs(stream=True, follow=True)):
            if done := DONE.search(line):
                now, total = (int(number) for number in done.groups() if number)
                progress.update(task, completed=now, total=total, description=f"{now} of {total}")
            if line.endswith("\n") and not (done and "\r" in line):
                console.print(line.rstrip(), markup=False)


def lines(pieces: Iterable[bytes]) -> Iterator[str]:
    r"""Complete lines of a stream; states of a progress bar end with `\r`."""
    rest = b""
    for piece in pieces:
        *whole, rest = re.split(rb"(?<=[\r\n])", rest + piece)
        for line in whole:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace") + "\n"


def _keep_model(container: Container, output: Path) -> None:
    """Write /opt/ml/model to an archive, atomically.

    Raises HfdlcError if it is empty or cannot be written.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            number = _pack(container, file)
        if not number:
            raise HfdlcError(
                "the script succeeded, but saved no model in SM_MODEL_DIR",
                location=train_job.MODEL,
                hint="save the model to os.environ['SM_MODEL_DIR'] at the end of the script",
            )
        part.chmod(0o644)
        part.rename(output)
    except (OSError, DockerException, tarfile.TarError) as error:
        raise HfdlcError(
            f"cannot write the model: {error}",
            location=str(output),
            hint="free disk space or set --output, then train again",
        ) from error
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _pack(container: Container, file: IO[bytes]) -> int:
    """Write the model's files to the root of an archive, readable by all; returns their number."""
    pieces, _ = container.get_archive(train_job.MODEL)
    try:
        return _repack(cast("IO[bytes]", _Stream(pieces)), file)
    finally:
        _read_out(pieces)


def _repack(source: IO[bytes], file: IO[bytes]) -> int:
    number = 0
    with (
        tarfile.open(fileobj=source, mode="r|") as found,
        tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as target,  # weights compress badly
    ):
        for member in found:
            member.name = member.name.partition("/")[2]
            if not member.name:
                continue
            member.mode |= 0o755 if member.isdir() else 0o644
            target.addfile(member, found.extractfile(member) if member.isfile() else None)
            number += member.isfile()
    return number


def _read_out(pieces: Iterable[bytes]) -> None:
    """Read the rest: the engine locks the container until its archive has been read."""
    for _ in pieces:
        pass


class _Stream:
    """Chunks of bytes as a file."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest = iter(pieces), b""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, fewer only at the end."""
        found = [self._rest]
        length = len(self._rest)
        while length < size and (piece := next(self._pieces, b"")):
            found.append(piece)
            length += len(piece)
        whole = b"".join(found)
        self._rest = whole[size:]
        return whole[:size]
