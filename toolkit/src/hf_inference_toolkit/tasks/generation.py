"""The tasks that write text: text-generation, text2text-generation, summarization, translation."""

import inspect
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

from hf_inference_toolkit.content.payload import Request, kind_of
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import Runtime, Tokens
from hf_inference_toolkit.tasks.generation_parameters import (
    DOCUMENTED,
    GENERATION,
    OWN,
    check_amount,
    check_token_ids,
    token_ids,
    unavailable,
)
from hf_inference_toolkit.tasks.parameters import FULL_TEXT, TRUNCATION
from hf_inference_toolkit.tasks.service import Check, Piece, Token
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.text_task import Encoded, TextTask, row

# New tokens when neither the request nor the model says how many; transformers 5 has the same number.
NEW_TOKENS = 256
# What configurations of releases before 5 say when nobody has said anything.
UNSAID_LENGTH = 20
# Tokens, prompts and candidates counted, that are kept in memory while texts are written together.
MOST_KEPT = 65536
# Options that look at the prompt, and would take padding for a part of it; with the values that do nothing.
LOOKS_BACK = {
    "repetition_penalty": (None, 1, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "min_length": (None, 0),
    "penalty_alpha": (None, 0, 0.0),
}
LOOKS_AT_SOURCE = {
    "encoder_repetition_penalty": (None, 1, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
}
# They count positions by the attention mask, and have no argument that says so.
COUNT_BY_MASK = ("bloom", "opt")


class Prompt(NamedTuple):
    """A row and what `generate` is called with for it."""

    row: Tokens
    arguments: Dict[str, Any]
    # Texts after which nothing more is written.
    stops: Tuple[str, ...] = ()


class Generation(TextTask):
    """What the four have in common: parameters of `generate`, defaults of the model, and text made of tokens."""

    result = "generated_text"
    is_flat = True
    kept_tokens = MOST_KEPT
    # Short, so that the start does not wait for a long text.
    sample = {"inputs": "I like you.", "parameters": {"max_new_tokens": 8}}

    def __init__(self, task: TaskName, runtime: Runtime, tokenizer: Any, facts: Dict[str, str]) -> None:
        super().__init__(task, runtime, tokenizer, facts)
        self._names = task
        self._knows = known_options(runtime.model)
        self._counts_by_mask = runtime.generates_padded and counts_by_mask(runtime.model)
        self.streams = runtime.streams()
        supported = [one for one in GENERATION if one.name in self._knows or one.name == "max_new_tokens"]
        self.parameters = (*supported, *OWN, TRUNCATION, *self.extra_parameters())
        specific = getattr(self.config, "task_specific_params", None) or {}
        told = specific.get(task.requested) or specific.get(task.name) or {}
        self._defaults = {name: value for name, value in told.items() if name in self._knows}
        self.prefix = told.get("prefix") or getattr(self.config, "prefix", None) or ""

    def examples(self) -> List[Dict[str, Any]]:
        """The reference document's request, spelled right, and a short one."""
        return [DOCUMENTED, self.sample]

    def extra_parameters(self) -> Any:
        """Parameters that only this task has."""
        return ()

    def read(self, body: bytes, content_type: Any, accept: str) -> Request:
        """See Service; one text at a time can be read along."""
        request = super().read(body, content_type, accept)
        if request.is_stream:
            options = self.read_options(request.parameters)
            several = [name for name in ("num_beams", "num_return_sequences") if options.get(name, 1) > 1]
            if request.is_vertex or self.items(request.inputs)[1]:
                several.append("a list of inputs")
            if several:
                raise RequestError(
                    "unprocessable", '"stream" is for one text, not with {}'.format(" and ".join(several))
                )
        return request

    def read_options(self, given: Dict[str, Any]) -> Dict[str, Any]:
        """Parameters; token ids must be ids of this model."""
        options = super().read_options(given)
        check_token_ids(options, getattr(self.config, "vocab_size", None) or 0)
        return options

    def piece(self, row: Tokens, options: Dict[str, Any]) -> Piece:
        """A prompt; those of equal arguments are written together."""
        length = len(row["input_ids"])
        arguments = self.arguments(options, length)
        check_amount(length, arguments, NEW_TOKENS)
        key = [(name, repr(value)) for name, value in sorted(arguments.items()) if name != "tokenizer"]
        if not self.may_pad(arguments):
            key.append(("length", str(length)))
        new = arguments.get("max_new_tokens", arguments.get("max_length", NEW_TOKENS))
        width = arguments.get("num_beams", 1) * arguments.get("num_return_sequences", 1)
        return Piece(Prompt(row, arguments, stop_texts(options)), (length + new) * width, tuple(key))

    def may_pad(self, arguments: Dict[str, Any]) -> bool:
        """Whether prompts of different lengths can be written together and each gets what it gets alone."""
        if self.config.is_encoder_decoder:
            return all(self._value(arguments, name) in idle for name, idle in LOOKS_AT_SOURCE.items())
        return (
            self._counts_by_mask
            and "max_new_tokens" in arguments
            and all(
                self._value(arguments, name) in idle
                for name, idle in dict(LOOKS_BACK, **LOOKS_AT_SOURCE).items()
            )
        )

    def _value(self, arguments: Dict[str, Any], name: str) -> Any:
        """What `generate` takes for an option: the argument's value, or the model's own."""
        if name in arguments:
            return arguments[name]
        configs = (getattr(self.runtime.model, "generation_config", None), self.config)
        return next((getattr(config, name) for config in configs if hasattr(config, name)), None)

    def run(self, pieces: List[Piece], check: Check) -> List[Any]:
        """See Service: the sequences of each prompt, as they would be had it been alone."""
        self.runtime.set_check(check)
        self.runtime.check()
        rows = [piece.row.row for piece in pieces]
        arguments = pieces[0].row.arguments
        ends = self._ends(arguments)
        written = self._written(pieces, ends) if any(piece.reader for piece in pieces) else None
        sequences = self.runtime.generate(rows, self.pad, arguments, written)
        many = len(sequences) // len(rows)
        longest = max(len(one["input_ids"]) for one in rows)
        outputs = []
        for place, one in enumerate(rows):
            length = len(one["input_ids"])
            padding, begun = (0, 1) if self.config.is_encoder_decoder else (longest - length, length)
            own = sequences[place * many : (place + 1) * many]
            outputs.append([until_end(sequence[padding:], begun, ends) for sequence in own])
        return outputs

    def _written(self, pieces: List[Piece], ends: FrozenSet[int]) -> Any:
        """What is called after each step of `generate`: readers get their tokens, and time is looked at."""
        open_texts = {
            place: Growing(self.tokenizer, piece.reader, self._context(piece), piece.row.stops)
            for place, piece in enumerate(pieces)
            if piece.reader is not None
        }

        def written(numbers: List[int]) -> None:
            self.runtime.check()
            for place, number in enumerate(numbers):
                if place in open_texts:
                    open_texts[place].add(number)
                    # What comes now is padding, until the last text of the pass has ended.
                    if number in ends or open_texts[place].is_over:
                        del open_texts[place]

        return written

    def _context(self, piece: Piece) -> List[int]:
        """The tokens that stand before the first one that is written; a few decide about its spaces."""
        return [] if self.config.is_encoder_decoder else list(piece.row.row["input_ids"][-8:])

    def _ends(self, arguments: Dict[str, Any]) -> FrozenSet[int]:
        """The tokens after which nothing more is written."""
        return frozenset(token_ids(self._value(arguments, "eos_token_id") or []))

    def arguments(self, options: Dict[str, Any], length: int) -> Dict[str, Any]:
        """What `generate` is called with for a prompt of `length` tokens."""
        arguments = dict(self._defaults)
        arguments.update((name, value) for name, value in options.items() if name in self._knows)
        stops = stop_texts(options)
        if stops and "stop_strings" in self._knows:
            arguments.update(stop_strings=list(stops), tokenizer=self.tokenizer)
        new = self.new_tokens(options, length)
        if new is not None:
            arguments.pop("max_length", None)
            if "max_new_tokens" in self._knows:
                arguments["max_new_tokens"] = new
            else:
                arguments["max_length"] = self.total(new, length)
        if self.config.pad_token_id is None and self.tokenizer.pad_token_id is None:
            arguments.setdefault("pad_token_id", self.tokenizer.eos_token_id or 0)
        return arguments

    def total(self, new: int, length: int) -> int:
        """`max_length` for so many new tokens; an encoder's prompt does not count, its decoder's first token does."""
        return new + 1

    def new_tokens(self, options: Dict[str, Any], length: int) -> Optional[int]:
        """How many tokens are to be written; None where `max_length` of the request or of the model says it."""
        if "max_new_tokens" in options:
            return int(options["max_new_tokens"])
        if "max_length" in options or "max_length" in self._defaults or self.model_says_length():
            return None
        return min(NEW_TOKENS, max(1, self.limit - 2)) if self.limit else NEW_TOKENS

    def model_says_length(self) -> bool:
        """Whether the model's own configuration limits what is written."""
        for config in (getattr(self.runtime.model, "generation_config", None), self.config):
            if getattr(config, "max_new_tokens", None):
                return True
            if getattr(config, "max_length", None) not in (None, UNSAID_LENGTH):
                return True
        return False

    def text(self, numbers: List[int], options: Dict[str, Any]) -> str:
        """Tokens as text."""
        how = {}
        if "clean_up_tokenization_spaces" in options:
            how["clean_up_tokenization_spaces"] = options["clean_up_tokenization_spaces"]
        return str(self.tokenizer.decode(numbers, skip_special_tokens=True, **how))

    def count_generated(self, row: Tokens, output: Any) -> int:
        """See TextTask; a decoder's output begins with its prompt, an encoder's with one token to start from."""
        begun = 1 if self.config.is_encoder_decoder else len(row["input_ids"])
        return sum(len(sequence) - begun for sequence in output)

    def decode(self, item: Any, encoded: Encoded, outputs: List[Any], options: Dict[str, Any]) -> Any:
        """One object for each returned sequence."""
        return [
            {self.result: until_stop(self.written(item, encoded, numbers, options), options)}
            for numbers in outputs[0]
        ]

    def written(self, item: Any, encoded: Encoded, numbers: List[int], options: Dict[str, Any]) -> str:
        """The text of one sequence."""
        return self.text(numbers, options)

    def shape(self, results: List[Any], is_list: bool, options: Dict[str, Any]) -> Any:
        """As the pipelines: a list of objects, and a flat one where each input has one."""
        if not is_list:
            return results[0]
        if self.is_flat and all(len(result) == 1 for result in results):
            return [result[0] for result in results]
        return results


class TextToText(Generation):
    """Text from text, by an encoder and a decoder."""

    def encode(self, item: Any, options: Dict[str, Any]) -> Encoded:
        """One row, the model's own prefix in front."""
        encoding, was_cut = self.tokens(self.prefix + item, None, options)
        one = row(encoding)
        one.pop("token_type_ids", None)
        return Encoded([one], was_cut)


class Summarization(TextToText):
    """A shorter text."""

    result = "summary_text"


class TextGeneration(Generation):
    """A text's continuation; a list of `{"role", "content"}` objects is a conversation."""

    is_flat = False

    def extra_parameters(self) -> Any:
        """Whether the prompt is part of the answer."""
        return (FULL_TEXT,)

    def count(self, request: Request) -> int:
        """One conversation is one item."""
        return len(self.items(request.inputs)[0])

    def items(self, inputs: Any) -> Any:
        """One conversation is a list, too, and yet one item."""
        if isinstance(inputs, list) and inputs and is_message(inputs[0]):
            self.check_item(inputs)
            return [inputs], False
        return super().items(inputs)

    def check_item(self, item: Any) -> None:
        """A text or a conversation."""
        if isinstance(item, list) and item and all(map(is_message, item)):
            if getattr(self.tokenizer, "chat_template", None) is None:
                raise RequestError(
                    "unprocessable", "the model has no chat template, so it takes strings only"
                )
            return
        if not isinstance(item, str):
            raise RequestError(
                "unsupported_value",
                '{} takes a string, or a list of {{"role", "content"}} objects, not {}'.format(
                    self.task, kind_of(item)
                ),
            )

    def encode(self, item: Any, options: Dict[str, Any]) -> Encoded:
        """One row, cut at its start when it leaves no room to write."""
        room = self._room(options)
        may_cut = options.get("truncation", True)
        if isinstance(item, str):
            one = row(self.tokenizer(self.shortened(self.prefix + item, room, may_cut, "left")))
        else:
            text = self.tokenizer.apply_chat_template(item, tokenize=False, add_generation_prompt=True)
            text = self.shortened(text, room, may_cut, "left")
            one = row(self.tokenizer(text, add_special_tokens=False))
        one.pop("token_type_ids", None)
        length = len(one["input_ids"])
        if not length:
            raise RequestError("unprocessable", "an input has no tokens")
        if not room or length <= room:
            return Encoded([one])
        if not options.get("truncation", True):
            raise RequestError(
                "unprocessable",
                "an input has {} tokens, and with the new ones the model takes {} of {}".format(
                    length, room, self.limit
                ),
            )
        return Encoded([{key: value[-room:] for key, value in one.items()}], True)

    def _room(self, options: Dict[str, Any]) -> int:
        """Tokens of a prompt that leave place for what is asked for; 0 when there is no end."""
        if not self.limit:
            return 0
        asked = options.get("max_new_tokens")
        if asked is not None and asked >= self.limit:
            raise RequestError(
                "unprocessable",
                "max_new_tokens is {}, and the model takes {} tokens in all".format(asked, self.limit),
            )
        return max(1, self.limit - (asked if asked is not None else min(NEW_TOKENS, self.limit // 2)))

    def new_tokens(self, options: Dict[str, Any], length: int) -> Optional[int]:
        """Never more than the model has places for."""
        if "max_length" in options and "max_new_tokens" not in options:
            most = min(options["max_length"], self.limit or options["max_length"])
            if most <= length:
                raise RequestError(
                    "unprocessable",
                    "the prompt has {} tokens already, and max_length is {}".format(
                        length, options["max_length"]
                    ),
                )
            return int(most - length)
        new = super().new_tokens(options, length)
        return min(new, self.limit - length) if new is not None and self.limit else new

    def total(self, new: int, length: int) -> int:
        """The prompt counts."""
        return new + length

    def written(self, item: Any, encoded: Encoded, numbers: List[int], options: Dict[str, Any]) -> Any:
        """The prompt as it came, and what follows it; of a conversation, the conversation with one more message."""
        prompt = encoded.rows[0]["input_ids"]
        new = self.text(numbers, options)[len(self.text(prompt, options)) :]
        is_full = options.get("return_full_text", True)
        if isinstance(item, str):
            return item + new if is_full else new
        return [*item, {"role": "assistant", "content": new}] if is_full else new


def is_message(value: Any) -> bool:
    """Whether a value is one message of a conversation."""
    return (
        isinstance(value, dict)
        and set(value) == {"role", "content"}
        and all(isinstance(part, str) for part in value.values())
    )


def known_options(model: Any) -> Any:
    """The names that `generate` of the installed transformers takes."""
    config = getattr(model, "generation_config", None)
    if config is not None:
        return (frozenset(vars(config)) | frozenset(("max_new_tokens",))) - unavailable()
    return frozenset(inspect.signature(model.generate).parameters) - unavailable()


class Growing:
    """A text that grows token by token behind the tokens `before`; its reader gets what each adds."""

    def __init__(
        self, tokenizer: Any, reader: Any, before: Sequence[int] = (), stops: Sequence[str] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._reader = reader
        self._special = frozenset(tokenizer.all_special_ids)
        self._numbers = list(before)
        # Tokens before `_said` have been told; those from `_from` on are decoded with what follows, for their spaces.
        self._from, self._said = 0, len(self._numbers)
        self._stops, self._told = stops, ""

    @property
    def is_over(self) -> bool:
        """Whether one of `stops` has been written."""
        return any(stop in self._told for stop in self._stops)

    def add(self, number: int) -> None:
        """One more token. Its text waits for the next one while it ends within a character."""
        self._numbers.append(number)
        before = self._text(self._numbers[self._from : self._said])
        now = self._text(self._numbers[self._from :])
        new = ""
        if not now.endswith("\ufffd") and len(now) > len(before):
            new = now[len(before) :]
            self._from, self._said = self._said, len(self._numbers)
            self._told += new
        self._reader(Token(number, new, number in self._special))

    def _text(self, numbers: List[int]) -> str:
        return str(self._tokenizer.decode(numbers, skip_special_tokens=True))


def counts_by_mask(model: Any) -> bool:
    """Whether a decoder's positions begin after the padding in front of a prompt."""
    takes = inspect.signature(model.forward).parameters
    return "position_ids" in takes or model.config.model_type in COUNT_BY_MASK


def until_end(numbers: List[int], begun: int, ends: FrozenSet[int]) -> List[int]:
    """A sequence up to and with the first of `ends` after its first `begun` tokens; the rest is padding."""
    for place in range(begun, len(numbers)):
        if numbers[place] in ends:
            return numbers[: place + 1]
    return numbers


def stop_texts(options: Dict[str, Any]) -> Tuple[str, ...]:
    """The texts that end the writing."""
    stops = options.get("stop_sequence", options.get("stop_strings")) or ()
    return (stops,) if isinstance(stops, str) else tuple(stops)


def until_stop(text: Any, options: Dict[str, Any]) -> Any:
    """A text up to and with the first stop sequence in it."""
    if not isinstance(text, str):
        return text
    ends = [text.find(stop) + len(stop) for stop in stop_texts(options) if stop in text]
    return text[: min(ends)] if ends else text
