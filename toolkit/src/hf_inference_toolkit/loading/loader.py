"""From settings to a service: the model's folder, its task, its user code, its weights."""

import json
from pathlib import Path
from typing import Any, Dict, List

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import hooks, hub, user_code
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.runtimes import frameworks
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks import registry
from hf_inference_toolkit.tasks.service import Service


def load_model(settings: Settings) -> Service:
    """The service for these settings; StartError that says what to set when there cannot be one."""
    hub.prepare(settings)
    folder = Path(settings.model_dir)
    found = user_code.find(settings, folder)
    if found is not None:
        return hooks.build(found, str(folder), lambda: load_standard(settings))
    return load_standard(settings)


def load_standard(settings: Settings) -> Service:
    """The service of the model itself, without user code."""
    folder = find_model(settings)
    runtime = frameworks.runtime(frameworks.installed(), settings.dtype)
    config = read_config(folder)
    task = choose_task(settings, config)
    _send_logs_to_ours()
    event(20, "loading", task=task.asked, folder=str(folder))
    from hf_inference_toolkit.loading import building

    return building.build(task, folder, settings, runtime)


def _send_logs_to_ours() -> None:
    """Transformers writes to standard error by itself; here its lines go where all lines go."""
    from transformers.utils import logging

    logging.disable_default_handler()
    logging.enable_propagation()


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
        return hub.download(settings, frameworks.runtime(frameworks.installed()).weights)
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


def choose_task(settings: Settings, config: Dict[str, Any]) -> registry.Task:
    """HF_TASK, else what the architecture was made for."""
    if settings.task:
        return registry.parse(settings.task)
    inferred = registry.infer(config)
    if inferred is None:
        architectures: List[str] = config.get("architectures") or []
        raise StartError(
            "HF_TASK is not set, and the model does not say what it is for (architectures: {}). Set "
            "HF_TASK to one of {}".format(
                ", ".join(architectures) or "none", ", ".join(registry.AUTO_CLASSES)
            )
        )
    event(20, "task inferred from the architecture", task=inferred)
    return registry.parse(inferred)
