"""Tokenization by the tokenizers library directly, which is faster than transformers' wrapper."""

from typing import TYPE_CHECKING, Optional, Tuple

from hf_inference_toolkit.annotations import JsonObject
from hf_inference_toolkit.runtimes.base import Tokens

if TYPE_CHECKING:
    import transformers

# Methods that a tokenizer's class may override; then transformers' wrapper is used.
OWN_WAYS = ("__call__", "_encode_plus", "_batch_encode_plus", "prepare_for_tokenization")


class Encoder:
    """Encodes as `tokenizer(text)` of a fast tokenizer does. Called in one thread at a time."""

    def __init__(self, tokenizer: "transformers.PreTrainedTokenizerBase") -> None:
        self._backend = tokenizer.backend_tokenizer
        self._names = frozenset(tokenizer.model_input_names)

    def __call__(
        self, text: str, pair: Optional[str], strategy: Optional[str], most: int, side: str = "right"
    ) -> Tuple[Tokens, bool]:
        """The model's inputs, and whether the text was truncated to `most` tokens. Without a strategy it never is."""
        self._set(strategy, most, side)
        # encode_batch releases the GIL. transformers treats an empty second text as no pair.
        (encoding,) = self._backend.encode_batch([(text, pair) if pair else text])
        lists = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        return {key: lists[key] for key in lists if key in self._names or key == "input_ids"}, bool(
            encoding.overflowing
        )

    def _set(self, strategy: Optional[str], most: int, side: str) -> None:
        """Set truncation and padding, which the library stores and other callers change."""
        now = self._backend.truncation
        if strategy is None:
            if now is not None:
                self._backend.no_truncation()
        elif now is None or _differs(now, most, strategy, side):
            # Releases before 0.11 cut at the right only, and do not know the argument.
            how = {"direction": side} if side != "right" else {}
            self._backend.enable_truncation(most, stride=0, strategy=strategy, **how)
        if self._backend.padding is not None:
            self._backend.no_padding()


def _differs(now: JsonObject, most: int, strategy: str, side: str) -> bool:
    found = (now["max_length"], now["strategy"], now["stride"], now.get("direction", "right"))
    return found != (most, strategy, 0, side)


def encoder(tokenizer: "transformers.PreTrainedTokenizerBase") -> Optional[Encoder]:
    """An encoder. None if the tokenizer is not a fast one, or its class overrides how it encodes."""
    import transformers

    usual = getattr(transformers, "PreTrainedTokenizerFast", None)
    if usual is None or not isinstance(tokenizer, usual):
        return None
    kind = type(tokenizer)
    if any(getattr(kind, name, None) is not getattr(usual, name, None) for name in OWN_WAYS):
        return None
    return Encoder(tokenizer)
