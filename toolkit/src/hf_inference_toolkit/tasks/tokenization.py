"""The tokens of texts, for clients that count or split."""

from typing import TYPE_CHECKING, List, Mapping

from hf_inference_toolkit import limits
from hf_inference_toolkit.annotations import JsonObject
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks.parameters import Parameter, check
from hf_inference_toolkit.tasks.service import Check, Prediction, Service
from hf_inference_toolkit.tasks.text_task import check_count

if TYPE_CHECKING:
    import transformers

ADD_SPECIAL_TOKENS = Parameter("add_special_tokens", "boolean", "true by default")


class Tokenization(Service):
    """A service beside that of a model. It is one because tokenizers are used in the prediction thread only."""

    def __init__(self, tokenizer: "transformers.PreTrainedTokenizerBase", prompts: Mapping[str, str]) -> None:
        super().__init__("tokenize")
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._parameters = [ADD_SPECIAL_TOKENS]
        if prompts:
            self._parameters.append(
                Parameter("prompt_name", "string", "a prompt of the model", choices=sorted(prompts))
            )

    def check(self, request: Request) -> None:
        """See Service."""
        texts = request.inputs
        check(request.parameters, self._parameters)
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise RequestError("unsupported_value", "'inputs' must be a text or a list of texts")
        check_count(texts)
        longest = max(map(len, texts))
        if longest > limits.TEXT_CHARACTERS:
            raise RequestError(
                "unprocessable",
                "a text has {} characters; at most {} are allowed".format(longest, limits.TEXT_CHARACTERS),
            )

    def predict(self, request: Request, check: Check) -> Prediction:
        """See Service: for each text its tokens, with the places of their characters."""
        options = dict(request.parameters)
        prompt = self._prompts.get(str(options.get("prompt_name")), "")
        is_whole = options.get("add_special_tokens") is not False
        answers: List[List[JsonObject]] = []
        count = 0
        for text in request.inputs:  # type: ignore[attr-defined]
            check()
            answers.append(self._tokens(prompt + text, is_whole))
            count += len(answers[-1])
            if count > limits.REQUEST_TOKENS:
                raise RequestError(
                    "unprocessable",
                    "the inputs have more than {} tokens; send fewer at once".format(limits.REQUEST_TOKENS),
                )
        return Prediction(answers, items=len(answers), tokens_in=count)

    def _tokens(self, text: str, is_whole: bool) -> List[JsonObject]:
        has_places = bool(getattr(self._tokenizer, "is_fast", False))
        found = self._tokenizer(
            text,
            add_special_tokens=is_whole,
            return_special_tokens_mask=True,
            return_offsets_mapping=has_places,
            verbose=False,
        )
        numbers, marks = found["input_ids"], found["special_tokens_mask"]
        names = self._tokenizer.convert_ids_to_tokens(numbers)
        places = found["offset_mapping"] if has_places else [None] * len(numbers)
        tokens = []
        for number, name, mark, place in zip(numbers, names, marks, places):
            start, stop = (None, None) if mark or place is None else place
            part = name if start is None else text[start:stop]
            tokens.append({"id": number, "text": part, "special": bool(mark), "start": start, "stop": stop})
        return tokens
