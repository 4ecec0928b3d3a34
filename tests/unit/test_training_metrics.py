"""Metrics of a training job: what is found in its log, and how it is written."""

import io
import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from hfdlc.errors import HfdlcError, UserError
from hfdlc.sagemaker import metrics, progress
from hfdlc.sagemaker.metrics import Metrics, Point


def found(words: list[str], *lines: str) -> list[tuple[str, float | None]]:
    recorded = Metrics(metrics.definitions(words))
    for line in lines:
        recorded.read("algo-1", line)
    return [(point.name, point.value) for point in recorded.points]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("{'loss': 0.693, 'grad_norm': 1.2, 'epoch': 1.0}", 0.693),
        ("{'loss': '1.386', 'grad_norm': '0.5'}", 1.386),
        ('{"loss": 2e-05}', 2e-05),
        ("12/12 ━━━━━━━━━━ 0s 5ms/step - accuracy: 0.5 - loss: 1.25\n", 1.25),
        ("epoch 1 loss=0.5", 0.5),
        ("{'loss': nan}", None),
    ],
)
def test_the_loss_of_trainer_and_keras_is_found(line: str, value: float | None) -> None:
    """Without a definition; a loss that is not finite has no value in JSON."""
    assert found([], line) == [("loss", value)]


@pytest.mark.parametrize("line", ["{'eval_loss': 0.5}", "val_loss: 0.5", "the loss: none", "lossy 1/2"])
def test_what_is_no_training_loss_is_left_out(line: str) -> None:
    assert found([], line) == []


def test_definitions_are_those_of_sagemaker() -> None:
    """Names have colons, expressions have equal signs, a line has several values."""
    words = ["train:loss=loss=([0-9.]+)", "eval:f1=f1: ([0-9.]+)"]
    expected = [("train:loss", 0.5), ("train:loss", 0.25), ("eval:f1", 0.9)]
    assert found(words, "loss=0.5 loss=0.25", "f1: 0.9", "f1: .") == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("loss", "not a metric"),
        ("=([0-9]+)", "not a metric"),
        ("loss=[0-9]+", "not a metric"),
        ("loss=(a)(b)", "not a metric"),
        ("loss=([0-9]+", "not a regular expression"),
    ],
)
def test_wrong_definition_is_refused(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        metrics.definitions([word])
    assert str(refused.value).startswith(word)


def test_values_are_written_as_json_with_their_time(tmp_path: Path) -> None:
    clock = itertools.count(10.0, 0.5)
    recorded = Metrics({"loss": re.compile("loss ([.0-9]+)")}, clock=lambda: next(clock))
    recorded.read("algo-1", "loss 0.5")
    metrics.write(tmp_path / "new" / "metrics.json", metrics.as_json(recorded.points))
    written = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert written == [{"name": "loss", "host": "algo-1", "seconds": 0.5, "value": 0.5}]


def test_the_plot_has_a_line_for_each_metric_and_host() -> None:
    """A point without a value is left out."""
    points = [
        Point("loss", "algo-1", 0.0, 1.0),
        Point("loss", "algo-1", 1.0, None),
        Point("loss", "algo-1", 2.0, 0.5),
        Point("<f1>", "algo-2", 2.0, 0.75),
    ]
    root = ElementTree.fromstring(metrics.svg(points))
    names = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "loss (algo-1)" in names
    assert "<f1> (algo-2)" in names
    first, second = root.iter("{http://www.w3.org/2000/svg}polyline")
    assert first.attrib["points"] == "48.0,48.0 672.0,312.0"
    assert second.attrib["points"] == "672.0,180.0"


@pytest.mark.parametrize("points", [[], [Point("loss", "algo-1", 1.0, 0.5)]])
def test_a_plot_of_few_values_is_an_image(points: list[Point]) -> None:
    assert ElementTree.fromstring(metrics.svg(points)).tag.endswith("svg")


def test_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HfdlcError, match=r"file/loss\.svg: cannot be written: "):
        metrics.write(tmp_path / "file" / "loss.svg", "")


def log_of(*lines: str, terminal: bool) -> str:
    """What is printed of a log."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=100, color_system=None)
    with progress.printed(("algo-1", "algo-2"), Metrics({}), console) as log:
        for line in lines:
            log.show("algo-1", line)
        log.show("algo-2", " 9/10 [00:01<00:01]\r")
    return screen.getvalue()


def test_a_terminal_has_a_bar_with_loss_and_time_left() -> None:
    """Those of the first host; states of its own bar are not printed."""
    shards = "Writing model shards: 100%|█| 1/1 [00:00<00:00]\n"
    printed = log_of(" 3/10 [00:01<00:02]\r", "{'loss': '0.69'}\n", shards, terminal=True)
    assert "algo-1 | {'loss': '0.69'}\n" in printed
    last = printed.rpartition("training")[2]
    assert "3 of 10 loss 0.69 0:00:0" in last
    assert " left " in last


def test_without_a_terminal_lines_are_plain() -> None:
    printed = log_of(" 3/10 [00:01<00:02]\r", "{'loss': '0.69'}\n", terminal=False)
    assert printed.strip() == "algo-1 | {'loss': '0.69'}"
