"""SageMaker's training contract: the input files of a container, and its output files.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from docker.errors import DockerException, NotFound
from docker.models.containers import Container
from docker.types import Mount
from docker.utils import parse_bytes

from hfdlc.engine import containers
from hfdlc.engine.detect import Engine
from hfdlc.errors import UserError

HOST = "algo-1"  # SageMaker's name of the first host
CODE = "/opt/ml/input/code"
FAILURE, MODEL, CHECKPOINTS = "/opt/ml/output/failure", "/opt/ml/model", "/opt/ml/checkpoints"
OUTPUT = "/opt/ml/output/data"
# torchrun connects to the name of its own host, which has to resolve.
ALONE: Mapping[str, Any] = {"network_mode": "none", "hostname": HOST, "extra_hosts": {HOST: "127.0.0.1"}}
PATIENCE = 120  # seconds between SIGTERM and SIGKILL, as in SageMaker
# Seconds that hosts wait for each other. It is 900 elsewhere, because instances do not start together.
JOIN_TIMEOUT = {"HFDLC_JOIN_TIMEOUT": "120"}


@dataclass(frozen=True)
class Job:
    """The input of a training container."""

    script: str  # its path in `code`
    code: Mapping[str, bytes | Path]  # path -> content, or the file that has it
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ("training",)

    def files(
        self, host: str = HOST, hosts: Sequence[str] = (HOST,), interface: str = "lo"
    ) -> dict[str, bytes | Path]:
        """The input files of the contract for a host, by path."""
        config = {
            "hyperparameters.json": {
                "sagemaker_program": self.script,
                "sagemaker_submit_directory": CODE,
                **{name: _encoded(name, text) for name, text in self.hyperparameters.items()},
            },
            "inputdataconfig.json": {
                name: {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
                for name in self.channels
            },
            "resourceconfig.json": {
                "current_host": host,
                "hosts": list(hosts),
                "network_interface_name": interface,
                "current_instance_group": "homogeneousCluster",
                "instance_groups": [
                    {
                        "instance_group_name": "homogeneousCluster",
                        "instance_type": "local",
                        "hosts": list(hosts),
                    }
                ],
            },
        }
        written: dict[str, bytes | Path] = {
            f"/opt/ml/input/config/{name}": json.dumps(text).encode() for name, text in config.items()
        }
        return written | {f"{CODE}/{name}": content for name, content in self.code.items()}


def torchrun(processes: int) -> dict[str, str]:
    """The settings with which sagemaker-training starts this number of processes on each host."""
    return {
        "sagemaker_torch_distributed_enabled": "true",
        "sagemaker_mpi_num_of_processes_per_host": str(processes),
    }


def _encoded(name: str, text: str) -> str:
    """A hyperparameter as sagemaker-training reads it.

    It decodes values as JSON, so a value is encoded, as the SageMaker SDK does. Values of its own settings
    (sagemaker_*) are JSON already.
    """
    return text if name.startswith("sagemaker_") else json.dumps(text)


@dataclass(frozen=True)
class Resources:
    """What a container may use."""

    online: bool = False  # whether it has network access
    gpus: bool = False
    shared_memory: int | None = None  # bytes of /dev/shm; None: half of the memory, as in SageMaker
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # may have secrets


def size(text: str) -> int:
    """A size such as 512m or 2g, in bytes; raises UserError if it is none."""
    try:
        number = int(parse_bytes(text))
    except DockerException:
        number = 0
    if number <= 0:
        raise UserError("not a size", location=text, allowed="a number of bytes such as 512m or 2g")
    return number


@contextmanager
def created(
    image: str,
    engine: Engine,
    files: Mapping[str, bytes | Path],
    volumes: containers.Volumes,
    resources: Resources = Resources(),
    connection: Mapping[str, Any] = ALONE,
    mounts: Sequence[Mount] = (),
) -> Iterator[Container]:
    """A container with its input files, not started; it is removed at the end.

    `connection`: the options of its network. Raises HfdlcError if there is no such image.
    """
    container = containers.create(
        image,
        ["train"],
        engine,
        gpus=resources.gpus,
        environment={
            "TRAINING_JOB_NAME": "hfdlc",
            **({} if resources.online else {"HF_HUB_OFFLINE": "1"}),
            **JOIN_TIMEOUT,
            **resources.environment,
        },
        volumes={name: dict(mount) for name, mount in volumes.items()},
        shm_size=resources.shared_memory or int(engine.client.info()["MemTotal"]) // 2,
        mounts=list(mounts),
        **connection,
    )
    try:
        with tempfile.TemporaryFile() as archive:
            write_archive(files, archive)
            archive.seek(0)
            container.put_archive("/", archive)
        yield container
    finally:
        containers.remove(container)


def write_archive(files: Mapping[str, bytes | Path], target: IO[bytes]) -> None:
    """Write a tar archive of the files, and of the folders that scripts write to."""
    with tarfile.open(fileobj=target, mode="w") as tar:
        for folder in (MODEL, CHECKPOINTS, OUTPUT, "/opt/ml/input/data"):
            info = tarfile.TarInfo(folder.lstrip("/"))
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for path, data in files.items():
            info = tarfile.TarInfo(path.lstrip("/"))
            info.mode = 0o755
            with data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as file:
                info.size = file.seek(0, io.SEEK_END)
                file.seek(0)
                tar.addfile(info, file)


def read(container: Container, path: str) -> str | None:
    """A file of a running or stopped container; None if there is none."""
    try:
        pieces, _ = container.get_archive(path)
    except NotFound:
        return None
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
        file = tar.extractfile(tar.getmembers()[0])
        return file.read().decode(errors="replace") if file else None
