"""The interface between the OpenAI routes and a task that completes texts: values only."""

from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

from hf_inference_toolkit.annotations import JsonObject, Options
from hf_inference_toolkit.runtimes.grammar import Matcher


class Tools(NamedTuple):
    """The functions that a model may call. `choice` is none, auto, required, or the name of one function."""

    functions: Sequence[JsonObject] = ()
    choice: str = "auto"
    is_named: bool = False
    # Whether one answer may have several calls.
    is_parallel: bool = True
    # Whether arguments have to be valid for their schema even where no call is required.
    is_strict: bool = False

    @property
    def may_be_called(self) -> bool:
        """Whether the prompt has any function."""
        return bool(self.functions) and (self.is_named or self.choice != "none")

    @property
    def must_be_called(self) -> bool:
        """Whether the answer has to be a call."""
        return self.is_named or self.choice == "required"


NO_TOOLS = Tools()


class Conversation(NamedTuple):
    """A prompt as messages, formatted by the model's chat template."""

    messages: List[JsonObject]
    tools: Tools = NO_TOOLS


class Grammar(NamedTuple):
    """What the text must match: a JSON Schema (`json`), or a regular expression (`regex`)."""

    kind: str
    value: Union[str, JsonObject]


class Completion(NamedTuple):
    """Prompts to complete. It stands in `Request.inputs`.

    `options` are parameters by their names in text-generation-inference. `alternatives` is the number of other tokens
    that are reported with each token; None: no log probabilities at all.
    """

    # Each is a text, token ids, or a conversation.
    prompts: List[Union[str, List[int], Conversation]]
    options: Options
    # The most new tokens; None is the default of the task.
    max_tokens: Optional[int] = None
    default_tokens: int = 1024
    # Choices of each prompt, and how many of `best_of` texts they are chosen from.
    choices: int = 1
    best_of: int = 1
    seed: Optional[int] = None
    alternatives: Optional[int] = None
    is_echoed: bool = False
    grammar: Optional[Grammar] = None
    # Compiled by `Service.prepare`.
    matcher: Optional[Matcher] = None
    # The adapter that writes; None is the base model.
    adapter: Optional[str] = None


class ToolCall(NamedTuple):
    """A call of a function; `arguments` is JSON text."""

    number: str
    name: str
    arguments: str


class ScoredToken(NamedTuple):
    """A token of an answer with its bytes, and the most probable ones at its place."""

    text: str
    raw: bytes
    logprob: Optional[float]
    # How many characters it adds to the text.
    width: int
    top: Sequence[Tuple[str, bytes, float]] = ()


class Delta(NamedTuple):
    """What is new in a choice of a stream."""

    place: int
    text: str = ""
    calls: Sequence[ToolCall] = ()
    scored: Sequence[ScoredToken] = ()


class Choice(NamedTuple):
    """A finished choice. `finish_reason` is stop, length or tool_calls."""

    place: int
    text: str
    finish_reason: str
    calls: Sequence[ToolCall] = ()
    scored: Sequence[ScoredToken] = ()


class Completed(NamedTuple):
    """The answer to a Completion."""

    choices: List[Choice]
    prompt_tokens: int
    completion_tokens: int
