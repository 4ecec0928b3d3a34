"""The files of sentence-transformers in a model's folder: modules.json and the configurations of its modules."""

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Tuple

import numpy

from hf_inference_toolkit.annotations import JsonObject
from hf_inference_toolkit.errors import StartError, first_line
from hf_inference_toolkit.loading import checks
from hf_inference_toolkit.tasks.sentence_model import MODES, Dense, SentenceModel, Step, normalized
from hf_inference_toolkit.tasks.text_ranking import ACTIVATIONS, Ranker

if TYPE_CHECKING:
    import torch

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
# The transformer's own file; older releases named it after the type of the model.
TRANSFORMER = tuple(
    "sentence_{}_config.json".format(kind)
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
SUPPORTED = "Transformer, Pooling, Normalize and Dense"
PACKAGE = "sentence_transformers."
DENSE_ACTIVATIONS: Dict[str, Step] = {
    "Identity": lambda vectors: vectors,
    "Tanh": numpy.tanh,
    "ReLU": lambda vectors: numpy.maximum(vectors, 0),
    "Sigmoid": lambda vectors: 1 / (1 + numpy.exp(-vectors)),
}


class Module(NamedTuple):
    """An entry of modules.json: the class without its package (empty for another package's), and its folder."""

    kind: str
    folder: Path
    name: str


def task_of(folder: Path) -> Optional[str]:
    """The task of a folder with modules.json; None without it."""
    if not (folder / MODULES).is_file():
        return None
    kind = _json(folder / SETTINGS).get("model_type", "SentenceTransformer")
    tasks = {"SentenceTransformer": "sentence-embeddings", "CrossEncoder": "text-ranking"}
    if kind not in tasks:
        raise StartError(
            "{}/{}: models of type {} are not supported; {} are. Serve it by code/inference.py".format(
                folder, SETTINGS, kind, " and ".join(tasks)
            )
        )
    return tasks[kind]


def read(folder: Path, config: JsonObject) -> SentenceModel:
    """The modules after the transformer; without modules.json, those that sentence-transformers would use.

    StartError for modules that are not supported.
    """
    if not (folder / MODULES).is_file():
        names: List[str] = config.get("architectures") or []
        is_decoder = any(name.endswith("ForCausalLM") for name in names) and config.get("is_causal", True)
        return SentenceModel(("last",) if is_decoder else ("mean",))
    transformer, pooling, *rest = _chain(folder)
    model = _pooling(pooling)
    steps: List[Step] = []
    width = 0
    for module in rest:
        if module.kind == "Normalize":
            steps.append(normalized)
            continue
        dense = _dense(module)
        steps.append(dense)
        width = dense.given
    normalizes = bool(steps) and steps[-1] is normalized
    settings = _json(folder / SETTINGS)
    own = _transformer(transformer.folder, "last_hidden_state")
    # Every model has these two; they are empty where it does not say what they are.
    prompts = dict({"query": "", "document": ""}, **(settings.get("prompts") or {}))
    default = settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise StartError(
            "{}/{}: default_prompt_name is '{}'; the prompts are {}".format(
                folder, SETTINGS, default, ", ".join(sorted(prompts))
            )
        )
    return model._replace(
        steps=tuple(steps[:-1] if normalizes else steps),
        normalizes=normalizes,
        width=width,
        prompts={name: text or "" for name, text in prompts.items()},
        default_prompt_name=default,
        truncate_dim=settings.get("truncate_dim"),
        longest=own.get("max_seq_length"),
        lowers_case=bool(own.get("do_lower_case")),
    )


def _modules(folder: Path) -> List[Module]:
    entries: object = _json_of(folder / MODULES)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise StartError("{}/{} is not a list of modules".format(folder, MODULES))
    return [_module(folder, entry) for entry in entries]


def _chain(folder: Path) -> List[Module]:
    """The modules in their order, of which the first two are Transformer and Pooling."""
    modules = _modules(folder)
    kinds = [module.kind for module in modules]
    for place, module in enumerate(modules):
        expected = (("Transformer",), ("Pooling",))[place] if place < 2 else ("Normalize", "Dense")
        if module.kind not in expected:
            raise StartError(
                "{}/{}: module {} ({}) cannot be served; {} can, in this order. Serve the model by "
                "code/inference.py".format(folder, MODULES, place, module.name, SUPPORTED)
            )
    if len(kinds) < 2:
        raise StartError("{}/{} has no Pooling; {} are needed".format(folder, MODULES, SUPPORTED))
    if modules[0].folder.resolve() != folder.resolve():
        raise StartError(
            "{}/{}: the Transformer is in {}. Move its files beside {}, and set its path to an empty "
            "string".format(folder, MODULES, modules[0].folder.name, MODULES)
        )
    return modules


def _module(folder: Path, entry: JsonObject) -> Module:
    name, path = str(entry.get("type", "")), str(entry.get("path", ""))
    parts = Path(path).parts
    if ".." in parts or Path(path).is_absolute():
        raise StartError("{}/{}: the path '{}' is outside the folder".format(folder, MODULES, path[:200]))
    return Module(name.rsplit(".", 1)[-1] if name.startswith(PACKAGE) else "", folder / path, name)


def _transformer(folder: Path, output: str) -> JsonObject:
    """The configuration of the Transformer. StartError unless it takes texts as they are and gives this output."""
    path = next((folder / name for name in TRANSFORMER if (folder / name).is_file()), folder / TRANSFORMER[0])
    config = _json(path)
    for kind, how in (config.get("modality_config") or {}).items():
        if kind == "message" or (kind == "text" and how.get("method_output_name") != output):
            raise StartError(
                "{}: modality_config has '{}': {}, which cannot be served; texts whose output is {} can".format(
                    path, kind, json.dumps(how)[:200], output
                )
            )
    return config


def _pooling(module: Module) -> SentenceModel:
    config = _json(module.folder / "config.json")
    named = config.get("pooling_mode")
    if named is None:
        keys = {
            "lasttoken": "pooling_mode_lasttoken",
            "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
        }
        modes = [
            mode for mode in MODES if config.get(keys.get(mode, "pooling_mode_{}_tokens".format(mode)))
        ] + (["cls"] if config.get("pooling_mode_cls_token") else [])
        modes.sort(key=list(MODES).index)
    else:
        modes = [named] if isinstance(named, str) else list(named)
    unknown = [str(mode) for mode in modes if mode not in MODES]
    if unknown:
        raise StartError(
            "{}/config.json: pooling mode {} is not supported; {} are".format(
                module.folder, ", ".join(unknown), ", ".join(MODES)
            )
        )
    return SentenceModel(
        tuple(MODES[mode] for mode in modes) or ("mean",),
        is_fixed=True,
        includes_prompt=bool(config.get("include_prompt", True)),
    )


def _dense(module: Module) -> Dense:
    config = _json(module.folder / "config.json")
    where = "{}/config.json".format(module.folder)
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise StartError("{}: {} {} is not supported".format(where, key, config[key]))
    if config.get("use_residual"):
        raise StartError("{}: use_residual is not supported".format(where))
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    name = activation.rsplit(".", 1)[-1]
    if not activation.startswith("torch.") or name not in DENSE_ACTIVATIONS:
        raise StartError(
            "{}: activation_function {} is not supported; {} are".format(
                where, activation, ", ".join(DENSE_ACTIVATIONS)
            )
        )
    weights = _weights(module.folder)
    shape = (config.get("out_features"), config.get("in_features"))
    weight = weights.get("linear.weight")
    if weight is None or tuple(weight.shape) != shape:
        raise StartError(
            "the weights in {} have other shapes than its config.json says".format(module.folder)
        )
    return Dense(weight, weights.get("linear.bias"), DENSE_ACTIVATIONS[name])


def _weights(folder: Path) -> Dict[str, numpy.ndarray]:
    """The weights of a module in float32."""
    import torch

    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    tensors: "Dict[str, torch.Tensor]"
    try:
        if safe.is_file():
            from safetensors.torch import load_file

            tensors = load_file(str(safe))
        else:
            # Releases before 1.13 cannot leave out code.
            known = inspect.signature(torch.load).parameters
            only = {"weights_only": True} if "weights_only" in known else {}
            tensors = torch.load(str(pickled), map_location="cpu", **only)
    except Exception as problem:  # each library has errors of its own
        raise StartError(
            "the weights in {} cannot be loaded: {}".format(folder, first_line(problem))
        ) from None
    arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    checks.check_finite_arrays(arrays, folder)
    return arrays


def read_ranker(folder: Path, config: JsonObject) -> Ranker:
    """What a cross-encoder adds to its classifier. StartError for an activation function that is not supported."""
    settings = _json(folder / SETTINGS) if (folder / MODULES).is_file() else {}
    if (folder / MODULES).is_file():
        for place, module in enumerate(_modules(folder)):
            if place or module.kind != "Transformer":
                raise StartError(
                    "{}/{}: module {} ({}) cannot be served; text-ranking serves a Transformer with a label. "
                    "Serve the model by code/inference.py".format(folder, MODULES, place, module.name)
                )
    if (settings.get("prompts") or {}).get(settings.get("default_prompt_name")):
        raise StartError("{}/{}: prompts of text-ranking are not supported".format(folder, SETTINGS))
    own = _transformer(folder, "logits")
    return Ranker(
        _activation(folder, settings, config), own.get("max_seq_length"), bool(own.get("do_lower_case"))
    )


def _activation(folder: Path, settings: JsonObject, config: JsonObject) -> str:
    """The activation function, a key of ACTIVATIONS; newer releases keep it elsewhere."""
    found: Tuple[Optional[str], ...] = (
        settings.get("activation_fn"),
        (config.get("sentence_transformers") or {}).get("activation_fn"),
        config.get("sbert_ce_default_activation_function"),
    )
    path = next(filter(None, found), "torch.nn.modules.activation.Sigmoid")
    name = path.rsplit(".", 1)[-1]
    if not path.startswith("torch.") or name not in ACTIVATIONS:
        raise StartError(
            "{}: the activation function {} is not supported; {} are".format(
                folder, path, ", ".join(ACTIVATIONS)
            )
        )
    return name


def _json(path: Path) -> JsonObject:
    """An object in a file; an empty one if there is no such file."""
    if not path.is_file():
        return {}
    value = _json_of(path)
    if not isinstance(value, dict):
        raise StartError("{} is not a JSON object".format(path))
    return value


def _json_of(path: Path) -> JsonObject:
    try:
        found: JsonObject = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise StartError("{} cannot be read: {}".format(path, problem)) from None
    return found
