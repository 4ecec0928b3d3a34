"""Text of a sequence, token by token: what each token adds, where a stop sequence ends it, and why it ended."""

from typing import Callable, Collection, List, Optional, Sequence, Tuple

from hf_inference_toolkit.tasks.service import Token

# No character has more tokens. Text that ends in more undecodable ones is not held back any longer, and more tokens
# without text are dropped.
CHARACTER_TOKENS = 12


class IncrementalDecoder:
    """Decodes tokens one by one. `context` are tokens before the first one; they decide about its spaces."""

    def __init__(self, decode: Callable[[List[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._tokens = list(context)
        # Tokens before `_done` are decoded; those from `_start` on are decoded again with what follows.
        self._start, self._done = 0, len(self._tokens)

    def add(self, token: int) -> str:
        """The text that a token adds; nothing while the last character is incomplete."""
        self._tokens.append(token)
        return self._next(len(self._tokens) - self._done > CHARACTER_TOKENS)

    def text_of(self, token: int) -> str:
        """The text that a token would add."""
        before = self._decode(self._tokens[self._start :])
        return _added(before, self._decode([*self._tokens[self._start :], token]))

    def flush(self) -> str:
        """The text that was held back, with replacement characters for what is incomplete."""
        return self._next(True)

    def _next(self, is_complete: bool) -> str:
        before = self._decode(self._tokens[self._start : self._done])
        now = self._decode(self._tokens[self._start :])
        new = _added(before, now)
        if not new and is_complete:
            # They need not be decoded again with those that follow: special tokens, which are left out of the text.
            del self._tokens[self._done :]
        if not new or (now.endswith("\ufffd") and not is_complete):
            return ""
        self._start, self._done = self._done, len(self._tokens)
        return new


def _added(before: str, now: str) -> str:
    """What follows the part that two texts share: tokenizers that clean up take a space before a comma back."""
    if now.startswith(before):
        return now[len(before) :]
    pairs = enumerate(zip(before, now))
    return now[next((place for place, (one, other) in pairs if one != other), len(now)) :]


class GeneratedSequence:
    """One sequence while it is generated.

    `ends` are the end-of-sequence tokens. `on_token` is called with each token as soon as its text is known;
    `keeps_tokens` collects the same tokens in `reported`.
    """

    def __init__(
        self,
        decoder: IncrementalDecoder,
        ends: Collection[int] = (),
        stops: Sequence[str] = (),
        special: Collection[int] = (),
        on_token: Optional[Callable[[Token], object]] = None,
        keeps_tokens: bool = False,
    ) -> None:
        self.tokens: List[int] = []
        self.reported: List[Token] = []
        # `eos_token` or `stop_sequence` once it has ended; `length` while it has not.
        self.finish_reason = "length"
        self.seed: Optional[int] = None
        self.is_streamed = on_token is not None
        self._needs_text = bool(stops or on_token or keeps_tokens)
        self._decoder = decoder
        self._ends = ends
        self._stops = stops
        self._special = special
        self._on_token = on_token
        # The end of the text before, in which a stop sequence may begin.
        self._tail = ""
        self._held: List[Token] = []

    @property
    def is_over(self) -> bool:
        """Whether it has ended. What `generate` adds after that is padding."""
        return self.finish_reason != "length"

    def add(self, token: int, logprob: Optional[float] = None, top: Sequence[Tuple[int, float]] = ()) -> None:
        """The next token of the model; ignored after the end."""
        if self.is_over:
            return
        self.tokens.append(token)
        is_end = token in self._ends
        if self._needs_text:
            others = tuple(
                Token(number, self._decoder.text_of(number), number in self._special, value)
                for number, value in top
            )
            text = self._until_stop(self._decoder.add(token))
            self._held.append(Token(token, text, token in self._special, logprob, others))
            if is_end or self.is_over:
                self.close()
            elif text:
                self._send()
        if is_end and not self.is_over:
            self.finish_reason = "eos_token"

    def close(self) -> None:
        """No token comes any more: send what was held back. May be called more than once."""
        if self._held:
            text = self._decoder.flush() if not self.is_over else ""
            if text:
                place = max((n for n, one in enumerate(self._held) if not one.is_special), default=0)
                held = self._held[place]
                self._held[place] = held._replace(text=held.text + self._until_stop(text))
            self._send()

    def _send(self) -> None:
        held, self._held = self._held, []
        self.reported.extend(held)
        if self._on_token:
            for token in held:
                self._on_token(token)

    def _until_stop(self, text: str) -> str:
        """New text up to and with the first stop sequence, which may begin in the text before it."""
        if not self._stops or not text:
            return text
        known = len(self._tail)
        self._tail += text
        end = stop_end(self._tail, self._stops)
        if end is not None:
            self.finish_reason = "stop_sequence"
            return text[: end - known]
        self._tail = self._tail[-max(map(len, self._stops)) :]
        return text


def stop_end(text: str, stops: Sequence[str]) -> Optional[int]:
    """Where a text ends by its first stop sequence, which is a part of it; None without one."""
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    return min(ends) if ends else None
