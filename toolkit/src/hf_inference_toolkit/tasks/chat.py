"""Conversations: messages as clients send them, and as chat templates take them."""

import inspect
from typing import Any, Callable, Dict, List, Optional

from hf_inference_toolkit.content.payload import kind_of, unknown
from hf_inference_toolkit.errors import RequestError

KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")
Message = Dict[str, Any]


def is_message(value: Any) -> bool:
    """Whether a value is meant to be a message; `check` says what is wrong with it."""
    return isinstance(value, dict) and ("role" in value or "content" in value)


def check(messages: List[Any]) -> None:
    """RequestError unless each is a message with text as its content."""
    for place, message in enumerate(messages):
        where = "messages[{}]".format(place)
        if not isinstance(message, dict):
            raise _wrong("{} must be an object, not {}".format(where, kind_of(message)))
        for key in message:
            if key not in KEYS:
                raise _wrong("{}: {}".format(where, unknown("key", key, KEYS)))
        for key in ("role", "name", "tool_call_id"):
            if not isinstance(message.get(key, ""), str):
                raise _wrong('{}: "{}" must be a string, not {}'.format(where, key, kind_of(message[key])))
        if "role" not in message:
            raise _wrong('{}: "role" is missing'.format(where))
        _check_tool_calls(where, message)
        _check_content(where, message)


def _check_tool_calls(where: str, message: Message) -> None:
    calls = message.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise _wrong('{}: "tool_calls" must be a list of objects'.format(where))


def _check_content(where: str, message: Message) -> None:
    content = message.get("content")
    if isinstance(content, str) or (content is None and "tool_calls" in message):
        return
    if isinstance(content, list) and content and all(map(_is_text, content)):
        return
    if isinstance(content, list) and content:
        raise _wrong(
            '{}: "content" takes text only: a string, or a list of {{"type": "text", "text": ...}}'.format(
                where
            )
        )
    raise _wrong('{}: "content" must be a string, not {}'.format(where, kind_of(content)))


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and set(part) == {"type", "text"}
        and part["type"] == "text"
        and isinstance(part["text"], str)
    )


def _wrong(message: str) -> RequestError:
    return RequestError("unsupported_value", message)


def continued(messages: List[Message], text: str) -> List[Message]:
    """The conversation with more text at the end of its last message."""
    last = messages[-1]
    content = last.get("content") or ""
    if isinstance(content, list):
        content = [*content[:-1], dict(content[-1], text=content[-1]["text"] + text)]
    else:
        content += text
    return [*messages[:-1], dict(last, content=content)]


class ChatTemplate:
    """The tokenizer's chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.exists = getattr(tokenizer, "chat_template", None) is not None
        apply: Callable[..., Any] = getattr(tokenizer, "apply_chat_template", lambda: "")
        self._can_continue = "continue_final_message" in inspect.signature(apply).parameters
        self._takes_parts = self.exists and self._does_take_parts()

    def _does_take_parts(self) -> bool:
        """Whether content may be a list of parts; a template for strings writes the list as Python does."""
        word = "example"
        try:
            text = self._apply([{"role": "user", "content": [{"type": "text", "text": word}]}])
        except Exception:  # templates raise what they like
            return False
        return word in text and "'type'" not in text and '"type"' not in text

    def _apply(self, messages: List[Message], **how: Any) -> str:
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **how))

    def continues(self, messages: List[Message], option: Optional[bool]) -> bool:
        """Whether the last message is continued. By default the assistant's is, as in transformers' pipeline."""
        if option and not self._can_continue:
            raise RequestError(
                "unprocessable", "the installed transformers does not support continue_final_message"
            )
        return self._can_continue and messages[-1]["role"] == "assistant" if option is None else option

    def render(self, messages: List[Message], is_continued: bool) -> str:
        """The prompt of a conversation; RequestError 422 with the template's own words where it refuses it."""
        how: Dict[str, Any] = {"add_generation_prompt": not is_continued}
        if is_continued:
            how["continue_final_message"] = True
        try:
            return self._apply([self._prepared(message) for message in messages], **how)
        except Exception as problem:  # templates raise what they like
            raise RequestError(
                "unprocessable",
                "the model's chat template refuses these messages: {}".format(str(problem)[:300]),
            ) from None

    def _prepared(self, message: Message) -> Message:
        """A message as the template takes it."""
        content = message.get("content")
        if content is None:
            # It has tool calls instead. Templates test for text, and would write "None".
            return dict(message, content="")
        if isinstance(content, list) and not self._takes_parts:
            return dict(message, content="".join(part["text"] for part in content))
        return message
