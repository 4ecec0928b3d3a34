"""Tokens straight from the tokenizer's own library, where transformers adds nothing but time."""

from typing import Any, Dict, Optional, Tuple

# What a tokenizer's class may do in its own way; then transformers is asked.
OWN_WAYS = ("__call__", "_encode_plus", "_batch_encode_plus", "prepare_for_tokenization")


class Encoder:
    """A fast tokenizer's texts as `tokenizer(text)` would give them. Called in one thread at a time."""

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._side = getattr(tokenizer, "truncation_side", "right")
        self._names = frozenset(tokenizer.model_input_names)

    def __call__(
        self, text: str, pair: Optional[str], strategy: Optional[str], most: int
    ) -> Tuple[Dict[str, Any], bool]:
        """The lists that a model takes, and whether the text was cut to `most` tokens; not if `strategy` is None."""
        self._set(strategy, most)
        # A batch, because that lets the event loop run meanwhile. For transformers, an empty pair is no pair.
        (encoding,) = self._backend.encode_batch([(text, pair) if pair else text])
        lists = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        return {key: lists[key] for key in lists if key in self._names or key == "input_ids"}, bool(
            encoding.overflowing
        )

    def _set(self, strategy: Optional[str], most: int) -> None:
        """The library keeps its settings; others use the same tokenizer with theirs."""
        now = self._backend.truncation
        if strategy is None:
            if now is not None:
                self._backend.no_truncation()
        elif now is None or (now["max_length"], now["strategy"], now["stride"]) != (most, strategy, 0):
            how = {"direction": self._side} if self._side != "right" else {}
            self._backend.enable_truncation(most, stride=0, strategy=strategy, **how)
        if self._backend.padding is not None:
            self._backend.no_padding()


def encoder(tokenizer: Any) -> Optional[Encoder]:
    """An encoder, unless the tokenizer is a slow one or has ways of its own."""
    import transformers

    usual = getattr(transformers, "PreTrainedTokenizerFast", None)
    if usual is None or not isinstance(tokenizer, usual):
        return None
    kind = type(tokenizer)
    if any(getattr(kind, name, None) is not getattr(usual, name, None) for name in OWN_WAYS):
        return None
    return Encoder(tokenizer)
