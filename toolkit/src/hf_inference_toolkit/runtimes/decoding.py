"""Selection of tokens from scores, and hooks that let `generate` with PyTorch use it and report its steps."""

import inspect
import random
from typing import TYPE_CHECKING, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from hf_inference_toolkit.annotations import Options

if TYPE_CHECKING:
    import torch
    import transformers

# Sampling parameters of `generate`, with the classes of transformers that apply them, in its order.
WARPERS = (
    ("temperature", "TemperatureLogitsWarper"),
    ("top_k", "TopKLogitsWarper"),
    ("top_p", "TopPLogitsWarper"),
    ("min_p", "MinPLogitsWarper"),
    ("typical_p", "TypicalLogitsWarper"),
    ("epsilon_cutoff", "EpsilonLogitsWarper"),
    ("eta_cutoff", "EtaLogitsWarper"),
)
# Values with which a parameter changes nothing; transformers uses the same.
NEUTRAL = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
# Called with the tokens that were generated for one sequence, and with the scores of all tokens as a tensor of one
# dimension, which it may change. Returns the scores. Minus infinity forbids a token.
RowProcessor = Callable[[List[int], "torch.Tensor"], "torch.Tensor"]


class Selected(NamedTuple):
    """The next token of one sequence.

    Log probabilities are those of the model, before temperature, penalties and the other sampling parameters; None and
    empty unless requested. `top` has the most probable tokens, the most probable first.
    """

    token: int
    logprob: Optional[float] = None
    top: Tuple[Tuple[int, float], ...] = ()


class Step(NamedTuple):
    """What one step of `generate` added: one token for each sequence, whether the sequence has ended or not."""

    tokens: List[int]
    # See Selected; None unless requested.
    logprobs: Optional[List[float]] = None
    tops: Optional[List[Tuple[Tuple[int, float], ...]]] = None


# Called after each step; the pass ends when it returns True.
OnStep = Callable[[Step], bool]


class RowSampling(NamedTuple):
    """How the tokens of one sequence are selected.

    Without sampling parameters it is the most probable token. With a random generator of its own, a sequence does not
    depend on what else is generated in the same pass or process.
    """

    parameters: Optional[Options] = None
    generator: Optional[random.Random] = None
    processors: Sequence[RowProcessor] = ()
    with_logprobs: bool = False
    # How many of the most probable tokens are reported.
    top_n_tokens: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether `generate` selects the same tokens by itself, and reports no more than that."""
        return self == RowSampling()


def penalties(frequency: float, presence: float) -> RowProcessor:
    """OpenAI's penalties: subtracted from the scores of tokens that were generated, by their count or once."""

    def penalize(generated: List[int], scores: "torch.Tensor") -> "torch.Tensor":
        import torch

        if generated:
            tokens = torch.tensor(generated, device=scores.device)
            found, counts = tokens.unique(return_counts=True)
            scores[found] -= frequency * counts.to(scores.dtype) + presence
        return scores

    return penalize


def bias(values: Mapping[int, float]) -> RowProcessor:
    """OpenAI's logit_bias: added to the scores of tokens."""
    numbers, amounts = list(values), list(values.values())

    def add(_: List[int], scores: "torch.Tensor") -> "torch.Tensor":
        import torch

        scores[torch.tensor(numbers, device=scores.device)] += torch.tensor(
            amounts, dtype=scores.dtype, device=scores.device
        )
        return scores

    return add


def are_supported(generate: Callable[..., object]) -> bool:
    """Whether `generate` of the installed release takes hooks; early releases lack both arguments."""
    return {"logits_processor", "stopping_criteria"} <= set(inspect.signature(generate).parameters)


def warpers(parameters: Options, device: "torch.device") -> List["transformers.LogitsProcessor"]:
    """The warpers of transformers for the parameters that change something."""
    import transformers

    made = []
    for name, class_name in WARPERS:
        value = parameters.get(name)
        if value is None or value == NEUTRAL[name]:
            continue
        warper = getattr(transformers, class_name)
        more = {"device": device} if "device" in inspect.signature(warper.__init__).parameters else {}
        made.append(warper(int(value) if name == "top_k" else float(value), **more))
    return made


class Selector:
    """Selects the tokens of a batch. Rows with equal sampling parameters are computed together."""

    def __init__(self, device: "torch.device") -> None:
        self._device = device
        self._warpers: Dict[str, List["transformers.LogitsProcessor"]] = {}

    def select(
        self, scores: "torch.Tensor", rows: Sequence[RowSampling], generated: Callable[[int], List[int]]
    ) -> List[Union[Selected, Exception]]:
        """The next token of each row, or the exception of its processors or sampling parameters.

        `scores` has one row for each, as the model and the processors of transformers return them. `generated`
        returns the tokens of a row up to now.
        """
        results: List[Union[int, Exception]] = [None] * len(rows)  # type: ignore[list-item]
        reports = self._reports(scores, rows)
        scores, failed = _processed(scores, rows, generated)
        groups: Dict[str, List[int]] = {}
        for place, row in enumerate(rows):
            if place not in failed:
                groups.setdefault(repr(row.parameters), []).append(place)
        for places in groups.values():
            part = scores if len(places) == len(rows) else scores[places]
            for place, token in zip(places, self._tokens(part, [rows[place] for place in places])):
                results[place] = token
        for place, problem in failed.items():
            results[place] = problem
        return [
            one if isinstance(one, Exception) else Selected(one, *reports.get(place, _report)(one))
            for place, one in enumerate(results)
        ]

    def _reports(
        self, scores: "torch.Tensor", rows: Sequence[RowSampling]
    ) -> Dict[int, Callable[[int], Tuple[float, Tuple[Tuple[int, float], ...]]]]:
        """For each row that reports log probabilities: those of the selected token and of the most probable ones."""
        reports = {}
        places = [place for place, row in enumerate(rows) if row.with_logprobs or row.top_n_tokens]
        if places:
            logprobs = scores[places].float().log_softmax(-1)
            for place, row_logprobs in zip(places, logprobs):
                top: Tuple[Tuple[int, float], ...] = ()
                if rows[place].top_n_tokens:
                    best = row_logprobs.topk(min(rows[place].top_n_tokens, row_logprobs.shape[-1]))
                    top = tuple(zip(best.indices.tolist(), best.values.tolist()))
                reports[place] = _reporter(row_logprobs, top)
        return reports

    def _tokens(self, scores: "torch.Tensor", rows: Sequence[RowSampling]) -> List[Union[int, Exception]]:
        """Tokens of rows with equal sampling parameters."""
        parameters = rows[0].parameters
        if parameters is None:
            tokens: List[Union[int, Exception]] = scores.argmax(-1).tolist()
            return tokens
        key = repr(parameters)
        if key not in self._warpers:
            if len(self._warpers) > 100:
                self._warpers.clear()
            self._warpers[key] = warpers(parameters, self._device)
        warped = scores
        try:
            for warper in self._warpers[key]:
                warped = warper(None, warped)
        except Exception as problem:
            return [problem] * len(rows)
        return draw(warped, [row.generator for row in rows])  # type: ignore[misc]


def _report(_: int) -> Tuple[()]:
    return ()


def _reporter(
    logprobs: "torch.Tensor", top: Tuple[Tuple[int, float], ...]
) -> Callable[[int], Tuple[float, Tuple[Tuple[int, float], ...]]]:
    return lambda token: (float(logprobs[token]), top)


def _processed(
    scores: "torch.Tensor", rows: Sequence[RowSampling], generated: Callable[[int], List[int]]
) -> Tuple["torch.Tensor", Dict[int, Exception]]:
    """The scores after the rows' own processors, and the exceptions of those that failed."""
    failed: Dict[int, Exception] = {}
    places = [place for place, row in enumerate(rows) if row.processors]
    if places:
        scores = scores.clone()
    for place in places:
        tokens, row_scores = generated(place), scores[place]
        try:
            for processor in rows[place].processors:
                row_scores = processor(tokens, row_scores)
            scores[place] = row_scores
        except Exception as problem:
            failed[place] = problem
    return scores, failed


def draw(scores: "torch.Tensor", generators: Sequence[random.Random]) -> List[Union[int, Exception]]:
    """One token for each row of `scores`, with the row's own generator; ValueError for a row without any token."""
    import torch

    sums = scores.double().softmax(-1).cumsum(-1)
    totals = sums[:, -1:]
    points = torch.tensor([[one.random()] for one in generators], dtype=sums.dtype, device=sums.device)
    # The first token whose sum is above the point; its own probability is above zero.
    tokens = (sums <= points * totals).sum(-1).clamp(max=sums.shape[-1] - 1)
    return [
        token if is_finite else ValueError("the sampling parameters leave no token to choose from")
        for token, is_finite in zip(tokens.tolist(), torch.isfinite(totals[:, 0]).tolist())
    ]


class StepHooks:
    """Hooks with which `generate` reports each step, and selects tokens as `rows` say.

    `begin` is the length of the prompts.
    """

    def __init__(
        self, on_step: OnStep, rows: Sequence[RowSampling], begin: int, device: "torch.device"
    ) -> None:
        self._chooser = _TokenChooser(rows, begin, device)
        self._reporter = _StepReporter(on_step, self._chooser)

    def arguments(self) -> Dict[str, object]:
        """Arguments for `generate`."""
        import transformers

        return {
            "logits_processor": transformers.LogitsProcessorList([self._chooser]),
            "stopping_criteria": transformers.StoppingCriteriaList([self._reporter]),
        }

    def finish(self, sequences: "torch.Tensor") -> None:
        """Report the last step where `generate` did not: before 4.39 it stops at the first criterion that is met."""
        if sequences.shape[1] > self._reporter.length:
            self._reporter(sequences, None)


class _TokenChooser:
    """A logits processor. It stands behind those of `generate`, and leaves one token where it selects."""

    def __init__(self, rows: Sequence[RowSampling], begin: int, device: "torch.device") -> None:
        self._rows = rows
        self._begin = begin
        self._selector = Selector(device)
        self._selected: List[Selected] = []

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        if all(row.is_plain for row in self._rows):
            return scores
        selected = self._selector.select(
            scores, self._rows, lambda place: list(map(int, input_ids[place, self._begin :].tolist()))
        )
        for one in selected:
            if isinstance(one, Exception):
                raise one
        self._selected = selected  # type: ignore[assignment]
        import torch

        chosen = torch.tensor([[one.token] for one in self._selected], device=scores.device)
        return scores.new_full(scores.shape, -float("inf")).scatter_(1, chosen, 0.0)

    def reported(self, tokens: List[int]) -> Step:
        """The step that added `tokens`. Of sequences that have ended `generate` adds padding."""
        if not self._selected:
            return Step(tokens)
        return Step(
            tokens,
            [one.logprob for one in self._selected],  # type: ignore[misc]
            [one.top for one in self._selected],
        )


class _StepReporter:
    """A stopping criterion. It returns a boolean for the whole pass, which releases before 4.39 require."""

    def __init__(self, on_step: OnStep, chooser: _TokenChooser) -> None:
        self._on_step = on_step
        self._chooser = chooser
        # Of the sequences that were reported, prompts included.
        self.length = 0

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor", **kwargs: object) -> bool:
        self.length = input_ids.shape[1]
        return self._on_step(self._chooser.reported(input_ids[:, -1].tolist()))
