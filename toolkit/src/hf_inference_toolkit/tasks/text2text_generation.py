"""text2text-generation."""

from typing import TYPE_CHECKING, Dict

from hf_inference_toolkit.annotations import Options
from hf_inference_toolkit.runtimes.base import Runtime
from hf_inference_toolkit.tasks.generation import Generation
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.text_task import Encoded, row

if TYPE_CHECKING:
    import transformers


class Text2TextGeneration(Generation):
    """Text from text, by an encoder and a decoder."""

    def __init__(
        self,
        task: TaskName,
        runtime: Runtime,
        tokenizer: "transformers.PreTrainedTokenizerBase",
        facts: Dict[str, str],
    ) -> None:
        super().__init__(task, runtime, tokenizer, facts)
        self._beams = default_beams()

    def arguments(self, options: Options, length: int) -> Options:
        """See Generation. Without num_beams of the request or the model, the pipelines' number of beams."""
        arguments = super().arguments(options, length)
        if (self._value(arguments, "num_beams") or 1) == 1 and "num_beams" not in arguments:
            arguments["num_beams"] = self._beams
        return arguments

    def encode(self, item: str, options: Options) -> Encoded:
        """One row, the model's own prefix in front."""
        encoding, was_cut = self.tokens(self.prefix + item, None, options)
        one = row(encoding)
        one.pop("token_type_ids", None)
        most = options.get("truncate", len(one["input_ids"]))
        if most < len(one["input_ids"]):
            # The last token is the tokenizer's own, at the end of every input.
            return Encoded([{key: value[: most - 1] + value[-1:] for key, value in one.items()}], True)
        return Encoded([one], was_cut)


def default_beams() -> int:
    """Beams of the installed release's pipelines; of the last ones, where it has none (transformers 5)."""
    import transformers

    kind = getattr(transformers, "Text2TextGenerationPipeline", None)
    if kind is None:
        return 4
    return getattr(getattr(kind, "_default_generation_config", None), "num_beams", None) or 1
