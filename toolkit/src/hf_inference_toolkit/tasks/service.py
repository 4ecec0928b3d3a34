"""What transport knows of a loaded model: three steps, and a request that shows it works."""

from typing import Any, Callable, Dict, Generator, Hashable, List, Mapping, NamedTuple, Optional, Tuple

from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.errors import RequestError

Check = Callable[[], None]


class Prediction(NamedTuple):
    """A prediction and what there is to say about it. Tokens are counted where the task counts them."""

    value: Any
    is_truncated: bool = False
    items: int = 1
    tokens_in: int = 0
    tokens_out: int = 0
    # What user code may choose for its response.
    status: int = 200
    headers: Mapping[str, str] = {}


class Token(NamedTuple):
    """A generated token; `text` is what it adds to the text, and may be empty."""

    number: int
    text: str
    is_special: bool
    # None unless the request asks for details.
    logprob: Optional[float] = None

    def described(self) -> Dict[str, Any]:
        """The token in the form of text-generation-inference."""
        return {
            "id": self.number,
            "text": self.text,
            "logprob": self.logprob,
            "special": self.is_special,
        }


class Part(NamedTuple):
    """A part of a response's body that user code streams; `head` has the response's status, headers and type.

    `sent` is called with the part's size when the client's connection has taken it.
    """

    body: bytes
    head: Prediction
    is_events: bool
    sent: Callable[[int], None]


# Called with each Token, or by user code with each Part.
Reader = Optional[Callable[[Any], None]]


class BatchRow(NamedTuple):
    """A row of a batch. Rows of equal `key` may share a pass; `length` is the number of tokens that one takes."""

    row: Any
    length: int
    key: Hashable = None
    # Called with each generated token, for streams.
    reader: Reader = None


# A prediction in steps: it yields pieces, is sent their outputs in the same order, and returns its answer.
Steps = Generator[List[BatchRow], List[Any], Prediction]


class Service:
    """A loaded model that answers requests. `read` and `write` may run in any thread, the rest in one at a time.

    A task whose requests may share passes through the model has `steps` and `run`; any other has `predict` alone.
    """

    # Whether Content-Type and Accept are ours to judge; user code may know types that we do not.
    negotiates = True
    # Whether requests may ask for their text while it is written.
    streams = False
    # Whether any response may turn out to be a stream; only user code decides that itself.
    may_stream = False
    # Types of images or sound that a client may have its answer in, by naming one in Accept.
    media_types: Tuple[str, ...] = ()
    # Types of images or sound that a request's body may have.
    body_types: Tuple[str, ...] = ()
    # The type of answers at `POST /` where Accept names none: what `huggingface_hub.InferenceClient` reads.
    hub_type = ""
    # Tokens that a batch may keep in memory, for text generation; None: batches are limited by their cost.
    kept_tokens: Optional[int] = None

    def __init__(self, task: str, facts: Optional[Dict[str, str]] = None) -> None:
        self.task = task
        self.facts = dict(facts or {})

    def read(self, body: bytes, content_type: codecs.MediaType, accept: str) -> payload.Request:
        """A request from a body; RequestError for what is wrong with it."""
        request = codecs.read(body, content_type)
        if request.is_stream and not self.streams:
            raise RequestError(
                "unsupported_value", '{} does not stream; leave "stream" out'.format(self.task)
            )
        return request

    def with_headers(
        self, request: payload.Request, headers: Mapping[str, str], request_id: str
    ) -> payload.Request:
        """The request with its HTTP headers, which only user code reads."""
        return request

    def count(self, request: payload.Request) -> int:
        """How many places of the queue a request takes: one an item."""
        return len(request.inputs) if isinstance(request.inputs, list) and request.inputs else 1

    def predict(self, request: payload.Request, check: Check) -> Prediction:
        """The model's answer. Long predictions call `check` between their steps; it raises when nobody waits."""
        raise NotImplementedError

    def steps(self, request: payload.Request, check: Check, reader: Reader = None) -> Steps:
        """The model's answer by pieces that others' pieces may join; here it is made in one go.

        `reader` is called with each token that is written, in the thread that writes.
        """
        return self.predict(request, check)
        yield []

    def run(self, pieces: List[BatchRow], check: Check) -> List[Any]:
        """One pass of the model: the output of each piece. All are of one key."""
        raise NotImplementedError

    def write(self, value: Any, accept: str) -> Tuple[bytes, str]:
        """The answer's body and its content type."""
        return codecs.write(value, accept), accept

    def for_hub_client(self, value: Any, is_list: bool) -> Any:
        """The answer to one input or a list, in the form that `huggingface_hub.InferenceClient` reads at `POST /`."""
        return value

    def warm_up(self, check: Check) -> None:
        """A prediction that fails when the model cannot serve; nothing when no request is known that must work."""

    def schema(self) -> Dict[str, Any]:
        """JSON Schema of a request, for /openapi.json."""
        return {
            "type": "object",
            "required": ["inputs"],
            "properties": {"inputs": {}, "parameters": {"type": "object"}},
        }

    def examples(self) -> List[Dict[str, Any]]:
        """Requests that are answered with 200."""
        return []


# Tokens of a pass, padding included, where a request does not share its passes.
UNSHARED_TOKENS = 4096


def predict_alone(service: Service, request: payload.Request, check: Check) -> Prediction:
    """The prediction of one request, without the scheduler."""
    steps = service.steps(request, check)
    try:
        pieces = next(steps)
        while True:
            pieces = steps.send(_outputs(service, pieces, check))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def _outputs(service: Service, pieces: List[BatchRow], check: Check) -> List[Any]:
    """The outputs of rows, in their order. Rows of equal key and similar length share a pass."""
    outputs: List[Any] = [None] * len(pieces)
    for batch in _batches(pieces, service.kept_tokens or UNSHARED_TOKENS):
        for place, output in zip(batch, service.run([pieces[place] for place in batch], check)):
            outputs[place] = output
    return outputs


def _batches(pieces: List[BatchRow], most: int) -> List[List[int]]:
    """Places of rows, grouped by key and sorted by length; a batch has at most `most` tokens, padding included."""
    batches: List[List[int]] = []
    for place in sorted(range(len(pieces)), key=lambda one: (repr(pieces[one].key), pieces[one].length)):
        batch = batches[-1] if batches else []
        fits = pieces[place].length * (len(batch) + 1) <= most
        if batch and fits and pieces[place].key == pieces[batch[0]].key:
            batch.append(place)
        else:
            batches.append([place])
    return batches
