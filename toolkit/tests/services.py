"""Services that need no model: what a server does with work can be seen without waiting for weights."""

import threading

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks.completion import Choice, Completed, Delta
from hf_inference_toolkit.tasks.service import BatchRow, Prediction, Service


class Echo(Service):
    """Answers with its inputs; `gate` holds predictions back until it is set."""

    def __init__(self):
        super().__init__("echo")
        self.gate = threading.Event()
        self.gate.set()
        self.seen = []
        self.parameters = None

    def predict(self, request, check):
        self.seen.append(request.inputs)
        self.parameters = request.parameters
        while not self.gate.wait(0.01):
            check()
        if request.inputs == "boom":
            raise RuntimeError("a secret of the server")
        if request.inputs == "memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        if request.inputs == "refused":
            raise ValueError("the model takes no such thing")
        if request.inputs == "object":
            raise ValueError("no {!r} here".format(object()))
        if request.inputs == "huge":
            return Prediction("x" * 100000)
        return Prediction(request.inputs)


class Rows(Service):
    """Each input is a row, and its output is the input; `poison` breaks the pass that it is in."""

    def __init__(self):
        super().__init__("rows")
        self.gate = threading.Event()
        self.gate.set()
        self.seen = []

    def steps(self, request, check, reader=None):
        items = request.inputs if isinstance(request.inputs, list) else [request.inputs]
        for place, item in enumerate(items):
            if item == "bad":
                raise RequestError("unprocessable", "inputs[{}]: bad is refused".format(place))
        outputs = yield [BatchRow(item, len(item), reader=reader) for item in items]
        return Prediction(outputs, items=len(items))

    def run(self, pieces, check):
        self.seen.extend(piece.row for piece in pieces)
        while not self.gate.wait(0.01):
            check()
        for piece in pieces:
            if piece.reader:
                piece.reader(piece.row)
        if any(piece.row == "poison" for piece in pieces):
            raise RuntimeError("broken")
        return [piece.row for piece in pieces]


class Fragile(Service):
    """Works until a request breaks it, like a model on a GPU after an illegal memory access."""

    def __init__(self):
        super().__init__("fragile")
        self.is_broken = False

    def predict(self, request, check):
        if self.is_broken or request.inputs == "break":
            self.is_broken = True
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return Prediction("fine")

    def warm_up(self, check):
        if self.is_broken:
            raise RuntimeError("CUDA error")


class Writer(Service):
    """Completes any prompt with three words; `gates` hold each of them back until they are set."""

    completes = chats = streams = True
    context_tokens = 100

    def __init__(self):
        super().__init__("text-generation")
        self.gates = [threading.Event() for _ in range(3)]
        self.was_checked = threading.Event()

    def prepare(self, completion):
        return Request(completion, {}, [])

    def steps(self, request, check, reader=None):
        for gate in self.gates:
            while not gate.wait(0.01):
                self.was_checked.set()
                check()
            if reader:
                reader(Delta(0, "word "))
        return Prediction(Completed([Choice(0, "word word word ", "stop")], 1, 3))
        yield []
