"""translation and translation_xx_to_yy."""

from typing import TYPE_CHECKING, Dict, Optional, Tuple

from hf_inference_toolkit.annotations import Options
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import Runtime
from hf_inference_toolkit.tasks.generation_parameters import LANGUAGES
from hf_inference_toolkit.tasks.parameters import Parameter
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.text2text_generation import Text2TextGeneration
from hf_inference_toolkit.tasks.text_task import Encoded

if TYPE_CHECKING:
    import transformers


class Translation(Text2TextGeneration):
    """A text in another language; models of many languages take `src_lang` and `tgt_lang`."""

    result = "translation_text"

    def __init__(
        self,
        task: TaskName,
        runtime: Runtime,
        tokenizer: "transformers.PreTrainedTokenizerBase",
        facts: Dict[str, str],
    ) -> None:
        super().__init__(task, runtime, tokenizer, facts)
        # The tokenizer keeps the language of the last text.
        self._source: Optional[str] = task.source or getattr(tokenizer, "src_lang", None)

    def extra_parameters(self) -> Tuple[Parameter, ...]:
        """The languages."""
        return LANGUAGES

    def encode(self, item: str, options: Options) -> Encoded:
        """One row in the source language's form."""
        if hasattr(self.tokenizer, "src_lang"):
            asked = options.get("src_lang")
            if asked and not self._sets_source(asked):
                raise _unknown(asked)
            if not asked and self._source:
                self.tokenizer.src_lang = self._source
        return super().encode(item, options)

    def _sets_source(self, language: str) -> bool:
        """Set the source language; whether the tokenizer knows it."""
        try:
            self.tokenizer.src_lang = language
        except KeyError:
            return False
        # Some tokenizers set another spelling: __java__ for java.
        return self._language_id(self.tokenizer.src_lang) is not None

    def arguments(self, options: Options, length: int) -> Options:
        """The target language as the first token, where the model needs it."""
        arguments = super().arguments(options, length)
        target = options.get("tgt_lang", self.task_name.target)
        number = self._language_id(target) if target else None
        if number is not None:
            arguments.setdefault("forced_bos_token_id", number)
        elif "tgt_lang" in options:
            raise _unknown(options["tgt_lang"])
        return arguments

    def _language_id(self, language: str) -> Optional[int]:
        known = getattr(self.tokenizer, "lang_code_to_id", None) or {}
        if language in known:
            return int(known[language])
        if hasattr(self.tokenizer, "get_lang_id"):
            try:
                return int(self.tokenizer.get_lang_id(language))
            except KeyError:
                return None
        if hasattr(self.tokenizer, "src_lang") and language in self.tokenizer.get_vocab():
            return int(self.tokenizer.get_vocab()[language])
        return None


def _unknown(language: str) -> RequestError:
    return RequestError("unprocessable", "the model does not know the language '{}'".format(language[:50]))
