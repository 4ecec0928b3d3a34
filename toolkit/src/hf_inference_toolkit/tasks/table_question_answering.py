"""table-question-answering, by transformers' pipeline, with checks of inputs and parameters."""

from typing import TYPE_CHECKING, Dict, List, Union

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import JsonObject, Options
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import Engine, Runtime
from hf_inference_toolkit.tasks import parameters
from hf_inference_toolkit.tasks.parameters import Parameter
from hf_inference_toolkit.tasks.service import Check, Prediction, Service
from hf_inference_toolkit.tasks.text_task import check_count
from hf_inference_toolkit.tasks.warm_up import explained, require_finite

if TYPE_CHECKING:
    import transformers

PARAMETERS = (
    Parameter(
        "sequential", "boolean", "answer the queries one after the other, with the previous answers as input"
    ),
    Parameter(
        "padding",
        "boolean or string",
        "pad to the longest input, or to the model's limit",
        choices=("longest", "max_length", "do_not_pad"),
    ),
    Parameter(
        "truncation",
        "boolean or string",
        "drop rows above the model's limit; true by default",
        choices=("drop_rows_to_fit", "do_not_truncate"),
    ),
)
SAMPLE: JsonObject = {
    "inputs": {
        "query": "How many stars does the transformers repository have?",
        "table": {
            "Repository": ["Transformers", "Datasets", "Tokenizers"],
            "Stars": ["36542", "4512", "3934"],
            "Contributors": ["651", "77", "34"],
            "Programming language": ["Python", "Python", "Rust, Python and NodeJS"],
        },
    }
}

# {"query": a question or a list of them, "table": columns of strings}
Table = JsonObject


class TableQuestionAnswering(Service):
    """The cells of a table that answer a question, and their aggregation (SUM, COUNT, AVERAGE)."""

    def __init__(
        self, task: str, pipeline: "transformers.Pipeline", runtime: Runtime, facts: Dict[str, str]
    ) -> None:
        super().__init__(task, facts)
        self._pipeline = pipeline
        self._runtime = runtime
        # TAPAS cannot do without them; in transformers 5.0 its tokenizer leaves them out.
        tokenizer = pipeline.tokenizer
        if "token_type_ids" not in tokenizer.model_input_names:
            tokenizer.model_input_names = [*tokenizer.model_input_names, "token_type_ids"]

    def accepted(self, request: Request) -> Request:
        """See Service. The columns of a table have the same length; numbers in cells become text."""
        request = super().accepted(request)
        request = request._replace(parameters=parameters.check(request.parameters, PARAMETERS))
        return request._replace(inputs=self._checked(request.inputs))

    def _checked(self, inputs: object) -> Union[Table, List[Table]]:
        if not isinstance(inputs, list):
            return checked(inputs)
        if not inputs:
            raise RequestError("unsupported_value", '"inputs" is an empty list')
        check_count(inputs)
        return [checked(one) for one in inputs]

    def predict(self, request: Request, check: Check) -> Prediction:
        """See Service."""
        check()
        # User code may pass on inputs of a client.
        inputs = self._checked(request.inputs)
        items = inputs if isinstance(inputs, list) else [inputs]
        options = parameters.check(request.parameters, PARAMETERS)
        may_cut = options.pop("truncation", True) not in (False, "do_not_truncate")
        options["truncation"] = "drop_rows_to_fit" if may_cut else "do_not_truncate"
        self._runtime.set_check(check)
        answers = []
        for item in items:
            check()
            answers.append(self._answer(self._fitting(item, may_cut), options))
        dropped = may_cut and any(self._was_cut(item) for item in items)
        return Prediction(answers if isinstance(request.inputs, list) else answers[0], dropped, len(items))

    def _fitting(self, item: Table, may_cut: bool) -> Table:
        """Drop the rows above the model's limit. RequestError (422) if that is not possible."""
        sizes = getattr(self._pipeline.model.config, "type_vocab_sizes", None)
        if not sizes:
            return item
        table = item["table"]
        # Columns and rows are counted from 1.
        columns, rows = sizes[1] - 1, sizes[2] - 1
        if len(table) > columns:
            raise RequestError(
                "unprocessable",
                "the table has {} columns, and the model takes {}".format(len(table), columns),
            )
        if self._rows(item) <= rows:
            return item
        if not may_cut:
            raise RequestError(
                "unprocessable",
                "the table has {} rows, and the model takes {}".format(self._rows(item), rows),
            )
        return dict(item, table={name: column[:rows] for name, column in table.items()})

    def _rows(self, item: Table) -> int:
        return len(next(iter(item["table"].values())))

    def _answer(self, item: Table, options: Options) -> object:
        # A copy, because the pipeline changes its input.
        answer = self._pipeline(dict(item), **options)
        # The pipeline returns the answer to a list of one query without a list.
        return [answer] if isinstance(item["query"], list) and len(item["query"]) == 1 else answer

    def _was_cut(self, item: Table) -> bool:
        """Whether rows were dropped. A small table fits, and is not tokenized again."""
        if self._fitting(item, True) is not item:
            return True
        cells = sum(len(cell) for column in item["table"].values() for cell in column)
        limit = min(getattr(self._pipeline.tokenizer, "model_max_length", 512), 512)
        query = max([item["query"]] if isinstance(item["query"], str) else item["query"], key=len)
        if cells + len(query) + 3 * len(item["table"]) < limit // 2:
            return False
        import pandas

        whole = self._pipeline.tokenizer(pandas.DataFrame(item["table"]), query)
        return len(whole["input_ids"]) > limit

    def warm_up(self, check: Check) -> None:
        """See Service."""
        with explained(self):
            require_finite(self.predict(Request(checked(SAMPLE["inputs"]), {}, []), check).value)
        self._runtime.optimize_pipeline(is_start=True)

    def optimize(self) -> None:
        """See Service."""
        self._runtime.optimize_pipeline(is_start=False)

    @property
    def engine(self) -> Engine:
        """See Service."""
        return self._runtime.engine

    def schema(self) -> JsonObject:
        """See Service."""
        cells = {"type": "array", "items": {"type": "string"}, "minItems": 1}
        query = {"type": "string", "minLength": 1}
        item: JsonObject = {
            "type": "object",
            "required": ["query", "table"],
            "additionalProperties": False,
            "properties": {
                "query": {"oneOf": [query, {"type": "array", "items": query, "minItems": 1}]},
                "table": {"type": "object", "additionalProperties": cells, "minProperties": 1},
            },
        }
        inputs = {"oneOf": [item, {"type": "array", "items": item, "minItems": 1}]}
        return {
            "type": "object",
            "required": ["inputs"],
            "additionalProperties": False,
            "properties": {"inputs": inputs, "parameters": parameters.schema(PARAMETERS)},
        }

    def examples(self) -> List[JsonObject]:
        """See Service."""
        return [SAMPLE]


def checked(item: object) -> Table:
    """Check an input. Returns it with the table as columns of equal length whose cells are strings."""
    if not isinstance(item, dict) or set(item) != {"query", "table"}:
        raise RequestError(
            "unsupported_value", 'an input must be {"query": "...", "table": {"column": ["cell"]}}'
        )
    query, table = item["query"], item["table"]
    queries = query if isinstance(query, list) and query else [query]
    if not all(isinstance(one, str) and one.strip() for one in queries):
        raise RequestError(
            "unsupported_value", '"query" must be a non-empty string, or a list of non-empty strings'
        )
    if isinstance(table, list) and table and all(isinstance(line, dict) for line in table):
        # A line may lack cells, also the first one.
        names = dict.fromkeys(name for line in table for name in line)
        _check_size(len(names), len(table))
        table = {name: [line.get(name, "") for line in table] for name in names}
    if (
        not isinstance(table, dict)
        or not table
        or not all(isinstance(column, list) for column in table.values())
    ):
        raise RequestError("unsupported_value", '"table" must be an object of columns, each a list of cells')
    lengths = sorted({len(column) for column in table.values()})
    if len(lengths) != 1 or not lengths[0]:
        raise RequestError(
            "unsupported_value",
            "the table's columns must have the same length and not be empty; they have {} cells".format(
                " and ".join(map(str, lengths))
            ),
        )
    _check_size(len(table), lengths[0])
    cells = {name: [cell(value) for value in column] for name, column in table.items()}
    # Each query is encoded with the whole table.
    characters = sum(len(text) for column in cells.values() for text in column) + sum(map(len, cells))
    characters = sum(characters + len(one) for one in queries)
    if characters > limits.TABLE_CHARACTERS:
        raise RequestError(
            "unsupported_value",
            "the table and the query have {} characters; at most {} are allowed".format(
                characters, limits.TABLE_CHARACTERS
            ),
        )
    return {"query": query, "table": cells}


def _check_size(columns: int, rows: int) -> None:
    for what, count, most in (
        ("columns", columns, limits.TABLE_COLUMNS),
        ("rows", rows, limits.TABLE_ROWS),
        ("cells", columns * rows, limits.TABLE_CELLS),
    ):
        if count > most:
            raise RequestError(
                "unsupported_value", "the table has {} {}; at most {} are allowed".format(count, what, most)
            )


def cell(value: object) -> str:
    """A cell's text."""
    if isinstance(value, (dict, list)):
        raise RequestError("unsupported_value", "a cell must be a string or a number")
    return "" if value is None else str(value)
