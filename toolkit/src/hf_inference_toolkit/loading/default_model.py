"""The standard model as user code calls it."""

import threading
from typing import Any

from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.tasks.service import Check, Service


class DefaultModel:
    """What `predict_fn` gets as its model when there is no `model_fn`: call it with inputs and parameters.

    Every task checks both when it predicts: user code often passes on what a client sent. Beside what a request may
    hold, images may be PIL's, and sound may be an array or `{"raw": array, "sampling_rate": hertz}`.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.task = service.task
        runtime = getattr(service, "runtime", None)
        self.model = getattr(runtime, "model", None)
        self.tokenizer = getattr(service, "tokenizer", None)
        self._here = threading.local()

    def during(self, check: Check) -> None:
        """Call `check` between the steps of every prediction that this thread makes from here on."""
        self._here.check = check

    def __call__(self, inputs: Any, **parameters: Any) -> Any:
        """The prediction for inputs, as /invocations would answer them."""
        items = list(inputs) if isinstance(inputs, tuple) else inputs
        return self._predict(payload.Request(items, parameters, []))

    def answer(self, body: bytes, content_type: codecs.MediaType, accept: str) -> Any:
        """The prediction for a client's body."""
        media = codecs.content_type(content_type.name)._replace(parameters=content_type.parameters)
        return self._predict(self.service.read(body, media, accept))

    def _predict(self, request: payload.Request) -> Any:
        return self.service.predict(request, getattr(self._here, "check", _no_check)).value


def _no_check() -> None:
    return None
