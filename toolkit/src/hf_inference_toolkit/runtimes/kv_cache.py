"""Keys and values of a batch of texts, in buffers that are written in place."""

from typing import TYPE_CHECKING, Callable, Dict, List, Sequence, Tuple, Union

if TYPE_CHECKING:
    import torch
    import transformers

# Fewest free columns of new buffers: each step fills one, and full buffers are copied.
LEAST_FREE = 16
MOST_FREE = 256


class KVCache:
    """For each layer two tensors of shape (rows, heads, columns, size).

    The tokens of all rows end at the same column, so a step writes one column. Shorter rows have zeros in front.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows = rows
        self.columns = columns
        # The columns that the longest row occupies.
        self.start = self.end = 0
        # The rows of the next pass.
        self.first, self.last = 0, rows
        self._layers: Dict[int, List["torch.Tensor"]] = {}

    @property
    def width(self) -> int:
        """The number of tokens of the longest row."""
        return self.end - self.start

    @property
    def tokens(self) -> int:
        """The tokens for which it has room."""
        return self.rows * self.columns

    @property
    def token_bytes(self) -> int:
        """The memory of one token of one row."""
        return sum(
            tensor.shape[1] * tensor.shape[3] * tensor.element_size()
            for layer in self._layers.values()
            for tensor in layer
        )

    def write(
        self, layer: int, keys: "torch.Tensor", values: "torch.Tensor"
    ) -> Tuple["torch.Tensor", "torch.Tensor"]:
        """Store new columns of a layer behind `end`, and return all columns of the rows of the pass."""
        if layer not in self._layers:
            self._layers[layer] = [
                new.new_zeros((self.rows, new.shape[1], self.columns, new.shape[3])) for new in (keys, values)
            ]
        rows, stop = slice(self.first, self.last), self.end + keys.shape[2]
        views = []
        for buffer, new in zip(self._layers[layer], (keys, values)):
            buffer[rows, :, self.end : stop] = new
            views.append(buffer[rows, :, self.start : stop])
        return views[0], views[1]

    def views(self) -> Tuple[Tuple["torch.Tensor", "torch.Tensor"], ...]:
        """Keys and values of each layer, for the rows of the pass."""
        rows, columns = slice(self.first, self.last), slice(self.start, self.end)
        return tuple(
            (keys[rows, :, columns], values[rows, :, columns])
            for _, (keys, values) in sorted(self._layers.items())
        )

    def keep(self, count: int, width: int) -> None:
        """Set how many rows are in use, and the number of tokens of the longest one."""
        self.first, self.last = 0, count
        self.start = self.end - width

    def move(self, source: int, target: int) -> None:
        """Copy a row to the place of another one."""
        for keys, values in self._layers.values():
            for buffer in (keys, values):
                buffer[target, :, self.start : self.end] = buffer[source, :, self.start : self.end]

    def resize(self, rows: int, columns: int, width: int) -> None:
        """Change the size, and move the used columns to the front, where a row of `width` tokens has room."""
        width = max(width, self.width)
        used, target = slice(0, self.last), slice(width - self.width, width)
        is_in_place = rows == self.rows and columns == self.columns and self.start >= width
        for layer in self._layers.values():
            for place, buffer in enumerate(layer):
                old = buffer[used, :, self.start : self.end]
                if not is_in_place:
                    shape = (rows, buffer.shape[1], columns, buffer.shape[3])
                    layer[place] = buffer.new_zeros(shape)
                layer[place][used, :, target] = old
        self.rows, self.columns = rows, columns
        self.start, self.end = width - self.width, width

    def clean(self, lengths: Sequence[int]) -> None:
        """Clear the columns in front of rows of these lengths."""
        for layer in self._layers.values():
            for buffer in layer:
                for place, length in enumerate(lengths):
                    buffer[place, :, : self.end - length] = 0

    def beginning(self, count: int) -> "KVCache":
        """The first tokens of the longest row, in the same buffers."""
        part = KVCache(self.rows, self.columns)
        part._layers = self._layers
        part.start, part.end = self.start, self.start + count
        return part

    def insert(self, other: "KVCache", sources: Sequence[int], lengths: Sequence[int]) -> None:
        """Append rows of another cache. There must be room: see `resize`."""
        start = min(self.start, self.end - max(lengths))
        for number, theirs in other._layers.items():
            if number not in self._layers:
                self._layers[number] = [
                    one.new_zeros((self.rows, one.shape[1], self.columns, one.shape[3])) for one in theirs
                ]
            for buffer, source in zip(self._layers[number], theirs):
                # Columns that other texts have left behind: masked, but 0 * NaN is NaN.
                buffer[: self.last, :, start : self.start] = 0
                for place, (row, length) in enumerate(zip(sources, lengths), self.last):
                    buffer[place, :, start : self.end - length] = 0
                    buffer[place, :, self.end - length : self.end] = source[
                        row, :, other.end - length : other.end
                    ]
        self.start = start
        self.last += len(sources)


def dynamic_cache(cache: KVCache) -> "transformers.DynamicCache":
    """A DynamicCache of the installed transformers that stores in `cache`."""
    return _cache_class()(cache)


_classes: List[Callable[[KVCache], "transformers.DynamicCache"]] = []


def _cache_class() -> Callable[[KVCache], "transformers.DynamicCache"]:
    if not _classes:
        from transformers import DynamicCache

        class InPlaceCache(DynamicCache):  # type: ignore[misc]
            """Methods of all releases from 4.40 on."""

            def __init__(self, cache: KVCache) -> None:
                super().__init__()
                self._cache = cache

            def update(
                self,
                key_states: "torch.Tensor",
                value_states: "torch.Tensor",
                layer_idx: int,
                *_: object,
                **__: object,
            ) -> Tuple["torch.Tensor", "torch.Tensor"]:
                return self._cache.write(layer_idx, key_states, value_states)

            def get_seq_length(self, layer_idx: int = 0) -> int:
                return self._cache.width

            def get_usable_length(self, new_seq_length: int, layer_idx: int = 0) -> int:
                return self._cache.width

            def get_query_offset(self, layer_idx: int = 0) -> int:
                return self._cache.width

            def get_mask_sizes(
                self, query_length: Union[int, "torch.Tensor"], layer_idx: int = 0
            ) -> Tuple[int, int]:
                # Releases before 5 pass the positions of the tokens.
                shape = getattr(query_length, "shape", None)
                return self._cache.width + (shape[0] if shape else int(query_length)), 0

        _classes.append(InPlaceCache)
    return _classes[0]
