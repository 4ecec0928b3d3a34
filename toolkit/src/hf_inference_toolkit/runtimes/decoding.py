"""What happens between the steps of `generate` with PyTorch: tokens are drawn, and reported one step at a time."""

import inspect
import random
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

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


class Step(NamedTuple):
    """What one step of `generate` added: one token for each sequence, whether the sequence has ended or not."""

    tokens: List[int]
    # Of the model, before temperature and the other sampling parameters; None unless requested.
    logprobs: Optional[List[float]] = None


# Called after each step; the pass ends when it returns True.
OnStep = Callable[[Step], bool]


class Sampling(NamedTuple):
    """How tokens are drawn: sampling parameters by name, and one random generator for each sequence.

    With a generator of its own, a sequence does not depend on what else is generated in the same pass or process.
    """

    parameters: Dict[str, Any]
    generators: Sequence[random.Random]


def are_supported(generate: Callable[..., Any]) -> bool:
    """Whether `generate` of the installed release takes hooks; early releases lack both arguments."""
    return {"logits_processor", "stopping_criteria"} <= set(inspect.signature(generate).parameters)


class StepHooks:
    """Hooks with which `generate` reports each step, and draws tokens as `sampling` says."""

    def __init__(
        self, on_step: OnStep, sampling: Optional[Sampling], with_logprobs: bool, device: Any
    ) -> None:
        self._chooser = _TokenChooser(sampling, with_logprobs, device)
        self._reporter = _StepReporter(on_step, self._chooser)

    def arguments(self) -> Dict[str, Any]:
        """Arguments for `generate`."""
        import transformers

        return {
            "logits_processor": transformers.LogitsProcessorList([self._chooser]),
            "stopping_criteria": transformers.StoppingCriteriaList([self._reporter]),
        }

    def finish(self, sequences: Any) -> None:
        """Report the last step where `generate` did not: before 4.39 it stops at the first criterion that is met."""
        if sequences.shape[1] > self._reporter.length:
            self._reporter(sequences, None)


def warpers(parameters: Dict[str, Any], device: Any) -> List[Any]:
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


class _TokenChooser:
    """A logits processor. It stands behind those of `generate`, and leaves one token where tokens are drawn."""

    def __init__(self, sampling: Optional[Sampling], with_logprobs: bool, device: Any) -> None:
        self._warpers = warpers(sampling.parameters, device) if sampling else []
        self._generators = sampling.generators if sampling else []
        self._with_logprobs = with_logprobs
        self._logprobs: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self._with_logprobs:
            self._logprobs = scores.float().log_softmax(-1)
        if not self._generators:
            return scores
        warped = scores
        for warper in self._warpers:
            warped = warper(input_ids, warped)
        chosen = draw(warped, self._generators)
        return warped.new_full(warped.shape, -float("inf")).scatter_(1, chosen[:, None], 0.0)

    def logprobs(self, tokens: Any) -> Optional[List[float]]:
        """The log probability of one token for each sequence, at the last step."""
        if self._logprobs is None:
            return None
        values: List[float] = self._logprobs.gather(1, tokens[:, None]).squeeze(1).tolist()
        return values


class _StepReporter:
    """A stopping criterion. It returns a boolean for the whole pass, which releases before 4.39 require."""

    def __init__(self, on_step: OnStep, chooser: _TokenChooser) -> None:
        self._on_step = on_step
        self._chooser = chooser
        # Of the sequences that were reported, prompts included.
        self.length = 0

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> bool:
        self.length = input_ids.shape[1]
        tokens = input_ids[:, -1]
        return self._on_step(Step(tokens.tolist(), self._chooser.logprobs(tokens)))


def draw(scores: Any, generators: Sequence[random.Random]) -> Any:
    """One token for each row of `scores`, with the row's own generator."""
    import torch

    sums = scores.double().softmax(-1).cumsum(-1)
    totals = sums[:, -1:]
    if not bool(torch.isfinite(totals).all()):
        raise ValueError("the sampling parameters leave no token to choose from")
    points = torch.tensor([[one.random()] for one in generators], dtype=sums.dtype, device=sums.device)
    # The first token whose sum is above the point; its own probability is above zero.
    return (sums <= points * totals).sum(-1).clamp(max=sums.shape[-1] - 1)
