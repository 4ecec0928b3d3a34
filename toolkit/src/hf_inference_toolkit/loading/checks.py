"""Checks of models and tokenizers that transformers loads without an error although they are incomplete."""

from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, Mapping, Sequence, Tuple

from hf_inference_toolkit.errors import StartError

if TYPE_CHECKING:
    import numpy
    import tensorflow
    import transformers

# Vocabulary files that are not in a tokenizer's `vocab_files_names`.
OTHER_VOCABULARIES = ("*.tiktoken", "*.model", "*.model.v*", "*.spm", "tekken.json", "*.bpe")


def listed(names: Sequence[str]) -> str:
    """The first four names, and the number of the others."""
    more = ", and {} more".format(len(names) - 4) if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def check_tokenizer(tokenizer: "transformers.PreTrainedTokenizerBase", folder: Path) -> None:
    """StartError if the tokenizer has no vocabulary: it would encode all texts alike."""
    names = dict(getattr(tokenizer, "vocab_files_names", None) or {})
    names.pop("tokenizer_config_file", None)
    if not names or any(any(folder.glob(pattern)) for pattern in OTHER_VOCABULARIES):
        return
    whole = names.pop("tokenizer_file", "tokenizer.json")
    if (folder / whole).is_file():
        return
    parts = [names[key] for key in ("vocab_file", "merges_file") if names.get(key)] or sorted(names.values())
    missing = [name for name in parts if name and not (folder / name).is_file()]
    if missing:
        raise StartError(
            "the tokenizer's files are missing in {}: {} (or {}). Save the tokenizer beside the model: "
            "tokenizer.save_pretrained(FOLDER)".format(folder, ", ".join(missing), whole)
        )


def check_labels(config: "transformers.PretrainedConfig") -> None:
    """StartError if an output of the model has no label."""
    missing = [index for index in range(config.num_labels) if index not in config.id2label]
    if missing:
        raise StartError(
            "id2label in config.json has no name for label {} of {}".format(missing[0], config.num_labels)
        )


def check_finite(model: "transformers.PreTrainedModel", folder: Path) -> None:
    """StartError if weights contain NaN or infinity."""
    broken = [name for name, is_finite in _weights(model) if not is_finite]
    if broken:
        raise StartError(
            "the weights in {} contain NaN or infinity: {}. The training has diverged, or the file is "
            "damaged".format(folder, listed(broken))
        )


def check_finite_arrays(arrays: "Mapping[str, numpy.ndarray]", folder: Path) -> None:
    """StartError if weights of a module beside the model contain NaN or infinity."""
    import numpy

    broken = [name for name, array in arrays.items() if not numpy.isfinite(array).all()]
    if broken:
        raise StartError("the weights in {} contain NaN or infinity: {}".format(folder, listed(broken)))


def _weights(model: "transformers.PreTrainedModel") -> Iterator[Tuple[str, bool]]:
    if hasattr(model, "named_parameters"):
        import torch

        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.is_floating_point() and weight.device.type != "meta":
                    # A sum needs no copy of the weight. It may overflow although all elements are finite.
                    total = weight.sum(dtype=torch.float32)
                    yield name, bool(torch.isfinite(total) or torch.isfinite(weight).all())
    else:
        import numpy

        weights: List["tensorflow.Variable"] = getattr(model, "weights", [])
        for weight in weights:
            yield weight.name, bool(numpy.isfinite(numpy.sum(weight.numpy(), dtype=numpy.float64)))
