"""What text-generation, text2text-generation, summarization and translation have in common."""

import inspect
import os
import random
from typing import TYPE_CHECKING, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

from hf_inference_toolkit.annotations import Answer, Item, JsonObject, Option, Options, Output, Parameters
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import Runtime, Tokens
from hf_inference_toolkit.runtimes.decoding import NEUTRAL, OnStep, RowProcessor, RowSampling, Step
from hf_inference_toolkit.runtimes.preparation import PLAIN
from hf_inference_toolkit.runtimes.token_batch import TokenBatch
from hf_inference_toolkit.tasks.generation_batch import GenerationBatch
from hf_inference_toolkit.tasks.generation_parameters import (
    BY_STEPS,
    DOCUMENTED,
    GENERATION,
    NOT_SUPPORTED,
    OWN,
    STOP_NAMES,
    check_amount,
    check_token_ids,
    processors,
    requested,
    stop_sequences,
    token_ids,
    unavailable,
)
from hf_inference_toolkit.tasks.incremental_decoder import GeneratedSequence, IncrementalDecoder, stop_end
from hf_inference_toolkit.tasks.parameters import TRUNCATION, Parameter
from hf_inference_toolkit.tasks.service import BatchRow, Check, DecodingBatch
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.text_task import Encoded, TextTask

if TYPE_CHECKING:
    import transformers

# New tokens when neither the request nor the model has a number; transformers 5 has the same.
NEW_TOKENS = 256
# max_length in configurations of transformers before 5 that do not set it.
UNSET_MAX_LENGTH = 20
# top_k of transformers, where neither the request nor the model has one.
DEFAULT_TOP_K = 50
# Tokens, prompts and candidates counted, that are kept in memory while texts are generated together.
MOST_KEPT = 65536
# Options that look at the prompt, and would take padding for a part of it; with the values that do nothing.
PROMPT_OPTIONS = {
    "repetition_penalty": (None, 1, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "min_length": (None, 0),
    "penalty_alpha": (None, 0, 0.0),
}
SOURCE_OPTIONS = {
    "encoder_repetition_penalty": (None, 1, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
}
# They count positions by the attention mask, and have no argument `position_ids`.
POSITIONS_BY_MASK = ("bloom", "opt")
# They are applied to one sequence, not to beams.
STEP_PARAMETERS = ("frequency_penalty", "presence_penalty", "logit_bias", "top_n_tokens")
# Tokens of the prompt with which the first generated ones are decoded, for the spaces between them.
CONTEXT_TOKENS = 8


class Prompt(NamedTuple):
    """One input of a pass."""

    row: Tokens
    # Of `generate`.
    arguments: Options
    options: Options
    # Sampling parameters and the seed, where tokens are drawn by `runtimes.decoding`.
    sampling: Optional[Options] = None
    seed: Optional[int] = None
    # How many sequences are drawn for it.
    copies: int = 1
    # They change the scores of each of its sequences.
    processors: Sequence[RowProcessor] = ()
    # The most tokens of a sequence, the prompt included.
    total: int = 0

    def row_sampling(self, copy: int) -> RowSampling:
        """How the tokens of one of its sequences are selected."""
        generator = None
        if self.sampling is not None:
            generator = random.Random("{}:{}".format(self.seed, copy))  # noqa: S311 (no secrets)
        with_details = bool(self.options.get("details"))
        return RowSampling(
            self.sampling,
            generator,
            self.processors,
            with_details,
            (self.options.get("top_n_tokens") or 0) if with_details else 0,
        )


class Generation(TextTask):
    """Parameters of `generate`, defaults of the model, passes over several prompts, and text of tokens."""

    result = "generated_text"
    is_flat = True
    kept_tokens = MOST_KEPT
    # The class of transformers' pipeline, which has defaults of its own.
    pipeline = "Text2TextGenerationPipeline"
    # Short, so that the start does not wait for a long text.
    sample = {"inputs": "I like you.", "parameters": {"max_new_tokens": 8}}

    def __init__(
        self,
        task: TaskName,
        runtime: Runtime,
        tokenizer: "transformers.PreTrainedTokenizerBase",
        facts: Dict[str, str],
    ) -> None:
        super().__init__(task, runtime, tokenizer, facts)
        self.task_name = task
        self.supported = supported_options(runtime.model)
        self.streams = self._reports_steps = runtime.reports_steps()
        self._counts_by_mask = runtime.generates_padded and counts_by_mask(runtime.model)
        self._special = frozenset(tokenizer.all_special_ids)
        self._model_stops = stop_sequences({"stop_strings": self._value({}, "stop_strings") or ()})
        self._cleans_up = cleans_up(self.pipeline)
        # Texts are decoded token by token where the runtime has a batch for them. It is created after the warm-up.
        self._batch: Optional[TokenBatch] = None
        supported = [one for one in GENERATION if one.name in self.supported or one.name == "max_new_tokens"]
        by_steps = BY_STEPS if self._reports_steps else ()
        known = (*supported, *OWN, *by_steps, TRUNCATION, *self.extra_parameters())
        self.parameters = tuple(one._replace(is_nullable=True) for one in known)
        specific = getattr(self.config, "task_specific_params", None) or {}
        defaults = specific.get(task.requested) or specific.get(task.name) or {}
        self._defaults = {name: value for name, value in defaults.items() if name in self.supported}
        self.prefix = defaults.get("prefix") or getattr(self.config, "prefix", None) or ""

    def examples(self) -> List[JsonObject]:
        """The request in SageMaker's documentation with the right spelling, and a short one."""
        return [DOCUMENTED, self.sample]

    def extra_parameters(self) -> Tuple[Parameter, ...]:
        """Parameters that only this task has."""
        return ()

    def accepted(self, request: Request) -> Request:
        """See Service. Only one sequence of one input can be streamed."""
        request = super().accepted(request)
        if request.is_stream:
            options = self.read_options(request.parameters)
            several = [name for name in ("num_beams", "num_return_sequences") if options.get(name, 1) > 1]
            if request.is_vertex or self.items(request.inputs)[1]:
                several.append("a list of inputs")
            if several:
                raise RequestError(
                    "unprocessable",
                    '"stream" is for one sequence of one input, not with {}'.format(" and ".join(several)),
                )
            # The model or the task may have others; tokens of beams are known at the end only.
            one = {name: 1 for name in ("num_beams", "num_return_sequences") if name in self.supported}
            request = request._replace(parameters=dict(request.parameters, **one))
        return request

    def read_options(self, given: Parameters) -> Options:
        """Parameters without those that have no effect; token ids must be ids of this model."""
        options = super().read_options(requested(_with_nested(given), self.parameters))
        check_token_ids(options, getattr(self.config, "vocab_size", None) or 0)
        return options

    def piece(self, row: Tokens, options: Options) -> BatchRow:
        """A prompt; those of equal arguments share passes."""
        length = len(row["input_ids"])
        arguments = self.arguments(options, length)
        check_amount(length, arguments, NEW_TOKENS)
        longest: int = arguments.get("max_length", NEW_TOKENS)
        new = arguments.get("max_new_tokens", longest)
        width = 1
        for name in ("num_beams", "num_return_sequences"):
            width *= self._value(arguments, name) or 1
        most = self._value(arguments, "max_new_tokens")
        # The decoder of an encoder's model begins with a token of its own.
        begin = 1 if self.config.is_encoder_decoder else length
        total = begin + most if most else max(begin + 1, self._value(arguments, "max_length") or 0)
        prompt = self._drawn(Prompt(row, arguments, options, processors=processors(options), total=total))
        key = [(name, repr(value)) for name, value in sorted(prompt.arguments.items())]
        key.append(("sampling", repr(prompt.sampling)))
        if not self.may_pad(arguments):
            key.append(("length", str(length)))
        is_decoded = self._batch is not None and all(
            self._value(prompt.arguments, name) in idle for name, idle in PLAIN.items()
        )
        if is_decoded:
            self._check_memory(length, prompt)
        return BatchRow(prompt, (length + new) * width, tuple(key), is_decoded=is_decoded)

    def _check_memory(self, length: int, prompt: Prompt) -> None:
        """RequestError if the sequences of a prompt never fit into the KV cache."""
        most = self._batch.longest_of(prompt.copies) if self._batch is not None else 0
        size = prompt.total + (length if self.config.is_encoder_decoder else 0)
        if size > most:
            raise RequestError(
                "unprocessable",
                "the prompt has {} tokens, and {} with the new ones; the KV cache has room for {} sequences of {} "
                "tokens: lower max_new_tokens or num_return_sequences, or raise HF_KV_CACHE_GB".format(
                    length, size, prompt.copies, max(0, most)
                ),
            )

    def warm_up(self, check: Check) -> None:
        """See Service. Afterwards texts are decoded token by token, if the model supports that."""
        super().warm_up(check)
        if "decoding" not in self.facts:
            self._batch, reason = self.runtime.token_batch(self.pad)
            self.facts["decoding"] = "continuous batching" if self._batch is not None else "generate"
            reason = reason or self._beams_by_default()
            if reason:
                self.facts["decoding_reason"] = reason
            if self._batch is not None:
                self.facts["kv_cache_tokens"] = str(self._batch.budget)

    def _beams_by_default(self) -> str:
        """Which requests are left to `generate`, if those without parameters are."""
        beams = self._value(self.arguments({}, 1), "num_beams") or 1
        return "requests without num_beams have {} beams, by generate".format(beams) if beams > 1 else ""

    def decoding_batch(self) -> DecodingBatch:
        """See Service."""
        if self._batch is None:
            raise RuntimeError("the model has no decoding batch")
        return GenerationBatch(self.runtime, self._batch.new(), self._decoded_sequence)

    def _decoded_sequence(self, piece: BatchRow) -> GeneratedSequence:
        ends = token_ids(self._value(piece.row.arguments, "eos_token_id") or [])
        return self._sequence(piece, frozenset(ends))

    def token_counts(self, piece: BatchRow, output: Output) -> Tuple[int, int]:
        """See Service."""
        row = piece.row.row
        return len(row["input_ids"]), self.count_generated(row, output)

    def _drawn(self, prompt: Prompt) -> Prompt:
        """A prompt whose tokens are drawn by us where they are drawn at all, so that a seed decides about them."""
        arguments = dict(prompt.arguments)
        value = self._value
        if value(arguments, "temperature") == 0:
            # It means the most probable token everywhere but in transformers, which refuses it.
            arguments.pop("temperature", None)
            arguments["do_sample"] = False
        is_sampled = bool(value(arguments, "do_sample"))
        names = [name for name in STEP_PARAMETERS if prompt.options.get(name)]
        if is_sampled and prompt.options.get("seed") is not None:
            names.append("seed")
        if names:
            if (prompt.options.get("num_beams") or 1) > 1:
                raise RequestError(
                    "unprocessable", "parameter '{}' does not work with num_beams".format(names[0])
                )
            arguments["num_beams"] = 1
        if not is_sampled or (value(arguments, "num_beams") or 1) > 1 or not self._reports_steps:
            return prompt._replace(arguments=arguments)
        sampling = {name: value(arguments, name) for name in NEUTRAL if name in self.supported}
        if sampling.get("top_k") is None:
            sampling["top_k"] = DEFAULT_TOP_K
        copies = arguments.pop("num_return_sequences", None) or value({}, "num_return_sequences") or 1
        for name in sampling:
            arguments.pop(name, None)
        arguments["do_sample"] = False
        if "num_return_sequences" in self.supported:
            arguments["num_return_sequences"] = 1
        seed = prompt.options.get("seed")
        if seed is None:
            seed = int.from_bytes(os.urandom(4), "big")
        return prompt._replace(arguments=arguments, sampling=sampling, seed=seed, copies=copies)

    def may_pad(self, arguments: Options) -> bool:
        """Whether prompts of different lengths can share a pass without a change of the answers."""
        if self.config.is_encoder_decoder:
            return all(self._value(arguments, name) in idle for name, idle in SOURCE_OPTIONS.items())
        return (
            self._counts_by_mask
            and "max_new_tokens" in arguments
            and all(
                self._value(arguments, name) in idle
                for name, idle in dict(PROMPT_OPTIONS, **SOURCE_OPTIONS).items()
            )
        )

    def _value(self, arguments: Options, name: str) -> Option:
        """The value that `generate` uses for an option: the argument's, or the model's own."""
        if name in arguments:
            return arguments[name]
        configs = (getattr(self.runtime.model, "generation_config", None), self.config)
        return next((getattr(config, name) for config in configs if hasattr(config, name)), None)

    def run(self, pieces: List[BatchRow], check: Check) -> List[Output]:
        """See Service: the sequences of each prompt, as they would be had it been alone."""
        self.runtime.set_check(check)
        self.runtime.check()
        arguments = pieces[0].row.arguments
        ends = frozenset(token_ids(self._value(arguments, "eos_token_id") or []))
        if self._reports_steps and (self._value(arguments, "num_beams") or 1) == 1:
            sequences = self._generate_by_steps(pieces, ends)
        else:
            sequences = self._generate_at_once(pieces, ends)
        for sequence in sequences:
            sequence.close()
        many = len(sequences) // sum(piece.row.copies for piece in pieces)
        results = iter(sequences)
        return [[next(results) for _ in range(piece.row.copies * many)] for piece in pieces]

    def _generate_by_steps(self, pieces: List[BatchRow], ends: FrozenSet[int]) -> List[GeneratedSequence]:
        """One sequence after the other for each prompt, filled while `generate` runs."""
        prompts = [piece.row for piece in pieces for _ in range(piece.row.copies)]
        sequences = [self._sequence(piece, ends) for piece in pieces for _ in range(piece.row.copies)]

        def on_step(step: Step) -> bool:
            self.runtime.check()
            if self.take_turn is not None:
                self.take_turn()
            for place, sequence in enumerate(sequences):
                logprob = step.logprobs[place] if step.logprobs else None
                sequence.add(step.tokens[place], logprob, step.tops[place] if step.tops else ())
            return all(sequence.is_over for sequence in sequences)

        self.runtime.generate(
            [prompt.row for prompt in prompts],
            self.pad,
            prompts[0].arguments,
            on_step,
            [piece.row.row_sampling(copy) for piece in pieces for copy in range(piece.row.copies)],
        )
        return sequences

    def _generate_at_once(self, pieces: List[BatchRow], ends: FrozenSet[int]) -> List[GeneratedSequence]:
        """The same from what `generate` returns: of beams, and of releases that do not report steps."""
        rows = [piece.row.row for piece in pieces]
        returned = self.runtime.generate(rows, self.pad, pieces[0].row.arguments, self._between_steps())
        begin = 1 if self.config.is_encoder_decoder else max(len(row["input_ids"]) for row in rows)
        many = len(returned) // len(rows)
        sequences = [self._sequence(piece, ends) for piece in pieces for _ in range(many)]
        for sequence, tokens in zip(sequences, returned):
            for token in tokens[begin:]:
                sequence.add(token)
        return sequences

    def _between_steps(self) -> Optional[OnStep]:
        """Other work of the prediction thread takes turns with the steps of beams."""
        take_turn = self.take_turn
        if take_turn is None or not self._reports_steps:
            return None

        def on_step(_: Step) -> bool:
            take_turn()
            return False

        return on_step

    def _sequence(self, piece: BatchRow, ends: FrozenSet[int]) -> GeneratedSequence:
        prompt: Prompt = piece.row
        context = [] if self.config.is_encoder_decoder else prompt.row["input_ids"][-CONTEXT_TOKENS:]
        decoder = IncrementalDecoder(lambda tokens: self.text(tokens, prompt.options), context)
        sequence = GeneratedSequence(
            decoder,
            ends,
            self._stops(prompt.options),
            self._special,
            piece.reader,
            bool(prompt.options.get("details")),
        )
        sequence.seed = prompt.seed
        return sequence

    def _stops(self, options: Options) -> Tuple[str, ...]:
        """Stop sequences of the request and of the model."""
        return stop_sequences(options) + self._model_stops

    def arguments(self, options: Options, length: int) -> Options:
        """The arguments of `generate` for a prompt of `length` tokens."""
        arguments = dict(self._defaults)
        arguments.update((name, value) for name, value in options.items() if name in self.supported)
        new = self.new_tokens(options, length)
        if new is not None:
            arguments.pop("max_length", None)
            if "max_new_tokens" in self.supported:
                arguments["max_new_tokens"] = new
            else:
                arguments["max_length"] = self.total(new, length)
        if self._model_stops:
            arguments["stop_strings"] = None
        if self.config.pad_token_id is None and self.tokenizer.pad_token_id is None:
            arguments.setdefault("pad_token_id", self.tokenizer.eos_token_id or 0)
        return arguments

    def total(self, new: int, length: int) -> int:
        """`max_length` for so many new tokens. The decoder's start token counts, an encoder's prompt does not."""
        return new + 1

    def new_tokens(self, options: Options, length: int) -> Optional[int]:
        """The most new tokens; None where `max_length` of the request or of the model decides."""
        if "max_new_tokens" in options:
            return int(options["max_new_tokens"])
        if "max_length" in options or "max_length" in self._defaults or self.model_limits_length():
            return None
        return min(NEW_TOKENS, max(1, self.limit - 2)) if self.limit else NEW_TOKENS

    def model_limits_length(self) -> bool:
        """Whether the model's own configuration limits what is generated."""
        for config in (getattr(self.runtime.model, "generation_config", None), self.config):
            if getattr(config, "max_new_tokens", None):
                return True
            if getattr(config, "max_length", None) not in (None, UNSET_MAX_LENGTH):
                return True
        return False

    def text(self, tokens: List[int], options: Options) -> str:
        """Tokens as text."""
        how = {"skip_special_tokens": options.get("skip_special_tokens", True)}
        cleans_up = options.get("clean_up_tokenization_spaces", self._cleans_up)
        if cleans_up is not None:
            how["clean_up_tokenization_spaces"] = cleans_up
        return str(self.tokenizer.decode(tokens, **how))

    def count_generated(self, row: Tokens, output: Output) -> int:
        """See TextTask."""
        return sum(len(sequence.tokens) for sequence in output)

    def decode(self, item: Item, encoded: Encoded, outputs: List[Output], options: Options) -> Answer:
        """One object for each returned sequence."""
        results = []
        for sequence in outputs[0]:
            text = self.new_text(encoded, sequence.tokens, options)
            text = text[: stop_end(text, self._stops(options))]
            result = {self.result: self.answer(item, text, options)}
            if options.get("details") or sequence.is_streamed:
                result["details"] = details(sequence, len(encoded.rows[0]["input_ids"]))
                if options.get("details") and options.get("top_n_tokens"):
                    result["details"]["top_tokens"] = [
                        [one.described() for one in token.top] for token in sequence.reported
                    ]
            results.append(result)
        return results

    def schema(self) -> JsonObject:
        """See Service; unsupported parameters have the values that are accepted."""
        schema = super().schema()
        properties = schema["properties"]["parameters"]["properties"]
        for name, idle in NOT_SUPPORTED.items():
            properties.setdefault(name, {"enum": [*idle, None], "description": "not supported"})
        properties["generate_parameters"] = {"type": "object", "description": "more parameters of this list"}
        return schema

    def new_text(self, encoded: Encoded, tokens: List[int], options: Options) -> str:
        """The text of the generated tokens."""
        return self.text(tokens, options)

    def answer(self, item: Item, text: str, options: Options) -> Answer:
        """The answer for an input, from the text that was generated for it."""
        return text

    def shape(self, results: List[Answer], is_list: bool, options: Options) -> Answer:
        """As the pipelines: a list of objects, and a flat one where each input has one."""
        if not is_list:
            return results[0]
        if self.is_flat and all(len(result) == 1 for result in results):
            return [result[0] for result in results]
        return results


def _with_nested(given: Parameters) -> Parameters:
    """`generate_parameters`, in which huggingface_hub sends some of them, as parameters like the others."""
    nested = given.get("generate_parameters")
    if nested is not None and not isinstance(nested, dict):
        raise RequestError("unsupported_value", "parameter 'generate_parameters' must be an object or null")
    flat = {name: value for name, value in given.items() if name != "generate_parameters"}
    return dict(flat, **(nested or {}))


def details(sequence: GeneratedSequence, input_length: int) -> JsonObject:
    """How a sequence was generated, in the form of text-generation-inference. Lengths are in tokens."""
    return {
        "finish_reason": sequence.finish_reason,
        "generated_tokens": len(sequence.tokens),
        "input_length": input_length,
        "seed": sequence.seed,
        "prefill": [],
        "tokens": [one.described() for one in sequence.reported],
    }


def cleans_up(pipeline: str) -> Optional[bool]:
    """clean_up_tokenization_spaces of a pipeline in the installed release; None where the tokenizer decides."""
    import transformers

    kind = getattr(transformers, pipeline, None)
    if kind is None:  # transformers 5, which has Text2TextGenerationPipeline no more
        return False
    known = inspect.signature(getattr(kind, "postprocess", kind.__call__)).parameters
    parameter = known.get("clean_up_tokenization_spaces")
    return parameter.default if parameter else None


def supported_options(model: "transformers.PreTrainedModel") -> FrozenSet[str]:
    """The options of `generate` in the installed release."""
    config = getattr(model, "generation_config", None)
    if config is not None:
        known = frozenset(vars(config)) | frozenset(("max_new_tokens",))
    else:
        known = frozenset(inspect.signature(model.generate).parameters)
    # transformers finds stop sequences in prompts, too: the toolkit looks for them itself.
    return known - unavailable(model) - frozenset(STOP_NAMES)


def counts_by_mask(model: "transformers.PreTrainedModel") -> bool:
    """Whether a decoder's positions begin after the padding in front of a prompt."""
    takes = inspect.signature(model.forward).parameters
    return "position_ids" in takes or model.config.model_type in POSITIONS_BY_MASK
