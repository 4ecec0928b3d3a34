"""fill-mask."""

from typing import TYPE_CHECKING, Dict, List, Union

import numpy

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import Arrays, JsonObject, Options, Output, Texts
from hf_inference_toolkit.errors import RequestError, StartError
from hf_inference_toolkit.runtimes.base import Runtime
from hf_inference_toolkit.tasks.parameters import TOKENIZING, TRUNCATION, Parameter
from hf_inference_toolkit.tasks.service import BatchRow, Check
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.text_classification import softmax
from hf_inference_toolkit.tasks.text_task import Encoded, TextTask, row

if TYPE_CHECKING:
    import transformers


class FillMask(TextTask):
    """Words for the mask of each text, in descending order of scores. A list for each mask if there are several."""

    parameters = (
        Parameter("top_k", "integer", "number of words for each mask; 5 by default", 1, limits.TOP_K),
        Parameter("targets", "strings", "score these words only"),
        TRUNCATION,
        Parameter("tokenizer_kwargs", "object", "options of the tokenizer", members=TOKENIZING),
    )
    has_input_length = True

    def __init__(
        self,
        task: TaskName,
        runtime: Runtime,
        tokenizer: "transformers.PreTrainedTokenizerBase",
        facts: Dict[str, str],
    ) -> None:
        super().__init__(task, runtime, tokenizer, facts)
        if self.tokenizer.mask_token_id is None:
            raise StartError(
                "fill-mask needs a tokenizer with a mask token, which this model's does not have"
            )
        self.sample = {"inputs": "The capital of France is {}.".format(self.tokenizer.mask_token)}

    def encode(self, item: str, options: Options) -> Encoded:
        """See TextTask: one row, and the positions of its masks."""
        encoding, was_cut = self.tokens(item, None, options)
        masks = [
            i for i, number in enumerate(encoding["input_ids"]) if number == self.tokenizer.mask_token_id
        ]
        if not masks:
            raise RequestError(
                "unprocessable",
                "an input has no {}{}".format(
                    self.tokenizer.mask_token, " within the model's limit" if was_cut else ""
                ),
            )
        if len(masks) * options.get("top_k", 5) > limits.FILLED_WORDS:
            raise RequestError(
                "unsupported_value",
                "{} masks with {} words each; at most {} words are allowed".format(
                    len(masks), options.get("top_k", 5), limits.FILLED_WORDS
                ),
            )
        return Encoded([row(encoding)], was_cut, masks)

    def run(self, pieces: List[BatchRow], check: Check) -> List[Output]:
        """See Service. Keeps the logits at the masks only, because those of all tokens would need too much memory."""
        outputs = super().run(pieces, check)
        for piece, output in zip(pieces, outputs):
            at = numpy.array(piece.row["input_ids"]) == self.tokenizer.mask_token_id
            output["logits"] = output["logits"][at].copy()
        return outputs

    def decode(
        self, item: str, encoded: Encoded, outputs: List[Arrays], options: Options
    ) -> Union[List[JsonObject], List[List[JsonObject]]]:
        """See TextTask: the words for the masks of one text."""
        targets = self._target_ids(options["targets"]) if "targets" in options else None
        filled = []
        for mask, logits in zip(encoded.extra, outputs[0]["logits"]):
            scores = softmax(logits.astype(numpy.float64))
            candidates = numpy.arange(len(scores)) if targets is None else targets
            best = candidates[numpy.argsort(-scores[candidates], kind="stable")][: options.get("top_k", 5)]
            filled.append([self._word(encoded, mask, int(number), float(scores[number])) for number in best])
        return filled[0] if len(filled) == 1 else filled

    def _word(self, encoded: Encoded, mask: int, number: int, score: float) -> JsonObject:
        numbers = list(encoded.rows[0]["input_ids"])
        numbers[mask] = number
        numbers = [one for one in numbers if one != self.tokenizer.pad_token_id]
        # With several masks, the other masks are kept in the sequence, and they are special tokens.
        sequence = self.tokenizer.decode(numbers, skip_special_tokens=len(encoded.extra) == 1)
        return {
            "score": score,
            "token": number,
            "token_str": self.tokenizer.decode([number]),
            "sequence": sequence,
        }

    def _target_ids(self, targets: Texts) -> numpy.ndarray:
        """The token of each target word, or the first of its tokens."""
        vocabulary = self.tokenizer.get_vocab()
        found = set()
        for target in [targets] if isinstance(targets, str) else targets:
            if target in vocabulary:
                found.add(vocabulary[target])
            else:
                found.update(self.tokenizer(target, add_special_tokens=False)["input_ids"][:1])
        if not found:
            raise RequestError("unprocessable", "none of the targets has a token")
        return numpy.array(sorted(found))
