"""The interface between the server and a loaded model."""

from typing import (
    Callable,
    Collection,
    Dict,
    Generator,
    Hashable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from hf_inference_toolkit.annotations import Answer, JsonObject, Output, Row
from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import Engine
from hf_inference_toolkit.tasks.completion import Completion

Check = Callable[[], None]


class Prediction(NamedTuple):
    """An answer and information on it. Token counts are 0 if the task does not count them."""

    value: Answer
    is_truncated: bool = False
    items: int = 1
    tokens_in: int = 0
    tokens_out: int = 0
    # Set by user code.
    status: int = 200
    headers: Mapping[str, str] = {}


class Token(NamedTuple):
    """A generated token; `text` is what it adds to the text, and may be empty."""

    number: int
    text: str
    is_special: bool
    # None unless the request has `details`.
    logprob: Optional[float] = None
    # The most probable tokens at this step, if the request has `top_n_tokens`.
    top: Sequence["Token"] = ()

    def described(self) -> JsonObject:
        """The token in the form of text-generation-inference."""
        return {
            "id": self.number,
            "text": self.text,
            "logprob": self.logprob,
            "special": self.is_special,
        }


class Part(NamedTuple):
    """A part of a streaming response of user code. `head` has the response's status, headers and type.

    `sent` is called with the part's size when the part was written to the connection.
    """

    body: bytes
    head: Prediction
    is_events: bool
    sent: Callable[[int], None]


# Called with each Token, or with each Part of user code.
Reader = Optional[Callable[[Output], None]]


def no_check() -> None:
    """A Check that never ends a prediction."""


class BatchRow(NamedTuple):
    """A row of a batch. Rows of equal `key` may share a forward pass; `length` is a row's number of tokens."""

    row: Row
    length: int
    key: Hashable = None
    # Called with each generated token, for streams.
    reader: Reader = None
    # Whether the row is decoded in the service's DecodingBatch instead of a pass of its own.
    is_decoded: bool = False


class Finished(NamedTuple):
    """A row that has left a DecodingBatch: its output, or the exception that ended it."""

    handle: Row
    output: Output = None
    problem: Optional[BaseException] = None


class DecodingBatch:
    """Rows that are decoded token by token. They join and leave between steps.

    All methods but the properties are called in the prediction thread. A handle is the caller's name for a row.
    """

    # Rows that are decoded, those whose prompts are being read included.
    running = 0
    # The used part of the memory, from 0 to 1.
    usage = 0.0

    def fits(self, piece: "BatchRow") -> bool:
        """Whether there is room for a row."""
        raise NotImplementedError

    def add(self, handle: Row, piece: "BatchRow") -> None:
        """Let a row join at the next step."""
        raise NotImplementedError

    def remove(self, handles: Collection[Row]) -> None:
        """Drop rows at the next step, without an output."""
        raise NotImplementedError

    def clear(self) -> None:
        """Drop all rows."""
        raise NotImplementedError

    def share_memory(self, others: Sequence["DecodingBatch"]) -> None:
        """Use the memory together with the batches of other adapters."""
        raise NotImplementedError

    def step(self, check: Check) -> "DecodingStep":
        """One step: each row gets a token."""
        raise NotImplementedError


class DecodingStep(NamedTuple):
    """What a step has done."""

    finished: Sequence[Finished]
    # Rows that got their first token.
    started: Sequence[Row] = ()
    # The lengths in tokens of the rows that got another token.
    lengths: Sequence[int] = ()
    # Tokens of the prompts of `started`, and tokens that were decoded for all rows.
    prompt_tokens: int = 0
    new_tokens: int = 0


# A prediction in steps: it yields rows, receives their outputs in the same order, and returns the prediction.
Steps = Generator[List[BatchRow], List[Output], Prediction]


class Service:
    """A loaded model. `read` and `write` may be called in any thread, all other methods in one thread at a time.

    A task that batches requests has `steps` and `run`; any other task has `predict` only.
    """

    # Whether the server checks Content-Type and Accept; user code may support other types.
    negotiates = True
    # Whether requests may have `"stream": true`.
    streams = False
    # Whether a response may be a stream without "stream" in the request (user code).
    may_stream = False
    # Image or audio types of the answer that a client may request in Accept.
    media_types: Tuple[str, ...] = ()
    # Image or audio types that a request body may have.
    body_types: Tuple[str, ...] = ()
    # The type of answers at `POST /` if Accept names none: what `huggingface_hub.InferenceClient` reads.
    hub_type = ""
    # Whether it completes texts and, with a chat template, conversations (see `prepare`).
    completes = False
    chats = False
    # Whether it makes vectors of texts, and whether it ranks texts.
    embeds = False
    ranks = False
    # The adapters of HF_ADAPTERS, one of which a request may choose.
    adapters: Tuple[str, ...] = ()
    # Makes the tokens of texts.
    tokenization: Optional["Service"] = None
    # Parameters that may also be beside "inputs", where clients of text-embeddings-inference write them.
    root_parameters: Tuple[str, ...] = ()
    # The most tokens of a prompt and its continuation; 0 for tasks that generate no text.
    context_tokens = 0
    # The most tokens of a batch in the KV cache, for text generation. None: batches are limited by their cost.
    kept_tokens: Optional[int] = None
    # Called between the steps of long passes: other work of the prediction thread takes turns with them.
    take_turn: Optional[Callable[[], None]] = None

    def __init__(self, task: str, facts: Optional[Dict[str, str]] = None) -> None:
        self.task = task
        self.facts = dict(facts or {})
        # Called in `close`.
        self.on_close: List[Callable[[], None]] = []

    def read(self, body: bytes, content_type: codecs.MediaType, accept: str) -> payload.Request:
        """Parse and check a request. Raises RequestError."""
        return self.accepted(codecs.read(body, content_type, self.root_parameters))

    def accepted(self, request: payload.Request) -> payload.Request:
        """A parsed request as the task takes it. RequestError for inputs and parameters that it does not take."""
        if request.is_stream and not self.streams:
            raise RequestError("unsupported_value", '{} does not stream; remove "stream"'.format(self.task))
        return request

    def check(self, request: payload.Request) -> None:
        """RequestError for inputs or parameters that the task does not support. `read` has checked its requests."""

    def with_headers(
        self, request: payload.Request, headers: Mapping[str, str], request_id: str
    ) -> payload.Request:
        """Add the HTTP headers, which only user code reads, to the request."""
        return request

    def prepare(self, completion: Completion) -> payload.Request:
        """The request for a completion. Not called in the event loop. Raises RequestError."""
        raise NotImplementedError

    def count(self, request: payload.Request) -> int:
        """The number of queue slots of a request that was checked: one for each item. Called in the event loop."""
        return len(request.inputs) if isinstance(request.inputs, list) and request.inputs else 1

    def predict(self, request: payload.Request, check: Check) -> Prediction:
        """Predict. Calls `check` between steps, which raises if the request was cancelled or is past its deadline."""
        raise NotImplementedError

    def steps(self, request: payload.Request, check: Check, reader: Reader = None) -> Steps:
        """The prediction in steps, whose rows can be batched with those of other requests. By default one step.

        `reader` is called with each generated token, in the prediction thread.
        """
        return self.predict(request, check)
        yield []

    def run(self, pieces: List[BatchRow], check: Check) -> List[Output]:
        """One forward pass: the output of each row. All rows have the same key."""
        raise NotImplementedError

    def token_counts(self, piece: BatchRow, output: Output) -> Tuple[int, int]:
        """The tokens of a row's prompt and text, for text generation."""
        return 0, 0

    def decoding_batch(self) -> DecodingBatch:
        """A new batch for rows with `is_decoded`."""
        raise NotImplementedError

    def write(self, value: object, accept: str) -> Tuple[bytes, str]:
        """The body of the response, and its content type."""
        return codecs.write(value, accept), accept

    def for_hub_client(self, value: Answer, is_list: bool) -> Answer:
        """The answer of `POST /` to one input or a list, in the form that `huggingface_hub.InferenceClient` reads."""
        return value

    def warm_up(self, check: Check) -> None:
        """Predict a sample, and raise if the model cannot serve. By default there is no sample."""

    def optimize(self) -> None:
        """Called once when the model serves, in another thread than predictions. May take minutes."""

    def close(self) -> None:
        """Called once when the model is unloaded: end what would outlive it."""
        for release in self.on_close:
            release()

    @property
    def engine(self) -> Engine:
        """What computes forward passes now."""
        return Engine("user code")

    def described(self) -> Dict[str, str]:
        """Information on the loaded model, for the log and /openapi.json."""
        reason = {"runtime_reason": self.engine.reason} if self.engine.reason else {}
        return dict(self.facts, runtime=self.engine.name, **reason)

    def schema(self) -> JsonObject:
        """JSON Schema of a request, for /openapi.json."""
        return {
            "type": "object",
            "required": ["inputs"],
            "properties": {"inputs": {}, "parameters": {"type": "object"}},
        }

    def examples(self) -> List[JsonObject]:
        """Valid requests, for /openapi.json."""
        return []


# Most tokens of a pass, padding included, without the scheduler.
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


def _outputs(service: Service, pieces: List[BatchRow], check: Check) -> List[Output]:
    """The outputs of rows, in their order. Rows of equal key and similar length share a pass."""
    outputs: List[Output] = [None] * len(pieces)
    for batch in _batches(pieces, service.kept_tokens or UNSHARED_TOKENS):
        for place, output in zip(batch, service.run([pieces[place] for place in batch], check)):
            outputs[place] = output
    return outputs


def _batches(pieces: List[BatchRow], most: int) -> List[List[int]]:
    """Indexes of rows, grouped by key and sorted by length. A batch has at most `most` tokens, padding included."""
    batches: List[List[int]] = []
    for place in sorted(range(len(pieces)), key=lambda one: (repr(pieces[one].key), pieces[one].length)):
        batch = batches[-1] if batches else []
        fits = pieces[place].length * (len(batch) + 1) <= most
        if batch and fits and pieces[place].key == pieces[batch[0]].key:
            batch.append(place)
        else:
            batches.append([place])
    return batches
