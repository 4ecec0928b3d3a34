"""Passes of a decoder over a batch with a KV cache in place, and the check that a model supports them."""

import importlib.util
import inspect
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Sequence, Tuple

from hf_inference_toolkit.runtimes.kv_cache import KVCache, dynamic_cache

if TYPE_CHECKING:
    import torch
    import transformers

# Largest difference of logits that counts as equal, as a part of the largest logit.
TOLERANCE = {"float32": 1e-3}
HALF_TOLERANCE = 0.1
# Lengths of the prompts of the check.
LENGTHS = (5, 9, 3)


class ForwardPass:
    """Passes of one model. `takes_tuples`: it takes tuples of keys and values instead of a Cache (before 4.48)."""

    def __init__(
        self, model: "transformers.PreTrainedModel", device: "torch.device", pad: int, takes_tuples: bool
    ) -> None:
        self._model = model
        self._device = device
        self._pad = pad
        self._takes_tuples = takes_tuples
        known = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in known
        self._fixed: Dict[str, object] = {"use_cache": True, "return_dict": True}
        for name in ("logits_to_keep", "num_logits_to_keep"):
            if name in known:
                self._fixed[name] = 1
                break

    def read(self, prompts: Sequence[List[int]], cache: KVCache, done: int, columns: int) -> "torch.Tensor":
        """Read columns of left-padded prompts, from `done` on. Returns the logits behind the last column."""
        import torch

        longest = max(map(len, prompts))
        stop = min(done + columns, longest)
        padding = torch.tensor([[longest - len(prompt)] for prompt in prompts], device=self._device)
        rows = [[self._pad] * (longest - len(prompt)) + prompt for prompt in prompts]
        ids = torch.tensor([row[done:stop] for row in rows], device=self._device)
        places = torch.arange(stop, device=self._device)[None]
        cache.start, cache.end = 0, done
        mask = (places >= padding).to(torch.int64)
        positions = (places - padding).clamp(min=0)[:, done:]
        logits = self._run(ids, mask, positions, cache)
        cache.end = stop
        return logits

    def write(self, tokens: List[int], lengths: List[int], cache: KVCache) -> "torch.Tensor":
        """One more token for the rows of the cache. Returns the logits behind it; the caller advances `cache.end`."""
        import torch

        known = torch.tensor(lengths, device=self._device)[:, None]
        ids = torch.tensor(tokens, device=self._device)[:, None]
        places = torch.arange(cache.width + 1, device=self._device)[None]
        mask = (places >= cache.width - known).to(torch.int64)
        return self._run(ids, mask, known, cache)

    def _run(
        self, ids: "torch.Tensor", mask: "torch.Tensor", positions: "torch.Tensor", cache: KVCache
    ) -> "torch.Tensor":
        import torch

        inputs = dict(self._fixed, input_ids=ids, attention_mask=mask)
        if self._takes_positions:
            inputs["position_ids"] = positions
        if self._takes_tuples:
            inputs["past_key_values"] = cache.views() or None
        else:
            inputs["past_key_values"] = dynamic_cache(cache)
        with torch.no_grad():
            outputs = self._model(**inputs)
        if self._takes_tuples:
            for layer, (keys, values) in enumerate(outputs.past_key_values):
                new = slice(-ids.shape[1], None)
                cache.write(layer, keys[:, :, new], values[:, :, new])
        return outputs.logits[:, -1]


class Support(NamedTuple):
    """The passes of a model and the memory of a token in its cache; or the reason why there are none."""

    forward: Optional[ForwardPass]
    token_bytes: int
    reason: str


def find_support(model: "transformers.PreTrainedModel", device: "torch.device", pad: int) -> Support:
    """For decoder-only models (see `encoder_decoder_pass` for others).

    Check on short prompts which kind of cache a model takes, and that its logits are those without a cache.
    """
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return Support(None, 0, "the model has no cache of keys and values")
    if _has_window(model.config) and importlib.util.find_spec("transformers.masking_utils") is None:
        return Support(None, 0, "sliding windows need transformers 4.53 or newer")
    reason = ""
    for takes_tuples in (False, True):
        forward = ForwardPass(model, device, pad, takes_tuples)
        try:
            token_bytes, difference = _compare(model, forward, device)
        except Exception as problem:  # models raise what they like for a cache that they do not take
            reason = reason or "its cache is not one of keys and values for each token ({})".format(
                (str(problem) or repr(problem))[:200]
            )
            continue
        if difference <= TOLERANCE.get(str(model.dtype).split(".")[-1], HALF_TOLERANCE):
            return Support(forward, token_bytes, "")
        reason = "its logits with padding differ by {:.2g}".format(difference)
    return Support(None, 0, reason)


def checked_texts(config: "transformers.PretrainedConfig") -> List[List[int]]:
    """Token ids of the texts of the check, of the lengths LENGTHS."""
    vocabulary = config.get_text_config().vocab_size if hasattr(config, "get_text_config") else 0
    vocabulary = vocabulary or config.vocab_size
    return [
        [(n * 7919 + 31 * row + 5) % vocabulary for n in range(length)] for row, length in enumerate(LENGTHS)
    ]


def _has_window(config: "transformers.PretrainedConfig") -> bool:
    """Whether layers see a sliding window only. Before 4.53 some models rely on caches that drop older tokens."""
    window = getattr(config, "sliding_window", None) or 0
    return 0 < window < (getattr(config, "max_position_embeddings", None) or window + 1)


def _compare(
    model: "transformers.PreTrainedModel", forward: ForwardPass, device: "torch.device"
) -> Tuple[int, float]:
    """The bytes of a token in the cache, and the largest relative difference of logits."""
    import torch

    texts = checked_texts(model.config)
    cache = KVCache(0, 0)
    found: List[Tuple[List[int], "torch.Tensor"]] = []

    def join(prompts: List[List[int]], columns: int) -> None:
        part = KVCache(len(prompts), max(map(len, prompts)))
        for done in range(0, part.columns, columns):
            logits = forward.read(prompts, part, done, columns)
        found.extend((list(prompt), row) for prompt, row in zip(prompts, logits))
        cache.insert(part, range(len(prompts)), list(map(len, prompts)))

    def write(texts: List[List[int]]) -> None:
        logits = forward.write([5] * len(texts), list(map(len, texts)), cache)
        cache.end += 1
        for text, row in zip(texts, logits):
            text.append(5)
            found.append((list(text), row))

    cache.resize(len(texts), 2 * max(LENGTHS), max(LENGTHS))
    # Two prompts, one step, a third one, a step with all of them.
    join(texts[:2], 4)
    write(texts[:2])
    join(texts[2:], max(LENGTHS))
    write(texts)
    difference = 0.0
    for text, row in found:
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([text], device=device)).logits[0, -1].float()
        difference = max(difference, float((row.float() - expected).abs().max() / expected.abs().max()))
    return cache.token_bytes, difference
