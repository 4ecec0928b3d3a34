"""text-classification (and sentiment-analysis) and zero-shot-classification."""

from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple, Union

import numpy

from hf_inference_toolkit.annotations import Answer, Arrays, JsonObject, Options, Output, Parameters
from hf_inference_toolkit.errors import RequestError, StartError
from hf_inference_toolkit.runtimes.base import Runtime
from hf_inference_toolkit.tasks.candidate_labels import (
    CANDIDATE_LABELS,
    HYPOTHESIS_TEMPLATE,
    check_template,
    split_labels,
)
from hf_inference_toolkit.tasks.parameters import FUNCTION, TOKENIZING, TRUNCATION, Parameter
from hf_inference_toolkit.tasks.service import BatchRow, Check
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.text_task import Encoded, TextTask, row

if TYPE_CHECKING:
    import transformers


# A text, {"text", "text_pair"}, or a list of two texts.
TextOrPair = Union[str, Dict[str, str], List[str]]


def softmax(logits: numpy.ndarray) -> numpy.ndarray:
    """Scores whose sum is 1 along the last axis."""
    shifted = numpy.exp(logits - numpy.max(logits, axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(logits: numpy.ndarray) -> numpy.ndarray:
    """Independent scores from 0 to 1."""
    return 1.0 / (1.0 + numpy.exp(-logits))


def _of_last_token(output: Output) -> Output:
    """Decoders of TensorFlow without a padding token return the logits of each token, not of the last one alone."""
    logits = output["logits"]
    return output if logits.ndim < 2 else dict(output, logits=logits[-1])


class SequenceClassification(TextTask):
    """The common base of tasks with a sequence classification model."""

    def run(self, pieces: List[BatchRow], check: Check) -> List[Output]:
        """See Service. Decoders find the end of a row by the padding token in their config: without one, no batches."""
        if getattr(self.config, "pad_token_id", self.pad) is None:
            return [
                _of_last_token(output)
                for piece in pieces
                for output in super(SequenceClassification, self).run([piece], check)
            ]
        return super().run(pieces, check)


class TextClassification(SequenceClassification):
    """Labels with scores for each text or pair of texts.

    A pair is `{"text": "...", "text_pair": "..."}`; in a list of inputs it may also be a list of two texts.
    """

    parameters = (
        Parameter("top_k", "integer", "number of labels; null for all", 1, is_nullable=True),
        Parameter("return_all_scores", "boolean", "true is top_k null"),
        FUNCTION,
        *TOKENIZING,
    )
    has_input_length = True
    documented = {
        "inputs": "This sound track was beautiful! It paints the senery in your mind so well I would recomend it\n"
        "  even to people who hate vid. game music!"
    }

    def __init__(
        self,
        task: TaskName,
        runtime: Runtime,
        tokenizer: "transformers.PreTrainedTokenizerBase",
        facts: Dict[str, str],
    ) -> None:
        super().__init__(task, runtime, tokenizer, facts)
        self._labels = [self.config.id2label[index] for index in range(self.config.num_labels)]
        kind = getattr(self.config, "problem_type", None)
        if kind == "regression":
            self._function = "none"
        elif kind == "multi_label_classification" or self.config.num_labels == 1:
            self._function = "sigmoid"
        else:
            self._function = "softmax"

    def check_item(self, item: object) -> None:
        """See TextTask: a text, an object with a text and its pair, or in a list a list of two texts."""
        if isinstance(item, list):
            pair_of(item)
        elif isinstance(item, dict):
            right = set(item) <= {"text", "text_pair"} and "text" in item
            if not right or not all(isinstance(value, str) for value in item.values()):
                raise RequestError(
                    "unsupported_value", 'an input object must be {"text": "...", "text_pair": "..."}'
                )
        else:
            super().check_item(item)

    def item_schema(self) -> JsonObject:
        """See TextTask."""
        text = {"type": "string"}
        pair = {
            "type": "object",
            "required": ["text"],
            "additionalProperties": False,
            "properties": {"text": text, "text_pair": text},
        }
        return {"oneOf": [text, pair]}

    def listed_schema(self) -> JsonObject:
        """See TextTask."""
        pair = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
        return {"oneOf": [*self.item_schema()["oneOf"], pair]}

    def encode(self, item: TextOrPair, options: Options) -> Encoded:
        """See TextTask: one row."""
        pair: Optional[str] = None
        if isinstance(item, dict):
            text, pair = item["text"], item.get("text_pair")
        elif isinstance(item, list):
            text, pair = pair_of(item)
        else:
            text = item
        encoding, was_cut = self.tokens(text, pair, options)
        return Encoded([row(encoding)], was_cut)

    def decode(self, item: TextOrPair, encoded: Encoded, outputs: List[Arrays], options: Options) -> object:
        """See TextTask: labels and scores, in descending order."""
        scores = self._scores(outputs[0]["logits"].astype(numpy.float64), options.get("function_to_apply"))
        labels = [{"label": label, "score": float(score)} for label, score in zip(self._labels, scores)]
        if options.get("return_all_scores"):
            return labels
        labels.sort(key=lambda label: -label["score"])
        return labels[: options.get("top_k", 1)]

    def _scores(self, logits: numpy.ndarray, function: Optional[str]) -> numpy.ndarray:
        if function in (None, "default"):
            function = self._function
        if function == "none":
            return logits
        return softmax(logits) if function == "softmax" else sigmoid(logits)

    def shape(self, results: List[Answer], is_list: bool, options: Options) -> Answer:
        """See TextTask. As in the pipeline, one label for each text in a flat list, unless more were requested."""
        if options.get("return_all_scores"):
            return results
        if "top_k" in options:
            return results if is_list else results[0]
        return [labels[0] for labels in results]

    def for_hub_client(self, value: Answer, is_list: bool) -> Answer:
        """A list of labels for each text, as huggingface_hub reads it; also for one text."""
        if not is_list:
            return value if isinstance(value[0], list) else [value]
        return [one if isinstance(one, list) else [one] for one in value]


def pair_of(item: Sequence[object]) -> Tuple[str, str]:
    """The texts of `["query", "document"]`, or `[["query", "document"]]` as older pipelines take it."""
    if len(item) == 1 and isinstance(item[0], list):
        item = item[0]
    texts = [text for text in item if isinstance(text, str)]
    if len(item) != 2 or len(texts) != 2:
        raise RequestError(
            "unsupported_value", 'a list in the list of inputs must be a pair of texts: ["...", "..."]'
        )
    return texts[0], texts[1]


class ZeroShotClassification(SequenceClassification):
    """Scores of candidate labels by a model for natural language inference (entailment)."""

    parameters = (
        CANDIDATE_LABELS,
        HYPOTHESIS_TEMPLATE,
        Parameter("multi_label", "boolean", "whether several labels may be true"),
        Parameter("multi_class", "boolean", "alias of multi_label"),
        TRUNCATION,
    )
    sample = {
        "inputs": "Hi, I recently bought a device from your company but it is not working as advertised and I would "
        "like to get reimbursed!",
        "parameters": {"candidate_labels": ["refund", "legal", "faq"]},
    }

    def __init__(
        self,
        task: TaskName,
        runtime: Runtime,
        tokenizer: "transformers.PreTrainedTokenizerBase",
        facts: Dict[str, str],
    ) -> None:
        super().__init__(task, runtime, tokenizer, facts)
        if self.config.num_labels < 2:
            raise StartError(
                "zero-shot-classification needs a model with labels for entailment and contradiction; "
                "this one has {} label".format(self.config.num_labels)
            )
        places = [i for label, i in self.config.label2id.items() if label.lower().startswith("entail")]
        self._entailment = places[0] if places else -1
        self._contradiction = -1 if self._entailment == 0 else 0

    def read_options(self, given: Parameters) -> Options:
        """See TextTask. candidate_labels is required."""
        options = super().read_options(given)
        options["candidate_labels"] = split_labels(options.get("candidate_labels"), self.task)
        check_template(options.setdefault("hypothesis_template", "This example is {}."))
        return options

    def check_item(self, item: object) -> None:
        """See TextTask: a text that is not empty."""
        super().check_item(item)
        if not item:
            raise RequestError("unsupported_value", "{} takes a text that is not empty".format(self.task))

    def encode(self, item: str, options: Options) -> Encoded:
        """See TextTask: one row for each label."""
        rows, was_cut = [], False
        side = getattr(self.tokenizer, "truncation_side", "right")
        text = self.shortened(item, self.limit, options.get("truncation", True), side)
        for label in options["candidate_labels"]:
            sentence = options["hypothesis_template"].replace("{}", label)
            encoding, cut = self.tokens(text, sentence, options, "only_first")
            rows.append(row(encoding))
            was_cut = was_cut or cut
        return Encoded(rows, was_cut)

    def decode(self, item: str, encoded: Encoded, outputs: List[Arrays], options: Options) -> JsonObject:
        """See TextTask: labels in descending order of scores."""
        logits = numpy.stack([output["logits"] for output in outputs]).astype(numpy.float64)
        labels = options["candidate_labels"]
        if options.get("multi_label", options.get("multi_class")) or len(labels) == 1:
            scores = softmax(logits[:, [self._contradiction, self._entailment]])[:, 1]
        else:
            scores = softmax(logits[:, self._entailment])
        order = list(reversed(scores.argsort()))
        return {
            "sequence": item,
            "labels": [labels[index] for index in order],
            "scores": [float(scores[index]) for index in order],
        }

    def for_hub_client(self, value: Answer, is_list: bool) -> Answer:
        """See Service. huggingface_hub 1.0 and later read a list of labels and scores."""
        if isinstance(value, list):
            return [self.for_hub_client(one, is_list) for one in value]
        return [{"label": label, "score": score} for label, score in zip(value["labels"], value["scores"])]
