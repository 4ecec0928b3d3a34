"""Conversations: messages as clients send them, and as chat templates take them."""

import inspect
import json
import re
from typing import TYPE_CHECKING, Callable, List, Mapping, Optional, Sequence, Union

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import JsonObject, Parameters
from hf_inference_toolkit.content.payload import check_depth, kind_of, unknown
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks.completion import NO_TOOLS, Tools
from hf_inference_toolkit.tasks.tool_calls import format_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")
# OpenAI's client sends these back with an answer; they are accepted where they hold nothing.
EMPTY_KEYS = ("annotations", "audio", "function_call", "refusal")
# Digits of an integer in the arguments of a tool call.
MOST_DIGITS = 4300
Message = JsonObject


def is_message(value: object) -> bool:
    """Whether a value is meant to be a message; `check` says what is wrong with it."""
    return isinstance(value, dict) and ("role" in value or "content" in value)


def check(messages: Sequence[object]) -> None:
    """RequestError unless each is a message with text as its content."""
    if len(messages) > limits.MESSAGES:
        raise _wrong(
            "{} messages are too many; at most {} are allowed".format(len(messages), limits.MESSAGES)
        )
    for place, message in enumerate(messages):
        where = "messages[{}]".format(place)
        if not isinstance(message, dict):
            raise _wrong("{} must be an object, not {}".format(where, kind_of(message)))
        for key in message:
            _check_key(where, key, message[key])
        if message.get("role") is None:
            raise _wrong('{}: "role" is missing'.format(where))
        _check_tool_calls(where, message)
        _check_content(where, message)


def _check_key(where: str, key: str, value: object) -> None:
    if key in EMPTY_KEYS:
        if value:
            raise _wrong('{}: "{}" is not supported: leave it out, or send null'.format(where, key))
    elif key not in KEYS:
        raise _wrong("{}: {}".format(where, unknown("key", key, KEYS)))
    elif key in ("role", "name", "tool_call_id") and not isinstance(value, (str, type(None))):
        raise _wrong('{}: "{}" must be a string, not {}'.format(where, key, kind_of(value)))


def _check_tool_calls(where: str, message: Message) -> None:
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise _wrong('{}: "tool_calls" must be a list of objects'.format(where))


def _check_content(where: str, message: Message) -> None:
    content = message.get("content")
    if isinstance(content, str) or (content is None and "tool_calls" in message):
        return
    if isinstance(content, list) and content:
        wrong = next((part for part in content if not _is_text(part)), None)
        if wrong is None:
            return
        kind = wrong.get("type") if isinstance(wrong, dict) else None
        raise _wrong(
            '{}: "content" takes text only: a string, or a list of {{"type": "text", "text": ...}}{}'.format(
                where, ", not parts of type '{}'".format(str(kind)[:50]) if kind not in (None, "text") else ""
            )
        )
    raise _wrong('{}: "content" must be a string, not {}'.format(where, kind_of(content)))


def _is_text(part: object) -> bool:
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
    """The chat template of a tokenizer or a processor."""

    def __init__(self, tokenizer: Union["PreTrainedTokenizerBase", "ProcessorMixin"]) -> None:
        self._tokenizer = tokenizer
        self.exists = getattr(tokenizer, "chat_template", None) is not None
        apply: Callable[..., object] = getattr(tokenizer, "apply_chat_template", lambda: "")
        takes = inspect.signature(apply).parameters
        self._can_continue = "continue_final_message" in takes
        self._source = _source(getattr(tokenizer, "chat_template", None))
        self.takes_tools = "tools" in takes and re.search(r"\btools\b", self._source) is not None
        self.call_format = format_of(self._source)
        self.takes_parts = self.exists and self._does_take_parts()

    def _does_take_parts(self) -> bool:
        """Whether content may be a list of parts; a template for strings writes the list as Python does."""
        word = "example"
        try:
            text = self._apply([{"role": "user", "content": [{"type": "text", "text": word}]}])
        except Exception:  # templates raise what they like
            return False
        return word in text and "'type'" not in text and '"type"' not in text

    def _apply(self, messages: List[Message], **how: object) -> str:
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **how))

    def continues(self, messages: List[Message], option: Optional[bool]) -> bool:
        """Whether the last message is continued. By default the assistant's is, as in transformers' pipeline."""
        if option and not self._can_continue:
            raise RequestError(
                "unprocessable", "the installed transformers does not support continue_final_message"
            )
        return self._can_continue and messages[-1]["role"] == "assistant" if option is None else option

    def check(self, messages: Sequence[object], tools: Tools) -> None:
        """RequestError for messages and tools with which the template cannot be rendered."""
        if not self.exists:
            raise RequestError(
                "unprocessable",
                "the model has no chat template: send a text to /v1/completions",
                param="messages",
            )
        if not messages:
            raise RequestError(
                "unsupported_value", "'messages' must have at least one message", param="messages"
            )
        try:
            check(messages)
        except RequestError as error:
            error.param = "messages"
            raise
        if tools.may_be_called and not self.takes_tools:
            raise RequestError(
                "unprocessable",
                "the model's chat template takes no tools: leave 'tools' out, or send tool_choice 'none'",
                param="tools",
            )

    def render(self, messages: List[Message], is_continued: bool, tools: Tools = NO_TOOLS) -> str:
        """The prompt of a conversation; RequestError 422 with the template's own words where it refuses it."""
        how: Parameters = {"add_generation_prompt": not is_continued}
        if is_continued:
            how["continue_final_message"] = True
        if tools.may_be_called:
            how["tools"] = [{"type": "function", "function": one} for one in tools.functions]
        prepared = [self._prepared(message) for message in messages]
        try:
            text = self._apply(prepared, **how)
        except Exception as problem:  # templates raise what they like
            raise RequestError(
                "unprocessable",
                "the model's chat template refuses these messages: {}".format(str(problem)[:300]),
                param="messages",
            ) from None
        for message in prepared:
            self._check_role(message, text)
        return text

    def _check_role(self, message: Message, text: str) -> None:
        """RequestError for a message that the template leaves out because it does not know the role."""
        role, content = message["role"], message["content"]
        if re.search("[\"']{}[\"']".format(re.escape(role)), self._source):
            return
        parts = [part["text"] for part in content] if isinstance(content, list) else [content]
        if not all(part.strip() in text for part in parts):
            raise RequestError(
                "unprocessable",
                "the model's chat template does not know the role '{}'".format(role[:100]),
                param="messages",
            )

    def _prepared(self, message: Message) -> Message:
        """A message as the template takes it."""
        message = {key: value for key, value in message.items() if key in KEYS and value is not None}
        if message["role"] == "developer" and "developer" not in self._source:
            message["role"] = "system"
        if "tool_calls" in message:
            message["tool_calls"] = [_with_object(call) for call in message["tool_calls"]]
        # A message may have tool calls instead. Templates test for text, and would write "None".
        content = message.setdefault("content", "")
        if isinstance(content, list) and not self.takes_parts:
            message["content"] = "".join(part["text"] for part in content)
        return message


def _source(template: object) -> str:
    """The source of a chat template, or of several by name."""
    if isinstance(template, Mapping):
        return "\n".join(map(str, template.values()))
    return str(template or "")


def _with_object(call: Message) -> Message:
    """A tool call with its arguments as an object, which templates take; OpenAI's clients send JSON text.

    Arguments that are not JSON, or that no template can write, stay text.
    """
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        check_depth(function["arguments"])
        arguments = json.loads(function["arguments"], parse_int=_integer)
        json.dumps(arguments, ensure_ascii=False).encode("utf-8")  # an error for lone surrogates
    except (RequestError, ValueError):
        return call
    return dict(call, function=dict(function, arguments=arguments)) if isinstance(arguments, dict) else call


def _integer(digits: str) -> int:
    """Parse an integer with the limit of Python 3.11: before, `int` takes quadratic time."""
    if len(digits) > MOST_DIGITS:
        raise ValueError("an integer has too many digits")
    return int(digits)
