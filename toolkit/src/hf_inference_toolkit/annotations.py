"""Names of types for annotations.

`Any` is in these names where Python 3.6 cannot write the type, or where each task has another one. Other modules use
these names, and the classes of transformers, PyTorch and TensorFlow.
"""

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Union

if TYPE_CHECKING:
    import numpy

# A JSON object of known form, such as an answer, config.json or a JSON Schema.
JsonObject = Dict[str, Any]
# The parameters of a request as they were sent.
Parameters = Dict[str, object]
# A parameter after its check, and all of them by name. The task's table of parameters has the type of each.
Option = Any
Options = Dict[str, Option]
# An input of a request, what decoding its outputs needs, a row of a batch and its output, and the answer of a request.
# Each task has types of its own for them.
Item = Any
Extra = Any
Row = Any
Output = Any
Answer = Any
# An argument of a pipeline: a text, samples, a PIL image, or an object or a list of these.
Argument = Any
# The outputs of a model for one row, by name.
Arrays = Dict[str, "numpy.ndarray"]
# A text, or a list of texts, such as the labels in candidate_labels.
Texts = Union[str, List[str]]
# A function of user code.
UserFunction = Callable[..., object]
