"""Completions by a text-generation model: from prompts to rows, and from sequences to choices."""

import math
from typing import TYPE_CHECKING, Dict, FrozenSet, List, NamedTuple, Optional, Tuple, Union

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import Answer, Options, Output, Parameters
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import Runtime, Tokens
from hf_inference_toolkit.runtimes.grammar import Grammars, Matcher
from hf_inference_toolkit.tasks import tool_calls
from hf_inference_toolkit.tasks.chat import ChatTemplate, is_message
from hf_inference_toolkit.tasks.choices import ChoiceWriter, TokenTexts
from hf_inference_toolkit.tasks.completion import (
    NO_TOOLS,
    Choice,
    Completed,
    Completion,
    Conversation,
    Grammar,
    Tools,
)
from hf_inference_toolkit.tasks.generation import CONTEXT_TOKENS, DEFAULT_TOP_K, Generation
from hf_inference_toolkit.tasks.generation_parameters import token_ids
from hf_inference_toolkit.tasks.incremental_decoder import GeneratedSequence, stop_end
from hf_inference_toolkit.tasks.prompt_scores import PromptScorer
from hf_inference_toolkit.tasks.service import BatchRow, Check, Prediction, Reader, Steps, Token
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.text_task import Encoded, row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEEDS = 2**63
CLEANS_UP = "clean_up_tokenization_spaces"


class Prepared(NamedTuple):
    """A prompt in tokens, and its text if it is echoed."""

    row: Tokens
    text: str
    tools: Tools


class Completer(Generation):
    """What completions need of a task that generates text."""

    completes = True

    def __init__(
        self,
        task: TaskName,
        runtime: Runtime,
        tokenizer: "PreTrainedTokenizerBase",
        facts: Dict[str, str],
        template: Optional[ChatTemplate] = None,
    ) -> None:
        super().__init__(task, runtime, tokenizer, facts)
        self.template = template or ChatTemplate(tokenizer)
        self.chats = self.template.exists
        self.context_tokens = self.limit
        vocabulary = getattr(self.config, "vocab_size", None) or len(tokenizer)
        self.scorer = PromptScorer(
            runtime, self.pad, vocabulary, self._special, lambda ids: self.text(ids, {})
        )
        self._completions = Completions(self)

    def prepare(self, completion: Completion) -> Request:
        """See Service."""
        return Request(self._completions.prepare(completion), {}, [])

    def count(self, request: Request) -> int:
        """See Service. One conversation is one item."""
        if isinstance(request.inputs, Completion):
            return len(request.inputs.prompts) * request.inputs.best_of
        inputs = request.inputs
        return len(inputs) if isinstance(inputs, list) and inputs and not is_message(inputs[0]) else 1

    def steps(self, request: Request, check: Check, reader: Reader = None) -> Steps:
        """See Service."""
        if isinstance(request.inputs, Completion):
            return self._completions.steps(request.inputs, check, reader)
        return super().steps(request, check, reader)

    def accepted(self, request: Request) -> Request:
        """See Service."""
        request = super().accepted(request)
        if request.is_stream and request.parameters.get("decoder_input_details"):
            raise RequestError("unprocessable", "parameter 'decoder_input_details' does not work in streams")
        return request

    def read_options(self, given: Parameters) -> Options:
        """See TextTask."""
        options = super().read_options(given)
        if options.get("decoder_input_details"):
            options["details"] = True
        return options

    def decode(self, item: object, encoded: Encoded, outputs: List[Output], options: Options) -> Answer:
        """See TextTask."""
        results = super().decode(item, encoded, outputs, options)
        if options.get("decoder_input_details"):
            tokens = self.scorer.score(encoded.rows[0], 0)
            prefill = [{"id": one.number, "text": one.text, "logprob": one.logprob} for one in tokens]
            for result in results:
                result["details"]["prefill"] = prefill
        return results

    def piece(self, row: Tokens, options: Options) -> BatchRow:
        """See Generation; the text matches the grammar of text-generation-inference's parameter."""
        piece = super().piece(row, options)
        given = options.get("grammar")
        if given is None:
            return piece
        if piece.row.copies > 1 or (self._value(piece.row.arguments, "num_beams") or 1) > 1:
            raise RequestError(
                "unprocessable", "parameter 'grammar' does not work with several sequences or beams"
            )
        return _constrained(piece, self._completions.matcher(Grammar(given["type"], given["value"])))

    def encode_conversation(self, conversation: Conversation) -> Tokens:
        """The tokens of a conversation that the model continues."""
        return self.encode_text(self.template.render(conversation.messages, False, conversation.tools), False)

    def encode_text(self, text: str, add_special_tokens: bool) -> Tokens:
        """The tokens of a prompt. A prompt that leaves no room for new tokens is refused later."""
        if len(text) > limits.TEXT_CHARACTERS:
            raise RequestError(
                "unsupported_value",
                "the prompt has {} characters; at most {} are allowed".format(
                    len(text), limits.TEXT_CHARACTERS
                ),
            )
        one = row(self.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False))
        one.pop("token_type_ids", None)
        return one

    @property
    def special_tokens(self) -> FrozenSet[int]:
        """The ids of special tokens."""
        return self._special

    def end_tokens(self) -> FrozenSet[int]:
        """The tokens that end a text."""
        return frozenset(token_ids(self._value({}, "eos_token_id") or []))

    def stops(self, options: Options) -> Tuple[str, ...]:
        """The stop sequences of the request and of the model."""
        return self._stops(options)

    def own_new_tokens(self) -> int:
        """The number of new tokens in the model's configuration; 0 without one."""
        return self._value({}, "max_new_tokens") or 0

    def own_temperature(self) -> float:
        """The temperature of the model's configuration."""
        value = self._value({}, "temperature")
        return 1.0 if value is None else value

    def own_top_k(self) -> int:
        """top_k of the model's configuration; 0 where it is the default of transformers."""
        value = self._value({}, "top_k") or 0
        return 0 if value == DEFAULT_TOP_K else value

    def whole_text(self, piece: BatchRow, sequence: GeneratedSequence, kept: FrozenSet[int]) -> Token:
        """The text of a sequence as one token, without special tokens that are not in `kept`."""
        context = piece.row.row["input_ids"][-CONTEXT_TOKENS:]
        tokens = [one for one in sequence.tokens if one not in self._special or one in kept]
        how = {"skip_special_tokens": False, CLEANS_UP: False}
        text = self.text(context + tokens, how)[len(self.text(context, how)) :]
        return Token(-1, text[: stop_end(text, self._stops(piece.row.options))], False)


class Completions:
    """Prepares and runs completions on a service."""

    def __init__(self, service: Completer) -> None:
        self._service = service
        self._template = service.template
        vocabulary = getattr(service.config, "vocab_size", None) or len(service.tokenizer)
        self._grammars = Grammars(service.tokenizer, vocabulary, service.end_tokens())

    def prepare(self, completion: Completion) -> Completion:
        """Check what does not need the prompt's tokens, and compile the grammar."""
        for prompt in completion.prompts:
            if isinstance(prompt, Conversation):
                self._template.check(prompt.messages, prompt.tools)
        self._check_size(completion)
        self._service.read_options(self._options(completion, 1, False))
        return completion._replace(matcher=self._matcher(completion))

    def _matcher(self, completion: Completion) -> Optional[Matcher]:
        prompt = completion.prompts[0]
        if completion.grammar is not None:
            return self.matcher(completion.grammar)
        tools = prompt.tools if isinstance(prompt, Conversation) else NO_TOOLS
        if tools.may_be_called and (tools.must_be_called or tools.is_strict):
            self._check_steps()
            text = tool_calls.grammar(self._template.call_format, tools, self._special_token)
            return self._grammars.lark(text)
        return None

    def matcher(self, grammar: Grammar) -> Matcher:
        """A compiled grammar."""
        self._check_steps()
        size = len(grammar.value if isinstance(grammar.value, str) else str(grammar.value))
        if size > limits.SCHEMA_CHARACTERS:
            raise RequestError(
                "unsupported_value",
                "the grammar has {} characters; at most {} are allowed".format(
                    size, limits.SCHEMA_CHARACTERS
                ),
            )
        return (self._grammars.regex if grammar.kind == "regex" else self._grammars.json)(grammar.value)

    def _check_steps(self) -> None:
        """RequestError if the runtime does not apply processors."""
        if not self._service.streams:
            raise RequestError("unprocessable", "a grammar needs PyTorch and transformers 4.24 or later")

    def _special_token(self, text: str) -> Optional[int]:
        number = self._service.tokenizer.convert_tokens_to_ids(text)
        return number if isinstance(number, int) and number in self._service.special_tokens else None

    def _check_size(self, completion: Completion) -> None:
        sequences = len(completion.prompts) * completion.best_of
        if sequences > limits.SEQUENCES:
            raise RequestError(
                "unsupported_value",
                "{} prompts with {} texts each are {} texts; at most {} are allowed".format(
                    len(completion.prompts), completion.best_of, sequences, limits.SEQUENCES
                ),
                param="n",
            )
        most = self._service.limit
        if completion.max_tokens is not None and completion.max_tokens >= most:
            raise self._too_long(completion.max_tokens, None)

    def _too_long(self, new: int, length: Optional[int]) -> RequestError:
        prompt = "" if length is None else "the prompt has {} tokens and ".format(length)
        return RequestError(
            "unsupported_value",
            "{}max_tokens is {}: together they must not exceed the model's context of {} tokens".format(
                prompt, new, self._service.limit
            ),
            param="max_tokens",
        )

    def _options(self, completion: Completion, new: int, has_tools: bool) -> Options:
        # JSON keeps its spaces; pipelines of older releases remove those before punctuation.
        options = dict(completion.options, max_new_tokens=new, **{CLEANS_UP: False})
        options["do_sample"] = options.get("temperature", self._service.own_temperature()) != 0
        if "top_k" not in options:
            options["top_k"] = self._service.own_top_k()
        if completion.alternatives is not None:
            options["details"] = True
            if completion.alternatives:
                options["top_n_tokens"] = completion.alternatives
        elif completion.best_of > completion.choices:
            options["details"] = True
        if has_tools:
            # The marks of calls are special tokens in some models.
            options["skip_special_tokens"] = False
        return options

    def steps(self, completion: Completion, check: Check, reader: Reader) -> Steps:
        """See Service."""
        pieces: List[BatchRow] = []
        writers: List[ChoiceWriter] = []
        prompts: List[Prepared] = []
        for prompt in completion.prompts:
            check()
            prepared = self._prepared(prompt, completion)
            prompts.append(prepared)
            scores: List[Token] = []
            if completion.is_echoed and completion.alternatives is not None:
                scores = self._service.scorer.score(prepared.row, completion.alternatives)
            for _ in range(completion.best_of):
                writer = self._writer(len(writers), prepared, completion, reader)
                pieces.append(self._piece(prepared, completion, len(writers), writer if reader else None))
                writers.append(writer)
                if completion.is_echoed:
                    writer.echo(prepared.text, scores)
        outputs = yield pieces
        sequences: List[GeneratedSequence] = [output[0] for output in outputs]
        choices = [
            self._choice(piece, writer, sequence, reader)
            for piece, writer, sequence in zip(pieces, writers, sequences)
        ]
        if completion.best_of > completion.choices:
            choices = _best(choices, sequences, completion)
        tokens_in = sum(len(one.row["input_ids"]) for one in prompts)
        tokens_out = sum(len(sequence.tokens) for sequence in sequences)
        completed = Completed(choices, tokens_in, tokens_out)
        return Prediction(completed, False, len(pieces), tokens_in, tokens_out)

    def _prepared(self, prompt: Union[str, List[int], Conversation], completion: Completion) -> Prepared:
        service, tools, text = self._service, NO_TOOLS, ""
        if isinstance(prompt, Conversation):
            tools = prompt.tools
            one = service.encode_conversation(prompt)
        elif isinstance(prompt, str):
            text = prompt
            one = service.encode_text(prompt, True)
        else:
            self._check_ids(prompt)
            one = {"input_ids": list(prompt), "attention_mask": [1] * len(prompt)}
            text = service.text(list(prompt), {}) if completion.is_echoed else ""
        if not one["input_ids"]:
            raise RequestError("unprocessable", "the prompt has no tokens", param="prompt")
        return Prepared(one, text, tools)

    def _check_ids(self, prompt: List[int]) -> None:
        vocabulary = getattr(self._service.config, "vocab_size", None) or 0
        for number in prompt:
            if vocabulary and not 0 <= number < vocabulary:
                raise RequestError(
                    "unsupported_value",
                    "token ids of 'prompt' must be from 0 to {}".format(vocabulary - 1),
                    param="prompt",
                )

    def _piece(
        self, prepared: Prepared, completion: Completion, place: int, writer: Optional[ChoiceWriter]
    ) -> BatchRow:
        length = len(prepared.row["input_ids"])
        room = self._service.limit - length
        if room < 1:
            raise RequestError(
                "unsupported_value",
                "the prompt has {} tokens, and the model's context is {} tokens: no room is left for new "
                "ones".format(length, self._service.limit),
                param="messages" if isinstance(completion.prompts[0], Conversation) else "prompt",
            )
        new = completion.max_tokens
        if new is None:
            new = min(room, self._service.own_new_tokens() or completion.default_tokens)
        if new > room:
            raise self._too_long(new, length)
        options = self._options(completion, new, prepared.tools.may_be_called)
        if completion.seed is not None:
            options["seed"] = (completion.seed + place) % SEEDS
        piece = self._service.piece(prepared.row, self._service.read_options(options))
        if completion.matcher is not None:
            piece = _constrained(piece, completion.matcher)
        return piece._replace(reader=writer.add if writer else None)

    def _writer(self, index: int, prepared: Prepared, completion: Completion, reader: Reader) -> ChoiceWriter:
        parser, texts = None, TokenTexts(self._service.tokenizer)
        if prepared.tools.may_be_called:
            form = self._template.call_format
            parser = tool_calls.parser(form, prepared.tools)
            kept = [self._special_token(mark) for mark in form.markers]
            texts = TokenTexts(self._service.tokenizer, [one for one in kept if one is not None])
        return ChoiceWriter(
            index,
            texts,
            self._service.stops(completion.options),
            parser,
            completion.alternatives is not None,
            reader,
        )

    def _choice(
        self, piece: BatchRow, writer: ChoiceWriter, sequence: GeneratedSequence, reader: Reader
    ) -> Choice:
        if not reader:
            tokens = sequence.reported or [self._service.whole_text(piece, sequence, writer.kept)]
            for token in tokens:
                writer.add(token)
        return writer.finish(sequence)


def _constrained(piece: BatchRow, matcher: Matcher) -> BatchRow:
    """A row whose text matches a grammar."""
    prompt = piece.row
    return piece._replace(row=prompt._replace(processors=(*prompt.processors, matcher.start())))


def _best(choices: List[Choice], sequences: List[GeneratedSequence], completion: Completion) -> List[Choice]:
    """Of each prompt's texts those with the highest mean log probability."""
    kept: List[Choice] = []
    for start in range(0, len(choices), completion.best_of):
        group = range(start, start + completion.best_of)
        ranked = sorted(group, key=lambda place: -_mean(sequences[place]))
        for place in ranked[: completion.choices]:
            kept.append(choices[place]._replace(place=len(kept)))
    return kept


def _mean(sequence: GeneratedSequence) -> float:
    values = [token.logprob for token in sequence.reported if token.logprob is not None]
    return sum(values) / len(values) if values else -math.inf
