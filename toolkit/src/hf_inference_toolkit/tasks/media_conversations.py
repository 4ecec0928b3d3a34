"""image-text-to-text and any-to-any: requests in the pipeline's form, and conversations in OpenAI's form."""

import itertools
from typing import TYPE_CHECKING, Dict, List, Sequence, Tuple

from hf_inference_toolkit.annotations import JsonObject, Options, Output
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import MediaTokens, Runtime, Tokens, can_generate
from hf_inference_toolkit.tasks.chat import ChatTemplate
from hf_inference_toolkit.tasks.completion import Completion, Conversation, Tools
from hf_inference_toolkit.tasks.completion_steps import Completer
from hf_inference_toolkit.tasks.media import Decoder
from hf_inference_toolkit.tasks.pipeline_inputs import Reader, messages
from hf_inference_toolkit.tasks.pipeline_task import PipelineTask, sampling_rate, tokens
from hf_inference_toolkit.tasks.service import BatchRow, Check, Steps
from hf_inference_toolkit.tasks.service import Reader as TokenReader
from hf_inference_toolkit.tasks.task_name import TaskName

if TYPE_CHECKING:
    import transformers

# Keys of OpenAI's messages that these models do not get: a name, and others that must hold nothing.
IGNORED = ("name", "annotations", "audio", "function_call", "refusal", "tool_calls")


class MediaTemplate(ChatTemplate):
    """The chat template of a processor. Messages are decoded when their conversation is encoded."""

    def check(self, messages: Sequence[object], tools: Tools) -> None:
        """See ChatTemplate."""
        if tools.may_be_called:
            raise RequestError(
                "unprocessable", "tools do not work with models of images and audio", param="tools"
            )
        for place, message in enumerate(messages):
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise _wrong('messages[{}] must be an object with "role" and "content"'.format(place))
            for name in IGNORED:
                if name != "name" and message.get(name):
                    raise _wrong('messages[{}]: "{}" is not supported'.format(place, name))


class MediaCompleter(Completer):
    """Continues conversations with images and audio. Each one has a batch of its own."""

    pipeline = "ImageTextToTextPipeline"

    def __init__(
        self, task: TaskName, runtime: Runtime, pipeline: "transformers.Pipeline", facts: Dict[str, str]
    ) -> None:
        super().__init__(task, runtime, pipeline.tokenizer, facts, MediaTemplate(pipeline.processor))
        self._processor = pipeline.processor
        self._rate = sampling_rate(pipeline)
        self.limit = self.context_tokens = tokens(pipeline)
        self._numbers = itertools.count()

    def prepare(self, completion: Completion) -> Request:
        """See Service."""
        if not isinstance(completion.prompts[0], Conversation):
            raise RequestError(
                "unprocessable",
                "{} takes conversations: send 'messages' to /v1/chat/completions".format(self.task),
                param="prompt",
            )
        return super().prepare(completion)

    def encode_conversation(self, conversation: Conversation) -> Tokens:
        """See Completer."""
        try:
            given: List[object] = [_without_ignored(one) for one in conversation.messages]
            read = messages(given, Reader(Decoder(self._rate)))
        except RequestError as error:
            error.param = "messages"
            raise
        self._check_media(read)
        try:
            encoding = self._processor.apply_chat_template(
                [dict(one, content=self._content(one["content"])) for one in read],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        except Exception as problem:  # templates and processors raise what they like
            raise RequestError(
                "unprocessable",
                "the model's processor refuses these messages: {}".format(str(problem)[:300]),
                param="messages",
            ) from None
        # Pixels and samples are in float32 then, and the model in its own precision.
        tensors = dict(encoding.to(dtype=self.runtime.model.dtype))
        row = MediaTokens(
            (name, tensors.pop(name)[0].tolist())
            for name in ("input_ids", "attention_mask")
            if name in tensors
        )
        row.media = tensors
        return row

    def _check_media(self, read: List[JsonObject]) -> None:
        """RequestError for media that the model does not take: a template would leave them out."""
        contents = [one["content"] for one in read if isinstance(one["content"], list)]
        kinds = {part["type"] for content in contents for part in content}
        for kind, owner in (("image", "image_processor"), ("audio", "feature_extractor")):
            if kind in kinds and getattr(self._processor, owner, None) is None:
                raise RequestError(
                    "unprocessable", "the model takes no parts of type '{}'".format(kind), param="messages"
                )

    def _content(self, content: object) -> object:
        """The content of a message as parts, if the template takes them."""
        if isinstance(content, str) and self.template.takes_parts:
            return [{"type": "text", "text": content}]
        return content

    def piece(self, row: Tokens, options: Options) -> BatchRow:
        """See Generation."""
        piece = super().piece(row, options)
        return piece._replace(key=(next(self._numbers),))


class MediaConversations(PipelineTask):
    """The pipeline of a task whose inputs may be conversations."""

    def __init__(
        self, task: TaskName, pipeline: "transformers.Pipeline", runtime: Runtime, facts: Dict[str, str]
    ) -> None:
        super().__init__(task.requested, pipeline, runtime, facts)
        processor = getattr(pipeline, "processor", None)
        self.completes = self.chats = getattr(processor, "chat_template", None) is not None and can_generate(
            pipeline.model
        )
        if self.completes:
            self._completer = MediaCompleter(task, runtime, pipeline, facts)

    def prepare(self, completion: Completion) -> Request:
        """See Service."""
        return self._completer.prepare(completion)

    def count(self, request: Request) -> int:
        """See Service."""
        if isinstance(request.inputs, Completion):
            return self._completer.count(request)
        return super().count(request)

    def steps(self, request: Request, check: Check, reader: TokenReader = None) -> Steps:
        """See Service."""
        if isinstance(request.inputs, Completion):
            return self._completer.steps(request, check, reader)
        return super().steps(request, check, reader)

    def run(self, pieces: List[BatchRow], check: Check) -> List[Output]:
        """See Service."""
        return self._completer.run(pieces, check)

    def token_counts(self, piece: BatchRow, output: Output) -> Tuple[int, int]:
        """See Service."""
        return self._completer.token_counts(piece, output)


def _without_ignored(message: JsonObject) -> JsonObject:
    return {key: value for key, value in message.items() if key not in IGNORED}


def _wrong(message: str) -> RequestError:
    return RequestError("unsupported_value", message, param="messages")
