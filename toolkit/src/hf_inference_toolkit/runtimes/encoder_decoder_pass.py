"""Passes of encoder-decoder models: sources are read once, and the decoder writes tokens for many rows."""

import contextlib
import inspect
import threading
from typing import TYPE_CHECKING, Iterator, List, Optional, Sequence, Tuple

from hf_inference_toolkit.runtimes import cross_attention
from hf_inference_toolkit.runtimes.cross_attention import SourceCache, encoder_decoder_cache
from hf_inference_toolkit.runtimes.forward_pass import (
    HALF_TOLERANCE,
    LENGTHS,
    TOLERANCE,
    ForwardPass,
    Support,
    checked_texts,
)

if TYPE_CHECKING:
    import torch
    import transformers

    from hf_inference_toolkit.runtimes.kv_cache import KVCache

# Properties of configurations whose encoders attend to blocks of tokens: padding may change where blocks end.
BLOCKS = ("attention_type", "attention_window", "encoder_attention_type")
# Properties of configurations whose experts take a limited number of the tokens of a pass.
CAPACITIES = ("expert_capacity", "moe_eval_capacity_token_fraction")
# Fewest positions whose vectors are read at once.
LEAST_POSITIONS = 64


class EncoderDecoderPass(ForwardPass):
    """Passes of one model. `read_sources` takes the place of `read`."""

    def __init__(self, model: "transformers.PreTrainedModel", device: "torch.device", pad: int) -> None:
        super().__init__(model, device, pad, False)
        self._takes_positions = "decoder_position_ids" in inspect.signature(model.forward).parameters
        self._encoder = model.get_encoder()
        self._positions = PositionVectors(model, device)
        # What stands for the encoder's outputs when the cache has their keys and values.
        self._outputs: Optional["torch.Tensor"] = None
        # Whether sources of different lengths may share a pass.
        self.pads_sources = not any(getattr(model.config, name, None) for name in BLOCKS)

    def read_sources(
        self, sources: Sequence[List[int]], starts: List[int], cache: SourceCache
    ) -> "torch.Tensor":
        """Read sources and the first token of each decoder into an empty cache. Returns the logits behind it."""
        import torch

        longest = max(map(len, sources))
        lengths = torch.tensor([[len(source)] for source in sources], device=self._device)
        ids = [source + [self._pad] * (longest - len(source)) for source in sources]
        places = torch.arange(longest, device=self._device)[None]
        with torch.no_grad():
            outputs = self._encoder(
                input_ids=torch.tensor(ids, device=self._device),
                attention_mask=(places < lengths).to(torch.int64),
                return_dict=True,
            ).last_hidden_state
        # From padding at the end, as encoders count positions, to padding in front, as the cache has it.
        order = (places - (longest - lengths)).clamp(min=0)[:, :, None].expand(-1, -1, outputs.shape[-1])
        self._outputs = outputs.new_zeros((1, 1, outputs.shape[-1]))
        cache.lengths = list(map(len, sources))
        first = torch.zeros((len(sources), 1), dtype=torch.int64, device=self._device)
        logits = self._decode(
            torch.tensor(starts, device=self._device)[:, None],
            torch.ones_like(first),
            first,
            outputs.gather(1, order),
            encoder_decoder_cache(cache),
            (places >= longest - lengths).to(torch.int64),
        )
        cache.end, cache.cross.end = 1, longest
        return logits

    def write(self, tokens: List[int], lengths: List[int], cache: "KVCache") -> "torch.Tensor":
        """See ForwardPass."""
        import torch

        assert isinstance(cache, SourceCache)  # noqa: S101
        assert self._outputs is not None  # noqa: S101
        known = torch.tensor(lengths, device=self._device)[:, None]
        sources = torch.tensor(cache.lengths[cache.first : cache.last], device=self._device)[:, None]
        width, source_width = cache.width, cache.cross.width
        places = torch.arange(max(width + 1, source_width), device=self._device)[None]
        with self._positions.at(tokens, lengths):
            return self._decode(
                torch.tensor(tokens, device=self._device)[:, None],
                (places[:, : width + 1] >= width - known).to(torch.int64),
                known,
                self._outputs.expand(len(tokens), source_width, -1),
                encoder_decoder_cache(cache, cache.source_views()),
                (places[:, :source_width] >= source_width - sources).to(torch.int64),
            )

    def _decode(
        self,
        ids: "torch.Tensor",
        mask: "torch.Tensor",
        positions: "torch.Tensor",
        outputs: "torch.Tensor",
        cache: "transformers.EncoderDecoderCache",
        source_mask: "torch.Tensor",
    ) -> "torch.Tensor":
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        inputs = dict(
            self._fixed,
            decoder_input_ids=ids,
            decoder_attention_mask=mask,
            encoder_outputs=BaseModelOutput(last_hidden_state=outputs),
            attention_mask=source_mask,
            past_key_values=cache,
        )
        if self._takes_positions:
            inputs["decoder_position_ids"] = positions
        with torch.no_grad():
            return self._model(**inputs).logits[:, -1]

    def close(self) -> None:
        """Leave the model as it was."""
        self._positions.close()


class PositionVectors:
    """Positions of their own for the rows of a pass, where a decoder adds a vector of the position to each token's.

    BART and its relatives derive one position for all rows from the length of the cache. A hook on the module that
    returns the vectors replaces them by those that the module returns for texts from their beginning on.
    """

    def __init__(self, model: "transformers.PreTrainedModel", device: "torch.device") -> None:
        self._model = model
        self._device = device
        self._module = getattr(model.get_decoder(), "embed_positions", None)
        # Of padding tokens too: M2M100 gives them no position.
        self._pad: Optional[int] = model.config.pad_token_id
        self._table: Optional["torch.Tensor"] = None
        # Other threads may use the model at the same time (see `Scheduler.replace_stuck_worker`).
        self._thread = threading.local()
        self._hook = None if self._module is None else self._module.register_forward_hook(self._replace)

    def close(self) -> None:
        """Remove the hook."""
        if self._hook is not None:
            self._hook.remove()

    @contextlib.contextmanager
    def at(self, tokens: List[int], positions: List[int]) -> Iterator[None]:
        """Within this block, the decoder reads one token in each row, at these positions."""
        if self._module is not None:
            self._thread.vectors = self._vectors(tokens, positions)
        try:
            yield
        finally:
            self._thread.vectors = None

    def _replace(self, _module: object, _inputs: object, output: "torch.Tensor") -> Optional["torch.Tensor"]:
        """The hook. None keeps what the module has returned."""
        recorded: Optional[List["torch.Tensor"]] = getattr(self._thread, "recorded", None)
        if recorded is not None:
            recorded.append(output)
            return None
        return getattr(self._thread, "vectors", None)

    def _vectors(self, tokens: List[int], positions: List[int]) -> "torch.Tensor":
        import torch

        needed = max(positions) + 1
        if self._table is None or self._table.shape[1] < needed:
            self._table = self._read(self._count(needed))
        kinds = torch.tensor([int(token == self._pad) for token in tokens], device=self._device)
        return self._table[kinds, torch.tensor(positions, device=self._device)][:, None]

    def _count(self, needed: int) -> int:
        """How many positions are read, so that it does not happen at each step. IndexError if there are too few."""
        count = LEAST_POSITIONS
        while count < needed:
            count *= 2
        known = getattr(self._module, "num_embeddings", None)
        if known is None:
            return count
        most = int(known) - int(getattr(self._module, "offset", 0))
        if needed > most:  # on a GPU, a read behind the last one would end the process
            raise IndexError("the decoder has {} positions".format(most))
        return min(count, most)

    def _read(self, count: int) -> "torch.Tensor":
        """Vectors of the first positions, for ordinary tokens and for padding."""
        import torch

        ordinary = 0 if self._pad != 0 else 1
        vectors = []
        for token in (ordinary, ordinary if self._pad is None else self._pad):
            self._thread.recorded = []
            try:
                with torch.no_grad():
                    self._model.get_decoder()(
                        input_ids=torch.full((1, count), token, device=self._device),
                        encoder_hidden_states=torch.zeros(
                            (1, 1, self._model.config.hidden_size),
                            dtype=self._model.dtype,
                            device=self._device,
                        ),
                        use_cache=False,
                    )
                vectors.append(self._thread.recorded[0].reshape(count, -1))
            finally:
                self._thread.recorded = None
        return torch.stack(vectors)


def find_support(model: "transformers.PreTrainedModel", device: "torch.device", pad: int) -> Support:
    """Check on short texts that a model takes the cache, and that its logits are those without one."""
    reason = _obstacle(model)
    if reason:
        return Support(None, 0, reason)
    forward = EncoderDecoderPass(model, device, pad)
    try:
        token_bytes, difference = _compare(model, forward, device)
    except Exception as problem:  # models raise what they like for a cache that they do not take
        reason = "its cache is not an EncoderDecoderCache ({})".format((str(problem) or repr(problem))[:200])
    else:
        if difference <= TOLERANCE.get(str(model.dtype).split(".")[-1], HALF_TOLERANCE):
            return Support(forward, token_bytes, "")
        reason = "its logits with padding differ by {:.2g}".format(difference)
    forward.close()
    return Support(None, 0, reason)


def _obstacle(model: "transformers.PreTrainedModel") -> str:
    """The reason why a model need not be tried."""
    if not cross_attention.is_available():
        return "encoder-decoder models need a transformers with EncoderDecoderCache"
    if getattr(model, "main_input_name", "input_ids") != "input_ids":
        return "its encoder does not read tokens"
    if any(getattr(model.config, name, None) for name in CAPACITIES):
        return "its experts take a limited number of the tokens of a pass"
    return ""


def _compare(
    model: "transformers.PreTrainedModel", forward: EncoderDecoderPass, device: "torch.device"
) -> Tuple[int, float]:
    """The bytes of a token in the cache, and the largest relative difference of logits."""
    import torch

    sources = checked_texts(model.config)
    cache = SourceCache(0, 0, 0)
    cache.resize(len(sources), 2 * len(sources), 1)
    cache.resize_sources(max(LENGTHS))
    cache.keep(0, 0)
    texts: List[List[int]] = []
    found: List[Tuple[List[int], List[int], "torch.Tensor"]] = []

    def join(some: List[List[int]]) -> None:
        part = SourceCache(len(some), 1, max(map(len, some)))
        logits = forward.read_sources(some, [5] * len(some), part)
        cache.insert(part, range(len(some)), [1] * len(some))
        texts.extend([5] for _ in some)
        found.extend((source, [5], row) for source, row in zip(some, logits))

    def write() -> None:
        cache.keep(len(texts), max(map(len, texts)))
        logits = forward.write([6] * len(texts), list(map(len, texts)), cache)
        cache.end += 1
        for source, text, row in zip(sources, texts, logits):
            text.append(6)
            found.append((source, list(text), row))

    # Two sources, two steps, a third one, a step with all of them.
    for some in [sources[:2]] if forward.pads_sources else [sources[:1], sources[1:2]]:
        join(some)
    write()
    write()
    join(sources[2:])
    write()
    difference = 0.0
    for source, text, row in found:
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([source], device=device),
                decoder_input_ids=torch.tensor([text], device=device),
            ).logits
        expected = logits[0, -1].float()
        difference = max(difference, float((row.float() - expected).abs().max() / expected.abs().max()))
    return cache.token_bytes, difference
