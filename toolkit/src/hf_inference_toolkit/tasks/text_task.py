"""The common base of text tasks: items, tokenization, truncation, rows and batches."""

from typing import TYPE_CHECKING, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import Answer, Extra, Item, JsonObject, Options, Output, Parameters
from hf_inference_toolkit.content.payload import Request, kind_of
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import MODEL_INPUTS, Engine, Runtime, Tokens, unpadded
from hf_inference_toolkit.tasks import parameters
from hf_inference_toolkit.tasks.encoder import encoder
from hf_inference_toolkit.tasks.parameters import Parameter
from hf_inference_toolkit.tasks.service import (
    BatchRow,
    Check,
    Prediction,
    Reader,
    Service,
    Steps,
    predict_alone,
)
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.warm_up import require_finite

if TYPE_CHECKING:
    import transformers

# Tokenizers without a limit report a very large number.
NO_LIMIT = 1000000
# Model types whose positions start after the index of the padding token.
OFFSET_POSITIONS = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "longformer",
    "mpnet",
    "ibert",
    "luke",
    "data2vec-text",
)
# Model types without a table of absolute positions: the number in their config is not a limit.
RELATIVE_POSITIONS = ("t5", "mt5", "umt5", "longt5", "xlnet", "transfo-xl")


# Texts with fewer characters per token of the limit are tokenized whole.
LONG_TEXT = 16
# Lengths of the rows of passes with which two libraries are compared, up to the model's limit: some models, such as
# BigBird, compute long texts in another way, which the conversion of a short one does not have.
SAMPLE_LENGTHS = ((9, 16), (32,), (5, 11, 40, 64), (1,), (4096,))
# Minimum tokens of a shortened text beyond the limit, because the cut changes the tokens next to it.
MARGIN = 64

# The token ids of a text and what belongs to them, as a tokenizer or an Encoder returns them.
Encoding = Mapping[str, List[int]]


class Encoded(NamedTuple):
    """An item as rows for the model. `extra` is what `decode` of the task needs."""

    rows: List[Tokens]
    is_truncated: bool = False
    extra: Extra = None


class TextTask(Service):
    """A task of the toolkit itself. Subclasses encode items into rows, and decode the outputs of rows into answers."""

    parameters: Sequence[Parameter] = ()
    # The request of the warm-up, and the example in SageMaker's documentation if it is another one.
    sample: JsonObject = {"inputs": "I like you."}
    documented: Optional[JsonObject] = None
    # Whether max_length limits inputs. In text generation it limits outputs.
    has_input_length = False

    def __init__(
        self,
        task: TaskName,
        runtime: Runtime,
        tokenizer: "transformers.PreTrainedTokenizerBase",
        facts: Dict[str, str],
    ) -> None:
        super().__init__(task.requested, facts)
        self.runtime = runtime
        self.tokenizer = tokenizer
        # Models of images and audio have a configuration for their texts.
        self.config = getattr(runtime.model.config, "text_config", runtime.model.config)
        # If neither the model nor its tokenizer has a limit, memory limits it.
        self.limit = longest_input(tokenizer, self.config) or limits.UNLIMITED_TOKENS
        self._encoder = encoder(tokenizer)
        self.pad = padding_token(tokenizer, self.config)

    def check_item(self, item: object) -> None:
        """Check one input. Raises RequestError."""
        if not isinstance(item, str):
            raise RequestError(
                "unsupported_value", "{} takes a string, not {}".format(self.task, kind_of(item))
            )

    def encode(self, item: Item, options: Options) -> Encoded:
        """Encode an item into rows."""
        raise NotImplementedError

    def decode(self, item: Item, encoded: Encoded, outputs: List[Output], options: Options) -> Answer:
        """Decode the outputs of an item's rows, in order and without padding, into its answer."""
        raise NotImplementedError

    def shape(self, results: List[Answer], is_list: bool, options: Options) -> Answer:
        """The answer of the request from the answers of its items."""
        return results if is_list else results[0]

    def read_options(self, given: Parameters) -> Options:
        """Check the parameters. Members of tokenizer_kwargs are moved to the top level."""
        options = parameters.check(given, self.parameters)
        for name in ("tokenize_kwargs", "tokenizer_kwargs"):
            options.update(options.pop(name, {}))
        if options.get("truncation") == "do_not_truncate":
            options["truncation"] = False
        return options

    def items(self, inputs: object) -> Tuple[List[Item], bool]:
        """The inputs as a list, and whether they are a list in the request."""
        is_list = isinstance(inputs, list)
        items: List[Item] = inputs if isinstance(inputs, list) else [inputs]
        if not items:
            raise RequestError("unsupported_value", '"inputs" is an empty list')
        check_count(items)
        for place, item in enumerate(items):
            try:
                self.check_item(item)
            except RequestError as error:
                raise of_item(error, place, is_list) from None
        return items, is_list

    def accepted(self, request: Request) -> Request:
        """See Service."""
        request = super().accepted(request)
        self.check(request)
        return request

    def check(self, request: Request) -> None:
        """See Service."""
        self.items(request.inputs)
        self.read_options(request.parameters)

    def predict(self, request: Request, check: Check) -> Prediction:
        """See Service."""
        return predict_alone(self, request, check)

    def steps(self, request: Request, check: Check, reader: Reader = None) -> Steps:
        """See Service. The rows are those of all items."""
        items, is_list = self.items(request.inputs)
        options = self.read_options(request.parameters)
        encoded = self.encode_all(items, is_list, options, check)
        rows = [row for one in encoded for row in one.rows]
        outputs = yield [self.piece(row, options)._replace(reader=reader) for row in rows]
        rest = iter(outputs)
        results = []
        for item, one in zip(items, encoded):
            check()
            results.append(self.decode(item, one, [next(rest) for _ in one.rows], options))
        return Prediction(
            self.shape(results, is_list, options),
            any(one.is_truncated for one in encoded),
            len(items),
            sum(len(row["input_ids"]) for row in rows),
            sum(self.count_generated(row, output) for row, output in zip(rows, outputs)),
        )

    def count_generated(self, row: Tokens, output: Output) -> int:
        """The number of tokens that were generated for a row."""
        return 0

    def encode_all(self, items: List[Item], is_list: bool, options: Options, check: Check) -> List[Encoded]:
        """Encode all items. An error names the index of its item."""
        encoded = []
        count = 0
        for place, item in enumerate(items):
            check()
            try:
                one = self.encode(item, options)
            except RequestError as error:
                raise of_item(error, place, is_list) from None
            except BaseException as problem:
                # Panics of the Rust code of fast tokenizers are not a subclass of Exception.
                if type(problem).__name__ != "PanicException":
                    raise
                message = "the tokenizer cannot read an input: {}".format(problem)
                raise of_item(RequestError("unprocessable", message), place, is_list) from None
            count += sum(len(row["input_ids"]) for row in one.rows)
            self.check_amount(count)
            encoded.append(one)
        return encoded

    def check_amount(self, tokens: int) -> None:
        """RequestError if all inputs together have too many tokens."""
        if tokens > limits.REQUEST_TOKENS:
            raise RequestError(
                "unprocessable",
                "the inputs have more than {} tokens; send fewer at once".format(limits.REQUEST_TOKENS),
            )

    def piece(self, row: Tokens, options: Options) -> BatchRow:
        """A row for the scheduler. By default, rows of requests with other parameters may share its pass."""
        return BatchRow(row, len(row["input_ids"]))

    def run(self, pieces: List[BatchRow], check: Check) -> List[Output]:
        """See Service. Returns each row's outputs without padding."""
        self.runtime.set_check(check)
        arrays = self.runtime.forward([piece.row for piece in pieces], self.pad)
        return [
            {name: unpadded(name, array[place], piece.length) for name, array in arrays.items()}
            for place, piece in enumerate(pieces)
        ]

    def tokens(
        self, text: str, pair: Optional[str], options: Options, strategy: str = "longest_first"
    ) -> Tuple[Encoding, bool]:
        """Encode a text, and return whether it was truncated. RequestError (422) if it is too long and not truncated.

        `strategy` is the truncation strategy for pairs, unless the request sets one.
        """
        truncation = options.get("truncation", True)
        if truncation is True:
            truncation = strategy
        side = str(options.get("truncation_direction") or getattr(self.tokenizer, "truncation_side", "right"))
        text = self.shortened(text, self.limit, truncation not in (False, "only_second"), side)
        if pair is not None:
            pair = self.shortened(pair, self.limit, truncation not in (False, "only_first"), side)
        most = self.most_tokens(pair is not None, options)
        try:
            encoding, was_cut = self._encode(text, pair, truncation or None, most, side)
        except Exception as problem:  # tokenizers raises plain Exceptions
            if "truncation" not in str(problem).lower():
                raise
            raise RequestError(
                "unprocessable",
                "an input cannot be truncated to {} tokens with the strategy {}: {}".format(
                    most, truncation, str(problem)[:200]
                ),
            ) from None
        self._check_length(len(encoding["input_ids"]))
        return encoding, was_cut

    def most_tokens(self, is_pair: bool, options: Options) -> int:
        """The maximum tokens of an input: the model's limit, or max_length of the request."""
        most = options.get("max_length") if self.has_input_length else None
        if most is None:
            return self.limit
        special = self.tokenizer.num_special_tokens_to_add(pair=is_pair)
        if most < special:
            raise RequestError(
                "unprocessable",
                "max_length is {}, but an input has {} special tokens".format(most, special),
            )
        return int(min(most, self.limit))

    def _encode(
        self, text: str, pair: Optional[str], truncation: Optional[str], most: int, side: str
    ) -> Tuple[Encoding, bool]:
        if self._encoder is not None:
            return self._encoder(text, pair, truncation, most, side)
        if side != getattr(self.tokenizer, "truncation_side", "right"):
            raise RequestError(
                "unprocessable", "this model's tokenizer cannot truncate at the {}".format(side)
            )
        how = {"truncation": truncation, "max_length": most} if truncation else {}
        texts = (text,) if pair is None else (text, pair)
        encoding = self.tokenizer(*texts, **how)
        if not truncation or len(encoding["input_ids"]) < most:
            return encoding, False
        return encoding, len(self.tokenizer(*texts)["input_ids"]) > most

    def shortened(self, text: str, tokens: int, may_cut: bool, side: str = "right") -> str:
        """Cut most of what truncation to `tokens` would drop, because tokenizing megabytes needs gigabytes.

        The text is cut between words, and the kept text has more than `tokens` tokens. RequestError (422) if a text is
        too long and must not be truncated, or if no allowed length has enough tokens.
        """
        size = max(tokens, 64) * LONG_TEXT
        while may_cut and tokens and size < min(len(text), limits.TEXT_CHARACTERS):
            part = _end_of(text, size) if side == "left" else _start_of(text, size)
            encoding = self.tokenizer(part, add_special_tokens=False, verbose=False)
            if len(encoding["input_ids"]) >= tokens + MARGIN:
                return part
            size *= 4
        if len(text) > limits.TEXT_CHARACTERS:
            raise RequestError(
                "unprocessable",
                "a text has {} characters; at most {} are allowed".format(len(text), limits.TEXT_CHARACTERS),
            )
        return text

    def check_windows(self, text: str, step: int) -> None:
        """RequestError for a text with too many windows, before they are created, because all are kept in memory."""
        if len(text) > limits.TEXT_CHARACTERS:
            raise RequestError(
                "unprocessable",
                "the text has {} characters; at most {} are allowed".format(
                    len(text), limits.TEXT_CHARACTERS
                ),
            )
        # Most tokenizers have at most one token for a character, and byte-level ones at most four.
        if 4 * len(text) > limits.CONTEXT_WINDOWS * step:
            count = len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            if count > limits.CONTEXT_WINDOWS * step:
                raise RequestError(
                    "unprocessable",
                    "the text has {} tokens, more than {} windows of {} new tokens".format(
                        count, limits.CONTEXT_WINDOWS, step
                    ),
                )

    def _check_length(self, count: int) -> None:
        if not count:
            raise RequestError("unprocessable", "an input has no tokens")
        if self.limit and count > self.limit:
            raise RequestError(
                "unprocessable", "an input has {} tokens, and the model takes {}".format(count, self.limit)
            )

    def warm_up(self, check: Check) -> None:
        """See Service."""
        self.runtime.prepare(self._samples, self.pad)
        try:
            self._try(check)
        except Exception:
            # The model's code may access weights that were repacked for oneDNN: try again without.
            if not self.runtime.disable_onednn():
                raise
            self._try(check)

    def optimize(self) -> None:
        """See Service."""
        self.runtime.optimize(self._samples, self.pad)

    @property
    def engine(self) -> Engine:
        """See Service."""
        return self.runtime.engine

    def described(self) -> Dict[str, str]:
        """See Service."""
        return dict(super().described(), kernels=self.runtime.kernels)

    def _samples(self) -> List[List[Tokens]]:
        """Rows of the sample request in several lengths, for passes of several sizes."""
        options = self.read_options(self.sample.get("parameters", {}))
        (first, *_) = self.encode(self.items(self.sample["inputs"])[0][0], options).rows
        return [
            [_stretched(first, min(length, self.limit)) for length in lengths] for lengths in SAMPLE_LENGTHS
        ]

    def _try(self, check: Check) -> None:
        request = Request(self.sample["inputs"], self.sample.get("parameters", {}), [])
        value = self.predict(request, check).value
        require_finite(value)
        self.write(value, "application/json")

    def schema(self) -> JsonObject:
        """See Service."""
        several = {"type": "array", "items": self.listed_schema(), "minItems": 1}
        return {
            "type": "object",
            "required": ["inputs"],
            "additionalProperties": False,
            "properties": {
                "inputs": {"oneOf": [self.item_schema(), several]},
                "parameters": parameters.schema(self.parameters),
            },
        }

    def item_schema(self) -> JsonObject:
        """JSON Schema of one input."""
        return {"type": "string"}

    def listed_schema(self) -> JsonObject:
        """JSON Schema of an input in a list of inputs."""
        return self.item_schema()

    def examples(self) -> List[JsonObject]:
        """See Service."""
        return [self.documented or self.sample]


def _start_of(text: str, size: int) -> str:
    """The first `size` characters, up to the last space in their second half."""
    place = max(text.rfind(space, size // 2, size) for space in " \n")
    return text[: place if place > 0 else size]


def _end_of(text: str, size: int) -> str:
    """The last `size` characters, from the first space in their first half."""
    start = len(text) - size
    places = [text.find(space, start, start + size // 2) for space in " \n"]
    return text[min((place for place in places if place >= 0), default=start) :]


def _stretched(one: Tokens, length: int) -> Tokens:
    """A row with its tokens between the first and the last repeated, up to a length."""
    ids = one["input_ids"]
    missing = length - len(ids)
    if missing <= 0 or len(ids) < 3:
        return one
    places = [0, *(1 + place % (len(ids) - 2) for place in range(length - 2)), len(ids) - 1]
    return {name: [numbers[place] for place in places] for name, numbers in one.items()}


def row(encoding: Encoding) -> Tokens:
    """The inputs of the model in an encoding."""
    return {key: list(encoding[key]) for key in MODEL_INPUTS if key in encoding}


def check_count(items: Sequence[object]) -> None:
    """RequestError for more inputs than a request may have."""
    if len(items) > limits.ITEMS:
        raise RequestError(
            "unsupported_value",
            '"inputs" has {} items; at most {} are allowed'.format(len(items), limits.ITEMS),
        )


def of_item(error: RequestError, place: int, is_list: bool) -> RequestError:
    """The error with the index of its item, if the request has a list."""
    if not is_list:
        return error
    return RequestError(error.kind, "inputs[{}]: {}".format(place, error.message), error.headers)


def padding_token(
    tokenizer: "transformers.PreTrainedTokenizerBase", config: "transformers.PretrainedConfig"
) -> int:
    """The padding token: the model's, because some models use it to find the end of a row."""
    for number in (getattr(config, "pad_token_id", None), tokenizer.pad_token_id):
        # Some configs have -1.
        if isinstance(number, int) and number >= 0:
            return number
    return 0


def longest_input(
    tokenizer: "transformers.PreTrainedTokenizerBase", config: "transformers.PretrainedConfig"
) -> int:
    """The model's maximum number of tokens; 0 if it has none."""
    limits = []
    reported = getattr(tokenizer, "model_max_length", None)
    if reported and reported < NO_LIMIT:
        limits.append(int(reported))
    kind = getattr(config, "model_type", "")
    places = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if isinstance(places, int) and places > 0 and kind not in RELATIVE_POSITIONS:
        offset = (config.pad_token_id or 0) + 1 if kind in OFFSET_POSITIONS else 0
        limits.append(places - offset)
    return min(limits) if limits else 0
