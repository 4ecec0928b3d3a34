"""One choice of a completion while it is generated: text without stop sequences, calls, and scored tokens."""

from typing import TYPE_CHECKING, Callable, Collection, Dict, FrozenSet, List, Optional, Sequence, Tuple

from hf_inference_toolkit.tasks.completion import Choice, Delta, ScoredToken, ToolCall
from hf_inference_toolkit.tasks.incremental_decoder import GeneratedSequence
from hf_inference_toolkit.tasks.service import Token
from hf_inference_toolkit.tasks.tool_calls import CallParser, Found, held_back

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FINISH_REASONS = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}


class TokenTexts:
    """The texts and bytes of a tokenizer's tokens. `kept` are special tokens that stay in the text."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", kept: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self.kept = frozenset(kept)

    def clean(self, token: Token) -> str:
        """What a token adds to the text, without special tokens that are not a part of it."""
        if not token.is_special or not token.text or token.number in self.kept:
            return token.text
        name = self._tokenizer.convert_ids_to_tokens(token.number)
        return token.text[: -len(name)] if token.text.endswith(name) else token.text

    def scored(self, token: Token) -> ScoredToken:
        """A token with its text and bytes, and those of its alternatives."""
        text, raw = self._form(token)
        top = [(*self._form(other), other.logprob or 0.0) for other in token.top]
        return ScoredToken(text, raw, token.logprob, len(token.text), top)

    def _form(self, token: Token) -> Tuple[str, bytes]:
        name = self._tokenizer.convert_ids_to_tokens(token.number)
        if token.is_special and isinstance(name, str):
            return name, name.encode("utf-8")
        raw = _bytes_of(name)
        if raw is None:
            raw = token.text.encode("utf-8", "replace")
            return token.text, raw
        return raw.decode("utf-8", "replace"), raw


def _bytes_of(name: object) -> Optional[bytes]:
    """The bytes of a token by its name in a byte-level or sentencepiece vocabulary; None if it has another form."""
    if not isinstance(name, str):
        return None
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return bytes.fromhex(name[3:5])
    if "\u2581" in name:
        return name.replace("\u2581", " ").encode("utf-8")
    try:
        return bytes(_BYTE_LEVEL[character] for character in name)
    except KeyError:
        return None


def _byte_level() -> Dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies: printable ones for themselves."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    found = {chr(number): number for number in shown}
    hidden = [number for number in range(256) if number not in shown]
    found.update((chr(256 + place), number) for place, number in enumerate(hidden))
    return found


_BYTE_LEVEL = _byte_level()


class ChoiceWriter:
    """Turns the tokens of one choice into deltas and, at the end, into a Choice. `send` gets each delta."""

    def __init__(
        self,
        index: int,
        texts: TokenTexts,
        stops: Sequence[str],
        calls: Optional[CallParser],
        has_scores: bool,
        send: Optional[Callable[[Delta], None]] = None,
    ) -> None:
        self._index = index
        self._texts = texts
        self._stops = stops
        self._parser = calls
        self._has_scores = has_scores
        self._send = send
        # The length of the text that was released. What may be the beginning of a stop sequence is held back.
        self._released = 0
        self._pending = ""
        # Tokens that are not released, with the place in the text where each begins.
        self._tokens: List[Tuple[int, Token]] = []
        self._parts: List[str] = []
        self._calls: List[ToolCall] = []
        self._scored: List[ScoredToken] = []
        self._has_begun = False

    @property
    def kept(self) -> FrozenSet[int]:
        """Special tokens that are part of the text."""
        return self._texts.kept

    def begin(self) -> None:
        """Send an empty delta, with which a stream begins."""
        if self._send and not self._has_begun:
            self._send(Delta(self._index))
        self._has_begun = True

    def add(self, token: Token) -> None:
        """The next token."""
        self.begin()
        place = self._released + len(self._pending)
        text = self._texts.clean(token)
        if text or not token.is_special:
            self._tokens.append((place, token))
        self._pending += text
        size = len(self._pending) - max((held_back(self._pending, stop) for stop in self._stops), default=0)
        # A complete stop sequence ends the text; the sequence reports that at its end.
        size = min([size, *(self._pending.find(stop) for stop in self._stops if stop in self._pending)])
        if size:
            self._release(size)

    def echo(self, text: str, tokens: Sequence[Token]) -> None:
        """The prompt in front of the generated text, with its tokens if they were scored."""
        self.begin()
        self._emit([text], [self._texts.scored(token) for token in tokens])

    def finish(self, sequence: GeneratedSequence) -> Choice:
        """The whole choice, when nothing follows."""
        self.begin()
        self._release(kept_length(self._pending, self._stops, sequence.finish_reason))
        if self._parser:
            self._emit(self._parser.close(), [])
        reason = FINISH_REASONS[sequence.finish_reason]
        if self._calls and reason == "stop":
            reason = "tool_calls"
        return Choice(self._index, "".join(self._parts), reason, self._calls, self._scored)

    def _release(self, size: int) -> None:
        text, self._pending = self._pending[:size], self._pending[size:]
        self._released += size
        tokens, self._tokens = self._tokens, []
        scored = []
        for place, token in tokens:
            if place >= self._released and token.text:
                self._tokens.append((place, token))
            elif self._has_scores:
                scored.append(self._texts.scored(token))
        found: Found = [text] if text else []
        self._emit(self._parser.feed(text) if self._parser and text else found, scored)

    def _emit(self, found: Found, scored: List[ScoredToken]) -> None:
        text = "".join(one for one in found if isinstance(one, str))
        calls = [one for one in found if isinstance(one, ToolCall)]
        self._parts.append(text)
        self._calls.extend(calls)
        self._scored.extend(scored)
        if self._send and (text or calls or scored):
            self._send(Delta(self._index, text, calls, scored))


def kept_length(text: str, stops: Sequence[str], reason: str) -> int:
    """The length of a text without the stop sequence that ended it."""
    if reason != "stop_sequence":
        return len(text)
    return min([len(text), *(len(text) - len(stop) for stop in stops if text.endswith(stop))])
