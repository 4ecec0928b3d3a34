"""Keys and values of texts that were read, for prompts that begin with the same tokens.

The turns of a conversation repeat what was said before, and many conversations begin with one system prompt.
"""

from typing import List, NamedTuple, Optional, Sequence, Tuple

from hf_inference_toolkit.runtimes.kv_cache import KVCache

# Fewest tokens that are worth a copy.
SHORTEST = 64
# The part of the budget that the store may use, while rows do not need it.
PART = 0.25
MOST_TEXTS = 64


class _Text(NamedTuple):
    tokens: List[int]
    cache: KVCache


class Prefixes:
    """The texts that were used last, in at most `limit` tokens."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # The text that was used last is at the end.
        self._texts: List[_Text] = []

    @property
    def tokens(self) -> int:
        """The number of tokens of all texts."""
        return sum(len(text.tokens) for text in self._texts)

    def known(self, prompt: Sequence[int]) -> int:
        """How many of the first tokens of a prompt need not be read. At least one token is read."""
        return self._find(prompt)[0]

    def copy(self, prompt: Sequence[int], cache: KVCache) -> int:
        """Copy what is known of a prompt into the first row of an empty cache; the number of its tokens."""
        count, text = self._find(prompt)
        if text is not None:
            self._texts.remove(text)
            self._texts.append(text)
            cache.start = cache.end = count
            cache.keep(0, 0)
            cache.insert(text.cache.beginning(count), [0], [count])
        return count

    def keep(self, tokens: List[int], cache: KVCache, place: int, room: int) -> None:
        """Copy the row at `place`, unless most of it is known or there is no room for so many tokens."""
        limit = min(room, self._limit)
        if not SHORTEST <= len(tokens) <= limit:
            return
        known = [_common(tokens, text.tokens) for text in self._texts]
        if any(len(tokens) - count < SHORTEST for count in known):
            return
        # The new text continues some of the others.
        self._texts = [text for count, text in zip(known, self._texts) if count < len(text.tokens)]
        self.shrink(limit - len(tokens))
        own = KVCache(1, len(tokens))
        own.start = own.end = len(tokens)
        own.keep(0, 0)
        own.insert(cache, [place], [len(tokens)])
        self._texts.append(_Text(tokens, own))
        del self._texts[:-MOST_TEXTS]

    def shrink(self, limit: int) -> None:
        """Drop the texts that were not used for the longest time, until `limit` tokens are left."""
        while self._texts and self.tokens > limit:
            del self._texts[0]

    def _find(self, prompt: Sequence[int]) -> Tuple[int, Optional[_Text]]:
        best, found = 0, None  # type: int, Optional[_Text]
        for text in self._texts:
            count = min(_common(prompt, text.tokens), len(prompt) - 1)
            if count > best:
                best, found = count, text
        return (best, found) if best >= SHORTEST else (0, None)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of equal tokens at the beginning; 0 if there are few."""
    if one[:SHORTEST] != other[:SHORTEST]:
        return 0
    pairs = zip(one, other)
    return next(
        (place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(one), len(other))
    )
