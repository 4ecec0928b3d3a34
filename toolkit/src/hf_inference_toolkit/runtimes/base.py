"""The interface between tasks and frameworks: rows of token ids in, numpy arrays out."""

import contextlib
import importlib.util
import threading
from typing import (
    TYPE_CHECKING,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from hf_inference_toolkit.annotations import Arrays, Options
from hf_inference_toolkit.runtimes.decoding import OnStep, RowSampling

if TYPE_CHECKING:
    import numpy
    import transformers
    from torch import Tensor

    from hf_inference_toolkit.runtimes.token_batch import TokenBatch

# The token ids of one text and what belongs to them: one list of equal length for each name in MODEL_INPUTS.
Tokens = Dict[str, List[int]]


class MediaTokens(Tokens):
    """The tokens of a text with images or audio. `media` has the other inputs of the model, as tensors by name."""

    media: Mapping[str, "Tensor"] = {}


# The inputs that are passed to a model, of those that its tokenizer returns.
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# The outputs that tasks read.
MODEL_OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")
# Makes the rows of several passes, to compare two libraries with.
Samples = Callable[[], Sequence[Sequence[Tokens]]]


class Engine(NamedTuple):
    """The library that computes forward passes, and why another one does not."""

    name: str
    reason: str = ""
    # When it replaced another library, in seconds since the epoch; 0 if it did not.
    since: float = 0.0


class Runtime:
    """A loaded model on its device. All methods but the constructor are called from one thread at a time."""

    # The prefix of this framework's classes in transformers.
    prefix = ""
    # Weight files in order of preference. Images from 2021 have no safetensors.
    weights: Tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")

    def __init__(self, dtype: str = "float32") -> None:
        # Set by `place`, or the model of a pipeline.
        self.model: "transformers.PreTrainedModel" = None
        # float32, bfloat16 or float16. A subclass replaces `auto`.
        self.dtype = dtype
        # The memory of the KV cache of a `token_batch` in bytes; None: half of what is free.
        self.kv_cache: Optional[int] = None
        # Whether weights may stay in mapped files. The kernel counts them as free memory, which it takes away at need.
        self.maps_weights = True
        # The library that computes large matrix products.
        self.kernels = "default"
        self.engine = Engine("none")
        if importlib.util.find_spec("safetensors") is None:
            self.weights = tuple(name for name in self.weights if not name.endswith(".safetensors"))
        self._thread = threading.local()

    def place(self, model: "transformers.PreTrainedModel") -> None:
        """Move a model that transformers loaded to the device, in evaluation mode and in `dtype`."""
        self.model = model

    def watch(self, model: "transformers.PreTrainedModel") -> None:
        """Call `check` before each pass and each layer of a model that a pipeline runs; see `set_check`."""

    def settle_weights(self, model: "transformers.PreTrainedModel") -> None:
        """Copy the weights of a loaded model into memory unless `maps_weights`."""

    def prepare(self, samples: Samples, pad: int) -> None:
        """Before the first pass: take the engine that is required, or that is ready at once. May raise StartError."""

    def optimize(self, samples: Samples, pad: int) -> None:
        """Look for a faster engine in another thread than that of passes, and let the next pass use it."""

    def record(self, model: "transformers.PreTrainedModel") -> None:
        """Record how a pipeline calls its model."""

    def optimize_pipeline(self, is_start: bool) -> None:
        """`prepare` after the warm-up if it is the start, otherwise `optimize`, for the recorded model."""

    def disable_onednn(self) -> bool:
        """Restore the framework's own matrix products. Returns whether anything changed."""
        return False

    def pipeline_device(self) -> int:
        """The `device` argument of `transformers.pipeline`: -1 is the CPU."""
        return -1

    def forward(self, rows: Sequence[Tokens], pad: int) -> Arrays:
        """One pass over rows of any lengths. The arrays have one row for each, padded at the end to the longest."""
        raise NotImplementedError

    # Whether `generate` accepts prompts of different lengths, padded on the left.
    generates_padded = False

    def reports_steps(self) -> bool:
        """Whether `generate` of the installed release supports `on_step` and `sampling`."""
        return False

    def generate(
        self,
        rows: Sequence[Tokens],
        pad: int,
        options: Options,
        on_step: Optional[OnStep] = None,
        sampling: Sequence[RowSampling] = (),
    ) -> List[List[int]]:
        """The sequences that `generate` returns, those of one row next to each other.

        Each begins with the left-padded prompt, or with the decoder's start token. `on_step` is called after each
        step, and `sampling` then says for each sequence how its tokens are selected.
        """
        raise NotImplementedError

    def token_batch(self, pad: int) -> Tuple[Optional["TokenBatch"], str]:
        """A batch that texts join and leave between steps, or the reason why `generate` writes texts instead.

        `kv_cache` is the memory of its cache.
        """
        return None, "it needs PyTorch"

    def set_check(self, check: Optional[Callable[[], None]]) -> None:
        """Call `check` between the layers of every pass of this thread. It raises to end the pass."""
        self._thread.check = check

    @contextlib.contextmanager
    def checked(self, check: Callable[[], None]) -> Iterator[None]:
        """Call `check` now and between the layers of passes in this block, as `set_check`."""
        before = getattr(self._thread, "check", None)
        self.set_check(check)
        try:
            check()
            yield
        finally:
            self.set_check(before)

    def check(self) -> None:
        """Raises when the prediction of this thread was cancelled or is past its deadline."""
        check = getattr(self._thread, "check", None)
        if check is not None:
            check()


def padded(rows: Sequence[Tokens], pad: int, at_start: bool = False, multiple: int = 1) -> Arrays:
    """Rows of different lengths as int64 arrays of shape (rows, longest), padded at the end or at the start.

    If the rows have a mask, the length is rounded up to a multiple.
    """
    import numpy

    longest = max(len(row["input_ids"]) for row in rows)
    if "attention_mask" in rows[0]:
        longest = -(-longest // multiple) * multiple
    out: Arrays = {}
    for key in rows[0]:
        out[key] = array = numpy.full((len(rows), longest), pad if key == "input_ids" else 0, numpy.int64)
        for place, row in enumerate(rows):
            numbers = row[key]
            if at_start:
                array[place, longest - len(numbers) :] = numbers
            else:
                array[place, : len(numbers)] = numbers
    return out


def unpadded(name: str, output: "numpy.ndarray", length: int) -> "numpy.ndarray":
    """One row's output without padding. The logits of a classifier have no sequence dimension."""
    return output[:length] if output.ndim > 1 or name in ("start_logits", "end_logits") else output


def can_generate(model: "transformers.PreTrainedModel") -> bool:
    """Whether a model generates sequences. Older releases have no method for it."""
    return bool(model.can_generate()) if hasattr(model, "can_generate") else hasattr(model, "generate")
