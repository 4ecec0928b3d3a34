"""A TokenBatch of an encoder-decoder model: sources are read whole, and their keys and values kept for each row."""

from typing import Callable, List, Sequence

from hf_inference_toolkit.annotations import Options
from hf_inference_toolkit.runtimes.cross_attention import SourceCache
from hf_inference_toolkit.runtimes.decoding import RowSampling, Selected
from hf_inference_toolkit.runtimes.encoder_decoder_pass import EncoderDecoderPass
from hf_inference_toolkit.runtimes.token_batch import MOST_PREPARED, TokenBatch, TokenRow, similar

# The room for sources grows in steps of so many tokens, because a cache that grows is copied.
SOURCE_STEP = 64


class EncoderDecoderBatch(TokenBatch):
    """See TokenBatch. An encoder cannot read a source in parts: a long one takes a step of its own."""

    has_sources = True
    _pass: EncoderDecoderPass
    _cache: SourceCache

    def row(
        self,
        tokens: List[int],
        total: int,
        arguments: Options,
        sampling: RowSampling,
        on_token: Callable[[Selected], bool],
    ) -> TokenRow:
        """See TokenBatch. The decoder's first tokens are not known yet."""
        return TokenRow([], total, arguments, sampling, on_token, tokens)

    def _empty_cache(self) -> SourceCache:
        return SourceCache(0, 0, 0)

    def _keep_prefix(self, row: TokenRow, place: int) -> None:
        """What a decoder writes depends on the whole source."""

    def _read_prompts(self) -> None:
        """Read waiting sources, up to the limit of a step. Their rows get their first tokens."""
        left = self._prefill_tokens
        while left > 0:
            rows = self._next_rows(left)
            if not rows:
                return
            sources: List[Sequence[int]] = []
            for row in rows:
                if not any(source is row.source for source in sources):
                    sources.append(row.source)
            longest = max(map(len, sources))
            left -= longest * len(sources)
            size = len(sources) * (1 + longest)
            if self.rows and self._cache.tokens + size > self.budget - self._elsewhere:
                self._resize(self.rows, size, 0)
            part = SourceCache(len(sources), 1, longest)
            places = [next(n for n, source in enumerate(sources) if source is row.source) for row in rows]
            starts = [rows[places.index(n)].prompt[0] for n in range(len(sources))]
            try:
                logits = self._pass.read_sources([list(source) for source in sources], starts, part)
            except Exception as problem:
                self._read_alone(rows, problem)
                return
            self._add_rows(rows, part, places)
            self._select(rows, logits[places])

    def _next_rows(self, tokens: int) -> List[TokenRow]:
        """The oldest waiting row and others of similar length, together up to `tokens`."""
        for row in self._waiting[:MOST_PREPARED]:
            if row.limits is None and not row.is_over:
                self._prepare(row)
        waiting = [row for row in self._waiting[:MOST_PREPARED] if not row.is_over]
        if not waiting or tokens < min(len(waiting[0].source), self._prefill_tokens):
            return []
        if not self._pass.pads_sources:
            waiting = [row for row in waiting if row.source is waiting[0].source]
        rows = similar(waiting, tokens)
        self._waiting = [row for row in self._waiting if row not in rows]
        return rows

    def _prepare(self, row: TokenRow) -> None:
        super()._prepare(row)
        if not row.is_over and len(row.prompt) != 1:
            row.fail(RuntimeError("the decoder begins with {} tokens".format(len(row.prompt))))

    def _add_rows(self, rows: Sequence[TokenRow], part: SourceCache, places: Sequence[int]) -> None:
        """Add rows whose sources were read."""
        for row in rows:
            row.length = 1
        cache, joined = self._cache, [*self.rows, *rows]
        if (
            len(joined) > cache.rows
            or cache.end < 1
            or cache.end >= cache.columns
            or max(part.lengths) > cache.cross.columns
        ):
            self._resize(joined, part.tokens, 1)
        cache.insert(part, places, [1] * len(rows))
        self.rows = joined

    def _resize(self, rows: Sequence[TokenRow], elsewhere: int, width: int) -> None:
        super()._resize(rows, elsewhere, width)
        longest = max(len(row.source) for row in rows)
        room = -(-longest // SOURCE_STEP) * SOURCE_STEP
        free = self.budget - self._elsewhere - elsewhere
        if self._cache.rows * (self._cache.columns + room) > free:
            room = longest
        self._cache.resize_sources(room)
