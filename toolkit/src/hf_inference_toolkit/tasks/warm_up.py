"""The warm-up of pass-through tasks, and the check of the answers of every warm-up."""

import contextlib
import math
from typing import TYPE_CHECKING, Callable, Dict, Iterator, Optional

from hf_inference_toolkit.annotations import Parameters
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import StartError, first_line
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.tasks.service import Check, Service

if TYPE_CHECKING:
    import PIL.Image
    import transformers

# Makes a small request for a pipeline.
Sample = Callable[["transformers.Pipeline"], Optional[Request]]
# Pipelines that load any model (AutoModel): only the warm-up shows whether it has the outputs of the task.
OF_ANY_CLASS = ("image-feature-extraction", "zero-shot-audio-classification")
_LABELS: Parameters = {"candidate_labels": ["one", "two"]}


def warm_up_pipeline(service: Service, pipeline: "transformers.Pipeline", check: Check) -> None:
    """Predict the task's sample. StartError if the error shows that the model cannot serve.

    An error that an unsuitable sample can cause is a warning, because some models need other inputs.
    """
    try:
        request = sample(service.task, pipeline)
        if request is not None:
            with explained(service):
                value = service.predict(request, check).value
                require_finite(value)
                service.write(value, "application/json")
    except Exception as problem:
        if isinstance(problem, StartError):
            raise
        if service.task in OF_ANY_CLASS:
            raise StartError(
                "HF_TASK={} does not fit this model ({}): the warm-up fails ({})".format(
                    service.task, type(pipeline.model).__name__, first_line(problem)
                )
            ) from problem
        event(30, "the sample of the warm-up is not suitable for this model: {}".format(problem), problem)


@contextlib.contextmanager
def explained(service: Service) -> Iterator[None]:
    """Raise StartError for errors of a warm-up, unless an unsuitable sample can cause them.

    If HF_DTYPE is not float32, every error is a StartError, because pipelines are written for float32.
    """
    dtype = service.facts.get("dtype", "float32")
    try:
        yield
    except Exception as problem:
        words = first_line(problem)
        if dtype != "float32":
            message = "HF_DTYPE={}: the warm-up of {} fails ({}). Unset HF_DTYPE, or set it to float32"
            raise StartError(message.format(dtype, service.task, words)) from problem
        if isinstance(problem, (RuntimeError, NotFiniteError)):
            raise StartError("the warm-up of {} fails: {}".format(service.task, words)) from problem
        raise


class NotFiniteError(ArithmeticError):
    """An answer contains NaN or infinity."""


def require_finite(value: object) -> None:
    """NotFiniteError if an answer contains NaN or infinity."""
    if isinstance(value, dict):
        value = list(value.values())
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        for inner in value:
            require_finite(inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise NotFiniteError(
            "the answer contains {}: the model's weights or its precision are wrong".format(value)
        )


def sample(task: str, pipeline: "transformers.Pipeline") -> Optional[Request]:
    """A small request for the task's models. None if no input is suitable for all of them."""
    make = SAMPLES.get(task)
    return make(pipeline) if make else None


def _image(parameters: Parameters) -> Sample:
    def make(_: "transformers.Pipeline") -> Request:
        return Request(_picture(), dict(parameters), [])

    return make


def _picture() -> "PIL.Image.Image":
    from PIL import Image

    # Two colours, so that a segmentation finds something.
    picture = Image.new("RGB", (64, 64), (200, 30, 30))
    picture.paste((30, 30, 200), (16, 16, 48, 48))
    return picture


def _sound(parameters: Parameters) -> Sample:
    def make(pipeline: "transformers.Pipeline") -> Request:
        import numpy

        rate = getattr(getattr(pipeline, "feature_extractor", None), "sampling_rate", None) or 16000
        wave = numpy.sin(numpy.arange(int(rate)) * (2 * numpy.pi * 440 / rate))
        return Request({"raw": wave.astype(numpy.float32), "sampling_rate": int(rate)}, dict(parameters), [])

    return make


def _speech(pipeline: "transformers.Pipeline") -> Optional[Request]:
    # A text-to-speech model supports the letters of its vocabulary only.
    tokens = filter(None, getattr(pipeline.tokenizer, "get_vocab", dict)())
    letters = sorted(token for token in tokens if len(token) == 1 and token.isalpha())
    return Request("".join(letters[:5] * 2) if letters else "hello", {}, [])


def _document(_: "transformers.Pipeline") -> Request:
    boxes = [["one", [0, 0, 100, 100]], ["two", [100, 0, 200, 100]]]
    return Request({"question": "one", "word_boxes": boxes, "image": _picture()}, {}, [])


SAMPLES: Dict[str, Sample] = {
    "audio-classification": _sound({}),
    "automatic-speech-recognition": _sound({}),
    "depth-estimation": _image({}),
    "document-question-answering": _document,
    "image-classification": _image({}),
    "image-feature-extraction": _image({}),
    "image-segmentation": _image({}),
    "image-to-image": _image({}),
    "image-to-text": _image({"max_new_tokens": 2}),
    "object-detection": _image({}),
    "text-to-audio": _speech,
    "text-to-speech": _speech,
    "visual-question-answering": lambda _: Request({"image": _picture(), "question": "one"}, {}, []),
    "zero-shot-audio-classification": _sound(_LABELS),
    "zero-shot-image-classification": _image(_LABELS),
}
