"""A batch of texts that PyTorch writes token by token: texts join and leave between steps (continuous batching).

Each text gets the tokens that `generate` of transformers writes for it alone: the batch uses the logits processors that
`generate` prepares, and attention masks and positions under which padding changes nothing.
"""

from typing import TYPE_CHECKING, Callable, List, Optional, Sequence, Tuple

from hf_inference_toolkit.annotations import Options
from hf_inference_toolkit.runtimes.decoding import RowSampling, Selected, Selector
from hf_inference_toolkit.runtimes.forward_pass import ForwardPass
from hf_inference_toolkit.runtimes.kv_cache import LEAST_FREE, MOST_FREE, KVCache
from hf_inference_toolkit.runtimes.memory import is_out_of_memory, release_memory
from hf_inference_toolkit.runtimes.prefixes import PART, Prefixes
from hf_inference_toolkit.runtimes.preparation import Limits, Preparation

if TYPE_CHECKING:
    import torch

# Tokens of prompts that are read in a step, padding included, by type of device: running texts wait for them.
PREFILL_TOKENS = {"cpu": 256, "cuda": 2048}
# More rows write no more tokens a second, and each text takes longer.
MOST_ROWS = {"cpu": 64, "cuda": 256}
# Waiting rows that are considered for a prefill, the oldest first.
MOST_PREPARED = 16
# Prompts are read together if padding is a smaller part of their tokens.
MOST_PADDING = 0.25


class TokenRow:
    """One text. `on_token` is called with each token; it returns whether the text has ended.

    `total` is the most tokens of the text, prompt included. Rows with one `prompt` object share its prefill. With an
    encoder, `source` is what it reads, which does not count in `total`, and `prompt` what the decoder begins with.
    """

    def __init__(
        self,
        prompt: List[int],
        total: int,
        arguments: Options,
        sampling: RowSampling,
        on_token: Callable[[Selected], bool],
        source: Sequence[int] = (),
    ) -> None:
        self.prompt = prompt
        self.source = source
        self.total = total
        self.arguments = arguments
        self.sampling = sampling
        self.on_token = on_token
        self.generated: List[int] = []
        self.limits: Optional[Limits] = None
        # The number of its tokens in the cache.
        self.length = 0
        # Whether its prompt is read by itself, because a pass with others failed.
        self.is_alone = False
        # Set it to True to remove the row in the next step.
        self.is_over = False
        self.problem: Optional[BaseException] = None

    @property
    def input_tokens(self) -> Sequence[int]:
        """The tokens that are read before the first one is written."""
        return self.source or self.prompt

    def fail(self, problem: BaseException) -> None:
        """End the row with an exception."""
        self.problem, self.is_over = problem, True


class _Prefill:
    """Prompts that are being read. `sources` has the place of each row's prompt among them."""

    def __init__(self, rows: List[TokenRow], prompts: List[List[int]], cache: KVCache, done: int) -> None:
        self.rows = rows
        self.prompts = prompts
        self.sources = [
            next(place for place, prompt in enumerate(prompts) if prompt is row.prompt) for row in rows
        ]
        self.longest = max(map(len, prompts))
        # Columns that were read, or that are known.
        self.done = done
        self.cache = cache
        cache.keep(len(prompts), 0)


class TokenBatch:
    """The running batch. `budget` is the memory of its KV cache in tokens. All methods are called in one thread."""

    # Whether an encoder reads sources.
    has_sources = False

    def __init__(
        self, forward: ForwardPass, preparation: Preparation, budget: int, device: "torch.device"
    ) -> None:
        self._pass = forward
        self._preparation = preparation
        self._device = device
        self._selector = Selector(device)
        self.budget = budget
        self._prefill_tokens = PREFILL_TOKENS.get(device.type, 256)
        self._most_rows = MOST_ROWS.get(device.type, 64)
        self.rows: List[TokenRow] = []
        # The number of tokens that were selected for all rows.
        self.selected = 0
        # Rows whose prompts have not been read, and which have their part of the budget.
        self._waiting: List[TokenRow] = []
        self._prefill: Optional[_Prefill] = None
        self._cache = self._empty_cache()
        self._prefixes = Prefixes(int(budget * PART))
        # Batches of other adapters, which use the same memory.
        self._others: Sequence[TokenBatch] = ()

    @property
    def _all(self) -> List[TokenRow]:
        """Its rows, without those that leave in the next step."""
        prefill = self._prefill  # other threads read `usage`
        rows = [*self.rows, *(prefill.rows if prefill else ()), *self._waiting]
        return [row for row in rows if not row.is_over]

    @property
    def usage(self) -> float:
        """The used part of the memory budget, from 0 to 1."""
        rows = self._all
        return min(1.0, needed(*sizes(rows)) / self.budget) if rows else 0.0

    def longest_of(self, count: int) -> int:
        """The most tokens of each of `count` texts, prompts and sources included."""
        return self.budget // count - LEAST_FREE if count <= self._most_rows else 0

    def new(self) -> "TokenBatch":
        """An empty batch of the same model."""
        return type(self)(self._pass, self._preparation, self.budget, self._device)

    def row(
        self,
        tokens: List[int],
        total: int,
        arguments: Options,
        sampling: RowSampling,
        on_token: Callable[[Selected], bool],
    ) -> TokenRow:
        """A row for the tokens of an input."""
        return TokenRow(tokens, total, arguments, sampling, on_token)

    def share_memory(self, others: Sequence["TokenBatch"]) -> None:
        """Use the budget together with these batches, of which each knows all the others."""
        self._others = others

    @property
    def _buffers(self) -> int:
        """The tokens for which its caches have room."""
        prefill = self._prefill
        return self._cache.tokens + (prefill.cache.tokens if prefill else 0)

    @property
    def _held(self) -> int:
        """The tokens of the budget that its rows use."""
        rows = self._all
        return max(needed(*sizes(rows)), self._buffers) if rows else 0

    @property
    def _elsewhere(self) -> int:
        """The tokens of the budget that the rows of the other batches use."""
        return sum(batch._held for batch in self._others)

    def _shrink_prefixes(self, limit: int) -> None:
        """Drop known texts of all batches of the memory, until `limit` tokens are left."""
        for batch in (self, *self._others):
            batch._prefixes.shrink(limit // (1 + len(self._others)))

    @property
    def _prefix_tokens(self) -> int:
        return sum(batch._prefixes.tokens for batch in (self, *self._others))

    def fits(self, lengths: Sequence[int], totals: Sequence[int]) -> bool:
        """Whether there is memory for more rows, given the lengths of their inputs and the most tokens of each."""
        rows, elsewhere = self._all, self._elsewhere
        known, sources = sizes(rows)
        totals, sources = [*known, *totals], [*sources, *(lengths if self.has_sources else ())]
        if not rows and not elsewhere:
            self._shrink_prefixes(self.budget - needed(totals, sources))
            return True
        running = len(rows) + sum(len(batch._all) for batch in self._others)
        if running + len(lengths) > self._most_rows:
            return False
        size = needed(totals, sources)
        # Inputs that are read beside a running batch are in memory twice.
        inputs = [len(row.input_tokens) for row in rows if not row.length] + list(lengths)
        twice = min(sum(inputs), max(*inputs, 2 * self._prefill_tokens, 0))
        if size + twice + elsewhere > self.budget:
            return False
        self._shrink_prefixes(self.budget - size - twice - elsewhere)
        return True

    def add(self, row: TokenRow) -> None:
        """Let a row join. Call `fits` before."""
        self._waiting.append(row)

    def clear(self) -> None:
        """Drop all rows, for example after a step that was interrupted."""
        self.rows, self._waiting, self._prefill = [], [], None
        self._cache = self._empty_cache()

    def _empty_cache(self) -> KVCache:
        return KVCache(0, 0)

    def step(self) -> List[TokenRow]:
        """Write one token for each row, read prompts, and return the rows that are over. They have left."""
        over = self._remove_over()
        if self.rows:
            self._write_tokens()
            over += self._remove_over()
        self._read_prompts()
        over += self._remove_over()
        return over

    def _remove_over(self) -> List[TokenRow]:
        over = [row for row in self._waiting if row.is_over]
        if over:
            self._waiting = [row for row in self._waiting if not row.is_over]
        if self._prefill and all(row.is_over for row in self._prefill.rows):
            over += self._prefill.rows
            self._prefill = None
        for place in reversed(range(len(self.rows))):
            if self.rows[place].is_over:
                over.append(self.rows[place])
                self._keep_prefix(self.rows[place], place)
                last = self.rows.pop()
                if place < len(self.rows):
                    self.rows[place] = last
                    self._cache.move(len(self.rows), place)
        if over and self.rows:
            self._cache.keep(len(self.rows), max(row.length for row in self.rows))
        elif over:
            self._cache = self._empty_cache()
        return over

    def _keep_prefix(self, row: TokenRow, place: int) -> None:
        """Keep the tokens of a row that are in the cache, for prompts that begin with them."""
        if row.problem is None:
            tokens = (row.prompt + row.generated)[: row.length]
            others = self._elsewhere + self._prefix_tokens - self._prefixes.tokens
            self._prefixes.keep(tokens, self._cache, place, self.budget - self._buffers - others)

    def _read_prompts(self) -> None:
        """Read waiting prompts, up to the limit of a step. Rows whose prompts are complete get their first tokens."""
        left = self._prefill_tokens
        while left > 0:
            if self._prefill is None:
                self._prefill = self._next_prefill(left)
            prefill = self._prefill
            if prefill is None:
                return
            count = len(prefill.prompts)
            columns = min(max(1, left // count), prefill.longest - prefill.done)
            left -= columns * count
            try:
                logits = self._pass.read(prefill.prompts, prefill.cache, prefill.done, columns)
            except Exception as problem:
                self._prefill = None
                self._read_alone(prefill.rows, problem)
                return
            prefill.done += columns
            if prefill.done >= prefill.longest:
                self._prefill = None
                self._join(prefill, logits)

    def _read_alone(self, rows: List[TokenRow], problem: Exception) -> None:
        """After a pass that failed: each prompt is read by itself, to find the cause."""
        if is_out_of_memory(problem):
            release_memory()
        if len(rows) == 1:
            rows[0].fail(problem)
        for row in rows:
            row.is_alone = True
        self._waiting[:0] = rows

    def _next_prefill(self, tokens: int) -> Optional[_Prefill]:
        """The oldest waiting row and others of similar length, together up to `tokens`."""
        for row in self._waiting[:MOST_PREPARED]:
            if row.limits is None and not row.is_over:
                self._prepare(row)
        waiting = [row for row in self._waiting[:MOST_PREPARED] if not row.is_over]
        if not waiting:
            return None
        known = self._prefixes.known(waiting[0].prompt)
        if tokens < min(len(waiting[0].prompt) - known, self._prefill_tokens):
            return None
        # Known beginnings have different lengths, so such a prompt is read alone, for all rows that share it.
        if known:
            alike = [row for row in waiting if row.prompt is waiting[0].prompt]
        else:
            alike = [row for row in waiting if not self._prefixes.known(row.prompt)]
        rows = similar(alike, tokens)
        self._waiting = [row for row in self._waiting if row not in rows]
        prompts: List[List[int]] = []
        for row in rows:
            if not any(prompt is row.prompt for prompt in prompts):
                prompts.append(row.prompt)
        columns = max(map(len, prompts))
        if not self.rows and len(prompts) == len(rows):
            # It becomes the cache of the batch.
            own = KVCache(*self._size(rows, 0))
        else:
            cache, size = self._cache, len(prompts) * columns
            free = self.budget - self._prefix_tokens - self._elsewhere
            if self.rows and cache.tokens + size > free:
                self._resize(self.rows, size, 0)
            own = KVCache(len(prompts), columns)
        done = self._prefixes.copy(prompts[0], own) if known else 0
        return _Prefill(rows, prompts, own, done)

    def _prepare(self, row: TokenRow) -> None:
        try:
            row.limits = self._preparation.limits(list(row.input_tokens), row.arguments)
            row.prompt = row.limits.start if self.has_sources else row.prompt
            row.total = max(row.total, row.limits.total)
        except Exception as problem:
            row.fail(problem)

    def _size(self, rows: Sequence[TokenRow], elsewhere: int) -> Tuple[int, int]:
        """Rows and columns of buffers for these rows, with some room for more.

        `elsewhere` are tokens of the budget that other buffers need.
        """
        longest = max(row.total for row in rows)
        budget = self.budget - elsewhere - self._elsewhere - self._prefix_tokens
        source = max(len(row.source) for row in rows)
        count = 1
        while count < len(rows):
            count *= 2
        count = max(len(rows), min(count, budget // (longest + LEAST_FREE + source)))
        free = min(max(longest // 2, LEAST_FREE), MOST_FREE)
        return count, max(longest + LEAST_FREE, min(longest + free, budget // count - source))

    def _resize(self, rows: Sequence[TokenRow], elsewhere: int, width: int) -> None:
        """Give the cache the size for these rows, of which one has `width` tokens."""
        self._cache.resize(*self._size(rows, elsewhere), width)

    def _join(self, prefill: _Prefill, logits: "torch.Tensor") -> None:
        """Add rows whose prompts were read, and select their first tokens."""
        lengths = [len(row.prompt) for row in prefill.rows]
        for row, length in zip(prefill.rows, lengths):
            row.length = length
        is_shared = len(prefill.prompts) < len(prefill.rows)
        if not self.rows and not is_shared and prefill.cache.end < prefill.cache.columns:
            self._cache = prefill.cache
            self._cache.clean(lengths)
        else:
            rows, longest = [*self.rows, *prefill.rows], max(lengths)
            cache = self._cache
            if len(rows) > cache.rows or longest > cache.end or cache.end >= cache.columns:
                self._resize(rows, prefill.cache.tokens, longest)
            cache.insert(prefill.cache, prefill.sources, lengths)
        self.rows.extend(prefill.rows)
        for place in range(len(self.rows) - len(prefill.rows), len(self.rows)):
            self._keep_prefix(self.rows[place], place)
        self._select(prefill.rows, logits[prefill.sources] if is_shared else logits)

    def _write_tokens(self) -> None:
        """One token for each row of the batch."""
        cache = self._cache
        cache.keep(len(self.rows), max(row.length for row in self.rows))
        if cache.end >= cache.columns:
            self._resize(self.rows, 0, 0)
        rows = list(self.rows)
        try:
            logits = self._pass.write([row.generated[-1] for row in rows], _lengths(rows), cache)
        except Exception as problem:
            self._write_alone(rows, problem)
        else:
            self._select(rows, logits)
        cache.end += 1
        for row in rows:
            row.length += 1

    def _write_alone(self, rows: List[TokenRow], problem: Exception) -> None:
        """After a step that failed: the same step for each row by itself. A row that fails again is over."""
        if is_out_of_memory(problem):
            release_memory()
        cache, start = self._cache, self._cache.start
        for place, row in enumerate(rows):
            cache.first, cache.last, cache.start = place, place + 1, cache.end - row.length
            try:
                if len(rows) == 1:
                    raise problem
                logits = self._pass.write([row.generated[-1]], [row.length], cache)
            except Exception as own:
                row.fail(own)
            else:
                self._select([row], logits)
            finally:
                cache.first, cache.last, cache.start = 0, len(rows), start

    def _select(self, rows: Sequence[TokenRow], logits: "torch.Tensor") -> None:
        """Select the next token of each row, and report it."""
        scores = self._preparation.processed(logits.float(), rows)
        places = [place for place, row in enumerate(rows) if not row.is_over]
        if not places:
            return
        selected = self._selector.select(
            scores if len(places) == len(rows) else scores[places],
            [rows[place].sampling for place in places],
            lambda place: rows[places[place]].generated,
        )
        for place, one in zip(places, selected):
            row = rows[place]
            if isinstance(one, Exception):
                row.fail(one)
                continue
            row.generated.append(one.token)
            self.selected += 1
            try:
                row.is_over = row.on_token(one) or self._preparation.is_over(row)
            except Exception as problem:
                row.fail(problem)


def needed(totals: Sequence[int], sources: Sequence[int]) -> int:
    """The tokens of the budget for rows with so many tokens, and sources of these lengths."""
    return len(totals) * (max(totals) + LEAST_FREE + max(sources, default=0))


def sizes(rows: Sequence[TokenRow]) -> Tuple[List[int], List[int]]:
    """The most tokens and the source's length of each row."""
    return [row.total for row in rows], [len(row.source) for row in rows]


def _lengths(rows: Sequence[TokenRow]) -> List[int]:
    return [row.length for row in rows]


def similar(waiting: List[TokenRow], limit: int) -> List[TokenRow]:
    """The oldest row, and those that can be read with it: together at most `limit` tokens, and little padding.

    Rows with one prompt count once, because it is read once.
    """
    first = waiting[0]
    if first.is_alone:
        return [first]
    chosen, prompts = [first], 1
    longest = tokens = len(first.input_tokens)
    for row in waiting[1:]:
        if row.input_tokens is chosen[-1].input_tokens:
            chosen.append(row)
            continue
        most = max(longest, len(row.input_tokens))
        padded = most * (prompts + 1)
        padding = padded - tokens - len(row.input_tokens)
        if not row.is_alone and padded <= limit and padding <= MOST_PADDING * padded:
            chosen.append(row)
            longest, tokens, prompts = most, tokens + len(row.input_tokens), prompts + 1
    return chosen
