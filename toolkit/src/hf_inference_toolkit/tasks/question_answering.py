"""question-answering: the span of a context that answers a question."""

from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Tuple, Union

import numpy

from hf_inference_toolkit.annotations import Arrays, JsonObject, Options
from hf_inference_toolkit.errors import RequestError, StartError
from hf_inference_toolkit.runtimes.base import Runtime
from hf_inference_toolkit.tasks.parameters import Parameter
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.text_task import Encoded, TextTask, row

if TYPE_CHECKING:
    import tokenizers
    import transformers

# Questions with more characters per token are truncated before they are tokenized.
LONG_QUESTION = 16
# A logit whose softmax is 0.
NEVER = -10000.0


class Span(NamedTuple):
    """The first and last token of a possible answer."""

    first: int
    last: int
    score: float


class QuestionAnswering(TextTask):
    """Answers with their scores and positions. A long context is split into overlapping parts."""

    parameters = (
        Parameter("top_k", "integer", "number of answers; 1 by default", 1, 1000),
        Parameter("topk", "integer", "alias of top_k", 1, 1000),
        Parameter("doc_stride", "integer", "tokens by which parts of a long context overlap", 1, 100000),
        Parameter("max_answer_len", "integer", "maximum tokens of an answer; 15 by default", 1, 10000),
        Parameter(
            "max_seq_len", "integer", "maximum tokens of the question and a part of the context", 8, 100000
        ),
        Parameter("max_question_len", "integer", "maximum tokens of the question; 64 by default", 1, 100000),
        Parameter("handle_impossible_answer", "boolean", "whether an empty answer is possible"),
        Parameter("align_to_words", "boolean", "whether answers are whole words; true by default"),
    )
    sample = {
        "inputs": {
            "question": "What is used for inference?",
            "context": "My Name is Philipp and I live in Nuremberg. This model is used with sagemaker for inference.",
        }
    }

    def __init__(
        self,
        task: TaskName,
        runtime: Runtime,
        tokenizer: "transformers.PreTrainedTokenizerBase",
        facts: Dict[str, str],
    ) -> None:
        super().__init__(task, runtime, tokenizer, facts)
        if not self.tokenizer.is_fast:
            raise StartError(
                "question-answering needs a fast tokenizer (tokenizer.json), which this model does not have"
            )
        self._longest = min(self.limit or 384, 384)

    def check_item(self, item: object) -> None:
        """See TextTask: a question and a context, both not empty."""
        texts = item if isinstance(item, dict) and set(item) == {"question", "context"} else {}
        if texts and all(isinstance(value, str) and value.strip() for value in texts.values()):
            return
        raise RequestError(
            "unsupported_value", 'an input must be {"question": "...", "context": "..."} with text in both'
        )

    def item_schema(self) -> JsonObject:
        """See TextTask."""
        text = {"type": "string", "minLength": 1}
        return {
            "type": "object",
            "required": ["question", "context"],
            "additionalProperties": False,
            "properties": {"question": text, "context": text},
        }

    def encode(self, item: Dict[str, str], options: Options) -> Encoded:
        """See TextTask: a row for each part of the context."""
        question, was_cut = self._question(item["question"], options)
        longest = min(options.get("max_seq_len", self._longest), self.limit or 100000)
        # The tokenizer does not encode (question, "") as a pair, because the second text is empty.
        length = len(self.tokenizer(question, add_special_tokens=False)["input_ids"])
        room = longest - length - self.tokenizer.num_special_tokens_to_add(pair=True)
        stride = options.get("doc_stride", min(longest // 2, 128, max(0, room - 1)))
        if room < 1 or stride >= room:
            raise RequestError(
                "unprocessable",
                "a question of this length leaves {} tokens of max_seq_len for the "
                "context, and doc_stride is {}".format(max(0, room), stride),
            )
        self.check_windows(item["context"], room - stride)
        right = self.tokenizer.padding_side == "right"
        pair = (question, item["context"]) if right else (item["context"], question)
        encoding = self.tokenizer(
            *pair,
            truncation="only_second" if right else "only_first",
            max_length=longest,
            stride=stride,
            return_overflowing_tokens=True,
        )
        parts = encoding.encodings
        rows = [
            row({key: encoding[key][part] for key in list(encoding) if key != "overflow_to_sample_mapping"})
            for part in range(len(parts))
        ]
        return Encoded(rows, was_cut, parts)

    def _question(self, question: str, options: Options) -> Tuple[str, bool]:
        most = options.get("max_question_len", 64)
        if len(question) > most * LONG_QUESTION:
            question = self.shortened(question, most, True)
        offsets = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        if len(offsets) <= most:
            return question, False
        return question[: offsets[most - 1][1]], True

    def decode(
        self, item: Dict[str, str], encoded: Encoded, outputs: List[Arrays], options: Options
    ) -> Union[JsonObject, List[JsonObject]]:
        """See TextTask: the best answers of all parts. The scores of equal answers are added."""
        wanted = options["top_k"] if "top_k" in options else options.get("topk", 1)
        aligned = options.get("align_to_words", True)
        answers: Dict[str, JsonObject] = {}
        null = 1000000.0
        for part, output in zip(encoded.extra, outputs):
            starts, ends, allowed = self._scores(part, output)
            null = min(null, float(starts[0] * ends[0]))
            starts[0] = ends[0] = 0.0
            many = wanted * 2 + 10 if aligned else wanted
            for span in spans(starts, ends, allowed, many, options.get("max_answer_len", 15)):
                self._add(answers, item["context"], part, span, aligned)
        found = list(answers.values())
        if options.get("handle_impossible_answer"):
            found.append({"score": null, "start": 0, "end": 0, "answer": ""})
        found.sort(key=lambda answer: -answer["score"])
        if not found:
            return {"score": 0.0, "start": 0, "end": 0, "answer": ""}
        return found[0] if wanted == 1 or len(found) == 1 else found[:wanted]

    def _scores(self, part: "tokenizers.Encoding", output: Arrays) -> Tuple[numpy.ndarray, ...]:
        context = 1 if self.tokenizer.padding_side == "right" else 0
        sides = part.sequence_ids if hasattr(part, "sequence_ids") else sequence_ids(part)
        allowed = numpy.array([side == context for side in sides])
        # Some models predict the first special token if there is no answer.
        considered = allowed | (numpy.array(part.ids) == self.tokenizer.cls_token_id)
        scores = []
        for name in ("start_logits", "end_logits"):
            logits = numpy.where(considered, output[name].astype(numpy.float64), NEVER)
            exponents = numpy.exp(logits - logits.max())
            scores.append(exponents / exponents.sum())
        return scores[0], scores[1], allowed

    def _add(
        self,
        answers: Dict[str, JsonObject],
        context: str,
        part: "tokenizers.Encoding",
        span: Span,
        aligned: bool,
    ) -> None:
        start, end = part.offsets[span.first][0], part.offsets[span.last][1]
        if aligned:
            side = 1 if self.tokenizer.padding_side == "right" else 0
            start, end = whole_words(part, span, side) or (start, end)
        text = context[start:end]
        known = answers.get(text.lower())
        if known is not None:
            known["score"] += span.score
        else:
            answers[text.lower()] = {"score": span.score, "start": start, "end": end, "answer": text}


def spans(
    starts: numpy.ndarray, ends: numpy.ndarray, allowed: numpy.ndarray, many: int, longest: int
) -> List[Span]:
    """The `many` best spans of at most `longest` tokens whose first and last token are allowed."""
    candidates = numpy.tril(numpy.triu(numpy.outer(starts, ends)), longest - 1)
    flat = candidates.ravel()
    best = numpy.argpartition(-flat, many)[:many] if many < len(flat) else numpy.arange(len(flat))
    best = best[numpy.argsort(-flat[best], kind="stable")]
    places: Tuple[numpy.ndarray, ...] = numpy.unravel_index(best, candidates.shape)
    return [
        Span(int(first), int(last), float(candidates[first, last]))
        for first, last in zip(*places)
        if allowed[first] and allowed[last] and first <= last < first + longest
    ]


def whole_words(part: "tokenizers.Encoding", span: Span, side: int) -> Optional[Tuple[int, int]]:
    """The character offsets of a span, extended to whole words. None if the tokenizer has no words."""
    try:
        first, last = part.token_to_word(span.first), part.token_to_word(span.last)
        return part.word_to_chars(first, side)[0], part.word_to_chars(last, side)[1]
    except (TypeError, ValueError, IndexError):
        return None


def sequence_ids(part: "tokenizers.Encoding") -> List[Optional[int]]:
    """The index of the text of each token, for releases of tokenizers without `sequence_ids`."""
    sides: List[Optional[int]] = []
    side = -1
    was_special = True
    for is_special in part.special_tokens_mask:
        if was_special and not is_special:
            side += 1
        sides.append(None if is_special else side)
        was_special = bool(is_special)
    return sides
