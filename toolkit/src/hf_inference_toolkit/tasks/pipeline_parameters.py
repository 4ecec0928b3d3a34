"""The parameters of tasks that transformers' own pipelines run: an allow list for each task.

A pipeline hands what it does not know to the model, the processor or the chat template, and these load, fetch and run
what they are given. So a parameter is accepted only if it is in this table, is of its type and within its limits, and
is one that the pipeline of the installed release takes.
"""

import inspect
from typing import Any, Dict, NamedTuple, Sequence, Tuple

from hf_inference_toolkit import limits
from hf_inference_toolkit.content.payload import kind_of
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks import parameters
from hf_inference_toolkit.tasks.candidate_labels import (
    CANDIDATE_LABELS,
    HYPOTHESIS_TEMPLATE,
    check_template,
    split_labels,
)
from hf_inference_toolkit.tasks.generation_parameters import (
    GENERATION,
    STOP_SEQUENCE,
    check_amount,
    check_token_ids,
    unavailable,
)
from hf_inference_toolkit.tasks.parameters import FULL_TEXT, FUNCTION, Parameter

# The number of new tokens where neither the request nor the model has one, in every pipeline of transformers 5.
NEW_TOKENS = 256
GENERATE_KWARGS = "generate_kwargs"

SCORES = FUNCTION._replace(choices=("softmax", "sigmoid", "none"))
TOP_K = Parameter("top_k", "integer", "how many answers", 1, limits.TOP_K)
THRESHOLD = Parameter("threshold", "number", "the lowest score of an answer", 0, 1)
MAX_NEW_TOKENS = Parameter(
    "max_new_tokens", "integer", "how many tokens to write at most", 1, limits.NEW_TOKENS
)
CHAT = (
    MAX_NEW_TOKENS,
    STOP_SEQUENCE,
    FULL_TEXT,
    Parameter("clean_up_tokenization_spaces", "boolean", "remove spaces before punctuation"),
    Parameter("skip_special_tokens", "boolean", "leave special tokens out of the text"),
    Parameter("continue_final_message", "boolean", "continue the last message instead of answering it"),
)
WHISPER = (
    Parameter("language", "string", "the language that is spoken"),
    Parameter("task", "string", "transcribe, or translate to English", choices=("transcribe", "translate")),
    Parameter("condition_on_prev_tokens", "boolean", "use the text before each segment"),
    Parameter("compression_ratio_threshold", "number", "a segment that compresses better is written again"),
    Parameter("logprob_threshold", "number", "a segment of lower average log probability is written again"),
    Parameter("no_speech_threshold", "number", "a segment above this probability is silence", 0, 1),
)
TABLE: Dict[str, Tuple[Parameter, ...]] = {
    "any-to-any": CHAT,
    "audio-classification": (TOP_K, SCORES),
    "automatic-speech-recognition": (
        Parameter("chunk_length_s", "number", "seconds of sound that the model reads at once", 1, 120),
        Parameter("stride_length_s", "number", "seconds that parts share on each side", 0, 30),
        Parameter(
            "return_timestamps",
            "boolean or string",
            "when each segment, word or character is spoken",
            choices=("word", "char"),
        ),
        Parameter("return_language", "boolean", "which language is spoken"),
        MAX_NEW_TOKENS,
    ),
    "depth-estimation": (),
    "document-question-answering": (
        TOP_K,
        Parameter("doc_stride", "integer", "tokens that parts of a long document share", 1, 256),
        Parameter("max_answer_len", "integer", "longest answer in tokens", 1, 1000),
        Parameter("max_seq_len", "integer", "tokens of question and document that are read at once", 8, 4096),
        Parameter("max_question_len", "integer", "tokens after which the question is cut", 1, 1000),
        Parameter("handle_impossible_answer", "boolean", "whether an empty answer is possible"),
    ),
    "image-classification": (TOP_K, SCORES),
    "image-feature-extraction": (Parameter("pool", "boolean", "the pooled numbers only"),),
    "image-segmentation": (
        Parameter("subtask", "string", "what is found", choices=("instance", "panoptic", "semantic")),
        THRESHOLD,
        Parameter("mask_threshold", "number", "the lowest score of a pixel", 0, 1),
        Parameter("overlap_mask_area_threshold", "number", "the share of a mask that must remain", 0, 1),
    ),
    "image-text-to-text": CHAT,
    "image-to-image": (),
    "image-to-text": (
        MAX_NEW_TOKENS,
        Parameter("prompt", "string", "how the text begins", longest=limits.SHORT_TEXT),
    ),
    "keypoint-matching": (THRESHOLD,),
    "mask-generation": (
        Parameter("points_per_batch", "integer", "points that go through the model at once", 1, 256),
        Parameter("points_per_crop", "integer", "points on each side of a crop", 1, 64),
        Parameter("crops_n_layers", "integer", "how often the image is divided", 0, 2),
        Parameter("crop_overlap_ratio", "number", "the share that crops have in common", 0, 1),
        Parameter("crop_n_points_downscale_factor", "integer", "fewer points in smaller crops", 1, 64),
        Parameter("pred_iou_thresh", "number", "the lowest score of a mask", 0, 1),
        Parameter("stability_score_thresh", "number", "the lowest stability of a mask", 0, 1),
        Parameter("stability_score_offset", "integer", "the shift that stability is measured with", 0, 100),
        Parameter("mask_threshold", "number", "the lowest score of a pixel"),
        Parameter("crops_nms_thresh", "number", "the overlap from which masks count as one", 0, 1),
    ),
    "object-detection": (THRESHOLD,),
    "text-to-audio": (),
    "visual-question-answering": (TOP_K,),
    "zero-shot-audio-classification": (CANDIDATE_LABELS, HYPOTHESIS_TEMPLATE),
    "zero-shot-image-classification": (CANDIDATE_LABELS, HYPOTHESIS_TEMPLATE),
    "zero-shot-object-detection": (CANDIDATE_LABELS, THRESHOLD, TOP_K),
}
ALIASES = {"text-to-speech": "text-to-audio", "vqa": "visual-question-answering"}


class Allowed(NamedTuple):
    """What a request to one pipeline may set."""

    own: Tuple[Parameter, ...]
    # Those of `generate`, accepted at the top level and in generate_kwargs; empty where nothing is generated.
    generation: Tuple[Parameter, ...]
    # Whether the pipeline takes generate_kwargs; otherwise they are passed one by one.
    nests: bool
    vocabulary: int

    def schema(self) -> Dict[str, Any]:
        """JSON Schema of the parameters."""
        schema = parameters.schema(_by_name((*self.own, *self.generation)))
        if self.generation:
            schema["properties"][GENERATE_KWARGS] = parameters.schema(self.generation)
        return schema


def allowed(task: str, pipeline: Any) -> Allowed:
    """The parameters of a task that the pipeline of the installed release takes."""
    # Releases of early 2021 name the parameters in the call itself.
    takes = getattr(pipeline, "_sanitize_parameters", None) or type(pipeline).__call__
    signature = inspect.signature(takes).parameters
    is_open = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in signature.values())
    nests = GENERATE_KWARGS in signature
    # Where a pipeline takes generate_kwargs, names that it does not know go to the processor.
    own = tuple(one for one in TABLE[task] if (is_open and not nests) or one.name in signature)
    model = pipeline.model
    generates = (nests or task == "automatic-speech-recognition") and _can_generate(model)
    generation = _generation(model) if generates else ()
    if not generates:
        own = tuple(one for one in own if one is not MAX_NEW_TOKENS)
    config = getattr(model.config, "text_config", model.config)
    return Allowed(own, generation, nests, getattr(config, "vocab_size", None) or 0)


def _can_generate(model: Any) -> bool:
    return bool(model.can_generate()) if hasattr(model, "can_generate") else hasattr(model, "generate")


def _generation(model: Any) -> Tuple[Parameter, ...]:
    config = getattr(model, "generation_config", None)
    takes = inspect.signature(model.generate).parameters
    known = frozenset(takes) if config is None else frozenset(vars(config))
    missing = unavailable(model)
    general = [one for one in (*GENERATION, MAX_NEW_TOKENS) if one.name in known and one.name not in missing]
    return _by_name((*general, *(one for one in WHISPER if one.name in takes)))


def _by_name(several: Sequence[Parameter]) -> Tuple[Parameter, ...]:
    return tuple({one.name: one for one in several}.values())


def check(given: Dict[str, Any], known: Allowed, task: str) -> Dict[str, Any]:
    """The arguments of a pipeline's call; RequestError for every name, type or value that is not in the table."""
    given = {name: value for name, value in given.items() if value is not None}
    nested = given.pop(GENERATE_KWARGS, {}) if known.generation else {}
    if not isinstance(nested, dict):
        raise RequestError(
            "unsupported_value",
            "parameter 'generate_kwargs' must be an object, not {}".format(kind_of(nested)),
        )
    twice = sorted(set(nested) & set(given))
    if twice:
        raise RequestError(
            "unsupported_value", "parameter '{}' is in generate_kwargs too: keep one".format(twice[0])
        )
    options = parameters.check(given, _by_name((*known.own, *known.generation)))
    generation = parameters.check(
        {name: value for name, value in nested.items() if value is not None}, known.generation
    )
    own = {one.name for one in known.own} - {one.name for one in known.generation}
    generation.update({name: options.pop(name) for name in list(options) if name not in own})
    if generation:
        check_token_ids(generation, known.vocabulary)
        check_amount(0, generation, NEW_TOKENS)
    if CANDIDATE_LABELS in known.own:
        options["candidate_labels"] = split_labels(options.get("candidate_labels"), task)
    if "hypothesis_template" in options:
        check_template(options["hypothesis_template"])
    if known.nests and generation:
        return dict(options, **{GENERATE_KWARGS: generation})
    return dict(options, **generation)
