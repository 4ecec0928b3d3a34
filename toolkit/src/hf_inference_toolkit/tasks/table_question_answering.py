"""table-question-answering, by the pipeline of transformers behind the same checks as every other task."""

from typing import Any, Dict, List

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks import parameters
from hf_inference_toolkit.tasks.parameters import Parameter
from hf_inference_toolkit.tasks.service import Check, Prediction, Service
from hf_inference_toolkit.tasks.warm_up import explained, require_finite

PARAMETERS = (
    Parameter(
        "sequential", "boolean", "ask the questions one after the other, each knowing the answers before it"
    ),
    Parameter("padding", "boolean", "fill up to the longest"),
    Parameter("truncation", "boolean", "drop rows that do not fit; true by default"),
)
SAMPLE: Dict[str, Any] = {
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


class TableQuestionAnswering(Service):
    """The cells of a table that answer a question, and what to do with them (SUM, COUNT, AVERAGE)."""

    def __init__(self, task: str, pipeline: Any, facts: Dict[str, str]) -> None:
        super().__init__(task, facts)
        self._pipeline = pipeline

    def read(self, body: bytes, content_type: Any, accept: str) -> Request:
        """A request whose tables are rectangles of text; numbers in cells become text, as the model needs it."""
        request = super().read(body, content_type, accept)
        parameters.check(request.parameters, PARAMETERS)
        inputs = request.inputs
        if isinstance(inputs, list):
            if not inputs:
                raise RequestError("unsupported_value", '"inputs" is an empty list')
            return request._replace(inputs=[checked(one) for one in inputs])
        return request._replace(inputs=checked(inputs))

    def predict(self, request: Request, check: Check) -> Prediction:
        """See Service."""
        check()
        items = request.inputs if isinstance(request.inputs, list) else [request.inputs]
        options = dict(request.parameters)
        may_cut = options.pop("truncation", True)
        options["truncation"] = "drop_rows_to_fit" if may_cut else "do_not_truncate"
        # The pipeline puts a data frame into what it gets.
        answers = [self._pipeline(dict(item), **options) for item in items]
        dropped = any(self._was_cut(item) for item in items) if may_cut else False
        return Prediction(answers if isinstance(request.inputs, list) else answers[0], dropped, len(items))

    def _was_cut(self, item: Dict[str, Any]) -> bool:
        """Whether rows of a table had to be dropped; small tables are known to fit without being read again."""
        cells = sum(len(cell) for column in item["table"].values() for cell in column)
        limit = min(getattr(self._pipeline.tokenizer, "model_max_length", 512), 512)
        if cells + len(item["query"]) + 3 * len(item["table"]) < limit // 2:
            return False
        import pandas

        whole = self._pipeline.tokenizer(pandas.DataFrame(item["table"]), item["query"])
        return len(whole["input_ids"]) > limit

    def warm_up(self, check: Check) -> None:
        """The reference document's example must be answered."""
        with explained(self):
            require_finite(self.predict(Request(checked(SAMPLE["inputs"]), {}, []), check).value)

    def schema(self) -> Dict[str, Any]:
        """See Service."""
        cells = {"type": "array", "items": {"type": "string"}, "minItems": 1}
        item: Dict[str, Any] = {
            "type": "object",
            "required": ["query", "table"],
            "additionalProperties": False,
            "properties": {
                "query": {"type": "string", "minLength": 1},
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

    def examples(self) -> List[Dict[str, Any]]:
        """See Service."""
        return [SAMPLE]


def checked(item: Any) -> Dict[str, Any]:
    """A question and a table of columns of equal length, every cell a string."""
    if not isinstance(item, dict) or set(item) != {"query", "table"}:
        raise RequestError(
            "unsupported_value", 'an input must be {"query": "...", "table": {"column": ["cell"]}}'
        )
    query, table = item["query"], item["table"]
    if not isinstance(query, str) or not query.strip():
        raise RequestError("unsupported_value", '"query" must be a string that is not empty')
    if isinstance(table, list) and table and all(isinstance(line, dict) for line in table):
        table = {name: [line.get(name, "") for line in table] for name in table[0]}
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
            "the table's columns must be of one length and not empty; they have {} cells".format(
                " and ".join(map(str, lengths))
            ),
        )
    return {
        "query": query,
        "table": {name: [cell(value) for value in column] for name, column in table.items()},
    }


def cell(value: Any) -> str:
    """A cell's text."""
    if isinstance(value, (dict, list)):
        raise RequestError("unsupported_value", "a cell must be a string or a number")
    return "" if value is None else str(value)
