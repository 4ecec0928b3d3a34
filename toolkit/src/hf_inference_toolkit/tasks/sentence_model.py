"""What follows the transformer of an embedding model: pooling, projections, normalization, prompts.

The modes and their numbers are those of sentence-transformers (https://www.sbert.net), which is not needed here.
"""

from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy

# Modes of pooling by the names of sentence-transformers, with ours. Several modes are concatenated in this order.
MODES: Dict[str, str] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weightedmean",
    "lasttoken": "last",
}
# Modes that a request may choose for a model that has none of its own.
CHOICES = ("mean", "cls", "last", "max")
# Changes a matrix with a vector in each row.
Step = Callable[[numpy.ndarray], numpy.ndarray]


class SentenceModel(NamedTuple):
    """The modules after the transformer, and how texts are prepared for it."""

    pooling: Tuple[str, ...] = ("mean",)
    # Whether the folder has modules.json, whose pooling a request cannot replace.
    is_fixed: bool = False
    # Whether the tokens of a prompt are pooled.
    includes_prompt: bool = True
    # Dense and Normalize, without a Normalize at the end.
    steps: Tuple[Step, ...] = ()
    # Whether Normalize is the last module.
    normalizes: bool = False
    # The length of the vectors after `steps`; 0 if they do not change it.
    width: int = 0
    prompts: Dict[str, str] = {}
    default_prompt_name: Optional[str] = None
    truncate_dim: Optional[int] = None
    longest: Optional[int] = None
    lowers_case: bool = False


class Dense:
    """A linear layer with an activation function, in float32."""

    def __init__(self, weight: numpy.ndarray, bias: Optional[numpy.ndarray], activation: Step) -> None:
        self._weight = numpy.ascontiguousarray(weight.T)
        self._bias = bias
        self._activation = activation
        self.taken, self.given = self._weight.shape

    def __call__(self, vectors: numpy.ndarray) -> numpy.ndarray:
        """See Step."""
        product = vectors @ self._weight
        return self._activation(product if self._bias is None else product + self._bias)


def normalized(vectors: numpy.ndarray) -> numpy.ndarray:
    """Vectors of length 1; a vector of zeros stays."""
    lengths = numpy.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / numpy.maximum(lengths, 1e-12)


def pooled(hidden: numpy.ndarray, modes: Sequence[str], start: int = 0) -> numpy.ndarray:
    """One vector of the hidden states of a text, of shape (tokens, width). Tokens before `start` are left out."""
    if start >= len(hidden):
        start = 0
    return numpy.concatenate([_POOLED[mode](hidden[start:], start) for mode in modes])


def _weighted(hidden: numpy.ndarray, start: int) -> numpy.ndarray:
    """Later tokens count more; positions are those in the whole text."""
    weights = numpy.arange(start + 1, start + 1 + len(hidden), dtype=numpy.float32)
    return weights @ hidden / weights.sum()


_POOLED: Dict[str, Callable[[numpy.ndarray, int], numpy.ndarray]] = {
    "cls": lambda hidden, _: hidden[0],
    "last": lambda hidden, _: hidden[-1],
    "max": lambda hidden, _: hidden.max(axis=0),
    "mean": lambda hidden, _: hidden.sum(axis=0) / len(hidden),
    "mean_sqrt_len": lambda hidden, _: hidden.sum(axis=0) / numpy.float32(len(hidden) ** 0.5),
    "weightedmean": _weighted,
}


def similarities(vectors: List[numpy.ndarray]) -> List[float]:
    """The cosine of the angle between the first vector and each of the others."""
    matrix = normalized(numpy.stack(vectors).astype(numpy.float64))
    return [float(score) for score in matrix[1:] @ matrix[0]]
