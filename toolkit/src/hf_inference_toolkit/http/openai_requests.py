"""Requests of OpenAI's API: each parameter has its effect, is accepted with a neutral value, or is refused by name."""

import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import JsonObject
from hf_inference_toolkit.content.payload import kind_of, unknown
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks import parameters
from hf_inference_toolkit.tasks.completion import Completion, Conversation, Grammar, Tools
from hf_inference_toolkit.tasks.parameters import Parameter

# New tokens where a request has no number: OpenAI's for completions, and ours for conversations.
COMPLETION_TOKENS = 16
CHAT_TOKENS = 1024


class Query(NamedTuple):
    """A request in OpenAI's form."""

    is_chat: bool
    model: str
    completion: Completion
    is_stream: bool
    has_usage: bool


MODEL = Parameter(
    "model",
    "string",
    "any name; the answer has the name of the model that is served. With adapters: the model or one of them",
)
COMMON = (
    MODEL,
    Parameter("max_tokens", "integer", "the most new tokens", 1, limits.NEW_TOKENS),
    Parameter("n", "integer", "how many choices a prompt gets", 1, limits.SEQUENCES),
    Parameter(
        "stop",
        "strings",
        "texts that end a choice; they are not part of it",
        longest=limits.STOP_CHARACTERS,
        most=limits.STOP_SEQUENCES,
    ),
    Parameter("seed", "integer", "equal seeds give equal texts"),
    Parameter("temperature", "number", "0 takes the most probable token; 1 by default", 0, 2),
    Parameter("top_p", "number", "choose among the tokens that make up this probability", 0, 1),
    Parameter("frequency_penalty", "number", "subtracted for each time that a token was written", -2, 2),
    Parameter("presence_penalty", "number", "subtracted for each token that was written", -2, 2),
    Parameter("logit_bias", "object", "added to the scores of tokens: numbers from -100 to 100 by token id"),
    Parameter("stream", "boolean", "answer with server-sent events"),
    Parameter("stream_options", "object", '{"include_usage": true} adds an event with the usage'),
    # Of other servers with this API.
    Parameter("top_k", "integer", "choose among so many tokens; 0 or -1 for all", -1, limits.TOP_K),
    Parameter("min_p", "number", "leave out tokens below this share of the best one's probability", 0, 1),
    Parameter("repetition_penalty", "number", "above 1 makes repetition less likely", 0, 10),
)
CHAT = (
    *COMMON,
    Parameter("messages", "list", "the conversation"),
    Parameter("max_completion_tokens", "integer", "the same as max_tokens", 1, limits.NEW_TOKENS),
    Parameter("logprobs", "boolean", "report the log probability of each token"),
    Parameter("top_logprobs", "integer", "with logprobs: and of so many others", 0, 20),
    Parameter("response_format", "object", "text, json_object or json_schema"),
    Parameter("tools", "list", "functions that the model may call"),
    Parameter("tool_choice", "string or object", "none, auto, required, or a function"),
    Parameter("parallel_tool_calls", "boolean", "whether one answer may have several calls"),
)
COMPLETION = (
    *COMMON,
    Parameter("prompt", "prompt", "a text, token ids, or a list of them"),
    Parameter("logprobs", "integer", "report log probabilities, and those of so many others", 0, 20),
    Parameter("echo", "boolean", "the prompt is part of the text"),
    Parameter("best_of", "integer", "choose from so many texts by mean probability", 1, limits.SEQUENCES),
)
ANY = object()
# Parameters that have no effect on the answer, with the values that are accepted beside null; ANY: every value.
ACCEPTED: Dict[str, Tuple[object, ...]] = {
    "user": (ANY,),
    "metadata": (ANY,),
    "safety_identifier": (ANY,),
    "prompt_cache_key": (ANY,),
    "prompt_cache_retention": (ANY,),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
ACCEPTED_CHAT: Dict[str, Tuple[object, ...]] = dict(
    ACCEPTED,
    modalities=(["text"],),
    verbosity=("medium",),
    audio=(),
    prediction=(),
    reasoning_effort=(),
    web_search_options=(),
    functions=(),
    function_call=(),
)
ACCEPTED_COMPLETION: Dict[str, Tuple[object, ...]] = dict(ACCEPTED, suffix=("",))
HINTS = {"functions": "use 'tools'", "function_call": "use 'tool_choice'"}
# Members of `function` in a tool.
FUNCTION_KEYS = ("name", "description", "parameters", "strict")


def form_of(document: object) -> Optional[str]:
    """`chat`, `completion` or `embeddings` for a body in OpenAI's form, by its keys; None for any other body."""
    if not isinstance(document, dict) or "inputs" in document or "instances" in document:
        return None
    if "messages" in document:
        return "chat"
    if "prompt" in document:
        return "completion"
    return "embeddings" if "input" in document else None


def schema(is_chat: bool) -> JsonObject:
    """JSON Schema of a request."""
    shapes: Dict[str, JsonObject] = {
        "list": {"type": "array", "items": {"type": "object"}, "minItems": 1},
        "object": {"type": "object"},
        "string or object": {"oneOf": [{"type": "string"}, {"type": "object"}]},
        "prompt": {"oneOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {}}]},
    }
    properties: JsonObject = {}
    for one in CHAT if is_chat else COMPLETION:
        if one.kind in shapes:
            properties[one.name] = dict(shapes[one.kind], description=one.about)
        else:
            properties.update(parameters.schema([one])["properties"])
    for name, values in (ACCEPTED_CHAT if is_chat else ACCEPTED_COMPLETION).items():
        limited = {} if ANY in values else {"enum": [*values, None]}
        properties[name] = dict(limited, description="no effect" if values else "not supported")
    return {
        "type": "object",
        "required": ["messages" if is_chat else "prompt"],
        "properties": properties,
        "additionalProperties": False,
    }


def read(document: object, is_chat: bool) -> Query:
    """The request in a JSON document. RequestError with the name of the parameter that is wrong."""
    if not isinstance(document, dict):
        raise RequestError("malformed", "the body must be a JSON object, not {}".format(kind_of(document)))
    given = checked(
        document, CHAT if is_chat else COMPLETION, ACCEPTED_CHAT if is_chat else ACCEPTED_COMPLETION
    )
    is_stream = bool(given.get("stream"))
    has_usage = _stream_options(given, is_stream)
    completion = _chat(given) if is_chat else _completion(given)
    seed = given.get("seed")
    completion = completion._replace(
        options=dict(completion.options, **_sampling(given)),
        choices=_integer(given, "n", 1),
        best_of=max(_integer(given, "best_of", 1), _integer(given, "n", 1)),
        seed=seed if isinstance(seed, int) else None,
    )
    if is_stream and completion.best_of > completion.choices:
        raise wrong("best_of", "'best_of' above 'n' does not work with 'stream'")
    return Query(is_chat, str(given.get("model", "")), completion, is_stream, has_usage)


def wrong(param: str, message: str) -> RequestError:
    """The error for a value that is not supported."""
    return RequestError("unsupported_value", message, param=param)


def checked(
    document: JsonObject, known: Sequence[Parameter], accepted: Dict[str, Tuple[object, ...]]
) -> JsonObject:
    """The parameters that have a value. RequestError for unknown ones, and for values that are not supported."""
    by_name = {one.name: one for one in known}
    given: JsonObject = {}
    for name, value in document.items():
        if value is None and (name in by_name or name in accepted):
            continue
        if name in by_name:
            _check(by_name[name], value)
            given[name] = value
        elif name not in accepted:
            raise wrong(name[:100], unknown("parameter", name, [*by_name, *accepted]))
        elif ANY not in accepted[name] and not _is_in(value, accepted[name]):
            _refuse(name, accepted[name])
    return given


def _refuse(name: str, accepted: Sequence[object]) -> None:
    values = [str(one).lower() if isinstance(one, bool) else repr(one) for one in accepted]
    hint = HINTS.get(name) or "leave it out, or send {}".format(" or ".join([*values, "null"]))
    raise wrong(name, "parameter '{}' is not supported: {}".format(name, hint))


def _is_in(value: object, accepted: Sequence[object]) -> bool:
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in accepted)


def _check(parameter: Parameter, value: object) -> None:
    kinds = {"list": list, "prompt": (str, list), "object": dict, "string or object": (str, dict)}
    kind = kinds.get(parameter.kind)
    if kind is None:
        try:
            parameters.check({parameter.name: value}, [parameter])
        except RequestError as error:
            error.param = parameter.name
            raise
    elif not isinstance(value, kind):  # type: ignore[arg-type]
        words = {"list": "a list", "prompt": "a string or a list", "object": "an object"}
        raise wrong(
            parameter.name,
            "parameter '{}' must be {}, not {}".format(
                parameter.name, words.get(parameter.kind, "a string or an object"), kind_of(value)
            ),
        )


def _integer(given: JsonObject, name: str, default: int) -> int:
    value = given.get(name)
    return value if isinstance(value, int) else default


def _stream_options(given: JsonObject, is_stream: bool) -> bool:
    options = given.get("stream_options")
    if not isinstance(options, dict):
        return False
    if not is_stream:
        raise wrong("stream_options", "'stream_options' is for requests with \"stream\": true")
    for key, value in options.items():
        if key not in ("include_usage", "include_obfuscation"):
            raise wrong(
                "stream_options",
                "stream_options: " + unknown("key", key, ("include_usage", "include_obfuscation")),
            )
        if not isinstance(value, (bool, type(None))) or (key == "include_obfuscation" and value):
            raise wrong("stream_options", "stream_options: '{}' does not support this value".format(key))
    return bool(options.get("include_usage"))


def _sampling(given: JsonObject) -> JsonObject:
    """Sampling parameters by the names of text-generation-inference."""
    names = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
    # transformers takes no integers for some of them.
    options: JsonObject = {name: float(given[name]) for name in names if name in given}
    if given.get("top_k"):
        top_k = _integer(given, "top_k", 0)
        options["top_k"] = max(top_k, 0)
    stop = given.get("stop")
    if stop is not None:
        options["stop"] = _stops(stop)
    if given.get("logit_bias"):
        options["logit_bias"] = _bias(given["logit_bias"])
    return options


def _stops(stop: object) -> List[str]:
    stops = [stop] if isinstance(stop, str) else list(stop)  # type: ignore[call-overload]
    if "" in stops:
        raise wrong("stop", "'stop' must not contain an empty string")
    return stops


def _bias(value: object) -> JsonObject:
    assert isinstance(value, dict)  # noqa: S101 (checked by its kind)
    if len(value) > limits.TOKEN_IDS:
        raise wrong(
            "logit_bias",
            "'logit_bias' has {} entries; at most {} are allowed".format(len(value), limits.TOKEN_IDS),
        )
    for number, amount in value.items():
        is_number = isinstance(amount, (int, float)) and not isinstance(amount, bool)
        if not re.match(r"[0-9]{1,9}\Z", number) or not is_number or abs(amount) > 100:
            raise wrong(
                "logit_bias", "'logit_bias' must have token ids as keys, and numbers from -100 to 100"
            )
    return value


def _completion(given: JsonObject) -> Completion:
    alternatives = given.get("logprobs")
    is_echoed = bool(given.get("echo"))
    if "prompt" not in given:
        raise wrong("prompt", "'prompt' is missing")
    if "best_of" in given and _integer(given, "best_of", 1) < _integer(given, "n", 1):
        raise wrong("best_of", "'best_of' must not be below 'n'")
    return Completion(
        _prompts(given["prompt"]),
        {},
        max_tokens=_integer(given, "max_tokens", 0) or None,
        default_tokens=COMPLETION_TOKENS,
        alternatives=alternatives if isinstance(alternatives, int) else None,
        is_echoed=is_echoed,
    )


def _prompts(prompt: object) -> List[Union[str, List[int], Conversation]]:
    """A text, token ids, or a list of either."""
    if isinstance(prompt, str):
        return [prompt]
    prompts: List[Union[str, List[int], Conversation]] = []
    several = [prompt] if _is_ids(prompt) else prompt
    for one in several if isinstance(several, list) else []:
        if not isinstance(one, str) and not _is_ids(one):
            raise wrong("prompt", "'prompt' must be a string, a list of token ids, or a list of them")
        prompts.append(one)
    if not prompts:
        raise wrong("prompt", "'prompt' is an empty list")
    return prompts


def _is_ids(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    )


def _chat(given: JsonObject) -> Completion:
    if "messages" not in given:
        raise wrong("messages", "'messages' is missing")
    most = _integer(given, "max_tokens", 0), _integer(given, "max_completion_tokens", 0)
    if all(most) and most[0] != most[1]:
        raise wrong("max_tokens", "'max_tokens' and 'max_completion_tokens' have different values")
    alternatives = _integer(given, "top_logprobs", 0)
    if "top_logprobs" in given and not given.get("logprobs"):
        raise wrong("top_logprobs", "'top_logprobs' needs \"logprobs\": true")
    tools = _tools(given)
    grammar = _grammar(given.get("response_format"))
    if grammar is not None and tools.may_be_called:
        raise wrong(
            "response_format",
            "'response_format' with a grammar does not work with 'tools': send tool_choice 'none', or no tools",
        )
    messages = given["messages"]
    assert isinstance(messages, list)  # noqa: S101 (checked by its kind)
    return Completion(
        [Conversation(messages, tools)],
        {},
        max_tokens=max(most) or None,
        default_tokens=CHAT_TOKENS,
        alternatives=alternatives if given.get("logprobs") else None,
        grammar=grammar,
    )


def _grammar(value: object) -> Optional[Grammar]:
    """The grammar that `response_format` requests, in OpenAI's form or in huggingface_hub's, which has `value`."""
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    if kind not in ("text", "json_object", "json_schema", "json", "regex"):
        raise wrong(
            "response_format",
            "response_format: 'type' must be text, json_object or json_schema (or json or regex, with 'value')",
        )
    members = {"json_schema": ("json_schema", "value"), "text": ()}.get(kind, ("value",))
    for key in value:
        if key != "type" and key not in members:
            raise wrong("response_format", "response_format: " + unknown("key", key, ("type", *members)))
    if kind == "text":
        return None
    if kind == "json_schema" and "json_schema" in value:
        return Grammar("json", _json_schema(value["json_schema"]))
    schema = value.get("value")
    if kind == "regex":
        if not isinstance(schema, str) or len(schema) > limits.SCHEMA_CHARACTERS:
            raise wrong("response_format", "response_format: 'value' must be a regular expression")
        return Grammar("regex", schema)
    if schema is None and kind == "json_object":
        return Grammar("json", {"type": "object"})
    return Grammar("json", _schema("response_format", schema))


def _json_schema(value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise wrong("response_format", "response_format: 'json_schema' must be an object")
    for key in value:
        if key not in ("name", "description", "schema", "strict"):
            names = ("name", "description", "schema", "strict")
            raise wrong("response_format", "response_format.json_schema: " + unknown("key", key, names))
    return _schema("response_format", value.get("schema"))


def _schema(param: str, value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise wrong(param, "{}: the JSON Schema must be an object, not {}".format(param, kind_of(value)))
    size = len(str(value))
    if size > limits.SCHEMA_CHARACTERS:
        raise wrong(
            param,
            "{}: the JSON Schema has {} characters; at most {} are allowed".format(
                param, size, limits.SCHEMA_CHARACTERS
            ),
        )
    return value


def _tools(given: JsonObject) -> Tools:
    tools = given.get("tools")
    functions = [_function(place, one) for place, one in enumerate(tools if isinstance(tools, list) else [])]
    if len(functions) > limits.TOOLS:
        raise wrong(
            "tools", "'tools' has {} functions; at most {} are allowed".format(len(functions), limits.TOOLS)
        )
    choice, is_named = _tool_choice(given.get("tool_choice"))
    names = [one["name"] for one in functions]
    if not functions and (is_named or choice == "required"):
        raise wrong("tool_choice", "'tool_choice' needs 'tools'")
    if is_named and choice not in names:
        raise wrong("tool_choice", "tool_choice: " + unknown("function", choice, map(str, names)))
    strict = [bool(one.pop("strict", False)) for one in functions]
    return Tools(functions, choice, is_named, given.get("parallel_tool_calls") is not False, any(strict))


def _function(place: int, tool: object) -> JsonObject:
    where = "tools[{}]".format(place)
    if not isinstance(tool, dict) or tool.get("type", "function") != "function":
        raise wrong("tools", '{} must be {{"type": "function", "function": ...}}'.format(where))
    function = tool.get("function")
    if not isinstance(function, dict):
        raise wrong("tools", "{}: 'function' must be an object, not {}".format(where, kind_of(function)))
    for key in function:
        if key not in FUNCTION_KEYS:
            raise wrong("tools", "{}: {}".format(where, unknown("key", key, FUNCTION_KEYS)))
    name = function.get("name")
    if not isinstance(name, str) or not re.match(r"[A-Za-z0-9_-]{1,64}\Z", name):
        raise wrong("tools", "{}: 'name' must have letters, digits, '_' and '-' only, up to 64".format(where))
    if function.get("parameters") is not None:
        _schema("tools", function["parameters"])
    return {key: value for key, value in function.items() if value is not None}


def _tool_choice(value: object) -> Tuple[str, bool]:
    """The choice, and whether it is the name of a function."""
    if value is None:
        return "auto", False
    if isinstance(value, str):
        if value in ("none", "auto", "required"):
            return value, False
        raise wrong("tool_choice", "'tool_choice' must be none, auto, required, or a function")
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise wrong(
            "tool_choice",
            '\'tool_choice\' must be {"type": "function", "function": {"name": ...}} for a function',
        )
    return name, True
