"""Folders with an adapter of PEFT only (adapter_config.json), and the base models that they belong to."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from hf_inference_toolkit.annotations import JsonObject
from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import hub, model_folder, sentence_modules
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.runtimes.select import installed_framework, weight_files
from hf_inference_toolkit.settings import Settings

# Vocabularies of tokenizers. A folder without any has no tokenizer, whatever its tokenizer_config.json says.
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.tiktoken")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?\Z")


class Adapter(NamedTuple):
    """An adapter: its folder, and its adapter_config.json. `kind` is its type, such as LORA."""

    folder: Path
    config: JsonObject

    @property
    def kind(self) -> str:
        """The type of the adapter, such as LORA."""
        return str(self.config["peft_type"])

    @property
    def base(self) -> str:
        """The name of the base model: a repository on the hub, or a folder on the machine of the training."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        safe, pickled = (self.folder / name for name in hub.ADAPTER_WEIGHTS)
        return safe if safe.is_file() else pickled


class ModelFiles(NamedTuple):
    """The folders of a model. They are one unless it is an adapter over a base model."""

    # config.json and the weights.
    weights: Path
    tokenizer: Path
    # modules.json of sentence-transformers.
    modules: Path
    adapter: Optional[Adapter] = None

    @property
    def folder(self) -> Path:
        """The folder that the user has named."""
        return self.adapter.folder if self.adapter else self.weights


def find(settings: Settings, folder: Path) -> ModelFiles:
    """The folders of the model in a folder. StartError if it is an adapter whose base model cannot be had."""
    if not (folder / model_folder.ADAPTER).is_file():
        return ModelFiles(folder, folder, folder)
    if not model_folder.is_adapter(folder):
        _check_rest(folder)
        return ModelFiles(folder, folder, folder)
    adapter = read(folder)
    require_peft(adapter)
    if settings.adapters:
        raise StartError(
            "HF_ADAPTERS needs a base model, and {} contains an adapter: set HF_MODEL_DIR or HF_MODEL_ID to the base "
            "model ({}), and name this adapter in HF_ADAPTERS".format(folder, adapter.base or "not named")
        )
    base = _find_base(settings, adapter)
    if model_folder.is_adapter(base):
        raise StartError(
            "the base model of the adapter in {} is {}, which contains an adapter itself. Merge that one and save the "
            "result: model.merge_and_unload().save_pretrained(FOLDER)".format(folder, base)
        )
    if (base / model_folder.ADAPTER).is_file():
        _check_rest(base)
    event(20, "the model is an adapter", type=adapter.kind, folder=str(folder), base=str(base))
    return ModelFiles(
        base,
        folder if has_tokenizer(folder) else base,
        folder if (folder / sentence_modules.MODULES).is_file() else base,
        adapter,
    )


def find_named(settings: Settings) -> Dict[str, Adapter]:
    """The adapters of HF_ADAPTERS by their names."""
    found = {}
    for name, location in settings.adapters or ():
        adapter = read(_located(settings, name, location))
        require_peft(adapter)
        found[name] = adapter
    return found


def _located(settings: Settings, name: str, location: str) -> Path:
    """The folder of an adapter of HF_ADAPTERS: a local one, or REPOSITORY or REPOSITORY@REVISION on the hub."""
    local = Path(location)
    if not local.is_absolute() and not location.startswith("."):
        repository, _, revision = location.partition("@")
        if not _REPOSITORY.match(repository):
            raise StartError(
                "HF_ADAPTERS: {}={} is neither a folder (a path that begins with / or .) nor the name of a repository "
                "on the hub".format(name, location)
            )
        remote = settings._replace(model_id=repository, model_revision=revision or None)
        local = hub.download(remote, (), source="HF_ADAPTERS")
    model_folder.check_readable(local)
    if not (local / model_folder.ADAPTER).is_file():
        what = "no {}".format(model_folder.ADAPTER) if local.is_dir() else "which does not exist"
        raise StartError("HF_ADAPTERS: {} is {}, {}".format(name, local, what))
    return local


def read(folder: Path) -> Adapter:
    """The adapter in a folder. StartError if its files are incomplete."""
    path = folder / model_folder.ADAPTER
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise StartError("{} cannot be read: {}".format(path, problem)) from None
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise StartError('{} is not the configuration of an adapter: it has no "peft_type"'.format(path))
    adapter = Adapter(folder, config)
    if not adapter.weights.is_file():
        raise StartError("{} contains {} and no {}".format(folder, path.name, hub.ADAPTER_WEIGHTS[0]))
    return adapter


def require_peft(adapter: Adapter) -> None:
    """StartError if this image cannot load an adapter."""
    what = "{} contains an adapter ({}) of the base model {}".format(
        adapter.folder, adapter.kind, adapter.base or "that adapter_config.json does not name"
    )
    merge = "merge the two and save the result: model.merge_and_unload().save_pretrained(FOLDER)"
    if installed_framework() != "pt":
        raise StartError("{}, which needs PyTorch, and this image has TensorFlow: {}".format(what, merge))
    if importlib.util.find_spec("peft") is None:
        raise StartError(
            "{}, which needs peft, and this image does not have it: add peft to code/requirements.txt, use an image "
            "with peft, or {}".format(what, merge)
        )


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer."""
    return any(any(folder.glob(pattern)) for pattern in VOCABULARIES)


def _check_rest(folder: Path) -> None:
    """StartError for a model beside an adapter: transformers would apply it where peft is installed."""
    if importlib.util.find_spec("peft") is not None:
        raise StartError(
            "{0} contains the weights of a model and {1}. If the adapter is merged already, remove {1}; otherwise move "
            "the files of the adapter into a folder of their own, and name it in HF_ADAPTERS".format(
                folder, model_folder.ADAPTER
            )
        )


def _find_base(settings: Settings, adapter: Adapter) -> Path:
    """The base model: HF_MODEL_ID beside an adapter in HF_MODEL_DIR, a folder inside or beside it, or the hub."""
    name, revision = adapter.base, adapter.config.get("revision")
    if settings.model_id and adapter.folder == Path(settings.model_dir):
        name, revision = settings.model_id, settings.model_revision
        if Path(name).is_absolute() or name.startswith("."):
            if not (Path(name) / "config.json").is_file():
                raise _without_base(adapter, "HF_MODEL_ID is {}, which contains no config.json".format(name))
            return _checked(Path(name))
    else:
        revision = revision or (None if settings.model_id else settings.model_revision)
        local = _local_base(adapter)
        if local is not None:
            return _checked(local)
    if not _REPOSITORY.match(name):
        raise _without_base(adapter, "there is no such folder here" if name else "it is not named")
    remote = settings._replace(model_id=name, model_revision=revision)
    source = "base_model_name_or_path and revision in {}".format(adapter.folder / model_folder.ADAPTER)
    try:
        return hub.download(remote, weight_files("pt"), source=source)
    except StartError as problem:
        raise _without_base(adapter, str(problem)) from None


def _local_base(adapter: Adapter) -> Optional[Path]:
    own = adapter.folder.resolve()
    for folder in _places(adapter):
        is_model = (folder / "config.json").is_file() or model_folder.is_adapter(folder)
        if is_model and folder.resolve() != own:
            return folder
    return None


def _places(adapter: Adapter) -> Iterator[Path]:
    """Where the base model of an adapter may be on this machine."""
    folder, name = adapter.folder, adapter.base
    if name:
        last = Path(name).name
        yield folder / last
        if not folder.is_symlink():
            yield folder.parent / last
        yield folder / name  # also an absolute path
    inside: List[Path] = sorted(path.parent for path in folder.glob("*/config.json"))
    # Other folders of this kind are modules of sentence-transformers.
    inside = [path for path in inside if not re.match(r"[0-9]+_[A-Za-z]+\Z", path.name)]
    if len(inside) == 1:
        yield inside[0]


def _checked(folder: Path) -> Path:
    model_folder.check_readable(folder)
    return folder


def _without_base(adapter: Adapter, reason: str) -> StartError:
    return StartError(
        "the adapter in {} needs its base model '{}': {}. Put the base model into a folder inside the adapter's, or "
        "mount the adapter at HF_MODEL_DIR and set HF_MODEL_ID to the base model".format(
            adapter.folder, adapter.base, reason
        )
    )


def task_of(adapter: Optional[Adapter]) -> Tuple[str, str]:
    """The task of an adapter with a head of its own, and the type of task in its configuration; "" without one."""
    kind = str(adapter.config.get("task_type") or "") if adapter else ""
    heads = {
        "SEQ_CLS": "text-classification",
        "TOKEN_CLS": "token-classification",
        "QUESTION_ANS": "question-answering",
    }
    return heads.get(kind, ""), kind
