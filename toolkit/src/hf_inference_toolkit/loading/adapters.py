"""Adapters of PEFT in a loaded base model: one that is merged, or several that requests choose from."""

from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, FrozenSet, Iterator, List, Mapping, Optional, Tuple

from hf_inference_toolkit.errors import StartError, first_line
from hf_inference_toolkit.loading.adapter_folder import Adapter
from hf_inference_toolkit.loading.checks import listed
from hf_inference_toolkit.logs import event

if TYPE_CHECKING:
    import peft
    import torch
    import transformers

# Types whose merged numbers the tests compare with the unmerged ones. Those that put tokens in front of texts, or have
# layers of their own, cannot be merged. BOFT compiles C++ when it is imported.
MERGED = (
    "LORA",
    "ADALORA",
    "C3A",
    "FOURIERFT",
    "HRA",
    "IA3",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "MISS",
    "OFT",
    "RANDLORA",
    "ROAD",
    "SHIRA",
    "TRAINABLE_TOKENS",
    "VERA",
)
# Types of which several can be loaded beside each other.
SWITCHED = ("LORA",)
PREFIX = "base_model.model."
# The largest difference between the numbers of an adapter before and after it is merged, as a part of the largest one.
FLOAT32, HALF = 1e-3, 0.1
MERGE = "merge it and save the result: model.merge_and_unload().save_pretrained(FOLDER)"


def check_kind(adapter: Adapter) -> None:
    """StartError for a type of adapter that cannot be merged."""
    if adapter.kind not in MERGED:
        raise StartError(
            "the adapter in {} is of the type {}, which this server cannot merge into its base model; it merges "
            "{}".format(adapter.folder, adapter.kind, ", ".join(MERGED))
        )
    if adapter.config.get("alora_invocation_tokens"):
        raise StartError(
            "the adapter in {} is an activated LoRA (alora_invocation_tokens), which cannot be merged into its base "
            "model".format(adapter.folder)
        )


def merge(
    model: "transformers.PreTrainedModel", adapter: Adapter, dtype: "torch.dtype"
) -> "Tuple[transformers.PreTrainedModel, FrozenSet[str]]":
    """Merge an adapter into its base model, in `dtype`. Also returns the names of the weights that it has replaced."""
    import torch

    shapes = _shapes(adapter)
    replaced = _replaced(model, shapes)
    _resize_embeddings(model, shapes)
    if getattr(model, "hf_device_map", None) is None:
        model = model.to(dtype=dtype)
    loaded = _add(model, adapter, "default", None)
    before = _numbers(model)
    try:
        with torch.no_grad():
            merged = loaded.merge_and_unload(safe_merge=True)
    except Exception as problem:  # each type has errors of its own
        raise StartError(
            "the adapter in {} ({}) cannot be merged into its base model {}: {}".format(
                adapter.folder, adapter.kind, adapter.base, first_line(problem)
            )
        ) from None
    _note_if_not_compared(before)
    fault = _difference(before, _numbers(merged), dtype)
    if fault:
        raise StartError(
            "the adapter in {} cannot be merged into its base model {}: its numbers change by {:.2g}. It may adapt "
            "weights that the model uses twice, such as tied embeddings".format(
                adapter.folder, adapter.base, fault
            )
        )
    return merged, replaced


class Switch:
    """The adapters of a model. A call lets the next passes use one of them, or none."""

    def __init__(self, model: "peft.PeftModel", names: Mapping[str, str]) -> None:
        self._model = model
        # The names that PEFT knows: a module's name has no dots.
        self._names = names
        self._selected: Optional[str] = None
        model.base_model.disable_adapter_layers()

    def __call__(self, name: Optional[str]) -> None:
        """Select an adapter by its name, or the base model."""
        if name == self._selected:
            return
        if name is None:
            self._model.base_model.disable_adapter_layers()
        else:
            self._model.set_adapter(self._names[name])
            self._model.base_model.enable_adapter_layers()
        self._selected = name


def attach(model: "transformers.PreTrainedModel", adapters: Mapping[str, Adapter]) -> Switch:
    """Load adapters into a base model beside each other. StartError for those that change the base model."""
    import torch

    exact = _numbers(model)
    _note_if_not_compared(exact)
    loaded: "Optional[peft.PeftModel]" = None
    names: Dict[str, str] = {}
    for name, adapter in adapters.items():
        if adapter.kind not in SWITCHED or adapter.config.get("alora_invocation_tokens"):
            raise StartError(
                "HF_ADAPTERS: {} is of the type {}, and adapters of the type {} can be chosen by requests. Serve it "
                "alone: set HF_MODEL_DIR to {}".format(
                    name,
                    adapter.kind if adapter.kind not in SWITCHED else "activated LoRA",
                    ", ".join(SWITCHED),
                    adapter.folder,
                )
            )
        _check_separate(model, name, adapter)
        names[name] = "adapter_{}".format(len(names))
        loaded = _add(model, adapter, names[name], loaded)
    assert loaded is not None  # noqa: S101
    switch = Switch(loaded, names)
    found = _numbers(model)
    if exact is not None and (found is None or not torch.equal(exact, found)):
        raise StartError(
            "HF_ADAPTERS: an adapter changes the weights of the base model, as those with init_lora_weights of PiSSA "
            "or OLoRA do. Serve it alone: set HF_MODEL_DIR to its folder, or {}".format(MERGE)
        )
    return switch


def head_arguments(
    adapter: Adapter, base: Path, auto: "transformers.AutoModel", options: Dict[str, object]
) -> Dict[str, object]:
    """Arguments of `from_pretrained` for a classifier whose last layer the adapter brings: its number of labels."""
    import torch
    import transformers

    labels = _labels(adapter)
    shapes = {
        name[len(PREFIX) :]: shape for name, shape in _shapes(adapter).items() if name.startswith(PREFIX)
    }
    try:
        config = transformers.AutoConfig.from_pretrained(str(base), **options)
        with torch.device("meta"):
            empty = auto.from_config(config)
    except Exception:  # loading the weights gives the reason
        return {}
    expected = {name: tuple(weight.shape) for name, weight in empty.named_parameters()}
    for name, shape in shapes.items():
        known = expected.get(name)
        if known and known[0] == config.num_labels and known[1:] == shape[1:] and known != shape:
            named = {"id2label": labels, "label2id": {one: number for number, one in labels.items()}}
            more = named if len(labels) == shape[0] else {"num_labels": shape[0]}
            return dict(more, ignore_mismatched_sizes=True)
    if labels and len(labels) == config.num_labels:
        return {"id2label": labels, "label2id": {one: number for number, one in labels.items()}}
    return {}


def _labels(adapter: Adapter) -> Dict[int, str]:
    """The names of the labels, if the folder of the adapter has a config.json with them."""
    from hf_inference_toolkit.loading import model_folder

    if not (adapter.folder / "config.json").is_file():
        return {}
    labels = model_folder.read_config(adapter.folder).get("id2label") or {}
    return {int(number): str(name) for number, name in labels.items()}


def _add(
    model: "transformers.PreTrainedModel", adapter: Adapter, name: str, loaded: "Optional[peft.PeftModel]"
) -> "peft.PeftModel":
    """Load an adapter into the layers of a model. StartError unless all of its weights fit."""
    import peft

    try:
        if loaded is None:
            config = peft.PeftConfig.from_pretrained(str(adapter.folder))
            config.inference_mode = True
            loaded = peft.PeftModel(model, config, adapter_name=name)
        mapping = getattr(model, "_checkpoint_conversion_mapping", None) or {}
        result = loaded.load_adapter(
            str(adapter.folder), name, torch_device=str(model.device), key_mapping=mapping
        )
    except Exception as problem:
        raise _misfit(adapter, _reason(problem)) from None
    for words, keys in (("does not have", result.unexpected_keys), ("has more of", result.missing_keys)):
        if keys:
            raise _misfit(adapter, "the base model {} {}".format(words, listed(sorted(keys))))
    return loaded


def _misfit(adapter: Adapter, reason: str) -> StartError:
    return StartError(
        "the adapter in {} ({}) does not fit the base model: {}. It was trained for {}".format(
            adapter.folder, adapter.kind, reason, adapter.base or "a model that it does not name"
        )
    )


def _reason(problem: Exception) -> str:
    """The line of a message that says what does not fit."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    other = next((line for line in lines if "size mismatch" in line), "")
    return (other or first_line(problem))[:300].rstrip(".")


def _shapes(adapter: Adapter) -> Dict[str, Tuple[int, ...]]:
    """The names and shapes of an adapter's weights. A pickle is read without the code in it."""
    import torch

    path = adapter.weights
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(str(path), framework="pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        tensors = torch.load(str(path), map_location="cpu", weights_only=True)
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    except Exception as problem:
        raise StartError(
            "{} is damaged, or contains code, which is not run: {}".format(path, first_line(problem))
        ) from None


def _replaced(model: "transformers.PreTrainedModel", shapes: Mapping[str, object]) -> FrozenSet[str]:
    """The weights of the base model that an adapter has whole, such as the last layer of a classifier."""
    own = {name for name, _ in model.named_parameters()}
    return frozenset(name[len(PREFIX) :] for name in shapes if name[len(PREFIX) :] in own)


def _check_separate(model: "transformers.PreTrainedModel", name: str, adapter: Adapter) -> None:
    """StartError for an adapter that would replace weights which the other ones use."""
    modules: List[str] = adapter.config.get("modules_to_save") or []
    replaced = [
        weight
        for weight in _replaced(model, _shapes(adapter))
        if not any(part in modules for part in weight.split("."))
    ]
    if replaced:
        raise StartError(
            "HF_ADAPTERS: {} replaces weights of the base model ({}), as it does for new tokens or biases. Serve it "
            "alone: set HF_MODEL_DIR to {}, or {}".format(
                name, listed(sorted(replaced)), adapter.folder, MERGE
            )
        )


def _embeddings(model: "transformers.PreTrainedModel") -> "Iterator[Tuple[str, torch.nn.Module]]":
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:
        return
    for name, module in model.named_modules():
        if module is embeddings and hasattr(module, "weight"):
            yield name, module


def _resize_embeddings(model: "transformers.PreTrainedModel", shapes: Mapping[str, Tuple[int, ...]]) -> None:
    """Make room for the tokens that the training has added, whose embeddings the adapter brings."""
    for name, embeddings in list(_embeddings(model)):
        shape = shapes.get("{}{}.weight".format(PREFIX, name))
        if shape and shape[0] != embeddings.weight.shape[0]:
            model.resize_token_embeddings(shape[0], mean_resizing=False)


def check_vocabulary(
    tokenizer: "transformers.PreTrainedTokenizerBase", model: "transformers.PreTrainedModel", adapter: Adapter
) -> None:
    """StartError if the tokenizer beside an adapter has tokens for which the model has no embedding."""
    for _, embeddings in _embeddings(model):
        if len(tokenizer) > embeddings.weight.shape[0]:
            raise StartError(
                "the tokenizer in {} has {} tokens, and the base model has embeddings for {}: the adapter adds tokens "
                "without their embeddings. Save them with it: save_pretrained(..., save_embedding_layers=True)".format(
                    adapter.folder, len(tokenizer), embeddings.weight.shape[0]
                )
            )


def _numbers(model: "transformers.PreTrainedModel") -> "Optional[torch.Tensor]":
    """The first output of a pass over any tokens; None for models that take something else."""
    import torch

    run: Callable[..., Mapping[int, object]] = model
    try:
        inputs = {name: value.to(model.device) for name, value in model.dummy_inputs.items()}
        with torch.no_grad():
            first = run(**inputs)[0]
    except Exception:  # models raise what they like for inputs that they do not take
        return None
    return first if isinstance(first, torch.Tensor) and first.is_floating_point() else None


def _note_if_not_compared(numbers: "Optional[torch.Tensor]") -> None:
    if numbers is None:
        event(30, "the numbers of the adapter are not compared, because the model takes no sample tokens")


def _difference(
    before: "Optional[torch.Tensor]", after: "Optional[torch.Tensor]", dtype: "torch.dtype"
) -> float:
    """How much the numbers differ, as a part of the largest one; 0 if that is within rounding."""
    if before is None or after is None:
        return 0.0
    largest = float(before.float().abs().max()) or 1.0
    found = float((before.float() - after.float()).abs().max()) / largest
    limit = FLOAT32 if str(dtype) == "torch.float32" else HALF
    return found if not found <= limit else 0.0
