"""Metrics for Prometheus. README.md lists them."""

from typing import Callable, Dict, Iterator, Mapping, Optional, Sequence, Tuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from hf_inference_toolkit.runtimes.base import Engine
from hf_inference_toolkit.scheduling.job import Observer

# The same text is valid for version 1.0.0, which older scrapers do not support.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)


class Metrics(Observer):
    """The metrics of one app, in a separate registry. It is the observer of the scheduler."""

    def __init__(
        self,
        waiting: Callable[[], float],
        running: Callable[[], float],
        cache_usage: Callable[[], float],
        is_ready: Callable[[], float],
        load_seconds: Callable[[], float],
        engine: Callable[[], Engine],
    ) -> None:
        registry = self.registry = CollectorRegistry()
        self._requests = Counter(
            "hf_requests_total",
            "Responses by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self._answered: Dict[Tuple[str, int], Counter] = {}
        tokens = Counter(
            "hf_tokens_total",
            "Tokens read (in) and generated (out), for tasks that count them.",
            ["direction"],
            registry=registry,
        )
        self._tokens_in, self._tokens_out = tokens.labels(direction="in"), tokens.labels(direction="out")
        self._request = _seconds(
            "hf_request_seconds", "Time from the header of a prediction request to its response.", registry
        )
        self._queue = _seconds(
            "hf_queue_seconds",
            "Time from the submission of a request to its first forward pass.",
            registry,
        )
        self._pass = _seconds("hf_pass_seconds", "Time of one forward pass.", registry)
        self._rows = Histogram("hf_pass_rows", "Rows in one forward pass.", buckets=ROWS, registry=registry)
        self._padding = Histogram(
            "hf_pass_padding_ratio",
            "Share of padding among the tokens of one forward pass.",
            buckets=SHARES,
            registry=registry,
        )
        # The names are those of vLLM.
        self._prompt_tokens = Counter(
            "hf_prompt_tokens_total", "Tokens of prompts that text generation has read.", registry=registry
        )
        self._generation_tokens = Counter(
            "hf_generation_tokens_total", "Tokens that text generation has written.", registry=registry
        )
        self._first_token = _seconds(
            "hf_time_to_first_token_seconds",
            "Time from the submission of a request to the first token of a text, with continuous batching.",
            registry,
        )
        self._next_token = _seconds(
            "hf_inter_token_latency_seconds",
            "Time between two tokens of a text, with continuous batching.",
            registry,
        )
        self._decoding = Gauge(
            "hf_decoding_info",
            "1, with the way in which texts are decoded and the reason why it is not continuous batching.",
            ["way", "reason"],
            registry=registry,
        )
        for name, about, read in (
            ("hf_queue_waiting", "Inputs in the queue.", waiting),
            ("hf_num_requests_running", "Texts that are written with continuous batching.", running),
            ("hf_num_requests_waiting", "Inputs in the queue; equal to hf_queue_waiting.", waiting),
            (
                "hf_kv_cache_usage_perc",
                "Used part of the memory for keys and values (HF_KV_CACHE_GB), from 0 to 1.",
                cache_usage,
            ),
            ("hf_model_ready", "1 if /ping is 200, otherwise 0.", is_ready),
            (
                "hf_model_load_seconds",
                "Time from the start to the end of the warm-up; 0 until then.",
                load_seconds,
            ),
        ):
            Gauge(name, about, registry=registry).set_function(read)
        registry.register(_EngineCollector(engine))

    def loaded(self, facts: Mapping[str, str]) -> None:
        """Report how a text generation model decodes, from the facts of the service."""
        if "decoding" in facts:
            self._decoding.labels(way=facts["decoding"], reason=facts.get("decoding_reason", "")).set(1)

    def answered(self, route: str, status: int) -> None:
        """Count a response. `status` is 499 if the client disconnected first."""
        # Looking up labels takes longer than counting.
        counter = self._answered.get((route, status))
        if counter is None:
            counter = self._answered[route, status] = self._requests.labels(route=route, status=str(status))
        counter.inc()

    def predicted(self, seconds: float) -> None:
        """Record the time of a prediction request with any status."""
        self._request.observe(seconds)

    def used(self, tokens_in: int, tokens_out: int) -> None:
        """Count the tokens of one prediction."""
        self._tokens_in.inc(tokens_in)
        self._tokens_out.inc(tokens_out)

    def queued(self, seconds: float) -> None:
        """See Observer."""
        self._queue.observe(seconds)

    def passed(self, seconds: float, lengths: Sequence[int]) -> None:
        """See Observer."""
        self._pass.observe(seconds)
        self._rows.observe(len(lengths))
        longest = max(lengths)
        if longest:
            self._padding.observe(1 - sum(lengths) / (len(lengths) * longest))

    def generated(self, prompt_tokens: int, new_tokens: int) -> None:
        """See Observer."""
        self._prompt_tokens.inc(prompt_tokens)
        self._generation_tokens.inc(new_tokens)

    def first_token(self, seconds: float) -> None:
        """See Observer."""
        self._first_token.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """See Observer."""
        self._next_token.observe(seconds)


class _EngineCollector:
    """The runtime that computes passes, read when the metrics are: its labels change when it does."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See prometheus_client."""
        engine = self._engine()
        info = GaugeMetricFamily(
            "hf_runtime_info",
            "1 for the runtime that computes forward passes, with the reason why no other does.",
            labels=["runtime", "reason"],
        )
        info.add_metric([engine.name, engine.reason], 1)
        yield info
        yield GaugeMetricFamily(
            "hf_runtime_switch_timestamp_seconds",
            "When OpenVINO replaced PyTorch, in seconds since the epoch; 0 if it did not.",
            value=engine.since,
        )


def text_of(server: Metrics, models: Optional[Sequence[Tuple[str, Metrics]]]) -> bytes:
    """The metrics in the text format of Prometheus. Those of many models have the label `model`."""
    registry = server.registry if models is None else _ModelsCollector(server, models)
    return bytes(generate_latest(registry))


# Metrics of a multi-model endpoint itself. Their samples have no label `model`.
OF_SERVER = ("hf_requests", "hf_model_ready")


class _ModelsCollector:
    """The metrics of all models, each family once."""

    def __init__(self, server: Metrics, models: Sequence[Tuple[str, Metrics]]) -> None:
        self._server = server
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        families: Dict[str, Metric] = {}
        for family in self._server.registry.collect():
            families[family.name] = family
            if family.name not in OF_SERVER:
                family.samples = []
        for name, metrics in self._models:
            for family in metrics.registry.collect():
                for sample in family.samples:
                    labels = dict(sample.labels, model=name)
                    families[family.name].samples.append(sample._replace(labels=labels))
        return iter(families.values())


def _seconds(name: str, about: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, about, buckets=SECONDS, registry=registry)
