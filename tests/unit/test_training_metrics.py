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

SVG = "{http://www.w3.org/2000/svg}"


def texts(root: ElementTree.Element) -> list[str]:
    """What is written in a plot."""
    return [each.text or "" for each in root.iter(f"{SVG}text")]


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
    first, second = root.iter(f"{SVG}polyline")
    assert texts(root)[:2] == ["loss (algo-1): 0.5", "<f1> (algo-2): 0.75"]
    assert "seconds since the start" in texts(root)
    assert first.attrib["points"] == "72.0,44.0 696.0,344.0"
    assert second.attrib["points"] == "696.0,194.0"
    assert len(list(root.iter(f"{SVG}circle"))) == 3


def test_a_long_job_is_plotted_in_minutes_or_hours() -> None:
    """Dots are left out if there are many values."""
    for seconds, unit in ((150.0, "seconds"), (600.0, "minutes"), (86400.0, "hours")):
        points = [Point("loss", "algo-1", seconds * n / 100, 1 / (n + 1)) for n in range(101)]
        root = ElementTree.fromstring(metrics.svg(points))
        assert f"{unit} since the start" in texts(root)
        assert not list(root.iter(f"{SVG}circle"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 1.0], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ([0.13, 1.41], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6]),
        ([0.3, 0.61], [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65]),
        ([-2.0, 95.0], [-20.0, 0.0, 20.0, 40.0, 60.0, 80.0, 100.0]),
        ([1e-5, 5e-5], [1e-5, 2e-5, 3e-5, 4e-5, 5e-5]),
        ([0.0], [-0.2, 0.0, 0.2]),
        ([50.0, 50.0], [40.0, 50.0, 60.0]),
        ([1e300, 2e300], [1e300, 1.2e300, 1.4e300, 1.6e300, 1.8e300, 2e300]),
    ],
)
def test_axes_have_round_numbers(values: list[float], expected: list[float]) -> None:
    """Around all values, also if they are equal."""
    assert metrics.ticks(values) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_the_legend_has_as_many_rows_as_it_needs() -> None:
    """Names do not overlap."""
    points = [Point(f"validation:accuracy:{n}", "algo-1", float(n), 0.5) for n in range(7)]
    root = ElementTree.fromstring(metrics.svg(points))
    rows = [float(each.attrib["y"]) for each in root.iter(f"{SVG}text") if "validation" in (each.text or "")]
    assert sorted(set(rows)) == [24.0, 44.0, 64.0, 84.0]


def test_a_plot_without_values_says_so() -> None:
    root = ElementTree.fromstring(metrics.svg([Point("loss", "algo-1", 1.0, None)]))
    assert texts(root) == ["no values were found in the log"]


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
    bar = [f" {n}/10 [00:01<00:02]\r" for n in (1, 2, 3)]
    printed = log_of(*bar, "{'loss': '0.69'}\n", shards, terminal=True)
    assert "algo-1 | {'loss': '0.69'}\n" in printed
    last = printed.rpartition("training")[2]
    assert "3 of 10 loss 0.69 0:00:0" in last
    assert " left\n" in last


def test_no_time_is_left_while_no_steps_are_reported() -> None:
    printed = log_of("loading\n", terminal=True)
    assert "0:00:0" in printed
    assert "left" not in printed


def test_without_a_terminal_lines_are_plain() -> None:
    printed = log_of(" 3/10 [00:01<00:02]\r", "{'loss': '0.69'}\n", terminal=False)
    assert printed.strip() == "algo-1 | {'loss': '0.69'}"


def bar_of(*lines: str) -> str:
    """The steps and the loss in the bar after some lines of a log."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress.printed(("algo-1",), Metrics({}), console) as log:
        for line in lines:
            log.show("algo-1", line)
        task = log.progress.tasks[0]
    return f"{task.completed}/{task.total} {task.fields['steps']} {task.fields['loss']}".strip()


EPOCH = "Epoch 3/12\n"


@pytest.mark.parametrize(
    ("lines", "bar"),
    [
        ([" 21%|██ | 30/144 [00:04<00:16]\r"], "30/144 30 of 144"),
        ([" 21%|██ | 30/144 [00:04<00:16]\r", " 1/2 [00:01<00:01]\r"], "30/144 30 of 144"),
        (["loss 0.2 on 3/4 of it\n"], "0/None"),
        ([EPOCH], "2/12 epoch 3 of 12"),
        ([EPOCH, " 6/10 [=====>....] - ETA: 1s - loss: 0.69\n"], "26/120 epoch 3 of 12 loss 0.69"),
        (
            [
                EPOCH,
                "\x1b[1m 6/10\x1b[0m \x1b[32m━━━\x1b[0m\x1b[37m━━\x1b[0m 1s 5ms/step - loss: 0.5\n",
            ],
            "26/120 epoch 3 of 12 loss 0.5",
        ),
        ([EPOCH, "10/10 - 3s - loss: 0.4\n"], "30/120 epoch 3 of 12 loss 0.4"),
        ([EPOCH, "10/10 - 3s - 300ms/step - loss: 0.4\n", "Epoch 4/12\n"], "30/120 epoch 4 of 12 loss 0.4"),
    ],
)
def test_the_bar_shows_what_trainer_and_keras_report(lines: list[str], bar: str) -> None:
    """Steps of all epochs, although Keras counts those of one; no other share, and no shorter bar."""
    assert bar_of(*lines) == bar


def test_states_of_keras_are_not_printed() -> None:
    """It writes each in a line of its own without a terminal; the last one has the loss of the epoch."""
    printed = log_of(EPOCH, " 6/10 [==>..] - loss: 0.7\n", "10/10 [====] - loss: 0.5\n", terminal=False)
    assert printed == "algo-1 | Epoch 3/12\nalgo-1 | 10/10 [====] - loss: 0.5\n"


def test_definition_whose_group_takes_no_part_in_a_match_finds_nothing() -> None:
    """A job ended with an error of Python when such a line was in its log."""
    assert found(["loss=loss is unknown|loss ([0-9.]+)"], "loss is unknown", "loss 0.5") == [("loss", 0.5)]
