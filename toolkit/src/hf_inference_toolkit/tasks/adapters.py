"""Several adapters over one base model. Each has a service of its own, and one of them predicts at a time."""

import threading
from typing import Callable, Collection, Dict, Hashable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from hf_inference_toolkit.annotations import Answer, JsonObject, Output, Row
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import Engine
from hf_inference_toolkit.tasks.completion import Completion
from hf_inference_toolkit.tasks.service import (
    BatchRow,
    Check,
    DecodingBatch,
    DecodingStep,
    Finished,
    Prediction,
    Reader,
    Service,
    Steps,
    predict_alone,
)
from hf_inference_toolkit.tasks.text_task import TextTask

PARAMETER = "adapter_id"
# The name of an adapter; None is the base model.
Name = Optional[str]
# Lets the passes of the model use an adapter.
Select = Callable[[Name], None]


class Key(NamedTuple):
    """The key of a row: rows of different adapters never share a pass."""

    adapter: Name
    own: Hashable


class AdapterService(Service):
    """A base model and its adapters: `adapter_id` names the one that predicts; without it the base model does.

    The services use the same model. `select` is called before each of their passes.
    """

    def __init__(self, services: Mapping[Name, TextTask], select: Select) -> None:
        base = services[None]
        super().__init__(base.task)
        self._services = services
        self._base = base
        self._select_now = select
        # The thread that predicts. One that is stuck in a prediction was replaced, and must select nothing any more.
        self._thread: Optional[threading.Thread] = None
        self.adapters = tuple(name for name in services if name is not None)
        self.facts = base.facts
        self.facts["adapters"] = ", ".join(self.adapters)
        # User code reads both.
        self.runtime, self.tokenizer = base.runtime, base.tokenizer
        self.streams, self.completes, self.embeds, self.ranks = (
            base.streams,
            base.completes,
            base.embeds,
            base.ranks,
        )
        self.chats = any(service.chats for service in services.values())
        self.hub_type, self.root_parameters = base.hub_type, base.root_parameters
        self.tokenization, self.context_tokens = base.tokenization, base.context_tokens
        self.kept_tokens = base.kept_tokens
        for name, service in services.items():
            service.take_turn = self._turn(name)

    def _select(self, name: Name) -> None:
        self._thread = threading.current_thread()
        self._select_now(name)

    def _turn(self, name: Name) -> Callable[[], None]:
        """Other work takes turns with a long pass, and may select other adapters."""

        def take_turn() -> None:
            if self.take_turn is not None:
                self.take_turn()
                if self._thread is threading.current_thread():
                    self._select_now(name)

        return take_turn

    def _chosen(self, request: Request) -> Request:
        """The request with its adapter in place of the parameter. RequestError if there is no such adapter."""
        if PARAMETER not in request.parameters:
            return request
        parameters = dict(request.parameters)
        name = parameters.pop(PARAMETER)
        if name is not None and name not in self.adapters:
            raise RequestError(
                "unsupported_value",
                "parameter '{}' must be one of {}, or null for the base model".format(
                    PARAMETER, ", ".join(self.adapters)
                ),
                param=PARAMETER,
            )
        return request._replace(parameters=parameters, adapter=name)

    def accepted(self, request: Request) -> Request:
        """See Service."""
        request = self._chosen(request)
        return self._services[request.adapter].accepted(request)

    def check(self, request: Request) -> None:
        """See Service."""
        request = self._chosen(request)
        self._services[request.adapter].check(request)

    def prepare(self, completion: Completion) -> Request:
        """See Service."""
        request = self._services[completion.adapter].prepare(completion)
        return request._replace(adapter=completion.adapter)

    def count(self, request: Request) -> int:
        """See Service."""
        return self._services[request.adapter].count(request)

    def predict(self, request: Request, check: Check) -> Prediction:
        """See Service."""
        return predict_alone(self, request, check)

    def steps(self, request: Request, check: Check, reader: Reader = None) -> Steps:
        """See Service."""
        request = self._chosen(request)
        name = request.adapter
        steps = self._services[name].steps(request, check, reader)
        outputs: Optional[List[Output]] = None
        while True:
            self._select(name)
            try:
                pieces = steps.send(outputs)  # type: ignore[arg-type]  # None starts a generator
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            outputs = yield [piece._replace(key=Key(name, piece.key)) for piece in pieces]

    def run(self, pieces: List[BatchRow], check: Check) -> List[Output]:
        """See Service."""
        name, _ = _own(pieces[0])
        self._select(name)
        return self._services[name].run([_own(piece)[1] for piece in pieces], check)

    def token_counts(self, piece: BatchRow, output: Output) -> Tuple[int, int]:
        """See Service."""
        name, own = _own(piece)
        return self._services[name].token_counts(own, output)

    def decoding_batch(self) -> DecodingBatch:
        """See Service."""
        return AdapterBatch(self._services, self._select)

    def write(self, value: object, accept: str) -> Tuple[bytes, str]:
        """See Service."""
        return self._base.write(value, accept)

    def for_hub_client(self, value: Answer, is_list: bool) -> Answer:
        """See Service."""
        return self._base.for_hub_client(value, is_list)

    def warm_up(self, check: Check) -> None:
        """See Service."""
        for name, service in self._services.items():
            self._select(name)
            service.warm_up(check)

    def optimize(self) -> None:
        """See Service."""
        self._base.optimize()

    @property
    def engine(self) -> Engine:
        """See Service."""
        return self._base.engine

    def described(self) -> Dict[str, str]:
        """See Service."""
        return self._base.described()

    def schema(self) -> JsonObject:
        """See Service."""
        schema = self._base.schema()
        schema["properties"]["parameters"]["properties"][PARAMETER] = {
            "enum": [*self.adapters, None],
            "description": "the adapter that predicts; by default the base model without one",
        }
        return schema

    def examples(self) -> List[JsonObject]:
        """See Service."""
        return self._base.examples()


def _own(piece: BatchRow) -> Tuple[Name, BatchRow]:
    """The adapter of a row, and the row as the adapter's service has made it."""
    key: Key = piece.key  # type: ignore[assignment]
    return key.adapter, piece._replace(key=key.own)


class AdapterBatch(DecodingBatch):
    """A decoding batch for each adapter. They share the memory, and each makes its part of a step."""

    def __init__(self, services: Mapping[Name, TextTask], select: Select) -> None:
        self._services = services
        self._select = select
        self._batches: Dict[Name, DecodingBatch] = {}
        self._names: Dict[int, Name] = {}

    def _batch(self, name: Name) -> DecodingBatch:
        if name not in self._batches:
            self._batches[name] = self._services[name].decoding_batch()
            batches = list(self._batches.values())
            for batch in batches:
                batch.share_memory([other for other in batches if other is not batch])
        return self._batches[name]

    @property
    def running(self) -> int:  # type: ignore[override]
        """See DecodingBatch."""
        return len(self._names)

    @property
    def usage(self) -> float:  # type: ignore[override]
        """See DecodingBatch."""
        return min(1.0, sum(batch.usage for batch in list(self._batches.values())))

    def fits(self, piece: BatchRow) -> bool:
        """See DecodingBatch."""
        name, own = _own(piece)
        return self._batch(name).fits(own)

    def add(self, handle: Row, piece: BatchRow) -> None:
        """See DecodingBatch."""
        name, own = _own(piece)
        self._names[id(handle)] = name
        self._batch(name).add(handle, own)

    def remove(self, handles: Collection[Row]) -> None:
        """See DecodingBatch."""
        for handle in handles:
            self._batches[self._names.pop(id(handle))].remove([handle])

    def clear(self) -> None:
        """See DecodingBatch."""
        self._names.clear()
        for batch in self._batches.values():
            batch.clear()

    def step(self, check: Check) -> DecodingStep:
        """See DecodingBatch."""
        for batch in self._batches.values():
            if not batch.running:
                batch.clear()  # the memory of rows that were removed
        steps: List[DecodingStep] = []
        for name, batch in self._batches.items():
            if batch.running:
                self._select(name)
                steps.append(batch.step(check))
        finished: List[Finished] = [one for step in steps for one in step.finished]
        for one in finished:
            del self._names[id(one.handle)]
        started: Sequence[Row] = [row for step in steps for row in step.started]
        return DecodingStep(
            finished,
            started,
            [length for step in steps for length in step.lengths],
            sum(step.prompt_tokens for step in steps),
            sum(step.new_tokens for step in steps),
        )
