"""Answers of OpenAI's API, whole and as events."""

import os
import time
from typing import Dict, List, NamedTuple, Optional, Sequence

from hf_inference_toolkit import __version__
from hf_inference_toolkit.annotations import JsonObject
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.http.events import EventWriter, event
from hf_inference_toolkit.http.openai_requests import Query
from hf_inference_toolkit.tasks.completion import (
    Choice,
    Completed,
    Delta,
    ScoredToken,
    ToolCall,
)
from hf_inference_toolkit.tasks.service import Prediction

DONE = b"data: [DONE]\n\n"


class Head(NamedTuple):
    """What all parts of an answer have in common."""

    number: str
    created: int
    model: str
    is_chat: bool

    def document(self, is_chunk: bool) -> JsonObject:
        """An answer without choices."""
        kind = "chat.completion" + (".chunk" if is_chunk else "") if self.is_chat else "text_completion"
        return {
            "id": self.number,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "hf-inference-toolkit-" + __version__,
        }


def head(query: Query, model: str) -> Head:
    """The head of the answer to a request."""
    prefix = "chatcmpl-" if query.is_chat else "cmpl-"
    return Head(prefix + os.urandom(12).hex(), int(time.time()), model, query.is_chat)


def error_document(error: RequestError) -> JsonObject:
    """An error in OpenAI's form."""
    return {
        "error": {
            "message": error.message,
            "type": "server_error" if error.status >= 500 else "invalid_request_error",
            "param": error.param,
            "code": error.code,
        }
    }


def whole(query: Query, model: str, completed: Completed) -> JsonObject:
    """The answer to a request that does not stream."""
    described = _message_of if query.is_chat else _text_of
    has_scores = query.completion.alternatives is not None
    choices = [described(choice, has_scores) for choice in completed.choices]
    return dict(head(query, model).document(False), choices=choices, usage=_usage(completed))


def _usage(completed: Completed) -> JsonObject:
    return {
        "prompt_tokens": completed.prompt_tokens,
        "completion_tokens": completed.completion_tokens,
        "total_tokens": completed.prompt_tokens + completed.completion_tokens,
    }


def _message_of(choice: Choice, has_scores: bool) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.calls:
        message["content"] = choice.text if choice.text.strip() else None
        message["tool_calls"] = [_call(call) for call in choice.calls]
    return {
        "index": choice.place,
        "message": message,
        "logprobs": _chat_scores(choice.scored) if has_scores else None,
        "finish_reason": choice.finish_reason,
    }


def _text_of(choice: Choice, has_scores: bool) -> JsonObject:
    return {
        "index": choice.place,
        "text": choice.text,
        "logprobs": _text_scores(choice.scored, 0) if has_scores else None,
        "finish_reason": choice.finish_reason,
    }


def _call(call: ToolCall) -> JsonObject:
    return {
        "id": call.number,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _chat_scores(scored: Sequence[ScoredToken]) -> JsonObject:
    content = []
    for one in scored:
        described = _score(one.text, one.raw, one.logprob)
        described["top_logprobs"] = [_score(text, raw, logprob) for text, raw, logprob in one.top]
        content.append(described)
    return {"content": content, "refusal": None}


def _score(text: str, raw: bytes, logprob: Optional[float]) -> JsonObject:
    return {"token": text, "logprob": logprob, "bytes": list(raw)}


def _text_scores(scored: Sequence[ScoredToken], start: int) -> JsonObject:
    """Log probabilities in the form of completions; `start` is the offset of the first token in the text."""
    offsets = []
    for one in scored:
        offsets.append(start)
        start += one.width
    return {
        "tokens": [one.text for one in scored],
        "token_logprobs": [one.logprob for one in scored],
        "top_logprobs": [
            None if one.logprob is None else {text: logprob for text, _, logprob in one.top} for one in scored
        ],
        "text_offset": offsets,
    }


class Chunks(EventWriter):
    """The events of one request: a chunk for each delta, then the reasons for the ends, the usage, and [DONE]."""

    def __init__(self, query: Query, model: str) -> None:
        self._query = query
        self._head = head(query, model).document(True)
        if query.has_usage:
            self._head["usage"] = None
        self._has_scores = query.completion.alternatives is not None
        # By choice: whether it has begun, its calls and the length of its text.
        self._begun: Dict[int, bool] = {}
        self._calls: Dict[int, int] = {}
        self._lengths: Dict[int, int] = {}

    def token(self, token: object) -> bytes:
        """See EventWriter."""
        assert isinstance(token, Delta)  # noqa: S101 (of a completion)
        choice = self._chat(token) if self._query.is_chat else self._text(token)
        return self._chunk([choice]) if choice else b""

    def _chunk(self, choices: List[JsonObject]) -> bytes:
        return event(dict(self._head, choices=choices))

    def _chat(self, delta: Delta) -> Optional[JsonObject]:
        value: JsonObject = {}
        if not self._begun.get(delta.place):
            self._begun[delta.place] = True
            value = {"role": "assistant", "content": ""}
        if delta.text:
            value["content"] = delta.text
        if delta.calls:
            first = self._calls.get(delta.place, 0)
            self._calls[delta.place] = first + len(delta.calls)
            value["tool_calls"] = [
                dict(_call(call), index=place) for place, call in enumerate(delta.calls, first)
            ]
        if not value and not delta.scored:
            return None
        scores = _chat_scores(delta.scored) if self._has_scores and delta.scored else None
        return {"index": delta.place, "delta": value, "logprobs": scores, "finish_reason": None}

    def _text(self, delta: Delta) -> Optional[JsonObject]:
        if not delta.text and not delta.scored:
            return None
        start = self._lengths.get(delta.place, 0)
        self._lengths[delta.place] = start + len(delta.text)
        scores = _text_scores(delta.scored, start) if self._has_scores and delta.scored else None
        return {"index": delta.place, "text": delta.text, "logprobs": scores, "finish_reason": None}

    def end(self, prediction: Prediction) -> bytes:
        """See EventWriter."""
        completed: Completed = prediction.value
        out = [self._chunk([self._last(choice)]) for choice in completed.choices]
        if self._query.has_usage:
            out.append(event(dict(self._head, choices=[], usage=_usage(completed))))
        return b"".join([*out, DONE])

    def _last(self, choice: Choice) -> JsonObject:
        empty: JsonObject = {"delta": {}} if self._query.is_chat else {"text": ""}
        return dict(empty, index=choice.place, logprobs=None, finish_reason=choice.finish_reason)

    def error(self, error: RequestError) -> bytes:
        """See EventWriter."""
        return event(error_document(error)) + DONE
