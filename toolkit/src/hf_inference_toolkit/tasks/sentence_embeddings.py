"""sentence-embeddings and sentence-similarity."""

import inspect
from typing import TYPE_CHECKING, Dict, Iterable, List, NamedTuple, Sequence, Tuple, Union

import numpy

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import Answer, JsonObject, Options, Output, Parameters
from hf_inference_toolkit.content.payload import Request, kind_of
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import MODEL_INPUTS, Runtime, Tokens
from hf_inference_toolkit.tasks.parameters import TRUNCATION, TRUNCATION_DIRECTION, Parameter, aliased
from hf_inference_toolkit.tasks.sentence_model import (
    CHOICES,
    SentenceModel,
    normalized,
    pooled,
    similarities,
)
from hf_inference_toolkit.tasks.service import BatchRow, Check
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.text_task import Encoded, TextTask, row
from hf_inference_toolkit.tasks.tokenization import Tokenization

if TYPE_CHECKING:
    import transformers

# A text, its token ids, or a sentence and those that it is compared with.
Item = Union[str, List[int], JsonObject]
# Names of other servers and clients for parameters.
ALIASES = {"truncate": "truncation"}
COMPARED = {"source_sentence", "sentences"}
TWO = 'an object must be {"source_sentence": "...", "sentences": ["...", ...]}'
BOTH_SENTENCES = {
    "inputs": {
        "source_sentence": "Containers ship software.",
        "sentences": ["Software is shipped in containers.", "It rains in Paris."],
    }
}


class IdRow(Dict[str, List[int]]):
    """A row of token ids that a client has sent: it has no prompt."""


class PooledRow(NamedTuple):
    """A row of a pass, and how its hidden states become a vector."""

    tokens: Tokens
    pooling: Sequence[str]
    # Tokens of a prompt that is not pooled.
    start: int


class SentenceEmbeddings(TextTask):
    """One vector for each text: a list of numbers.

    An input is a text, a list of token ids, or `{"source_sentence", "sentences"}`, whose answer is a list of scores.
    """

    embeds = True
    root_parameters = (
        "normalize",
        "prompt_name",
        "truncate",
        "truncation_direction",
        "dimensions",
    )
    sample = {"inputs": "Containers ship software."}

    def __init__(
        self,
        task: TaskName,
        runtime: Runtime,
        tokenizer: "transformers.PreTrainedTokenizerBase",
        facts: Dict[str, str],
        model: SentenceModel,
    ) -> None:
        super().__init__(task, runtime, tokenizer, facts)
        self._model = model
        if model.longest:
            self.limit = min(self.limit, model.longest)
        hidden = getattr(self.config, "hidden_size", None) or getattr(self.config, "d_model", None) or 1
        self.dimension = model.width or hidden * len(model.pooling)
        self._prompt_lengths: Dict[str, int] = {}
        self._names = _taken(runtime.model, self.tokens("a", None, {})[0])
        self._vocabulary = int(getattr(self.config, "vocab_size", None) or len(tokenizer))
        self.parameters = self._parameters()
        self.tokenization = Tokenization(tokenizer, model.prompts)

    def _parameters(self) -> Tuple[Parameter, ...]:
        model = self._model
        own = "+".join(model.pooling)
        modes: Tuple[str, ...] = (own,)
        if not model.is_fixed:
            # Without such a token, the first one of a text is any word.
            modes = tuple(
                mode for mode in CHOICES if mode != "cls" or self.tokenizer.cls_token_id is not None
            )
        prompts = sorted(model.prompts)
        return (
            Parameter(
                "pooling",
                "string",
                "how the vectors of the tokens become one; {} by default".format(own),
                choices=modes,
            ),
            Parameter(
                "normalize",
                "boolean",
                "whether vectors have the length 1; {} by default".format(str(model.normalizes).lower()),
            ),
            Parameter("truncate_dim", "integer", "the first numbers of each vector", 1, self.dimension),
            Parameter(
                "dimensions",
                "integer",
                "as truncate_dim; vectors of the length 1 get it again",
                1,
                self.dimension,
            ),
            *(
                [Parameter("prompt_name", "string", "the prompt before each text", choices=prompts)]
                if prompts
                else []
            ),
            TRUNCATION,
            TRUNCATION_DIRECTION,
        )

    def read_options(self, given: Parameters) -> Options:
        """See TextTask. Names of text-embeddings-inference and huggingface_hub are accepted, too."""
        if given.get("prompt_name") is not None and not self._model.prompts:
            raise RequestError(
                "unsupported_value", "parameter 'prompt_name': this model has no prompts", param="prompt_name"
            )
        options = super().read_options(aliased(given, ALIASES))
        if "dimensions" in options:
            if "truncate_dim" in options:
                raise RequestError(
                    "unsupported_value", "'dimensions' and 'truncate_dim' are the same parameter: send one"
                )
            options["truncate_dim"] = options.pop("dimensions")
            options.setdefault("normalize", self._model.normalizes)
        return options

    def check_item(self, item: object) -> None:
        """See TextTask."""
        if isinstance(item, dict):
            check_compared(item)
        elif isinstance(item, list):
            self._check_ids(item)
        elif not isinstance(item, str):
            raise RequestError(
                "unsupported_value",
                '{} takes a text, a list of token ids, or {{"source_sentence", "sentences"}}, not {}'.format(
                    self.task, kind_of(item)
                ),
            )

    def _check_ids(self, item: List[object]) -> None:
        if not item or not all(isinstance(one, int) and not isinstance(one, bool) for one in item):
            raise RequestError("unsupported_value", "a list in the list of inputs must be token ids")
        outside = [one for one in item if not 0 <= one < self._vocabulary]  # type: ignore[operator]
        if outside:
            raise RequestError(
                "unsupported_value",
                "token id {} is not in the vocabulary of this model (0 to {}); token ids must come from its own "
                "tokenizer: send texts instead".format(outside[0], self._vocabulary - 1),
            )

    def items(self, inputs: object) -> Tuple[List[Item], bool]:
        """See TextTask. Also limits the size of the answer, before anything is tokenized."""
        items, is_list = super().items(inputs)
        if len(items) * self.dimension > limits.FEATURES:
            raise RequestError(
                "unprocessable",
                "the answer to {} texts has more than {} numbers; send at most {} texts".format(
                    len(items), limits.FEATURES, limits.FEATURES // self.dimension
                ),
            )
        return items, is_list

    def count(self, request: Request) -> int:
        """See Service: one for each text."""
        inputs = request.inputs
        return sum(map(_texts_in, inputs)) if isinstance(inputs, list) else _texts_in(inputs)

    def encode(self, item: Item, options: Options) -> Encoded:
        """See TextTask: one row for each text."""
        texts = [item["source_sentence"], *item["sentences"]] if isinstance(item, dict) else [item]
        rows, was_cut, count = [], False, 0
        for text in texts:
            one, cut = self._row(text, options)
            rows.append(one)
            was_cut = was_cut or cut
            count += len(one["input_ids"])
            self.check_amount(count)
        return Encoded(rows, was_cut)

    def _row(self, text: Union[str, List[int]], options: Options) -> Tuple[Tokens, bool]:
        if isinstance(text, list):
            return self._row_of_ids(text, options)
        text = self._prompt(options) + text
        encoding, was_cut = self.tokens(text.lower() if self._model.lowers_case else text, None, options)
        one = row(encoding)
        return {name: one[name] for name in self._names if name in one}, was_cut

    def _row_of_ids(self, numbers: List[int], options: Options) -> Tuple[Tokens, bool]:
        """Token ids as they are: without a prompt, and without special tokens."""
        most = self.limit
        if len(numbers) > most and options.get("truncation", True) is False:
            raise RequestError(
                "unprocessable", "an input has {} tokens, and the model takes {}".format(len(numbers), most)
            )
        kept = numbers[-most:] if options.get("truncation_direction") == "left" else numbers[:most]
        values = {"input_ids": kept, "attention_mask": [1] * len(kept), "token_type_ids": [0] * len(kept)}
        one = IdRow((name, values[name]) for name in values if name in self._names)
        return one, len(kept) < len(numbers)

    def _prompt(self, options: Options) -> str:
        return self._model.prompts.get(
            options.get("prompt_name") or self._model.default_prompt_name or "", ""
        )

    def _prompt_length(self, prompt: str) -> int:
        """The tokens of a prompt, with special tokens at the start and without those at the end."""
        if prompt not in self._prompt_lengths:
            numbers = self.tokens(prompt, None, {})[0]["input_ids"]
            is_closed = numbers[-1] in self.tokenizer.all_special_ids
            self._prompt_lengths[prompt] = len(numbers) - int(is_closed)
        return self._prompt_lengths[prompt]

    def piece(self, row: Tokens, options: Options) -> BatchRow:
        """See TextTask."""
        chosen = options.get("pooling")
        pooling = (chosen,) if chosen and not self._model.is_fixed else self._model.pooling
        is_whole = self._model.includes_prompt or isinstance(row, IdRow)
        prompt = "" if is_whole else self._prompt(options)
        start = self._prompt_length(prompt) if prompt else 0
        return super().piece(row, options)._replace(row=PooledRow(row, pooling, start))

    def run(self, pieces: List[BatchRow], check: Check) -> List[Output]:
        """See Service. Returns each row's vector, so that the hidden states of a pass are not kept."""
        outputs = super().run([piece._replace(row=piece.row.tokens) for piece in pieces], check)
        vectors = numpy.stack(
            [
                pooled(output["last_hidden_state"], piece.row.pooling, piece.row.start)
                for piece, output in zip(pieces, outputs)
            ]
        )
        for step in self._model.steps:
            vectors = step(vectors)
        return list(vectors)

    def decode(self, item: Item, encoded: Encoded, outputs: List[numpy.ndarray], options: Options) -> Answer:
        """See TextTask: the vector of a text, or scores of sentences."""
        vectors = [self._finished(output, options) for output in outputs]
        return similarities(vectors) if isinstance(item, dict) else vectors[0].tolist()

    def _finished(self, vector: numpy.ndarray, options: Options) -> numpy.ndarray:
        """A vector is shortened after the model's own normalization, and normalized again only on request."""
        wanted = options.get("normalize")
        if self._model.normalizes and wanted is not False:
            vector = normalized(vector)
        vector = vector[: options.get("truncate_dim") or self._model.truncate_dim]
        return normalized(vector) if wanted else vector

    def warm_up(self, check: Check) -> None:
        """See Service. Also finds the length of the vectors."""
        super().warm_up(check)
        text = SentenceEmbeddings.sample["inputs"]
        options = self.read_options({})
        (encoded,) = self.encode_all([text], False, options, check)
        (vector,) = self.run([self.piece(one, options) for one in encoded.rows], check)
        if len(vector) != self.dimension:
            self.dimension = len(vector)
            self.parameters = self._parameters()

    def item_schema(self) -> JsonObject:
        """See TextTask."""
        return {"oneOf": [{"type": "string"}, compared_schema()]}

    def listed_schema(self) -> JsonObject:
        """See TextTask."""
        ids = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
        return {"oneOf": [{"type": "string"}, ids, compared_schema()]}

    def examples(self) -> List[JsonObject]:
        """See Service."""
        return [self.sample, BOTH_SENTENCES]


class SentenceSimilarity(SentenceEmbeddings):
    """Scores of sentences: the cosine of the angle between their vectors and that of a source sentence."""

    sample = BOTH_SENTENCES

    def check(self, request: Request) -> None:
        """See Service."""
        super().check(request)
        if any(not isinstance(item, dict) for item in self.items(request.inputs)[0]):
            raise RequestError("unsupported_value", "{} takes objects: {}".format(self.task, TWO))

    def item_schema(self) -> JsonObject:
        """See TextTask."""
        return compared_schema()

    def listed_schema(self) -> JsonObject:
        """See TextTask."""
        return compared_schema()

    def examples(self) -> List[JsonObject]:
        """See Service."""
        return [self.sample]


def _taken(model: "transformers.PreTrainedModel", names: Iterable[str]) -> Tuple[str, ...]:
    """The outputs of a tokenizer that the model takes: some tokenizers have more."""
    known = inspect.signature(model.forward).parameters
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    return tuple(name for name in MODEL_INPUTS if name in names and (takes_all or name in known))


def _texts_in(item: object) -> int:
    return 1 + len(item["sentences"]) if isinstance(item, dict) else 1


def check_compared(item: JsonObject) -> None:
    """RequestError unless an object has a source sentence and sentences."""
    sentences = item.get("sentences")
    if set(item) != COMPARED or not isinstance(item["source_sentence"], str):
        raise RequestError("unsupported_value", TWO)
    check_texts(sentences, "sentences")


def check_texts(texts: object, name: str) -> None:
    """RequestError unless the texts that are compared with one are a list of texts that is not too long."""
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise RequestError("unsupported_value", "'{}' must be a list of texts that is not empty".format(name))
    if len(texts) > limits.COMPARED_TEXTS:
        raise RequestError(
            "unprocessable",
            "'{}' has {} texts; at most {} are allowed".format(name, len(texts), limits.COMPARED_TEXTS),
        )


def compared_schema() -> JsonObject:
    """JSON Schema of a source sentence and sentences."""
    text = {"type": "string"}
    return {
        "type": "object",
        "required": sorted(COMPARED),
        "additionalProperties": False,
        "properties": {
            "source_sentence": text,
            "sentences": {
                "type": "array",
                "items": text,
                "minItems": 1,
                "maxItems": limits.COMPARED_TEXTS,
            },
        },
    }
