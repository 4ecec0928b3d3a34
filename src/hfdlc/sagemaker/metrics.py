"""Metrics in the log of a training job, by regular expressions as in SageMaker's metric definitions.

https://docs.aws.amazon.com/sagemaker/latest/dg/define-train-metrics.html
"""

import itertools
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
WIDTH, HEIGHT = 720, 300  # of the image; of the axes
LEFT, RIGHT, TOP, BOTTOM = 72, 24, 24, 52  # around the axes
ROW, LETTER = 20, 6.6  # height of a row of the legend, and width of a letter in it
MOST_TICKS, MOST_DOTS = 8, 40  # of an axis; of a line
UNITS = (("seconds", 1, 180), ("minutes", 60, 3 * 3600), ("hours", 3600, math.inf))  # up to so many seconds
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
                except (TypeError, ValueError):  # the group took no part in the match, or has no number
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
    """A line for each metric and host, over the time since the start."""
    lines: dict[str, list[tuple[float, float]]] = {}
    hosts = len({point.host for point in points})
    for point in points:
        if point.value is not None:
            name = f"{point.name} ({point.host})" if hosts > 1 else point.name
            lines.setdefault(name, []).append((point.seconds, point.value))
    legend, rows = _legend(lines)
    top = TOP + ROW * rows
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + HEIGHT + BOTTOM}"'
        ' font-family="sans-serif" font-size="12" fill="#444">',
        "<title>Metrics of a training job</title>",
        f'<rect width="{WIDTH}" height="{top + HEIGHT + BOTTOM}" fill="white"/>',
        *legend,
    ]
    if lines:
        parts += _plot(lines, top)
    else:
        parts.append(_text(WIDTH / 2, top + HEIGHT / 2, "middle", "no values were found in the log"))
    return "\n".join([*parts, "</svg>\n"])


def _plot(lines: Mapping[str, Sequence[tuple[float, float]]], top: float) -> list[str]:
    """The axes, and the lines over them."""
    flat = [pair for line in lines.values() for pair in line]
    last = max(x for x, _ in flat)
    unit, divisor = next((unit, divisor) for unit, divisor, most in UNITS if last <= most)
    across, up = ticks([x / divisor for x, _ in flat]), ticks([y for _, y in flat])
    right, bottom = WIDTH - RIGHT, top + HEIGHT

    def at_x(value: float) -> float:
        return LEFT + (value - across[0]) / (across[-1] - across[0]) * (right - LEFT)

    def at_y(value: float) -> float:
        return bottom - (value - up[0]) / (up[-1] - up[0]) * HEIGHT

    parts = []
    for value in up:
        parts.append(f'<path d="M{LEFT} {at_y(value):.1f}H{right}" stroke="#e4e4e4"/>')
        parts.append(_text(LEFT - 8, at_y(value) + 4, "end", f"{value:.6g}"))
    for value in across:
        parts.append(f'<path d="M{at_x(value):.1f} {bottom}v5" stroke="#888"/>')
        parts.append(_text(at_x(value), bottom + 20, "middle", f"{value:.6g}"))
    parts.append(f'<path d="M{LEFT} {bottom}H{right}" stroke="#888"/>')
    parts.append(_text((LEFT + right) / 2, bottom + 38, "middle", f"{unit} since the start"))
    for color, line in zip(itertools.cycle(COLORS), lines.values(), strict=False):
        shown = [f"{at_x(x / divisor):.1f},{at_y(y):.1f}" for x, y in line]
        parts.append(
            f'<polyline points="{" ".join(shown)}" fill="none" stroke="{color}" stroke-width="2"'
            ' stroke-linejoin="round"/>'
        )
        if len(line) <= MOST_DOTS:
            dots = [
                f'<circle cx="{x}" cy="{y}" r="3"/>' for x, _, y in (pair.partition(",") for pair in shown)
            ]
            parts.append(f'<g fill="{color}">{"".join(dots)}</g>')
    return parts


def _legend(lines: Mapping[str, Sequence[tuple[float, float]]]) -> tuple[list[str], int]:
    """The names with their last values, and the number of rows that they fill."""
    parts, x, row = [], float(LEFT), 0
    for color, (name, line) in zip(itertools.cycle(COLORS), lines.items(), strict=False):
        text = f"{name}: {line[-1][1]:.4g}"
        width = 26 + LETTER * len(text) + 20
        if x > LEFT and x + width > WIDTH:
            x, row = LEFT, row + 1
        y = TOP + ROW * row
        parts.append(f'<path d="M{x:.0f} {y - 4}h18" stroke="{color}" stroke-width="3"/>')
        parts.append(_text(x + 26, y, "start", text))
        x += width
    return parts, row + 1 if lines else 0


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def ticks(values: Sequence[float]) -> list[float]:
    """Round numbers at equal distances, from at most the smallest value to at least the largest one."""
    low, high = min(values), max(values)
    least = ((high - low) or abs(high) or 1.0) / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * n for n in (1, 2, 5, 10, 20) if power * n >= least)
    # Without the tolerance, 0.3 / 0.1 is below 3.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        first, last = first - 1, last + 1
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
