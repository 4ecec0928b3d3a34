"""text-ranking (and sentence-ranking), by cross-encoders."""

from typing import TYPE_CHECKING, Callable, Dict, List, NamedTuple, Optional

import numpy

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import Arrays, Item, JsonObject, Options, Parameters
from hf_inference_toolkit.content.payload import Request, kind_of
from hf_inference_toolkit.errors import RequestError, StartError
from hf_inference_toolkit.runtimes.base import Runtime
from hf_inference_toolkit.tasks.parameters import TRUNCATION, TRUNCATION_DIRECTION, Parameter, aliased
from hf_inference_toolkit.tasks.sentence_embeddings import check_texts
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.text_classification import SequenceClassification, sigmoid
from hf_inference_toolkit.tasks.text_task import Encoded, row
from hf_inference_toolkit.tasks.tokenization import Tokenization

if TYPE_CHECKING:
    import transformers

# By the names of PyTorch's classes.
ACTIVATIONS: Dict[str, Callable[[numpy.ndarray], numpy.ndarray]] = {
    "Sigmoid": sigmoid,
    "Identity": lambda logits: logits,
    "Tanh": numpy.tanh,
}
FORM = '{"query": "...", "texts": ["...", ...]}'


class Ranker(NamedTuple):
    """What a cross-encoder adds to its classifier. `activation` is a key of ACTIVATIONS."""

    activation: str
    longest: Optional[int] = None
    lowers_case: bool = False


class TextRanking(SequenceClassification):
    """Scores of texts for a query, in descending order: `[{"index", "score"}]`, with `text` on request."""

    ranks = True
    root_parameters = ("raw_scores", "return_text", "top_n", "truncate", "truncation_direction")
    parameters = (
        Parameter("return_text", "boolean", "whether the answer has the texts"),
        Parameter("top_n", "integer", "so many of the best texts; by default all", 1),
        Parameter(
            "raw_scores", "boolean", "whether scores are logits, without the model's activation function"
        ),
        TRUNCATION,
        TRUNCATION_DIRECTION,
    )
    sample = {
        "inputs": {
            "query": "What ships software?",
            "texts": ["It rains in Paris.", "Containers ship software."],
        }
    }

    def __init__(
        self,
        task: TaskName,
        runtime: Runtime,
        tokenizer: "transformers.PreTrainedTokenizerBase",
        facts: Dict[str, str],
        ranker: Ranker,
    ) -> None:
        super().__init__(task, runtime, tokenizer, facts)
        if self.config.num_labels != 1:
            raise StartError(
                "{} needs a model with one label, and this one has {}: set HF_TASK=text-classification".format(
                    task.requested, self.config.num_labels
                )
            )
        self._ranker = ranker
        if ranker.longest:
            self.limit = min(self.limit, ranker.longest)
        self.tokenization = Tokenization(tokenizer, {})

    def read_options(self, given: Parameters) -> Options:
        """See TextTask. `truncate` is the name of text-embeddings-inference."""
        return super().read_options(aliased(given, {"truncate": "truncation"}))

    def check_item(self, item: object) -> None:
        """See TextTask: a query and texts, none of which is empty."""
        if not isinstance(item, dict):
            raise RequestError(
                "unsupported_value", "{} takes {}, not {}".format(self.task, FORM, kind_of(item))
            )
        if set(item) != {"query", "texts"} or not isinstance(item["query"], str):
            raise RequestError("unsupported_value", "an input must be {}".format(FORM))
        check_texts(item["texts"], "texts")
        if not item["query"].strip():
            raise RequestError("unsupported_value", "'query' is empty")
        for place, text in enumerate(item["texts"]):
            if not text.strip():
                raise RequestError("unsupported_value", "'texts[{}]' is empty".format(place))

    def count(self, request: Request) -> int:
        """See Service: one for each text."""
        items: List[Item] = request.inputs if isinstance(request.inputs, list) else [request.inputs]
        return sum(len(item["texts"]) for item in items)

    def encode(self, item: JsonObject, options: Options) -> Encoded:
        """See TextTask: one row for each text."""
        rows, was_cut, count = [], False, 0
        lowered = str.lower if self._ranker.lowers_case else str
        side = str(options.get("truncation_direction") or getattr(self.tokenizer, "truncation_side", "right"))
        may_cut = options.get("truncation", True) not in (False, "only_second")
        query = self.shortened(lowered(item["query"]), self.limit, may_cut, side)
        for text in item["texts"]:
            encoding, cut = self.tokens(query, lowered(text), options)
            rows.append(row(encoding))
            was_cut = was_cut or cut
            count += len(rows[-1]["input_ids"])
            self.check_amount(count)
        return Encoded(rows, was_cut)

    def decode(
        self, item: JsonObject, encoded: Encoded, outputs: List[Arrays], options: Options
    ) -> List[JsonObject]:
        """See TextTask."""
        scores = numpy.stack([output["logits"] for output in outputs]).astype(numpy.float64)[:, 0]
        if not options.get("raw_scores"):
            scores = ACTIVATIONS[self._ranker.activation](scores)
        # Equal scores keep the order of the texts.
        order = numpy.argsort(-scores, kind="stable")[: options.get("top_n")]
        ranks: List[JsonObject] = [{"index": int(place), "score": float(scores[place])} for place in order]
        if options.get("return_text"):
            return [dict(rank, text=item["texts"][rank["index"]]) for rank in ranks]
        return ranks

    def item_schema(self) -> JsonObject:
        """See TextTask."""
        text = {"type": "string", "minLength": 1}
        texts = {"type": "array", "items": text, "minItems": 1, "maxItems": limits.COMPARED_TEXTS}
        return {
            "type": "object",
            "required": ["query", "texts"],
            "additionalProperties": False,
            "properties": {"query": text, "texts": texts},
        }
