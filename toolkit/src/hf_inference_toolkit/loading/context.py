"""The optional last argument of user code, with the methods of multi-model-server's Context.

https://github.com/awslabs/multi-model-server/blob/master/mms/context.py
"""

from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from hf_inference_toolkit.annotations import JsonObject


class RequestProcessor:
    """One request's headers, and the status and headers of its response."""

    def __init__(self, headers: Mapping[str, str], request_id: str = "") -> None:
        self._request = {name.lower(): value for name, value in headers.items()}
        self._status = 200
        self._phrase: Optional[str] = None
        self._response: Dict[str, str] = {}
        self.request_id = request_id

    def get_request_property(self, key: str) -> Optional[str]:
        """A request header; its name may be written in any case."""
        return self._request.get(key.lower())

    def get_request_properties(self) -> Dict[str, str]:
        """All request headers, as `X-Amzn-SageMaker-Custom-Attributes` and `Content-Type` are written."""
        return {_written_name(name): value for name, value in self._request.items()}

    def add_response_property(self, key: str, value: object) -> None:
        """Add a response header. ValueError for what a header cannot hold, such as line breaks."""
        text = str(value)
        (key + text).encode("latin-1")
        if any(character in key + text for character in "\r\n\0"):
            raise ValueError("a response header cannot hold a line break: {!r}: {!r}".format(key, text))
        self._response[key] = text

    def get_response_headers(self) -> Dict[str, str]:
        """The response headers that user code has set."""
        return dict(self._response)

    def get_response_header(self, key: str) -> Optional[str]:
        """A response header that user code has set."""
        return {name.lower(): value for name, value in self._response.items()}.get(key.lower())

    def report_status(self, code: int, reason_phrase: Optional[str] = None) -> None:
        """Set the response's status, 200 to 599. The phrase is kept for `get_response_status_phrase` only."""
        if not isinstance(code, int) or not 200 <= code <= 599:
            raise ValueError("the status of a response must be from 200 to 599, not {!r}".format(code))
        self._status, self._phrase = code, reason_phrase

    def get_response_status_code(self) -> int:
        """The response's status."""
        return self._status

    def get_response_status_phrase(self) -> Optional[str]:
        """The phrase given with the status; HTTP clients do not rely on phrases, and it is not sent."""
        return self._phrase


def _written_name(name: str) -> str:
    words = {"amzn": "Amzn", "sagemaker": "SageMaker", "id": "Id"}
    return "-".join(words.get(word, word.capitalize()) for word in name.split("-"))


class Context:
    """Given to `model_fn` without a request, and to every other function with the requests it is called for.

    The index `idx` is 0 except in batched user code, where it counts the batch's inputs.
    """

    def __init__(
        self,
        model_dir: str,
        gpu_id: Optional[int],
        manifest: JsonObject,
        requests: Sequence[RequestProcessor] = (),
    ) -> None:
        self.model_name = str(manifest.get("model", {}).get("modelName", "model"))
        self.manifest = manifest
        self.system_properties: JsonObject = {
            "model_dir": model_dir,
            "gpu_id": gpu_id,
            "batch_size": max(1, len(requests)),
            "server_name": "hf-inference-toolkit",
            "server_version": "1",
        }
        self.request_processor: List[RequestProcessor] = list(requests)

    def for_requests(self, requests: Sequence[RequestProcessor]) -> "Context":
        """The context of a call for these requests."""
        properties = self.system_properties
        return Context(properties["model_dir"], properties["gpu_id"], dict(self.manifest), requests)

    @property
    def request_ids(self) -> Dict[int, str]:
        """The ids of the requests, as in the log, by index."""
        return {idx: one.request_id for idx, one in enumerate(self.request_processor)}

    def get_request_id(self, idx: int = 0) -> Optional[str]:
        """The id of a request."""
        return self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Optional[str]:
        """A header of a request; None if the client did not send it."""
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> Dict[str, str]:
        """All headers of a request."""
        return self.request_processor[idx].get_request_properties()

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the Content-Type of a response."""
        self.request_processor[idx].add_response_property("Content-Type", value)

    def get_response_content_type(self, idx: int) -> Optional[str]:
        """The Content-Type that user code has set."""
        return self.request_processor[idx].get_response_header("Content-Type")

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the status of a response. The index comes last, as in multi-model-server."""
        self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Set the status of every response."""
        for one in self.request_processor:
            one.report_status(code, phrase)

    def get_response_status(self, idx: int) -> Tuple[int, Optional[str]]:
        """The status and the phrase of a response."""
        one = self.request_processor[idx]
        return one.get_response_status_code(), one.get_response_status_phrase()

    def set_response_header(self, idx: int, key: str, value: object) -> None:
        """Add a header to a response, such as X-Amzn-SageMaker-Custom-Attributes."""
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> Dict[str, str]:
        """The headers that user code has set."""
        return self.request_processor[idx].get_response_headers()
