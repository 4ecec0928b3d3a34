"""Constrained decoding by llguidance: at each step only tokens with which the text still matches a grammar."""

import importlib.util
import json
from types import ModuleType
from typing import TYPE_CHECKING, Collection, Dict, FrozenSet, List, Optional

from hf_inference_toolkit.errors import RequestError

if TYPE_CHECKING:
    import llguidance
    import tokenizers
    import torch
    import transformers

# Between the parts of a JSON document. Without a limit, some models write nothing but spaces.
WHITESPACE = r"(\x0A\x20{0,24}|\x20)"

# Grammars that are kept, because clients send the same ones again.
MOST_COMPILED = 64


def is_available() -> bool:
    """Whether llguidance is installed. It needs Python 3.10."""
    return importlib.util.find_spec("llguidance") is not None


class Grammars:
    """Compiles grammars for one tokenizer. The vocabulary is read at the first use, which takes seconds."""

    def __init__(
        self, tokenizer: "transformers.PreTrainedTokenizerBase", vocabulary: int, ends: Collection[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._ends = sorted(ends)
        self._known: Optional["llguidance.LLTokenizer"] = None
        self._compiled: Dict[str, Matcher] = {}

    def json(self, schema: object) -> "Matcher":
        """JSON that is valid for a schema. RequestError for a schema that is not valid or not supported."""
        llguidance = self._library("response_format")
        try:
            text = llguidance.LLMatcher.grammar_from_json_schema(
                schema if isinstance(schema, str) else json.dumps(schema),
                overrides={"whitespace_pattern": WHITESPACE},
            )
        except ValueError as problem:
            raise _invalid(str(problem)) from None
        return self._matcher(text)

    def regex(self, pattern: object) -> "Matcher":
        """Text that matches a regular expression as a whole."""
        return self._matcher(self._library("grammar").LLMatcher.grammar_from_regex(pattern))

    def lark(self, text: str) -> "Matcher":
        """Text in the language of a Lark grammar, in llguidance's dialect."""
        return self._matcher(self._library("tool_choice").LLMatcher.grammar_from_lark(text))

    def _library(self, what: str) -> ModuleType:
        if not is_available():
            raise RequestError(
                "unprocessable",
                "'{}' with a grammar needs the package llguidance, which is not installed "
                "(Python 3.10 or later: pip install llguidance)".format(what),
            )
        if not self._ends:
            raise RequestError("unprocessable", "a grammar needs a model with an end-of-sequence token")
        import llguidance

        if self._known is None:
            backend = getattr(self._tokenizer, "backend_tokenizer", None)
            if backend is None:
                raise RequestError("unprocessable", "a grammar needs a model with a fast tokenizer")
            # Some releases take one end only; GrammarProcessor allows the others where it is allowed.
            self._known = llguidance.LLTokenizer(
                _without_limits(backend), n_vocab=self._vocabulary, eos_token=self._ends[0]
            )
        library: ModuleType = llguidance
        return library

    def _matcher(self, text: str) -> "Matcher":
        import llguidance

        known = self._compiled.get(text)
        if known is not None:
            return known
        limits = llguidance.LLParserLimits(verbose_errors=False)
        made = llguidance.LLMatcher(self._known, text, log_level=0, limits=limits)
        if made.is_error():
            raise _invalid(made.get_error())
        if len(self._compiled) >= MOST_COMPILED:
            self._compiled.clear()
        self._compiled[text] = Matcher(made, frozenset(self._ends))
        return self._compiled[text]


def _without_limits(backend: "tokenizers.Tokenizer") -> str:
    """The tokenizer as JSON, without padding and truncation, which llguidance does not take."""
    value = json.loads(backend.to_str())
    value.update(padding=None, truncation=None)
    return json.dumps(value)


def _invalid(message: str) -> RequestError:
    lines = message.strip().splitlines()
    return RequestError(
        "unsupported_value",
        "the schema or grammar is not valid, or uses what is not supported: {}".format(
            lines[0][:300] if lines else "no reason given"
        ),
    )


class Matcher:
    """A compiled grammar. `start` returns a processor for one text."""

    def __init__(self, matcher: "llguidance.LLMatcher", ends: FrozenSet[int]) -> None:
        self._matcher = matcher
        self._ends = ends

    def start(self) -> "GrammarProcessor":
        """A processor that stands at the beginning of the grammar."""
        return GrammarProcessor(self._matcher, self._ends)


class GrammarProcessor:
    """Leaves the tokens that the grammar allows after those that were generated."""

    def __init__(self, beginning: "llguidance.LLMatcher", ends: FrozenSet[int]) -> None:
        self._beginning = beginning
        self._ends = ends
        self._matcher = beginning.deep_copy()
        self._seen = 0

    def __call__(self, generated: List[int], logits: "torch.Tensor") -> "torch.Tensor":
        """The logits of the next token, with minus infinity for what the grammar does not allow."""
        import numpy
        import torch

        if len(generated) < self._seen:  # generated again, after a failure of another text in the same pass
            self._matcher, self._seen = self._beginning.deep_copy(), 0
        if not self._ends.isdisjoint(generated):
            return logits  # what follows the end is padding
        for number in generated[self._seen :]:
            self._matcher.consume_token(number)
        self._seen = len(generated)
        mask = b"" if self._matcher.is_error() else self._matcher.compute_bitmask()
        if self._matcher.is_error():
            reason = self._matcher.get_error().strip().splitlines()
            raise RequestError(
                "unprocessable", "the grammar is too complex: {}".format(reason[0][:300] if reason else "")
            )
        bits = numpy.unpackbits(numpy.frombuffer(mask, numpy.uint8), bitorder="little")[: logits.shape[-1]]
        allowed = torch.zeros(logits.shape[-1], dtype=torch.bool)
        allowed[: len(bits)] = torch.from_numpy(bits.astype(bool))
        ends = sorted(self._ends)
        allowed[ends] = allowed[ends[0]].item()
        return logits.masked_fill(~allowed.to(logits.device), -float("inf"))
