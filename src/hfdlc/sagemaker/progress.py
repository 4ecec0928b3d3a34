"""The log of a training job, as it is printed, and its progress."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hfdlc.sagemaker.metrics import LOSS, Metrics

# `30/144 [` of tqdm and Keras, `Epoch 3/12` of Keras.
DONE = re.compile(r"\b(\d+)/(\d+) \[|^Epoch (\d+)/(\d+)")


@dataclass(frozen=True)
class Log:
    """Prints the lines of the hosts, and a progress bar if the first host reports progress."""

    hosts: tuple[str, ...]
    progress: Progress
    task: TaskID
    metrics: Metrics

    def show(self, host: str, line: str) -> None:
        r"""Print a line; a state of a progress bar ends with `\r`."""
        self.metrics.read(host, line)
        done = DONE.search(line)
        if host == self.hosts[0]:
            self._advance(line, done)
        if line.endswith("\n") and not (done and "\r" in line):
            name = f"{host} | " if len(self.hosts) > 1 else ""
            self.progress.console.print(name + line.rstrip(), markup=False)

    def _advance(self, line: str, done: re.Match[str] | None) -> None:
        if done:
            now, total = (int(number) for number in done.groups() if number)
            # The shorter bars are those of checkpoints and evaluations.
            if total >= (self.progress.tasks[0].total or 0):
                self.progress.update(self.task, completed=now, total=total, steps=f"{now} of {total}")
        if loss := LOSS["loss"].search(line):
            self.progress.update(self.task, loss=f"loss {loss[1]}")


@contextmanager
def printed(hosts: tuple[str, ...], metrics: Metrics, console: Console | None = None) -> Iterator[Log]:
    """The log of a job, for as long as it runs."""
    console = console or Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.fields[steps]}"),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Log(hosts, progress, progress.add_task("", total=None, steps="", loss=""), metrics)


def lines(pieces: Iterable[bytes]) -> Iterator[str]:
    r"""Complete lines of a stream; states of a progress bar end with `\r`."""
    rest = b""
    for piece in pieces:
        *whole, rest = re.split(rb"(?<=[\r\n])", rest + piece)
        for line in whole:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace") + "\n"
