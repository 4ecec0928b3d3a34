"""What the server counts, in the text format of Prometheus (its exposition format, version 0.0.4)."""

import threading
from typing import Callable, Dict, List, Sequence, Tuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ITEMS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
Labels = Tuple[Tuple[str, str], ...]


class Counter:
    """A number that only grows, one for each set of labels."""

    kind = "counter"

    def __init__(self, name: str, about: str) -> None:
        self.name = name
        self.about = about
        self._values: Dict[Labels, float] = {}
        self._lock = threading.Lock()

    def add(self, amount: float = 1.0, **labels: str) -> None:
        """Grow by `amount`; label names must be the same on every call."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def lines(self) -> List[str]:
        """Its samples, a line each."""
        with self._lock:
            return [_sample(self.name, labels, value) for labels, value in sorted(self._values.items())]


class Gauge:
    """A number that is asked for when it is read."""

    kind = "gauge"

    def __init__(self, name: str, about: str, read: Callable[[], float]) -> None:
        self.name = name
        self.about = about
        self._read = read

    def lines(self) -> List[str]:
        """Its one sample."""
        return [_sample(self.name, (), self._read())]


class Histogram:
    """How often a value fell below each bound."""

    kind = "histogram"

    def __init__(self, name: str, about: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.about = about
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count one value."""
        place = next((i for i, bound in enumerate(self._bounds) if value <= bound), len(self._bounds))
        with self._lock:
            self._counts[place] += 1
            self._sum += value

    def lines(self) -> List[str]:
        """Its buckets (each counts those below it too), their sum and their number."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        lines, running = [], 0
        for bound, count in zip([*map(_number, self._bounds), "+Inf"], counts):
            running += count
            lines.append(_sample(self.name + "_bucket", (("le", bound),), running))
        lines.append(_sample(self.name + "_sum", (), total))
        lines.append(_sample(self.name + "_count", (), running))
        return lines


class Metrics:
    """The server's own set; nothing here is shared between two apps in one process."""

    def __init__(
        self, waiting: Callable[[], float], is_ready: Callable[[], float], load_seconds: Callable[[], float]
    ) -> None:
        self.requests = Counter("hf_requests_total", "Answered requests by route and status.")
        self.seconds = Histogram("hf_request_seconds", "Time from a request's head to its answer.", SECONDS)
        self.prediction = Histogram("hf_prediction_seconds", "Time in the model.", SECONDS)
        self.batch = Histogram("hf_batch_items", "Inputs that went through the model together.", ITEMS)
        self.tokens = Counter("hf_tokens_total", "Tokens by direction, where the task counts them.")
        self._all = (
            self.requests,
            self.seconds,
            self.prediction,
            self.batch,
            self.tokens,
            Gauge("hf_queue_waiting", "Requests that wait for the model.", waiting),
            Gauge("hf_model_ready", "1 when /ping is 200.", is_ready),
            Gauge(
                "hf_model_load_seconds",
                "Time from the start to the warm-up's end; 0 until then.",
                load_seconds,
            ),
        )

    def text(self) -> str:
        """Everything, as a scrape gets it."""
        out: List[str] = []
        for metric in self._all:
            out.append("# HELP {} {}".format(metric.name, metric.about))
            out.append("# TYPE {} {}".format(metric.name, metric.kind))
            out.extend(metric.lines())
        return "\n".join(out) + "\n"


def _number(value: float) -> str:
    return repr(int(value)) if value == int(value) else repr(float(value))


def _sample(name: str, labels: Labels, value: float) -> str:
    inside = ",".join('{}="{}"'.format(key, _escaped(text)) for key, text in labels)
    return "{}{} {}".format(name, "{" + inside + "}" if inside else "", _number(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
