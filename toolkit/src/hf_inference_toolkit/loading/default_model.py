"""The standard model for user code without `model_fn`."""

import threading

from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.tasks.service import Check, Service, no_check


class DefaultModel:
    """The model argument of `predict_fn` if there is no `model_fn`. Call it with inputs and parameters.

    Both are checked in `predict`, because user code often passes on what a client sent. Besides inputs of requests,
    images may be PIL images, and audio may be an array or `{"raw": array, "sampling_rate": hertz}`.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.task = service.task
        runtime = getattr(service, "runtime", None)
        self.model = getattr(runtime, "model", None)
        self.tokenizer = getattr(service, "tokenizer", None)
        self._here = threading.local()

    def during(self, check: Check) -> None:
        """Call `check` between the steps of further predictions in this thread."""
        self._here.check = check

    def __call__(self, inputs: object, **parameters: object) -> object:
        """The prediction, as /invocations answers it."""
        items = list(inputs) if isinstance(inputs, tuple) else inputs
        return self._predict(payload.Request(items, parameters, []))

    def answer(self, body: bytes, content_type: codecs.MediaType, accept: str) -> object:
        """The prediction for a request body."""
        media = codecs.content_type(content_type.name)._replace(parameters=content_type.parameters)
        return self._predict(self.service.read(body, media, accept))

    def _predict(self, request: payload.Request) -> object:
        return self.service.predict(request, getattr(self._here, "check", no_check)).value
