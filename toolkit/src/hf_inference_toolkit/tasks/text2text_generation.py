"""text2text-generation."""

from typing import Any, Dict

from hf_inference_toolkit.tasks.generation import Generation
from hf_inference_toolkit.tasks.text_task import Encoded, row


class TextToText(Generation):
    """Text from text, by an encoder and a decoder."""

    def encode(self, item: Any, options: Dict[str, Any]) -> Encoded:
        """One row, the model's own prefix in front."""
        encoding, was_cut = self.tokens(self.prefix + item, None, options)
        one = row(encoding)
        one.pop("token_type_ids", None)
        most = options.get("truncate", len(one["input_ids"]))
        if most < len(one["input_ids"]):
            # The last token is the tokenizer's own, at the end of every input.
            return Encoded([{key: value[: most - 1] + value[-1:] for key, value in one.items()}], True)
        return Encoded([one], was_cut)
