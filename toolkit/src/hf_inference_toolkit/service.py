"""What transport knows of a loaded model: three steps, and a request that shows it works."""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from hf_inference_toolkit import media, payload

Check = Callable[[], None]


class Prediction(NamedTuple):
    """A prediction and what there is to say about it. Tokens are counted where the task counts them."""

    value: Any
    is_truncated: bool = False
    items: int = 1
    tokens_in: int = 0
    tokens_out: int = 0


class Service:
    """A loaded model that answers requests. `read` and `write` may run in any thread, `predict` in one at a time."""

    # Whether Content-Type and Accept are ours to judge; user code may know types that we do not.
    negotiates = True

    def __init__(self, task: str, facts: Optional[Dict[str, str]] = None) -> None:
        self.task = task
        self.facts = dict(facts or {})

    def read(self, body: bytes, content_type: media.MediaType, accept: str) -> payload.Request:
        """A request from a body; RequestError for what is wrong with it."""
        return media.read(body, content_type)

    def predict(self, request: payload.Request, check: Check) -> Prediction:
        """The model's answer. Long predictions call `check` between their steps; it raises when nobody waits."""
        raise NotImplementedError

    def write(self, value: Any, accept: str) -> Tuple[bytes, str]:
        """The answer's body and its content type."""
        return media.write(value, accept), accept

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
