"""What transport knows of a loaded model: three steps, and a request that shows it works."""

from typing import Any, Callable, Dict, Generator, List, NamedTuple, Optional, Tuple

from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.scheduling.batching import Cost, Piece, choose

Check = Callable[[], None]


class Prediction(NamedTuple):
    """A prediction and what there is to say about it. Tokens are counted where the task counts them."""

    value: Any
    is_truncated: bool = False
    items: int = 1
    tokens_in: int = 0
    tokens_out: int = 0


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


Reader = Optional[Callable[[Token], None]]
# A prediction in steps: it yields pieces, is sent their outputs in the same order, and returns its answer.
Steps = Generator[List[Piece], List[Any], Prediction]


class Service:
    """A loaded model that answers requests. `read` and `write` may run in any thread, the rest in one at a time.

    A task whose requests may share passes through the model has `steps` and `run`; any other has `predict` alone.
    """

    # Whether Content-Type and Accept are ours to judge; user code may know types that we do not.
    negotiates = True
    # Whether requests may ask for their text while it is written.
    streams = False

    def __init__(self, task: str, facts: Optional[Dict[str, str]] = None) -> None:
        self.task = task
        self.facts = dict(facts or {})
        self.cost = Cost()

    def read(self, body: bytes, content_type: codecs.MediaType, accept: str) -> payload.Request:
        """A request from a body; RequestError for what is wrong with it."""
        request = codecs.read(body, content_type)
        if request.is_stream and not self.streams:
            raise RequestError(
                "unsupported_value", '{} does not stream; leave "stream" out'.format(self.task)
            )
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

    def run(self, pieces: List[Piece], check: Check) -> List[Any]:
        """One pass of the model: the output of each piece. All are of one key."""
        raise NotImplementedError

    def write(self, value: Any, accept: str) -> Tuple[bytes, str]:
        """The answer's body and its content type."""
        return codecs.write(value, accept), accept

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


def alone(service: Service, request: payload.Request, check: Check) -> Prediction:
    """The prediction of one request that nobody shares a pass with."""
    steps = service.steps(request, check)
    try:
        pieces = next(steps)
        while True:
            outputs: List[Any] = [None] * len(pieces)
            left = list(enumerate(pieces))
            while left:
                group = choose([piece for _, piece in left], service.cost)
                together = service.run([left[place][1] for place in group], check)
                for place, output in zip(group, together):
                    outputs[left[place][0]] = output
                left = [one for place, one in enumerate(left) if place not in frozenset(group)]
            pieces = steps.send(outputs)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
