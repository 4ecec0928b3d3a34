"""Keys and values of a batch of texts of encoder-decoder models: of the decoder's tokens and the encoder's outputs."""

from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

from hf_inference_toolkit.runtimes.kv_cache import KVCache, dynamic_cache

if TYPE_CHECKING:
    import torch
    import transformers

Views = Sequence[Tuple["torch.Tensor", "torch.Tensor"]]


class SourceCache(KVCache):
    """A KVCache of the decoder's tokens with a second one, `cross`, of the encoder's outputs for the same rows.

    Columns of `cross` are those of the sources. They are written once, and all rows end at its last column.
    """

    def __init__(self, rows: int, columns: int, source_columns: int) -> None:
        super().__init__(rows, columns)
        self.cross = KVCache(rows, source_columns)
        # The number of tokens of each row's source.
        self.lengths: List[int] = []

    @property
    def tokens(self) -> int:
        """See KVCache."""
        return super().tokens + self.cross.tokens

    @property
    def token_bytes(self) -> int:
        """The larger one of both caches."""
        return max(super().token_bytes, self.cross.token_bytes)

    def keep(self, count: int, width: int) -> None:
        """See KVCache."""
        super().keep(count, width)
        del self.lengths[count:]
        self.cross.keep(count, max(self.lengths, default=0))

    def move(self, source: int, target: int) -> None:
        """See KVCache."""
        super().move(source, target)
        self.cross.move(source, target)
        self.lengths[target] = self.lengths[source]

    def resize_sources(self, columns: int) -> None:
        """Give `cross` as many rows as this cache, and so many columns."""
        self.cross.first, self.cross.last = self.first, self.last
        self.cross.resize(self.rows, columns, columns)

    def insert(self, other: KVCache, sources: Sequence[int], lengths: Sequence[int]) -> None:
        """See KVCache. The other one is a SourceCache too."""
        assert isinstance(other, SourceCache)  # noqa: S101
        self.cross.first, self.cross.last = self.first, self.last
        super().insert(other, sources, lengths)
        added = [other.lengths[place] for place in sources]
        self.cross.insert(other.cross, sources, added)
        self.lengths.extend(added)

    def source_views(self) -> Views:
        """Keys and values of the sources in each layer, for the rows of the pass."""
        self.cross.first, self.cross.last = self.first, self.last
        return self.cross.views()


def is_available() -> bool:
    """Whether the installed transformers has a cache of both kinds of keys and values."""
    import transformers

    return hasattr(transformers, "EncoderDecoderCache")


def encoder_decoder_cache(
    cache: SourceCache, views: Optional[Views] = None
) -> "transformers.EncoderDecoderCache":
    """A cache of the installed transformers that stores in `cache`, or that has stored these keys of the sources."""
    from transformers import EncoderDecoderCache

    if views is None:
        return EncoderDecoderCache(dynamic_cache(cache), dynamic_cache(cache.cross))
    both = EncoderDecoderCache(dynamic_cache(cache), _filled(views))
    both.is_updated = dict.fromkeys(range(len(views)), True)
    return both


def _filled(views: Views) -> "transformers.DynamicCache":
    """A DynamicCache that has these keys and values without a copy."""
    from transformers import DynamicCache, cache_utils

    filled = DynamicCache()
    if not hasattr(filled, "layers"):  # before 4.54
        filled.key_cache, filled.value_cache = [list(tensors) for tensors in zip(*views)]
        return filled
    filled.layers = []
    for keys, values in views:
        layer = cache_utils.DynamicLayer()
        layer.keys, layer.values = keys, values
        layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
        filled.layers.append(layer)
    return filled
