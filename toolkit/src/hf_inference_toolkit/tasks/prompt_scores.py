"""Log probabilities of the tokens of a prompt."""

from typing import TYPE_CHECKING, Callable, Collection, List, Sequence, Tuple

from hf_inference_toolkit import limits
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import Runtime, Tokens
from hf_inference_toolkit.tasks.incremental_decoder import IncrementalDecoder
from hf_inference_toolkit.tasks.service import Token

if TYPE_CHECKING:
    import numpy


class PromptScorer:
    """Scores prompts in a pass of their own. `text` decodes tokens."""

    def __init__(
        self,
        runtime: Runtime,
        pad: int,
        vocabulary: int,
        special: Collection[int],
        text: Callable[[List[int]], str],
    ) -> None:
        self._runtime = runtime
        self._pad = pad
        self._vocabulary = vocabulary
        self._special = special
        self._text = text

    def check(self, length: int) -> None:
        """RequestError for a prompt whose scores would need too much memory."""
        if length * self._vocabulary > limits.PROMPT_SCORES:
            raise RequestError(
                "unprocessable",
                "log probabilities of the prompt: it has {} tokens; at most {} are allowed with a vocabulary "
                "of {}".format(length, limits.PROMPT_SCORES // self._vocabulary, self._vocabulary),
            )

    def score(self, row: Tokens, top: int) -> List[Token]:
        """The tokens of a prompt; the first one has no log probability. `top` others are reported with each."""
        ids = row["input_ids"]
        self.check(len(ids))
        logits = self._runtime.forward([row], self._pad)["logits"][0]
        decoder = IncrementalDecoder(self._text)
        tokens = []
        for place, number in enumerate(ids):
            # Those of alternatives depend on the tokens before.
            before = decoder.text_of
            scored = _scores(logits[place - 1], number, top) if place else (None, ())
            others = [Token(one, before(one), one in self._special, value) for one, value in scored[1]]
            text = decoder.add(number)
            tokens.append(Token(number, text, number in self._special, scored[0], others))
        return tokens


def _scores(logits: "numpy.ndarray", number: int, top: int) -> Tuple[float, Sequence[Tuple[int, float]]]:
    """The log probability of a token, and the most probable tokens with theirs."""
    import numpy

    highest = logits.max()
    total = highest + numpy.log(numpy.exp(logits - highest).sum())
    best: List[int] = []
    if top:
        best = numpy.argpartition(logits, -top)[-top:].tolist()
        best.sort(key=lambda one: -logits[one])
    return float(logits[number] - total), [(one, float(logits[one] - total)) for one in best]
