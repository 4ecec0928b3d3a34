"""text-generation."""

from typing import List, Optional, Tuple

from hf_inference_toolkit.annotations import Answer, Item, Options
from hf_inference_toolkit.content.payload import kind_of
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import Tokens
from hf_inference_toolkit.tasks import chat
from hf_inference_toolkit.tasks.completion_steps import Completer
from hf_inference_toolkit.tasks.generation import NEW_TOKENS
from hf_inference_toolkit.tasks.generation_parameters import GRAMMAR, PROMPT, PROMPT_DETAILS
from hf_inference_toolkit.tasks.parameters import FULL_TEXT, Parameter
from hf_inference_toolkit.tasks.text_task import Encoded, row


class TextGeneration(Completer):
    """A text's continuation; a list of `{"role", "content"}` objects is a conversation."""

    is_flat = False
    pipeline = "TextGenerationPipeline"

    def extra_parameters(self) -> Tuple[Parameter, ...]:
        """See Generation."""
        by_steps = (GRAMMAR, PROMPT_DETAILS) if self.streams else ()
        return (FULL_TEXT, *by_steps, *PROMPT)

    def items(self, inputs: object) -> Tuple[List[Item], bool]:
        """A list of messages is one conversation, a list of lists several."""
        if isinstance(inputs, list) and inputs and chat.is_message(inputs[0]):
            self.check_item(inputs)
            return [inputs], False
        return super().items(inputs)

    def check_item(self, item: object) -> None:
        """A text or a conversation."""
        if isinstance(item, list) and item:
            if not self.template.exists:
                raise RequestError(
                    "unprocessable", "the model has no chat template, so it takes strings only"
                )
            chat.check(item)
        elif not isinstance(item, str):
            raise RequestError(
                "unsupported_value",
                '{} takes a string, or a list of {{"role", "content"}} objects, not {}'.format(
                    self.task, "an empty list" if item == [] else kind_of(item)
                ),
            )

    def encode(self, item: Item, options: Options) -> Encoded:
        """One row, cut at its start when it leaves no room for new tokens."""
        room = self._room(options)
        may_cut = options.get("truncation", True) not in (False, "do_not_truncate")
        if isinstance(item, str):
            how = {"add_special_tokens": options.get("add_special_tokens", True)}
            text = self.shortened(options.get("prefix", self.prefix) + item, room, may_cut, "left")
            one = row(self.tokenizer(text, **how))
        else:
            is_continued = self.template.continues(item, options.get("continue_final_message"))
            text = self.shortened(self.template.render(item, is_continued), room, may_cut, "left")
            one = row(self.tokenizer(text, add_special_tokens=False))
        one.pop("token_type_ids", None)
        length = len(one["input_ids"])
        if not length:
            raise RequestError("unprocessable", "an input has no tokens")
        most = options.get("truncate", length)
        room = room or length
        if most < min(length, room):
            return Encoded([_end_of(one, most)], True)
        if length <= room:
            return Encoded([one])
        if not may_cut:
            raise RequestError(
                "unprocessable",
                "an input has {} tokens, and with the new ones the model takes {} of {}".format(
                    length, room, self.limit
                ),
            )
        return Encoded([_end_of(one, room)], True)

    def _room(self, options: Options) -> int:
        """The most tokens of a prompt that leave room for the new ones; 0 without a limit."""
        if not self.limit:
            return 0
        new = options.get("max_new_tokens")
        if new is not None and new >= self.limit:
            raise RequestError(
                "unprocessable",
                "max_new_tokens is {}, and the model takes {} tokens in all".format(new, self.limit),
            )
        return max(1, self.limit - (new if new is not None else min(NEW_TOKENS, self.limit // 2)))

    def new_tokens(self, options: Options, length: int) -> Optional[int]:
        """Never more than the positions of the model."""
        if "max_length" in options and "max_new_tokens" not in options:
            most = min(options["max_length"], self.limit or options["max_length"])
            if most <= length:
                raise RequestError(
                    "unprocessable",
                    "the prompt has {} tokens already, and max_length is {}".format(
                        length, options["max_length"]
                    ),
                )
            return int(most - length)
        new = super().new_tokens(options, length)
        return min(new, self.limit - length) if new is not None and self.limit else new

    def total(self, new: int, length: int) -> int:
        """The prompt counts."""
        return new + length

    def new_text(self, encoded: Encoded, tokens: List[int], options: Options) -> str:
        """Decoded behind the prompt, as the space before the first new word depends on it."""
        prompt = encoded.rows[0]["input_ids"]
        return self.text(prompt + tokens, options)[len(self.text(prompt, options)) :]

    def answer(self, item: Item, text: str, options: Options) -> Answer:
        """The prompt and the text; a conversation with one message more, or with more text in its last message."""
        if not options.get("return_full_text", True):
            return text
        if isinstance(item, str):
            return item + text
        if self.template.continues(item, options.get("continue_final_message")):
            return chat.continued(item, text)
        return [*item, {"role": "assistant", "content": text}]


def _end_of(one: Tokens, tokens: int) -> Tokens:
    return {key: value[-tokens:] for key, value in one.items()}
