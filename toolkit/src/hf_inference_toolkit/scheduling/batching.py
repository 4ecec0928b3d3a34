"""Which of the waiting rows go through the model together: those of like length, as far as it pays.

A pass costs so much for being a pass at all, and so much a token, padding counted. Rows that differ in length pay for
company with padding, rows that are alone pay for a pass of their own; what is cheaper is learned from the passes made.
"""

from typing import List, Sequence

from hf_inference_toolkit.tasks.service import BatchRow, Service

# Tokens that go through the model at once, padding counted. More would not be faster, and needs memory.
MOST_TOKENS = 4096
# A pass should be so many times as long as what it costs to be a pass; a longer one keeps newcomers waiting.
ENOUGH = 16
LEAST_TOKENS = 512
# Rows that are looked at for a pass, the oldest first.
WINDOW = 128


class Cost:
    """What passes were seen to cost, the recent ones more: a straight line through (tokens, seconds)."""

    DECAY = 0.97

    def __init__(self) -> None:
        self.overhead = 32.0
        self._count = self._tokens = self._seconds = self._squares = self._products = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """A pass over `tokens` took `seconds`; `overhead`, in tokens, is what it would take without any."""
        self._count = self._count * self.DECAY + 1
        self._tokens = self._tokens * self.DECAY + tokens
        self._seconds = self._seconds * self.DECAY + seconds
        self._squares = self._squares * self.DECAY + tokens * tokens
        self._products = self._products * self.DECAY + tokens * seconds
        spread = self._count * self._squares - self._tokens**2
        slope = self._count * self._products - self._tokens * self._seconds
        # Passes of one size only, or times that noise has turned around, tell nothing.
        if self._count < 4 or spread <= 0.01 * self._tokens**2 or slope <= 0:
            return
        slope /= spread
        told = (self._seconds - slope * self._tokens) / self._count / slope
        self.overhead = min(max(told, 4.0), float(MOST_TOKENS))

    @property
    def budget(self) -> int:
        """Tokens of a pass, padding counted."""
        return int(min(max(self.overhead * ENOUGH, LEAST_TOKENS), MOST_TOKENS))


class DecodingCost(Cost):
    """Text generation: each step reads all weights whatever the number of rows, so memory alone limits a batch."""

    def __init__(self, budget: int) -> None:
        super().__init__()
        self.overhead = 1e9
        self._budget = budget

    def observe(self, tokens: int, seconds: float) -> None:
        """Nothing to learn."""

    @property
    def budget(self) -> int:
        """Tokens that are kept in memory."""
        return self._budget


def cost_of(service: Service) -> Cost:
    """The cost model of a service's passes."""
    return Cost() if service.kept_tokens is None else DecodingCost(service.kept_tokens)


def partition(lengths: Sequence[int], overhead: float, budget: int) -> List[range]:
    """Ascending lengths cut into the stretches that cost least in all, none of several above the budget."""
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
    """Places of the pieces to run next: the oldest, and those that it is cheapest to run it with."""
    key = waiting[0].key
    alike = [place for place, piece in enumerate(waiting[:WINDOW]) if piece.key == key]
    alike.sort(key=lambda place: waiting[place].length)
    oldest = alike.index(0)
    groups = partition([waiting[place].length for place in alike], cost.overhead, cost.budget)
    chosen = next(group for group in groups if oldest in group)
    return [alike[place] for place in chosen]
