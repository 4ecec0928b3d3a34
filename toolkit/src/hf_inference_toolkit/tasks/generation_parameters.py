"""The parameters of text generation, each offered where the installed transformers has it."""

from typing import Any, Dict, FrozenSet, List

from hf_inference_toolkit import limits
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks.parameters import Parameter

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
    "texts that end the writing; they are part of the answer",
    longest=limits.STOP_CHARACTERS,
    most=limits.STOP_SEQUENCES,
)
OWN = (
    STOP_SEQUENCE,
    STOP_SEQUENCE._replace(name="stop_strings", about="another name of stop_sequence"),
    Parameter("clean_up_tokenization_spaces", "boolean", "remove spaces before punctuation"),
)
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

# transformers moved these ways of generating to repositories on the hub, and downloads code where a request uses them.
MOVED_TO_THE_HUB = {
    "CONTRASTIVE_SEARCH": ("penalty_alpha",),
    "GROUP_BEAM_SEARCH": ("num_beam_groups", "diversity_penalty"),
}


def unavailable() -> FrozenSet[str]:
    """Parameters that the installed transformers answers with code from the hub."""
    try:
        from transformers.generation.utils import GENERATION_MODES_MAPPING
    except ImportError:
        return frozenset()
    moved = [mode.name for mode, place in GENERATION_MODES_MAPPING.items() if "/" in str(place)]
    return frozenset(name for mode in moved for name in MOVED_TO_THE_HUB.get(mode, ()))


def check_amount(length: int, options: Dict[str, Any], default: int) -> None:
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


def token_ids(value: Any) -> List[int]:
    """The numbers of a token id, a list of them, or a list of lists."""
    if isinstance(value, list):
        return [number for inner in value for number in token_ids(inner)]
    return [value]


def check_token_ids(options: Dict[str, Any], vocabulary: int) -> None:
    """Refuse token ids that the model does not have; `vocabulary` 0 is an unknown size."""
    for name in TOKEN_IDS:
        for number in token_ids(options.get(name, [])):
            if vocabulary and number is not None and not 0 <= number < vocabulary:
                raise RequestError(
                    "unsupported_value",
                    "parameter '{}' must hold token ids from 0 to {}".format(name, vocabulary - 1),
                )
