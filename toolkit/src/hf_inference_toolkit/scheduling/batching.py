"""The choice of waiting rows that share a forward pass.

The time of a pass is modelled as a constant overhead plus a time for each token, padding included. Both are estimated
from earlier passes. Rows of different lengths share a pass if their padding costs less than the overhead of a pass.
"""

from typing import List, Sequence

from hf_inference_toolkit.tasks.service import BatchRow, Service

# Most tokens of a pass, padding included. Larger passes need more memory and were not faster.
MOST_TOKENS = 4096
# The budget of a pass as a multiple of its overhead. Larger passes delay requests that arrive meanwhile.
ENOUGH = 16
LEAST_TOKENS = 512
# Rows that are considered for a pass, the oldest first.
WINDOW = 128


class Cost:
    """The estimated cost of passes: a linear regression of seconds on tokens, with exponential decay."""

    DECAY = 0.97

    def __init__(self) -> None:
        # What computed the passes that were observed.
        self._engine = ""
        self._forget()

    def _forget(self) -> None:
        self.overhead = 32.0
        self._count = self._tokens = self._seconds = self._squares = self._products = 0.0

    def observe(self, tokens: int, seconds: float, engine: str = "") -> None:
        """Update the estimate with a pass. `overhead` is the intercept, converted to tokens.

        The estimate begins again when another library computes the passes.
        """
        if engine != self._engine:
            self._engine = engine
            self._forget()
        self._count = self._count * self.DECAY + 1
        self._tokens = self._tokens * self.DECAY + tokens
        self._seconds = self._seconds * self.DECAY + seconds
        self._squares = self._squares * self.DECAY + tokens * tokens
        self._products = self._products * self.DECAY + tokens * seconds
        spread = self._count * self._squares - self._tokens**2
        slope = self._count * self._products - self._tokens * self._seconds
        # Too few passes, passes of one size only, or noise: no estimate.
        if self._count < 4 or spread <= 0.01 * self._tokens**2 or slope <= 0:
            return
        slope /= spread
        overhead = (self._seconds - slope * self._tokens) / self._count / slope
        self.overhead = min(max(overhead, 4.0), float(MOST_TOKENS))

    @property
    def budget(self) -> int:
        """Most tokens of a pass, padding included."""
        return int(min(max(self.overhead * ENOUGH, LEAST_TOKENS), MOST_TOKENS))


class DecodingCost(Cost):
    """The cost of text generation: each step reads all weights for any number of rows. Only memory limits a batch."""

    def __init__(self, budget: int) -> None:
        super().__init__()
        self.overhead = 1e9
        self._budget = budget

    def observe(self, tokens: int, seconds: float, engine: str = "") -> None:
        """Do nothing: the budget is fixed."""

    @property
    def budget(self) -> int:
        """Most tokens in the KV cache."""
        return self._budget


def cost_of(service: Service) -> Cost:
    """The cost model for a service."""
    return Cost() if service.kept_tokens is None else DecodingCost(service.kept_tokens)


def partition(lengths: Sequence[int], overhead: float, budget: int) -> List[range]:
    """Split ascending lengths into ranges with the least total cost. A range above the budget has one row only."""
    best, cut = [0.0], [0]
    for end in range(1, len(lengths) + 1):
        longest, cheapest, start_of_cheapest = lengths[end - 1], float("inf"), end - 1
        for start in range(end - 1, -1, -1):
            tokens = (end - start) * longest
            if tokens > budget and start < end - 1:
                break
            price = best[start] + overhead + tokens
            if price < cheapest:
                cheapest, start_of_cheapest = price, start
        best.append(cheapest)
        cut.append(start_of_cheapest)
    groups: List[range] = []
    end = len(lengths)
    while end:
        groups.append(range(cut[end], end))
        end = cut[end]
    return groups[::-1]


def choose(waiting: Sequence[BatchRow], cost: Cost) -> List[int]:
    """Indexes of the rows of the next pass: the oldest row and those that share a pass with it at the least cost."""
    key = waiting[0].key
    alike = [place for place, piece in enumerate(waiting[:WINDOW]) if piece.key == key]
    alike.sort(key=lambda place: waiting[place].length)
    oldest = alike.index(0)
    groups = partition([waiting[place].length for place in alike], cost.overhead, cost.budget)
    chosen = next(group for group in groups if oldest in group)
    return [alike[place] for place in chosen]
