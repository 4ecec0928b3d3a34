"""What `generate` derives from its arguments for one prompt: logits processors, stopping criteria, length."""

import copy
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Sequence

from hf_inference_toolkit.annotations import Options

if TYPE_CHECKING:
    import torch
    import transformers
    from typing_extensions import Protocol

    class PreparedRow(Protocol):
        """What is read of a row of a TokenBatch."""

        prompt: List[int]
        generated: List[int]
        limits: Optional["Limits"]

        def fail(self, problem: BaseException) -> None:
            """End the row with an exception."""


# Options that `generate` follows in another way than by one text that is written token by token, and the values with
# which it does not.
PLAIN = {
    "num_beams": (None, 1),
    "num_beam_groups": (None, 1),
    "num_return_sequences": (None, 1),
    "penalty_alpha": (None, 0, 0.0),
    "prompt_lookup_num_tokens": (None,),
    "assistant_early_exit": (None,),
    "dola_layers": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
    "guidance_scale": (None, 1, 1.0),
    "token_healing": (None, False),
    "cache_implementation": (None, "dynamic", "hybrid"),
    "use_cache": (None, True),
    "do_sample": (None, False),
}
# Criteria that the batch checks itself: tasks know the end-of-sequence tokens.
KNOWN_CRITERIA = ("MaxLengthCriteria", "EosTokenCriteria")


class Limits(NamedTuple):
    """Processors of scores, criteria other than the usual ones, and the most tokens with the prompt.

    `start` are the tokens with which the decoder begins: the prompt itself where there is no encoder.
    """

    processors: Optional["transformers.LogitsProcessorList"]
    criteria: Sequence["transformers.StoppingCriteria"]
    total: int
    start: List[int]


class Preparation:
    """Calls `generate` on a copy of the model that returns what was prepared instead of writing a text."""

    def __init__(self, model: "transformers.PreTrainedModel", device: "torch.device") -> None:
        self._device = device
        self._copy = copy.copy(model)
        self._copy.__class__ = type(
            type(model).__name__, (type(model),), {"_sample": _captured, "_greedy_search": _captured}
        )
        self._has_encoder: bool = model.config.is_encoder_decoder
        # Arguments, without the length, from which `generate` derives neither processors nor other criteria; with
        # the decoder's first tokens, which are empty where there is no encoder.
        self._plain: Dict[str, List[int]] = {}

    def limits(self, prompt: List[int], arguments: Options) -> Limits:
        """Raises what `generate` raises for these arguments. With an encoder, the prompt is the source."""
        new = arguments.get("max_new_tokens")
        key = repr(sorted((name, value) for name, value in arguments.items() if name != "max_new_tokens"))
        if new is not None and key in self._plain:
            start = self._plain[key] or prompt
            return Limits(None, (), len(start) + new, start)
        prepared = self._captured(prompt, arguments)
        if not prepared.processors and not prepared.criteria:
            if len(self._plain) > 1000:
                self._plain.clear()
            self._plain[key] = prepared.start if self._has_encoder else []
        return prepared

    def _captured(self, prompt: List[int], arguments: Options) -> Limits:
        import torch

        ids = torch.tensor([prompt], device=self._device)
        inputs: Dict[str, object] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self._has_encoder:
            from transformers.modeling_outputs import BaseModelOutput

            # So that the encoder does not run.
            nothing = torch.zeros((1, 1, 1), device=self._device).expand(1, len(prompt), 1)
            inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=nothing)
        with torch.no_grad():
            prepared = self._copy.generate(**inputs, **arguments)
        if not isinstance(prepared, Limits):
            raise RuntimeError("generate did not call its usual loop")
        return prepared

    def processed(self, scores: "torch.Tensor", rows: Sequence["PreparedRow"]) -> "torch.Tensor":
        """Scores after the processors of `generate`. A row whose processors raise fails."""
        is_copied = False
        for place, row in enumerate(rows):
            assert row.limits is not None  # noqa: S101
            if not row.limits.processors:
                continue
            if not is_copied:
                scores, is_copied = scores.clone(), True
            try:
                scores[place] = row.limits.processors(self._ids(row), scores[place : place + 1].clone())[0]
            except Exception as problem:
                row.fail(problem)
        return scores

    def is_over(self, row: "PreparedRow") -> bool:
        """Whether a row has reached its length or another criterion of `generate`."""
        assert row.limits is not None  # noqa: S101
        if len(row.prompt) + len(row.generated) >= row.limits.total:
            return True
        if not row.limits.criteria:
            return False
        ids = self._ids(row)
        # Releases before 4.39 return a boolean, later ones a tensor.
        return any(bool(criterion(ids, None)) for criterion in row.limits.criteria)

    def _ids(self, row: "PreparedRow") -> "torch.Tensor":
        import torch

        return torch.tensor([row.prompt + row.generated], device=self._device)


def _captured(
    _: "transformers.PreTrainedModel",
    input_ids: "torch.Tensor",
    *,
    logits_processor: "transformers.LogitsProcessorList",
    stopping_criteria: "transformers.StoppingCriteriaList",
    **__: object,
) -> Limits:
    others = [one for one in stopping_criteria if type(one).__name__ not in KNOWN_CRITERIA]
    total = stopping_criteria.max_length
    start = list(map(int, input_ids[0].tolist()))
    return Limits(logits_processor, others, int(total) if total else len(start) + 1, start)
