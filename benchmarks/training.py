"""Training as SageMaker starts it, compared with the same work started by hand in the same image."""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from docker.models.containers import Container
from results import Row, report

from hfdlc import project
from hfdlc.build import builder
from hfdlc.build.session import Session
from hfdlc.engine import containers
from hfdlc.engine.detect import Engine
from hfdlc.sagemaker import hosts, job, network
from hfdlc.sagemaker.hosts import Host
from hfdlc.sagemaker.job import Job

CELL = "huggingface-pytorch-training:2.13.0-transformers5.23.0-cpu-py311-debian12"
IMPORT = "import torch, transformers; print('first line', flush=True)"
RUNS = 3
# DistributedDataParallel over gloo: 4 million parameters are reduced in each step.
DDP = """
import time, torch
from torch import distributed, nn
distributed.init_process_group("gloo")
torch.set_num_threads(1)
torch.manual_seed(1)
model = nn.parallel.DistributedDataParallel(nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(4))))
optimizer, rows = torch.optim.SGD(model.parameters(), lr=0.01), torch.randn(512, 1024)
distributed.barrier()
began = time.perf_counter()
for _ in range(30):
    optimizer.zero_grad(); model(rows).square().mean().backward(); optimizer.step()
distributed.barrier()
if distributed.get_rank() == 0:
    print("seconds %.3f" % (time.perf_counter() - began), flush=True)
"""
SECONDS = re.compile(rb"seconds ([\d.]+)")


@contextmanager
def created(engine: Engine, script: str, number: int, settings: dict[str, str]) -> Iterator[list[Host]]:
    """The containers of a job's hosts, not started."""
    names = network.names(number)
    wanted = Job("train.py", {"train.py": script.encode()}, settings, ())
    with ExitStack() as stack:
        net = stack.enter_context(network.connected(engine, names, online=False))
        made: list[Host] = []
        for name in names:
            first = str(made[0].container.id) if made else None
            files, options = wanted.files(name, names, net.interface), net.options(name, first)
            container = job.created(CELL, engine, files, {}, connection=options)
            made.append(Host(name, stack.enter_context(container)))
        yield made


def until_first_line(container: Container) -> None:
    """Wait for the line that the script prints first."""
    if not any(b"first line" in text for text in container.logs(stream=True, follow=True)):
        raise SystemExit(container.logs().decode())


def start_of_a_job(engine: Engine) -> float:
    """From the creation of the container to the first line of the script."""
    began = time.perf_counter()
    with created(engine, IMPORT, 1, {}) as made:
        hosts.start(made)
        until_first_line(made[0].container)
        return time.perf_counter() - began


def start_by_hand(engine: Engine) -> float:
    """The same with `python -c`."""
    began = time.perf_counter()
    with containers.started(CELL, ["-c", IMPORT], engine, entrypoint=["python"]) as container:
        until_first_line(container)
        return time.perf_counter() - began


def two_hosts(engine: Engine) -> float:
    """The training time of two hosts with one process each."""
    with created(engine, DDP, 2, job.torchrun(1)) as made:
        failures = hosts.follow(hosts.start(made), lambda *_: None)
        if failures:
            raise SystemExit(failures[0].reason)
        return found(made[0].container.logs())


def two_processes(engine: Engine) -> float:
    """The training time of two processes that torchrun starts in one container."""
    with containers.idle(CELL, engine) as container:
        containers.python(container, f"open('/tmp/train.py', 'w').write({DDP!r})")
        command = ["torchrun", "--nproc_per_node", "2", "--master_addr", "127.0.0.1", "/tmp/train.py"]
        _, output = container.exec_run(command, environment={"PET_LOCAL_ADDR": "127.0.0.1"})
        assert isinstance(output, bytes)
        return found(output)


def found(log: bytes) -> float:
    """The seconds that the script printed."""
    match = SECONDS.search(log)
    if not match:
        raise SystemExit(log.decode())
    return float(match[1])


def main() -> int:
    """Build the image, and measure each way of starting in turn: the best of a few runs."""
    with Session(project.find(Path(__file__).parents[1]), os.environ) as session:
        builder.build(session, [cell for cell in session.project.cells if cell.id == CELL])
        engine = session.engine
        start_by_hand(engine)  # reads the image from disk
        starts = [(start_of_a_job(engine), start_by_hand(engine)) for _ in range(RUNS)]
        trained = [(two_hosts(engine), two_processes(engine)) for _ in range(RUNS)]
    ours, theirs = (min(times) for times in zip(*starts, strict=True))
    hosts_ours, hosts_theirs = (min(times) for times in zip(*trained, strict=True))
    rows = [
        Row("start of a job to the script's first line, python -c", ours, theirs, "s", 1.3 + 1 / theirs),
        Row("training on two hosts, two processes of torchrun", hosts_ours, hosts_theirs, "s", 1.15),
    ]
    return report("training", rows)


if __name__ == "__main__":
    sys.exit(main())
