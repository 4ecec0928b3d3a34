"""Calls of functions in generated text, in the formats of Hermes and Qwen, Llama 3, and Mistral."""

import json
import os
import re
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Type, Union

from hf_inference_toolkit.annotations import JsonObject
from hf_inference_toolkit.content.payload import check_depth
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.grammar import WHITESPACE
from hf_inference_toolkit.tasks.completion import ToolCall, Tools

Found = List[Union[str, ToolCall]]
# From a marker to the id of its special token; None where the marker is text.
SpecialToken = Callable[[str], Optional[int]]
_DECODER = json.JSONDecoder(strict=False)


class Format(NamedTuple):
    """How a model writes calls: `before` (with the name in place of %s), the arguments in JSON, `after`."""

    name: str
    before: str
    after: str
    between: str
    # Around all calls.
    opening: str = ""
    closing: str = ""
    # Where calls may begin in a text; an empty string: at its start only.
    trigger: str = ""
    # Special tokens that are part of the text.
    markers: Sequence[str] = ()


HERMES = Format(
    "hermes",
    '<tool_call>\n{"name": "%s", "arguments": ',
    "}\n</tool_call>",
    "\n",
    trigger="<tool_call>",
    markers=("<tool_call>", "</tool_call>"),
)
LLAMA = Format("llama3", '{"name": "%s", "parameters": ', "}", "; ", markers=("<|python_tag|>",))
MISTRAL = Format(
    "mistral",
    '{"name": "%s", "arguments": ',
    "}",
    ", ",
    opening="[TOOL_CALLS][",
    closing="]",
    trigger="[TOOL_CALLS]",
    markers=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
)
# Since version 11 of Mistral's tokenizers.
MISTRAL_ARGS = MISTRAL._replace(
    before="[TOOL_CALLS]%s[ARGS]", after="", between="", opening="", closing="", name="mistral-args"
)


def format_of(template: str) -> Format:
    """The format in which a model writes calls, by the source of its chat template."""
    if "[TOOL_CALLS]" in template:
        return MISTRAL_ARGS if "[ARGS]" in template else MISTRAL
    if "<tool_call>" not in template and ("<|python_tag|>" in template or "ipython" in template):
        return LLAMA
    return HERMES


def parser(form: Format, tools: Tools) -> "CallParser":
    """The parser for one choice."""
    parsers: Dict[str, Type[CallParser]] = {
        HERMES.name: HermesParser,
        LLAMA.name: LlamaParser,
        MISTRAL.name: MistralParser,
        MISTRAL_ARGS.name: MistralParser,
    }
    return parsers[form.name](form, tools)


class CallParser:
    """Separates text from calls, while the text is generated. What may become a call is held back."""

    def __init__(self, form: Format, tools: Tools) -> None:
        self._form = form
        self._names = frozenset(str(one.get("name")) for one in tools.functions)
        self._is_parallel = tools.is_parallel
        self._held = ""
        self.has_called = False

    def feed(self, text: str) -> Found:
        """New text and calls."""
        raise NotImplementedError

    def close(self) -> Found:
        """What is left at the end of the text."""
        raise NotImplementedError

    def _calls(self, values: Sequence[object]) -> Optional[List[ToolCall]]:
        """Calls from JSON values; None unless all of them are calls."""
        calls = []
        for value in values:
            call = self._call(value)
            if call is None:
                return None
            calls.append(call)
        return calls or None

    def _call(self, value: object) -> Optional[ToolCall]:
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return None
        arguments: object = next((value[key] for key in ("arguments", "parameters") if key in value), {})
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        return ToolCall(self._new_id(), value["name"], arguments)

    def _new_id(self) -> str:
        # Mistral's templates take ids of nine characters only.
        if self._form.trigger == MISTRAL.trigger:
            return os.urandom(8).hex()[:9]
        return "call_" + os.urandom(12).hex()

    def _accept(self, calls: Sequence[ToolCall]) -> Found:
        """The calls, or the first one where only one is allowed."""
        if not self._is_parallel:
            calls = () if self.has_called else calls[:1]
        self.has_called = self.has_called or bool(calls)
        return list(calls)


class HermesParser(CallParser):
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, each call as soon as it is complete."""

    def __init__(self, form: Format, tools: Tools) -> None:
        super().__init__(form, tools)
        self._is_inside = False

    def feed(self, text: str) -> Found:
        """See CallParser."""
        self._held += text
        found: Found = []
        while True:
            mark = "</tool_call>" if self._is_inside else "<tool_call>"
            before, separator, after = self._held.partition(mark)
            if not separator:
                break
            found.extend(self._called(before, separator) if self._is_inside else self._text(before))
            self._is_inside = not self._is_inside
            self._held = after
        if not self._is_inside:
            keep = len(self._held) - held_back(self._held, "<tool_call>")
            found.extend(self._text(self._held[:keep]))
            self._held = self._held[keep:]
        return found

    def close(self) -> Found:
        """See CallParser."""
        held, self._held = self._held, ""
        if not self._is_inside:
            return self._text(held)
        # The end token may stand in place of the mark.
        self._is_inside = False
        return self._called(held, "")

    def _called(self, body: str, end: str) -> Found:
        calls = self._calls(values_in(body, ""))
        return self._accept(calls) if calls else ["<tool_call>" + body + end]

    def _text(self, text: str) -> Found:
        """Text beside calls; line breaks around them are part of the format."""
        if not text or (self.has_called and not text.strip()):
            return []
        return [text]


class EndParser(CallParser):
    """Calls that are recognized at the end of the text."""

    def close(self) -> Found:
        """See CallParser."""
        held, self._held = self._held, ""
        calls = self._parsed(held)
        if calls:
            return self._accept(calls)
        return [held] if held else []

    def _parsed(self, text: str) -> Optional[List[ToolCall]]:
        raise NotImplementedError


class LlamaParser(EndParser):
    """`{"name": ..., "parameters": {...}}` as the whole text, several separated by semicolons."""

    def __init__(self, form: Format, tools: Tools) -> None:
        super().__init__(form, tools)
        self._is_text = False

    def feed(self, text: str) -> Found:
        """See CallParser."""
        self._held += text
        start = self._held.lstrip()
        tag = "<|python_tag|>"
        if not self._is_text and (start.startswith(("{", tag)) or tag.startswith(start)):
            return []
        self._is_text = True
        held, self._held = self._held, ""
        return [held] if held else []

    def _parsed(self, text: str) -> Optional[List[ToolCall]]:
        text = text.replace("<|python_tag|>", "").strip()
        calls = self._calls(values_in(text, ";"))
        # An answer in JSON may look like a call.
        return calls if calls and all(call.name in self._names for call in calls) else None


class MistralParser(EndParser):
    """`[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, or `[TOOL_CALLS]name[ARGS]{...}`."""

    def feed(self, text: str) -> Found:
        """See CallParser."""
        self._held += text
        mark = "[TOOL_CALLS]"
        start = self._held.find(mark)
        keep = start if start >= 0 else len(self._held) - held_back(self._held, mark)
        out, self._held = self._held[:keep], self._held[keep:]
        return [out] if out else []

    def _parsed(self, text: str) -> Optional[List[ToolCall]]:
        calls: List[ToolCall] = []
        for part in text.split("[TOOL_CALLS]"):
            if not part.strip():
                continue
            found = self._named(part) if part.lstrip()[:1] not in ("[", "{") else self._listed(part)
            if not found:
                return None
            calls.extend(found)
        return calls or None

    def _named(self, part: str) -> Optional[List[ToolCall]]:
        match = re.match(r"\s*([\w-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(?=\{)", part)
        values = values_in(part[match.end() :], "") if match else []
        return self._calls([{"name": match.group(1), "arguments": values[0]}]) if match and values else None

    def _listed(self, part: str) -> Optional[List[ToolCall]]:
        values = values_in(part.strip(), "")
        first = values[0] if values else None
        return self._calls(first if isinstance(first, list) else values)


def values_in(text: str, separator: str) -> List[object]:
    """The JSON values in a text that has nothing else; an empty list if it has, or if they are nested too deeply."""
    values: List[object] = []
    place = 0
    text = text.strip()
    try:
        check_depth(text)
    except RequestError:
        return []
    while place < len(text):
        try:
            value, place = _DECODER.raw_decode(text, place)
        except ValueError:
            return []
        values.append(value)
        while place < len(text) and (text[place].isspace() or (separator and text[place] == separator)):
            place += 1
    return values


def held_back(text: str, mark: str) -> int:
    """How many characters at the end of a text may be the beginning of a mark."""
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:size]):
            return size
    return 0


def grammar(form: Format, tools: Tools, token: SpecialToken) -> str:
    """A Lark grammar of llguidance: calls where they are required, otherwise text, calls, or text and then calls."""
    functions = [one for one in tools.functions if not tools.is_named or one.get("name") == tools.choice]
    lines = _calls("call", functions, "", form, token)
    for place, function in enumerate(functions):
        lines.append("arguments_{}: %json {}".format(place, json.dumps(schema_of(function))))
    more = "({} call)*".format(" ".join(literal(form.between, form, token))) if tools.is_parallel else ""
    end = " ".join([more, *literal(form.closing, form, token)])
    calls = "{} call {}".format(" ".join(literal(form.opening, form, token)), end)
    if tools.must_be_called:
        return "\n".join(["start: " + calls, *lines])
    if not form.trigger:
        return "\n".join(["start: TEXT | calls", "calls: " + calls, "TEXT: /(\\s*[^\\s{](.|\\n)*)?/", *lines])
    # The first trigger ends the text, and the first call goes on behind it.
    number = token(form.trigger)
    head = "head[lazy]: TEXT " + json.dumps(form.trigger)
    if number is not None:
        head = "head: TEXT <[{}]>".format(number)
    lines.extend(_calls("first", functions, form.trigger, form, token))
    return "\n".join(["start: TEXT | head first " + end, head, "TEXT: /(.|\\n)*/", *lines])


def _calls(
    rule: str, functions: Sequence[JsonObject], written: str, form: Format, token: SpecialToken
) -> List[str]:
    """A rule with an alternative for each function. `written` is the part of the first call that stands already."""
    lines = [
        "{}: {}".format(rule, " | ".join("{}_{}".format(rule, place) for place in range(len(functions))))
    ]
    for place, function in enumerate(functions):
        before = form.before % function["name"]
        if written:
            before = (form.opening + before)[len(written) :]
        words = [*literal(before, form, token), "arguments_{}".format(place)]
        words.extend(literal(form.after, form, token))
        lines.append("{}_{}: {}".format(rule, place, " ".join(words)))
    return lines


def schema_of(function: JsonObject) -> JsonObject:
    """The schema of a function's arguments, with llguidance's option for what may be between its parts."""
    given = function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}
    assert isinstance(given, dict)  # noqa: S101 (checked when the request was read)
    return dict(given, **{"x-guidance": {"whitespace_pattern": WHITESPACE}})


def literal(text: str, form: Format, token: SpecialToken) -> List[str]:
    """A text as terminals of Lark; markers that are special tokens are referred to by their ids."""
    words = []
    pattern = "|".join(re.escape(mark) for mark in form.markers)
    for part in re.split("({})".format(pattern), text):
        number = token(part) if part in form.markers else None
        if number is not None:
            words.append("<[{}]>".format(number))
        elif part:
            words.append(json.dumps(part))
    return words
