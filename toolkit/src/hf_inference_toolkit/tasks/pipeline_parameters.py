"""The parameters of pass-through tasks: an allowlist for each task.

A pipeline passes unknown parameters to the model, the processor or the chat template, which may load, fetch or run what
they name. Therefore a parameter is accepted only if it is in this table, has its type, is within its limits, and is
supported by the pipeline of the installed release.
"""

import inspect
from typing import TYPE_CHECKING, Dict, NamedTuple, Sequence, Tuple

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import JsonObject, Options, Parameters
from hf_inference_toolkit.content.payload import kind_of
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import can_generate
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

if TYPE_CHECKING:
    import transformers

# The default of max_new_tokens in the pipelines of transformers 5.
NEW_TOKENS = 256
GENERATE_KWARGS = "generate_kwargs"

SCORES = FUNCTION._replace(choices=("softmax", "sigmoid", "none"))
TOP_K = Parameter("top_k", "integer", "number of answers", 1, limits.TOP_K)
THRESHOLD = Parameter("threshold", "number", "minimum score of an answer", 0, 1)
MAX_NEW_TOKENS = Parameter(
    "max_new_tokens", "integer", "maximum number of generated tokens", 1, limits.NEW_TOKENS
)
CHAT = (
    MAX_NEW_TOKENS,
    STOP_SEQUENCE,
    FULL_TEXT,
    Parameter("clean_up_tokenization_spaces", "boolean", "remove spaces before punctuation"),
    Parameter("skip_special_tokens", "boolean", "omit special tokens from the text"),
    Parameter("continue_final_message", "boolean", "continue the last message instead of answering it"),
)
WHISPER = (
    Parameter("language", "string", "language of the speech"),
    Parameter("task", "string", "transcribe, or translate to English", choices=("transcribe", "translate")),
    Parameter("condition_on_prev_tokens", "boolean", "use the text of the previous segment"),
    Parameter("compression_ratio_threshold", "number", "a segment with a higher ratio is generated again"),
    Parameter("logprob_threshold", "number", "a segment with a lower average is generated again"),
    Parameter("no_speech_threshold", "number", "a segment with a higher probability is silence", 0, 1),
)
TABLE: Dict[str, Tuple[Parameter, ...]] = {
    "any-to-any": CHAT,
    "audio-classification": (TOP_K, SCORES),
    "automatic-speech-recognition": (
        Parameter("chunk_length_s", "number", "length of a chunk in seconds", 1, 120),
        Parameter("stride_length_s", "number", "overlap of chunks on each side in seconds", 0, 30),
        Parameter(
            "return_timestamps",
            "boolean or string",
            "return the times of segments, words or characters",
            choices=("word", "char"),
        ),
        Parameter("return_language", "boolean", "return the language of the speech"),
        MAX_NEW_TOKENS,
    ),
    "depth-estimation": (),
    "document-question-answering": (
        TOP_K,
        Parameter("doc_stride", "integer", "tokens by which parts of a long document overlap", 1, 256),
        Parameter("max_answer_len", "integer", "maximum tokens of an answer", 1, 1000),
        Parameter(
            "max_seq_len", "integer", "maximum tokens of the question and a part of the document", 8, 4096
        ),
        Parameter("max_question_len", "integer", "maximum tokens of the question", 1, 1000),
        Parameter("handle_impossible_answer", "boolean", "whether an empty answer is possible"),
    ),
    "image-classification": (TOP_K, SCORES),
    "image-feature-extraction": (Parameter("pool", "boolean", "return the pooled output"),),
    "image-segmentation": (
        Parameter("subtask", "string", "type of segmentation", choices=("instance", "panoptic", "semantic")),
        THRESHOLD,
        Parameter("mask_threshold", "number", "minimum score of a pixel", 0, 1),
        Parameter("overlap_mask_area_threshold", "number", "minimum share of a mask without overlaps", 0, 1),
    ),
    "image-text-to-text": CHAT,
    "image-to-image": (),
    "image-to-text": (
        MAX_NEW_TOKENS,
        Parameter("prompt", "string", "start of the text", longest=limits.SHORT_TEXT),
    ),
    "keypoint-matching": (THRESHOLD,),
    "mask-generation": (
        Parameter("points_per_batch", "integer", "points in a batch", 1, 256),
        Parameter("points_per_crop", "integer", "points on each side of a crop", 1, 64),
        Parameter("crops_n_layers", "integer", "number of layers of crops", 0, 2),
        Parameter("crop_overlap_ratio", "number", "overlap of crops", 0, 1),
        Parameter(
            "crop_n_points_downscale_factor", "integer", "divisor of the points in smaller crops", 1, 64
        ),
        Parameter("pred_iou_thresh", "number", "minimum predicted IoU of a mask", 0, 1),
        Parameter("stability_score_thresh", "number", "minimum stability score of a mask", 0, 1),
        Parameter("stability_score_offset", "integer", "offset for the stability score", 0, 100),
        Parameter("mask_threshold", "number", "minimum score of a pixel"),
        Parameter("crops_nms_thresh", "number", "IoU above which masks are duplicates", 0, 1),
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
    """The parameters of requests to one pipeline."""

    own: Tuple[Parameter, ...]
    # Parameters of `generate`, accepted at the top level and in generate_kwargs. Empty if the task does not generate.
    generation: Tuple[Parameter, ...]
    # Whether the pipeline has the parameter generate_kwargs; otherwise its members are passed as parameters.
    nests: bool
    vocabulary: int

    def schema(self) -> JsonObject:
        """JSON Schema of the parameters."""
        schema = parameters.schema(_by_name((*self.own, *self.generation)))
        if self.generation:
            schema["properties"][GENERATE_KWARGS] = parameters.schema(self.generation)
        return schema


def allowed(task: str, pipeline: "transformers.Pipeline") -> Allowed:
    """The parameters of a task that the pipeline of the installed release supports."""
    # In releases of early 2021 the parameters are those of __call__.
    takes = getattr(pipeline, "_sanitize_parameters", None) or type(pipeline).__call__
    signature = inspect.signature(takes).parameters
    is_open = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in signature.values())
    nests = GENERATE_KWARGS in signature
    # A pipeline with generate_kwargs passes unknown names to the processor.
    own = tuple(one for one in TABLE[task] if (is_open and not nests) or one.name in signature)
    model = pipeline.model
    generates = (nests or task == "automatic-speech-recognition") and can_generate(model)
    generation = _generation(model) if generates else ()
    if not generates:
        own = tuple(one for one in own if one is not MAX_NEW_TOKENS)
    config = getattr(model.config, "text_config", model.config)
    return Allowed(own, generation, nests, getattr(config, "vocab_size", None) or 0)


def _generation(model: "transformers.PreTrainedModel") -> Tuple[Parameter, ...]:
    config = getattr(model, "generation_config", None)
    takes = inspect.signature(model.generate).parameters
    known = frozenset(takes) if config is None else frozenset(vars(config))
    missing = unavailable(model)
    general = [one for one in (*GENERATION, MAX_NEW_TOKENS) if one.name in known and one.name not in missing]
    return _by_name((*general, *(one for one in WHISPER if one.name in takes)))


def _by_name(several: Sequence[Parameter]) -> Tuple[Parameter, ...]:
    return tuple({one.name: one for one in several}.values())


def check(given: Parameters, known: Allowed, task: str) -> Options:
    """The arguments for a pipeline. RequestError for a name, type or value that is not allowed."""
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
