"""Running a training job in a container, until its model.tar.gz is written."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from docker.models.containers import Container
from docker.types import Mount

from hfdlc.build.session import Session
from hfdlc.engine import containers
from hfdlc.errors import HfdlcError, UserError
from hfdlc.matrix.cells import Cell
from hfdlc.process import say
from hfdlc.sagemaker import archive, channels, hosts, network, progress
from hfdlc.sagemaker import job as train_job
from hfdlc.sagemaker import source as source_folder
from hfdlc.sagemaker.channels import Channel
from hfdlc.sagemaker.hosts import Failure, Host
from hfdlc.sagemaker.job import Job, Resources
from hfdlc.sagemaker.metrics import LOSS, Metrics, Point, as_json, svg, write
from hfdlc.sagemaker.source import Source

# What PyTorch reports if /dev/shm is full.
SHARED_MEMORY = re.compile(r"shared memory|/dev/shm", re.IGNORECASE)


@dataclass(frozen=True)
class Order:
    """The arguments of a training job."""

    source: Source
    data: tuple[Channel, ...]
    output: Path
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    checkpoints: Path | None = None
    resources: Resources = field(default_factory=Resources)
    hosts: int = 1
    metrics: Mapping[str, re.Pattern[str]] = field(default_factory=lambda: dict(LOSS))
    metrics_file: Path | None = None
    plot: Path | None = None


def train(session: Session, cell: Cell, order: Order) -> None:
    """Run the training contract with the cell's image, print its log, and write its archives.

    Raises UserError if an argument is not valid, HfdlcError if the script fails (with its reason) or saves no
    model. On Ctrl-C the script gets SIGTERM, and time to save a checkpoint.
    """
    _check(cell, order)
    places = [channel.place for channel in order.data if isinstance(channel.place, Path)]
    results = [order.output, output_of(order.output), *([order.checkpoints] if order.checkpoints else [])]
    code = source_folder.files(order.source, without=[*places, *results])
    names = network.names(order.hosts)
    engine, resources = session.engine, order.resources
    containers.remove_strays(engine)
    with ExitStack() as stack:
        data = stack.enter_context(channels.local(order.data, session.state.folder("tmp")))
        job = Job(str(order.source.entry_point), code, order.hyperparameters, tuple(data))
        mounts = _mounts(order, data)
        net = stack.enter_context(network.connected(engine, names, online=resources.online))
        made: list[Host] = []
        for name in names:
            first = str(made[0].container.id) if made else None
            files, connection = job.files(name, names, net.interface), net.options(name, first)
            container = train_job.created(cell.id, engine, files, {}, resources, connection, mounts)
            made.append(Host(name, stack.enter_context(container)))
        _run(made, order)
    say(f"trained: {order.output}, {order.output.stat().st_size / 1e6:.1f} MB; serve it with")
    print(f"hfdlc serve {cell.id} {order.output}", flush=True)


def _run(made: list[Host], order: Order) -> None:
    """Start the hosts, follow them to their end, and keep what the first one wrote."""
    first = made[0].container
    metrics = Metrics(order.metrics)
    try:
        with progress.printed(tuple(host.name for host in made), metrics) as log:
            failures = hosts.follow(hosts.start(made), log.show)
    except KeyboardInterrupt:
        say(f"stopping: the script has {train_job.PATIENCE} s to save a checkpoint")
        hosts.stop(made, train_job.PATIENCE)
        _keep_output_of_failed(first, order)
        raise
    finally:
        _keep_metrics(metrics.points, order)
    if failures:
        _keep_output_of_failed(first, order)
        raise HfdlcError(
            hosts.message(failures, made), location=str(order.source.script), hint=_hint(failures[0], order)
        )
    _keep(first, order)


def _check(cell: Cell, order: Order) -> None:
    """Raise UserError before anything is started, and make the folders that are written to."""
    if cell.type != "training":
        raise UserError("not a training image", location=cell.id, hint="run `hfdlc list --type training`")
    if order.output.suffixes[-2:] != [".tar", ".gz"]:
        raise UserError("not the name of an archive", location=str(order.output), allowed="NAME.tar.gz")
    if order.output.is_dir():
        raise UserError("is a folder", location=str(order.output), allowed="NAME.tar.gz")
    for folder in filter(None, (order.output.parent, order.checkpoints)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = f"is not a folder, and cannot be made one: {error.strerror}"
            raise UserError(why, location=str(folder)) from error
    if not os.access(order.output.parent, os.W_OK):
        raise UserError("cannot be written to", location=str(order.output.parent), hint="set --output")


def _mounts(order: Order, data: Mapping[str, Path]) -> list[Mount]:
    """The data of each channel, read-only, and the folder of checkpoints."""
    mounts = []
    for name, place in data.items():
        inside = f"/opt/ml/input/data/{name}"
        target = inside if place.is_dir() else f"{inside}/{place.name}"
        mounts.append(Mount(target, str(place.absolute()), type="bind", read_only=True))
    if order.checkpoints:
        mounts.append(Mount(train_job.CHECKPOINTS, str(order.checkpoints.absolute()), type="bind"))
    return mounts


def output_of(model: Path) -> Path:
    """The archive of SM_OUTPUT_DATA_DIR: output.tar.gz beside model.tar.gz, else NAME-output.tar.gz."""
    name = model.name.removesuffix(".tar.gz")
    return model.with_name("output.tar.gz" if name == "model" else f"{name}-output.tar.gz")


def _keep(container: Container, order: Order) -> None:
    """Write the archives of a job that succeeded; an error in one of them does not lose the other.

    Raises HfdlcError if there is no model.
    """
    try:
        if not archive.write(container, train_job.MODEL, order.output):
            raise HfdlcError(
                "the script succeeded, but saved no model in SM_MODEL_DIR",
                location=train_job.MODEL,
                hint="save the model to os.environ['SM_MODEL_DIR'] at the end of the script",
            )
    except HfdlcError:
        _keep_output_of_failed(container, order)
        raise
    _keep_output(container, order)


def _keep_output(container: Container, order: Order) -> None:
    output = output_of(order.output)
    if number := archive.write(container, train_job.OUTPUT, output):
        say(f"output: {output}, {number} files")


def _hint(failure: Failure, order: Order) -> str:
    """What to do about packages that could not be downloaded, and shared memory that is too small."""
    if not order.resources.online and "No matching distribution found" in failure.reason:
        return "requirements.txt is installed from the network: use --online"
    if SHARED_MEMORY.search(failure.reason):
        return "give the containers more shared memory (/dev/shm): --shm-size"
    return ""


def _keep_metrics(points: Sequence[Point], order: Order) -> None:
    """Write what was found in the log; that it cannot be written does not end a job."""
    try:
        if order.metrics_file:
            write(order.metrics_file, as_json(points))
        if order.plot:
            write(order.plot, svg(points))
    except HfdlcError as error:
        say(f"warning: {error}")


def _keep_output_of_failed(container: Container, order: Order) -> None:
    """The output of a failed job; that it cannot be written is not the reason of the failure."""
    try:
        _keep_output(container, order)
    except HfdlcError as error:
        say(f"warning: {error}")
