"""Metrics in the log of a training job, by regular expressions as in SageMaker's metric definitions.

https://docs.aws.amazon.com/sagemaker/latest/dg/define-train-metrics.html
"""

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path

from hfdlc.errors import HfdlcError, UserError

# As transformers' Trainer and Keras write it: `'loss': '0.69'`, `loss: 0.69`; not `eval_loss`.
LOSS = {"loss": re.compile(r"""\bloss['"]?\s*[:=]\s*['"]?([-+.\w]+)""")}
WIDTH, HEIGHT, MARGIN = 720, 360, 48
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


@dataclass(frozen=True)
class Point:
    """A value of a metric; None if it is not finite."""

    name: str
    host: str
    seconds: float  # since the start of the job
    value: float | None


@dataclass
class Metrics:
    """The values that were found so far."""

    patterns: Mapping[str, re.Pattern[str]]
    clock: Callable[[], float] = time.monotonic
    points: list[Point] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def read(self, host: str, line: str) -> None:
        """Take the values of a line."""
        for name, pattern in self.patterns.items():
            for found in pattern.finditer(line):
                try:
                    value = float(found[1])
                except ValueError:
                    continue
                seconds = round(self.clock() - self.began, 3)
                self.points.append(Point(name, host, seconds, value if math.isfinite(value) else None))


def definitions(words: Sequence[str]) -> dict[str, re.Pattern[str]]:
    """The patterns of NAME=REGEX; without any, the loss that Trainer and Keras report.

    Raises UserError if one is not valid, or has no group with the value.
    """
    found = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise UserError(f"not a regular expression: {error}", location=word) from error
        if not name or pattern.groups != 1:
            raise UserError(
                "not a metric", location=word, allowed=r"NAME=REGEX with one group: loss='loss': ([0-9.]+)"
            )
        found[name] = pattern
    return found or dict(LOSS)


def write(path: Path, content: str) -> None:
    """Write a file, and its folder; raises HfdlcError if that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    except OSError as error:
        raise HfdlcError(f"cannot be written: {error.strerror}", location=str(path)) from error


def as_json(points: Sequence[Point]) -> str:
    """A list of the values."""
    return json.dumps([asdict(point) for point in points], indent=2) + "\n"


def svg(points: Sequence[Point]) -> str:
    """A line for each metric and host, over the seconds since the start."""
    lines: dict[str, list[tuple[float, float]]] = {}
    hosts = len({point.host for point in points})
    for point in points:
        if point.value is not None:
            name = f"{point.name} ({point.host})" if hosts > 1 else point.name
            lines.setdefault(name, []).append((point.seconds, point.value))
    flat = [pair for line in lines.values() for pair in line] or [(0.0, 0.0)]
    left, right = min(x for x, _ in flat), max(x for x, _ in flat)
    low, high = min(y for _, y in flat), max(y for _, y in flat)

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (x - left) / ((right - left) or 1), (y - low) / ((high - low) or 1)
        return MARGIN + across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    bottom = HEIGHT - MARGIN + 18
    for n in range(5):
        x, y = left + (right - left) * n / 4, low + (high - low) * n / 4
        across, up = at(x, y)
        parts.append(f'<path d="M{MARGIN} {up:.1f}H{WIDTH - MARGIN}" stroke="#ddd"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{up + 4:.1f}" text-anchor="end">{y:.3g}</text>')
        parts.append(f'<text x="{across:.1f}" y="{bottom}" text-anchor="middle">{x:.3g} s</text>')
    for n, (name, line) in enumerate(lines.items()):
        color = COLORS[n % len(COLORS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*pair) for pair in line))
        at_right = f'x="{WIDTH - MARGIN}" y="{18 + 16 * n}" text-anchor="end"'
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<text {at_right} fill="{color}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])
