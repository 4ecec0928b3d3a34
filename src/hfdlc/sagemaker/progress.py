"""The log of a training job, as it is printed, and its progress."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from hfdlc.sagemaker.metrics import LOSS, Metrics

# `30/144 [` of tqdm and Keras 2, `30/144 ━━` of Keras 3, `144/144 - 3s` of Keras with verbose=2.
STEP = re.compile(r"\b(\d+)/(\d+) (\[|━|- \d+m?s\b)")
EPOCH = re.compile(r"^Epoch (\d+)/(\d+)")  # of Keras, which counts steps in each epoch
STYLE = re.compile(r"\x1b\[[\d;]*m|\x08+")  # colors, and steps back in a line


class TimeLeft(TimeRemainingColumn):
    """The time until the last step; nothing while it is not known."""

    def render(self, task: Task) -> Text:
        """See TimeRemainingColumn."""
        known = task.time_remaining is not None
        return Text.assemble(super().render(task), " left") if known else Text()


@dataclass
class Log:
    """Prints the lines of the hosts, and a progress bar if the first host reports progress."""

    hosts: tuple[str, ...]
    progress: Progress
    task: TaskID
    metrics: Metrics
    epoch: tuple[int, int] | None = None  # the current one and their number, of Keras

    def show(self, host: str, line: str) -> None:
        r"""Print a line; a state of a progress bar ends with `\r`, or is a line without the last step."""
        plain = STYLE.sub("", line)
        self.metrics.read(host, plain)
        step = STEP.search(plain)
        if host == self.hosts[0]:
            self._advance(plain, step)
        if line.endswith("\n") and not (step and _is_state(step)):
            name = f"{host} | " if len(self.hosts) > 1 else ""
            self.progress.console.print(name + line.rstrip(), markup=False)

    def _advance(self, line: str, step: re.Match[str] | None) -> None:
        if epoch := EPOCH.search(line):
            self.epoch = int(epoch[1]), int(epoch[2])
            self._set(self.epoch[0] - 1, self.epoch[1], f"epoch {epoch[1]} of {epoch[2]}")
        elif step and self.epoch:
            number, epochs = self.epoch
            now, total = (number - 1) * int(step[2]) + int(step[1]), epochs * int(step[2])
            self._set(now, total, f"epoch {number} of {epochs}")
        elif step and int(step[2]) >= (self.progress.tasks[0].total or 0):
            # The shorter bars are those of checkpoints and evaluations.
            self._set(int(step[1]), int(step[2]), f"{step[1]} of {step[2]}")
        if loss := LOSS["loss"].search(line):
            self.progress.update(self.task, loss=f"loss {loss[1]}")

    def _set(self, now: int, total: int, steps: str) -> None:
        task = self.progress.tasks[0]
        # The share stays when Keras begins an epoch, and its steps are not known yet.
        if task.total and total < task.total:
            now, total = round(now * task.total / total), int(task.total)
        self.progress.update(self.task, completed=now, total=total, steps=steps)


def _is_state(step: re.Match[str]) -> bool:
    """Whether a line is a state of a bar before the last one: Keras writes each in a line."""
    return int(step[1]) < int(step[2])


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
        TimeLeft(),
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
