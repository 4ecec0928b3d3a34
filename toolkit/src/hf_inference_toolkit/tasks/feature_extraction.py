"""feature-extraction."""

from typing import List

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import Arrays, JsonObject, Options, Parameters
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import Tokens
from hf_inference_toolkit.tasks.parameters import TOKENIZING, TRUNCATION, Parameter
from hf_inference_toolkit.tasks.text_task import Encoded, TextTask, row


class FeatureExtraction(TextTask):
    """The last hidden state: for each text a list of shape [1, tokens, width]."""

    parameters = (
        TRUNCATION,
        Parameter("tokenize_kwargs", "object", "options of the tokenizer", members=TOKENIZING),
    )
    has_input_length = True

    def read_options(self, given: Parameters) -> Options:
        """The checked parameters; `huggingface_hub.InferenceClient` has `truncate` and `normalize`, too."""
        given = dict(given)
        if given.get("normalize") in (None, False):
            given.pop("normalize", None)
        if "truncate" in given and "truncation" not in given:
            given["truncation"] = given.pop("truncate")
        return super().read_options(given)

    def encode(self, item: str, options: Options) -> Encoded:
        """See TextTask: one row."""
        encoding, was_cut = self.tokens(item, None, options)
        one = row(encoding)
        if options.get("padding") == "max_length":
            one = self._filled(one, self.most_tokens(False, options))
        return Encoded([one], was_cut)

    def _filled(self, one: Tokens, length: int) -> Tokens:
        """Pad a row. The padding is part of the answer, as in the pipeline."""
        missing = length - len(one["input_ids"])
        if missing <= 0:
            return one
        if self.tokenizer.pad_token_id is None:
            raise RequestError("unprocessable", "padding is not possible: the tokenizer has no padding token")
        padding = {
            "input_ids": self.tokenizer.pad_token_id,
            "token_type_ids": getattr(self.tokenizer, "pad_token_type_id", 0),
        }
        one.setdefault("attention_mask", [1] * len(one["input_ids"]))
        more = {key: [padding.get(key, 0)] * missing for key in one}
        if self.tokenizer.padding_side == "left":
            return {key: more[key] + one[key] for key in one}
        return {key: one[key] + more[key] for key in one}

    def check_amount(self, tokens: int) -> None:
        """See TextTask. Also limits the size of the answer."""
        super().check_amount(tokens)
        width = getattr(self.config, "hidden_size", None) or getattr(self.config, "d_model", None) or 1
        if tokens * width > limits.FEATURES:
            raise RequestError(
                "unprocessable",
                "the answer has more than {} numbers; send fewer inputs".format(limits.FEATURES),
            )

    def decode(
        self, item: str, encoded: Encoded, outputs: List[Arrays], options: Options
    ) -> List[JsonObject]:
        """See TextTask: a list of shape [1, tokens, width]."""
        return [outputs[0]["last_hidden_state"].tolist()]
