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
        source = options.get("src_lang") or self._source
        if source and hasattr(self.tokenizer, "src_lang"):
            self.tokenizer.src_lang = source
        return super().encode(item, options)

    def arguments(self, options: Options, length: int) -> Options:
        """The target language as the first token, where the model needs it."""
        arguments = super().arguments(options, length)
        target = options.get("tgt_lang", self.task_name.target)
        number = self._language_id(target) if target else None
        if number is not None:
            arguments.setdefault("forced_bos_token_id", number)
        elif "tgt_lang" in options:
            raise RequestError(
                "unprocessable", "the model does not know the language '{}'".format(options["tgt_lang"][:50])
            )
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
