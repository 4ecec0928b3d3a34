"""Pass-through tasks: they are served by transformers' pipelines.

A pipeline fetches URLs, opens files and runs code that its arguments name. Therefore `pipeline_inputs` reads the inputs
and `pipeline_parameters` checks the parameters: no string of a request is passed where it could be such a name.
"""

import base64
import io
from typing import TYPE_CHECKING, Dict, List, Tuple

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import Argument, JsonObject, Options
from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import Engine, Runtime
from hf_inference_toolkit.tasks import media_answers, pipeline_inputs, pipeline_parameters
from hf_inference_toolkit.tasks.media import Decoder
from hf_inference_toolkit.tasks.service import Check, Prediction, Service
from hf_inference_toolkit.tasks.text_task import longest_input, of_item
from hf_inference_toolkit.tasks.warm_up import warm_up_pipeline

if TYPE_CHECKING:
    import transformers

# Longer texts would need too much memory for their audio.
SPOKEN_CHARACTERS = 2000
# Longer audio is split into overlapping chunks for CTC models.
WHOLE_SECONDS = 60
CHUNK_SECONDS = 30
# Parts of PyTorch's messages when an input has fewer samples or pixels than a convolution or a normalization needs.
TOO_SMALL = ("Kernel size can't be greater than actual input size", "Expected more than 1 value per channel")


class PipelineTask(Service):
    """A pipeline. The inputs of a list are processed one after the other."""

    def __init__(
        self, task: str, pipeline: "transformers.Pipeline", runtime: Runtime, facts: Dict[str, str]
    ) -> None:
        super().__init__(task, facts)
        self._pipeline = pipeline
        self._runtime = runtime
        self._name = pipeline_parameters.ALIASES.get(task, task)
        self._allowed = pipeline_parameters.allowed(self._name, pipeline)
        self._kind = pipeline_inputs.KINDS[self._name]
        self.body_types = pipeline_inputs.BODY_TYPES.get(self._kind.read, ())
        self.media_types = media_answers.TYPES.get(self._name, ())
        if self._name == "text-to-audio":
            self.hub_type = codecs.WAV
        self._rate = sampling_rate(pipeline)
        self._tokens = tokens(pipeline)
        self._characters = SPOKEN_CHARACTERS if self._name == "text-to-audio" else self._longest_text()

    def _longest_text(self) -> int:
        """The maximum characters of texts within the model's limit of tokens."""
        return min(limits.TEXT_CHARACTERS, self._tokens * pipeline_inputs.CHARACTERS_PER_TOKEN)

    def accepted(self, request: Request) -> Request:
        """See Service. Inputs are decoded in `predict`, so that only one request at a time needs memory for them."""
        request = super().accepted(request)
        if self._name == "document-question-answering":
            request = _with_word_boxes(request)
        pipeline_parameters.check(request.parameters, self._allowed, self.task)
        self._items(request.inputs)
        return request

    def count(self, request: Request) -> int:
        """See Service. A conversation is one input, although it is a list."""
        return len(self._items(request.inputs)[0])

    def _items(self, inputs: object) -> Tuple[List[object], bool]:
        items, is_list = [inputs], False
        if isinstance(inputs, list) and not self._kind.is_one(inputs):
            items, is_list = inputs, True
        if not items or len(items) > limits.ITEMS:
            raise RequestError(
                "unsupported_value",
                '"inputs" has {} items; from 1 to {} are allowed'.format(len(items), limits.ITEMS),
            )
        return items, is_list

    def predict(self, request: Request, check: Check) -> Prediction:
        """See Service."""
        check()
        options = pipeline_parameters.check(request.parameters, self._allowed, self.task)
        items, is_list = self._items(request.inputs)
        seconds = limits.SOUND_SECONDS
        if self._name == "automatic-speech-recognition":
            seconds = limits.SPEECH_SECONDS
        decoder = Decoder(self._rate, seconds)
        reader = pipeline_inputs.Reader(decoder, self._characters)
        calls = []
        for place, item in enumerate(items):
            check()
            try:
                calls.append(self._kind.read(item, reader))
            except RequestError as error:
                raise of_item(error, place, is_list) from None
        self._runtime.set_check(check)
        results = []
        for place, (args, named) in enumerate(calls):
            check()
            try:
                results.append(_plain(self._run(args, named, options), decoder))
            except (RuntimeError, ValueError) as problem:
                if not any(words in str(problem) for words in TOO_SMALL):
                    raise
                too_small = RequestError("unprocessable", "the audio or image is too small for the model")
                raise of_item(too_small, place, is_list) from None
        return Prediction(results if is_list else results[0], items=len(items))

    def _run(
        self,
        args: Tuple[Argument, ...],
        named: Dict[str, Argument],
        options: Options,
    ) -> object:
        # The pipeline changes dicts in its arguments.
        options = {name: dict(value) if isinstance(value, dict) else value for name, value in options.items()}
        if self._name == "zero-shot-object-detection":
            labels = options.pop("candidate_labels")
            return self._pipeline({"image": args[0], "candidate_labels": labels}, **options)
        if getattr(self._pipeline, "type", None) == "ctc" and len(args[0]) > WHOLE_SECONDS * self._rate:
            # The memory of attention grows with the square of the length.
            options.setdefault("chunk_length_s", CHUNK_SECONDS)
        if self._name == "document-question-answering":
            options = self._windows(args[0], options)
        if self._name == "text-to-audio":
            self._check_speakable(args[0])
        return self._pipeline(*args, **named, **options)

    def _check_speakable(self, text: str) -> None:
        """RequestError for a text without tokens, such as digits for a voice that knows letters only."""
        tokenizer = self._pipeline.tokenizer
        if not text.strip() or (tokenizer is not None and not tokenizer(text)["input_ids"]):
            raise RequestError("unprocessable", "the text has no characters that the model can speak")

    def _windows(self, document: JsonObject, options: Options) -> Options:
        """Limit the overlap of windows to half, and thereby their number."""
        size = min(options.get("max_seq_len", self._tokens), self._tokens)
        stride = options.get("doc_stride", min(size // 2, 256))
        length = sum(len(word) for word, _ in document.get("word_boxes", ()))
        if stride > size // 2 or length > limits.CONTEXT_WINDOWS * (size - stride):
            raise RequestError(
                "unsupported_value",
                "windows of {} tokens that overlap by {} (doc_stride) are too many for this document; at most half of "
                "a window may overlap".format(size, stride),
            )
        return dict(options, max_seq_len=size, doc_stride=stride)

    def write(self, value: object, accept: str) -> Tuple[bytes, str]:
        """See Service."""
        if accept in self.media_types:
            return media_answers.write(value, accept), accept
        return super().write(value, accept)

    def schema(self) -> JsonObject:
        """See Service."""
        item = pipeline_inputs.schema(self._kind)
        return {
            "type": "object",
            "required": ["inputs"],
            "additionalProperties": False,
            "properties": {
                "inputs": {"oneOf": [item, {"type": "array", "items": item, "minItems": 1}]},
                "parameters": self._allowed.schema(),
            },
        }

    def warm_up(self, check: Check) -> None:
        """See Service. No prediction if no sample is suitable for all models of the task."""
        warm_up_pipeline(self, self._pipeline, check)
        self._runtime.optimize_pipeline(is_start=True)

    def optimize(self) -> None:
        """See Service."""
        self._runtime.optimize_pipeline(is_start=False)

    @property
    def engine(self) -> Engine:
        """See Service."""
        return self._runtime.engine


def _with_word_boxes(request: Request) -> Request:
    """The words of the document as an input; `huggingface_hub.InferenceClient` sends them as a parameter."""
    inputs, parameters = request.inputs, dict(request.parameters)
    if not isinstance(inputs, dict) or "word_boxes" in inputs or "word_boxes" not in parameters:
        return request
    inputs = dict(inputs, word_boxes=parameters.pop("word_boxes"))
    return request._replace(inputs=inputs, parameters=parameters)


def sampling_rate(pipeline: "transformers.Pipeline") -> int:
    """The model's sampling rate in Hz."""
    for owner in (pipeline, getattr(pipeline, "processor", None)):
        rate = getattr(getattr(owner, "feature_extractor", None), "sampling_rate", None)
        if rate:
            return int(rate)
    return 16000


def tokens(pipeline: "transformers.Pipeline") -> int:
    """The model's maximum number of text tokens."""
    tokenizer = getattr(pipeline, "tokenizer", None)
    config = getattr(pipeline.model.config, "text_config", pipeline.model.config)
    return longest_input(tokenizer, config) or limits.UNLIMITED_TOKENS


def _plain(value: object, decoder: Decoder) -> object:
    """The value in JSON's types: images as base64 of PNG, arrays and tensors as lists."""
    if isinstance(value, dict):
        return {str(key): _plain(inner, decoder) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, decoder) for inner in value]
    if type(value).__module__.startswith("PIL.") and hasattr(value, "save"):
        source = decoder.source(value)
        if source is not None:
            return source
        out = io.BytesIO()
        value.save(out, format="PNG")
        return base64.b64encode(out.getvalue()).decode("ascii")
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def is_served(task: str) -> bool:
    """Whether the task's inputs and parameters are known, so that they can be checked."""
    name = pipeline_parameters.ALIASES.get(task, task)
    return task == "table-question-answering" or name in pipeline_parameters.TABLE


def known_tasks() -> List[str]:
    """The names of the pipelines that the installed transformers has."""
    from transformers import pipelines

    if hasattr(pipelines, "get_supported_tasks"):
        return list(pipelines.get_supported_tasks())
    return list(pipelines.SUPPORTED_TASKS)
