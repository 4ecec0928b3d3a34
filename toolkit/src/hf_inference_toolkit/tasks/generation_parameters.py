"""The parameters of text generation, each offered where the installed transformers has it."""

from typing import TYPE_CHECKING, Dict, FrozenSet, List, Sequence, Tuple, Union

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import Options, Parameters
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.decoding import RowProcessor, bias, penalties
from hf_inference_toolkit.tasks.parameters import Parameter

if TYPE_CHECKING:
    import transformers

GENERATION = (
    Parameter("max_new_tokens", "integer", "how many tokens to write at most", 1, limits.NEW_TOKENS),
    Parameter(
        "max_length",
        "integer",
        "the same, with the prompt counted where there is no encoder",
        1,
        limits.NEW_TOKENS,
    ),
    Parameter("min_length", "integer", "how many tokens to write at least", 0, limits.NEW_TOKENS),
    Parameter("min_new_tokens", "integer", "the same without the prompt", 0, limits.NEW_TOKENS),
    Parameter("early_stopping", "boolean", "end a beam search at the first complete set of beams"),
    Parameter("max_time", "number", "seconds after which writing ends", 0, 3600),
    Parameter("do_sample", "boolean", "choose at random by probability instead of the most probable"),
    Parameter("num_beams", "integer", "how many candidates are followed", 1, limits.SEQUENCES),
    Parameter(
        "num_beam_groups", "integer", "groups of candidates that are kept different", 1, limits.SEQUENCES
    ),
    Parameter("diversity_penalty", "number", "how different the groups must be"),
    Parameter("penalty_alpha", "number", "weight of the penalty in contrastive search", 0, 1),
    Parameter("temperature", "number", "above 1 more random, below 1 less", 0),
    Parameter("top_k", "integer", "choose among so many tokens", 0),
    Parameter("top_p", "number", "choose among the tokens that make up this probability", 0, 1),
    Parameter("min_p", "number", "leave out tokens below this share of the best one's probability", 0, 1),
    Parameter("typical_p", "number", "choose among typical tokens that make up this probability", 0, 1),
    Parameter("epsilon_cutoff", "number", "leave out tokens below this probability", 0, 1),
    Parameter("eta_cutoff", "number", "the same, less strict where many tokens are possible", 0, 1),
    Parameter("repetition_penalty", "number", "above 1 makes repetition less likely", 0),
    Parameter("encoder_repetition_penalty", "number", "the same for tokens that are not in the input", 0),
    Parameter("length_penalty", "number", "above 0 prefers long beams"),
    Parameter(
        "no_repeat_ngram_size", "integer", "no sequence of so many tokens comes twice", 0, limits.NEW_TOKENS
    ),
    Parameter(
        "encoder_no_repeat_ngram_size", "integer", "nor one that is in the input", 0, limits.NEW_TOKENS
    ),
    Parameter("bad_words_ids", "id lists", "sequences of tokens that are never written"),
    Parameter("suppress_tokens", "ids", "tokens that are never written"),
    Parameter("begin_suppress_tokens", "ids", "tokens that are not written first"),
    Parameter("renormalize_logits", "boolean", "make probabilities add up to one again"),
    Parameter("remove_invalid_values", "boolean", "replace numbers that are not finite"),
    Parameter("forced_bos_token_id", "integer", "the token that is written first", 0),
    Parameter("forced_eos_token_id", "ids", "the token that is written last"),
    Parameter("num_return_sequences", "integer", "how many texts an input gets", 1, limits.SEQUENCES),
    Parameter("pad_token_id", "integer", "the token that fills up", 0),
    Parameter("bos_token_id", "integer", "the token that begins", 0),
    Parameter("eos_token_id", "ids", "the token that ends"),
    Parameter("decoder_start_token_id", "integer", "the token that a decoder starts from", 0),
    Parameter("use_cache", "boolean", "keep what was computed for earlier tokens"),
)
STOP_SEQUENCE = Parameter(
    "stop_sequence",
    "strings",
    "texts that end generation; they are part of the answer",
    longest=limits.STOP_CHARACTERS,
    most=limits.STOP_SEQUENCES,
)
# transformers' names, and the name of text-generation-inference.
STOP_NAMES = ("stop_sequence", "stop_strings", "stop", "stop_sequences")
OWN = (
    *(STOP_SEQUENCE._replace(name=name) for name in STOP_NAMES),
    Parameter("clean_up_tokenization_spaces", "boolean", "remove spaces before punctuation"),
    Parameter("skip_special_tokens", "boolean", "leave special tokens out of the text; true by default"),
    Parameter("details", "boolean", "answer with tokens, log probabilities and the reason for the end, too"),
    Parameter("truncate", "integer", "the most tokens of the prompt; text-generation keeps its end", 1),
)
SEED = Parameter(
    "seed", "integer", "with do_sample: equal seeds give equal texts, whatever else runs", 0, 2**63 - 1
)
# Offered where the installed release reports steps.
BY_STEPS = (
    SEED,
    Parameter(
        "frequency_penalty",
        "number",
        "subtracted from a token's score for each time that it was written",
        -2,
        2,
    ),
    Parameter(
        "presence_penalty", "number", "subtracted from the score of each token that was written", -2, 2
    ),
    Parameter("logit_bias", "numbers by id", "added to the scores of tokens", -100, 100),
    Parameter(
        "top_n_tokens",
        "integer",
        "with details: how many of the most probable tokens are reported at each step",
        0,
        limits.TOP_TOKENS,
    ),
)
GRAMMAR = Parameter(
    "grammar",
    "grammar",
    "what the text must match: a JSON Schema or a regular expression; needs llguidance",
)
PROMPT_DETAILS = Parameter(
    "decoder_input_details",
    "boolean",
    "answer with details, and with the log probabilities of the prompt; not in streams",
)
PROMPT = (
    Parameter("prefix", "string", "text in front of each input that is a string"),
    Parameter("add_special_tokens", "boolean", "as for the tokenizer; inputs that are strings only"),
    Parameter(
        "continue_final_message",
        "boolean",
        "continue the last message of a conversation; by default where it is the assistant's",
    ),
)
# Parameters of text-generation-inference and of transformers' pipelines that are not supported. Clients send them with
# values that have no effect: those are accepted. `adapter_id` is for servers with HF_ADAPTERS.
NOT_SUPPORTED: Dict[str, Tuple[object, ...]] = {
    "adapter_id": (),
    "best_of": (1,),
    "decoder_input_details": (False,),
    "frequency_penalty": (0,),
    "grammar": (),
    "handle_long_generation": ("hole",),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "return_tensors": (False,),
    "return_text": (True,),
    "top_n_tokens": (0,),
    "watermark": (False,),
}
LANGUAGES = (
    Parameter("src_lang", "string", "the language of the input, in the model's own code"),
    Parameter("tgt_lang", "string", "the language of the answer, in the model's own code"),
)
TOKEN_IDS = (
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
)
DOCUMENTED = {
    "inputs": "Hugging Face, the winner of VentureBeat\u2019s Innovation in Natural Language Process/Understanding "
    "Award for 2021, is looking to level the playing field. The team, launched by Cl\u00e9ment Delangue and Julien "
    "Chaumond in 2016, was recognized for its work in democratizing NLP, the global market value for which is "
    "expected to hit $35.1 billion by 2026. This week, Google\u2019s former head of Ethical AI Margaret Mitchell "
    "joined the team.",
    "parameters": {"repetition_penalty": 4.0, "length_penalty": 1.5},
}

# Ways of generating that transformers moved to repositories on the hub, from 4.56 on one after the other. Releases that
# have moved one lack its method, and fetch code from the hub where a request uses it.
MOVED_TO_THE_HUB = {
    "contrastive_search": ("penalty_alpha",),
    "group_beam_search": ("num_beam_groups", "diversity_penalty"),
}


def unavailable(model: "transformers.PreTrainedModel") -> FrozenSet[str]:
    """Parameters for which the installed transformers lacks the code."""
    moved = [way for way in MOVED_TO_THE_HUB if not (hasattr(model, way) or hasattr(model, "_" + way))]
    return frozenset(name for way in moved for name in MOVED_TO_THE_HUB[way])


def requested(given: Parameters, known: Sequence[Parameter]) -> Parameters:
    """The parameters that have an effect: null, `stop: []` and idle values of NOT_SUPPORTED are left out."""
    names = frozenset(parameter.name for parameter in known)
    # null has no effect, also where this release lacks the parameter.
    nullable = names | frozenset(parameter.name for parameter in GENERATION)
    options = {}
    for name, value in given.items():
        if name in NOT_SUPPORTED and name not in names:
            _refuse_unless_idle(name, value)
        elif name in STOP_NAMES and name in names and _is_empty_stop(name, value):
            continue
        elif value is not None or name not in nullable:
            options[name] = value
    return options


def _refuse_unless_idle(name: str, value: object) -> None:
    idle = NOT_SUPPORTED[name]
    is_idle = any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in idle)
    if value is not None and not is_idle:
        words = {True: "true", False: "false"}
        values = [words[one] if isinstance(one, bool) else str(one) for one in idle]
        raise RequestError(
            "unsupported_value",
            "parameter '{}' is not supported: leave it out, or send {}".format(
                name, " or ".join([*values, "null"])
            ),
        )


def _is_empty_stop(name: str, value: object) -> bool:
    if value == "" or (isinstance(value, list) and "" in value):
        raise RequestError("unsupported_value", "parameter '{}' must not hold an empty string".format(name))
    return value is None or value == []


def stop_sequences(options: Options) -> Tuple[str, ...]:
    """The texts that end generation, whatever parameters they came in."""
    stops = [options[name] for name in STOP_NAMES if name in options]
    return tuple(text for stop in stops for text in ([stop] if isinstance(stop, str) else stop))


def check_amount(length: int, options: Options, default: int) -> None:
    """Refuse a request whose sequences together are too long; one sequence is as long as the model allows.

    `length` is the prompt's in tokens, `default` the number of new tokens where the request has none.
    """
    width = (options.get("num_beams") or 1) * (options.get("num_return_sequences") or 1)
    new = options.get("max_new_tokens", options.get("max_length")) or default
    if width > 1 and (length + new) * width > limits.GENERATED_TOKENS:
        raise RequestError(
            "unsupported_value",
            "{} sequences of {} tokens are {} tokens; at most {} are allowed: lower num_beams, "
            "num_return_sequences or max_new_tokens".format(
                width, length + new, (length + new) * width, limits.GENERATED_TOKENS
            ),
        )


def token_ids(value: Union[int, List[int], List[List[int]]]) -> List[int]:
    """The numbers of a token id, a list of them, or a list of lists."""
    if isinstance(value, list):
        return [number for inner in value for number in token_ids(inner)]
    return [value]


def processors(options: Options) -> Tuple[RowProcessor, ...]:
    """What the request's own parameters change in the scores of a sequence."""
    made = []
    frequency, presence = options.get("frequency_penalty") or 0, options.get("presence_penalty") or 0
    if frequency or presence:
        made.append(penalties(frequency, presence))
    biases = {int(number): value for number, value in (options.get("logit_bias") or {}).items()}
    if biases:
        made.append(bias(biases))
    return tuple(made)


def check_token_ids(options: Options, vocabulary: int) -> None:
    """Refuse token ids that the model does not have; `vocabulary` 0 is an unknown size."""
    numbers = {name: token_ids(options.get(name, [])) for name in TOKEN_IDS}
    numbers["logit_bias"] = [int(number) for number in options.get("logit_bias") or {}]
    for name in numbers:
        for number in numbers[name]:
            if vocabulary and number is not None and not 0 <= number < vocabulary:
                raise RequestError(
                    "unsupported_value",
                    "parameter '{}' must hold token ids from 0 to {}".format(name, vocabulary - 1),
                )
