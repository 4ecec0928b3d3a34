"""The model folder: where it is, what it says about itself, and which task it is for."""

import json
from pathlib import Path
from typing import Any, Dict, List

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import hub
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.runtimes.select import create_runtime, installed_framework
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks import registry
from hf_inference_toolkit.tasks.task_name import TaskName


def find_model(settings: Settings) -> Path:
    """The model folder if there is a model in it, else HF_MODEL_ID as a local folder or from the hub."""
    folder = Path(settings.model_dir)
    if (folder / "config.json").is_file():
        return folder
    if settings.model_id:
        local = Path(settings.model_id)
        if local.is_absolute() or settings.model_id.startswith("."):
            if not (local / "config.json").is_file():
                raise StartError("HF_MODEL_ID is {}, which holds no config.json".format(local))
            return local
        return hub.download(settings, create_runtime(installed_framework()).weights)
    raise StartError(_no_model(folder))


def _no_model(folder: Path) -> str:
    try:
        inside = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        inside = []
    deeper = [name for name in inside if (folder / name / "config.json").is_file()]
    if deeper:
        return (
            "{0} holds no config.json, but {0}/{1} does: the archive was packed one level too deep. Pack the "
            "folder's content: tar -C {1} -czf model.tar.gz .".format(folder, deeper[0])
        )
    return (
        "no model: {} {}, and HF_MODEL_ID is not set. Mount a model there, or set HF_MODEL_ID to one on the "
        "hub".format(folder, "holds no config.json, only " + ", ".join(inside[:8]) if inside else "is empty")
    )


def read_config(folder: Path) -> Dict[str, Any]:
    """The model's config.json."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise StartError("{}/config.json cannot be read: {}".format(folder, problem)) from None
    if not isinstance(config, dict):
        raise StartError("{}/config.json holds no object".format(folder))
    return config


def choose_task(settings: Settings, config: Dict[str, Any]) -> TaskName:
    """HF_TASK, or the task that the model's architecture was made for."""
    if settings.task:
        return registry.parse(settings.task)
    inferred = registry.infer(config)
    if inferred is None:
        architectures: List[str] = config.get("architectures") or []
        raise StartError(
            "HF_TASK is not set, and the model does not say what it is for (architectures: {}). Set "
            "HF_TASK to one of {}".format(", ".join(architectures) or "none", ", ".join(registry.own_tasks()))
        )
    event(20, "task inferred from the architecture", task=inferred)
    return registry.parse(inferred)
