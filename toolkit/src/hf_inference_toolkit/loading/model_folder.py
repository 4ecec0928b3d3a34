"""The model's folder: finding it, reading its configuration, choosing its task."""

import json
import os
from pathlib import Path
from typing import List

from hf_inference_toolkit.annotations import JsonObject
from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import hub, sentence_modules
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.runtimes.select import installed_framework, weight_files
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks import registry
from hf_inference_toolkit.tasks.task_name import TaskName

# The file that a folder with an adapter of PEFT has.
ADAPTER = "adapter_config.json"


def find_model(settings: Settings, for_user_code: bool = False) -> Path:
    """HF_MODEL_DIR if it contains a model, otherwise HF_MODEL_ID as a local folder or from the hub."""
    folder = Path(settings.model_dir)
    if _holds_model(folder):
        return folder
    if settings.model_id:
        local = Path(settings.model_id)
        if local.is_absolute() or settings.model_id.startswith("."):
            check_readable(local)
            if not _holds_model(local):
                raise StartError("HF_MODEL_ID is {}, which contains no config.json".format(local))
            return local
        # The framework is not imported yet, because requirements.txt of the repository may install another version.
        return hub.download(settings, weight_files(installed_framework()), for_user_code)
    raise StartError(_no_model(settings))


def for_user_code(settings: Settings) -> Path:
    """The model's folder for user code in HF_MODEL_DIR. It may contain a model of any kind."""
    folder = Path(settings.model_dir)
    if (folder / "config.json").is_file() or not settings.model_id:
        return folder
    return find_model(settings, for_user_code=True)


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or is_adapter(folder)


def is_adapter(folder: Path) -> bool:
    """Whether a folder contains an adapter of PEFT and not the weights of a model."""
    if not (folder / ADAPTER).is_file():
        return False
    return not any(any(folder.glob(pattern)) for kinds in hub.WHOLE.values() for pattern in kinds)


def check_readable(folder: Path) -> None:
    """StartError if the server's user has no permission to read a file of the model."""
    if not folder.is_dir():
        return
    try:
        entries = [folder, *sorted(folder.iterdir())]
        unreadable = [path for path in entries if path.exists() and not os.access(str(path), os.R_OK)]
    except PermissionError:
        unreadable = [folder]
    if unreadable:
        raise StartError(
            "{} cannot be read by the server's user (id {}): run chmod -R a+rX {}, or start the container as "
            "the owner of the files (docker run --user)".format(unreadable[0], os.getuid(), folder)
        )


def _no_model(settings: Settings) -> str:
    folder = Path(settings.model_dir)
    try:
        inside = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        inside = []
    deeper = [name for name in inside if (folder / name / "config.json").is_file()]
    if sentence_modules.MODULES in inside:
        return (
            "{} contains modules.json (sentence-transformers) and no config.json beside it. Move the files of the "
            "Transformer there, and set its path in modules.json to an empty string".format(folder)
        )
    if deeper:
        return (
            "{0} contains no config.json, but {0}/{1} does: the archive was packed one level too deep. Pack the "
            "folder's content: tar -C {1} -czf model.tar.gz .".format(folder, deeper[0])
        )
    content = "contains no config.json, only " + ", ".join(inside[:8]) if inside else "is empty"
    if settings.multi_model:
        return "no model: {} {}. The url of a model is the folder of its config.json".format(folder, content)
    program = " (and no {}, which SAGEMAKER_PROGRAM names)".format(settings.program)
    return (
        "no model: {} {}{}, and HF_MODEL_ID is not set. Mount a model there, or set HF_MODEL_ID to one on the "
        "hub".format(folder, content, program if settings.program else "")
    )


def read_config(folder: Path) -> JsonObject:
    """The model's config.json."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise StartError("{}/config.json cannot be read: {}".format(folder, problem)) from None
    if not isinstance(config, dict):
        raise StartError("{}/config.json is not a JSON object".format(folder))
    return config


def choose_task(settings: Settings, folder: Path, config: JsonObject, head: str = "") -> TaskName:
    """HF_TASK, or the task of modules.json (sentence-transformers), or that of the model's architecture.

    `head` is the task of an adapter with a last layer of its own, which the base model does not have.
    """
    if settings.task:
        return registry.parse(settings.task)
    saved = sentence_modules.task_of(folder)
    if saved is not None:
        event(20, "task inferred from modules.json", task=saved)
        return registry.parse(saved)
    if head:
        event(20, "task inferred from the adapter", task=head)
        return registry.parse(head)
    inferred = registry.infer(config)
    if inferred is None:
        architectures: List[str] = config.get("architectures") or []
        raise StartError(
            "HF_TASK is not set and cannot be inferred from the model's architectures ({}). Set "
            "HF_TASK to one of {}".format(", ".join(architectures) or "none", ", ".join(registry.own_tasks()))
        )
    event(20, "task inferred from the architecture", task=inferred)
    return registry.parse(inferred)
