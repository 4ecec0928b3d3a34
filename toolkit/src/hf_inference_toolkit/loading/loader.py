"""From settings to a service: the model's folder, its task, its user code, its weights."""

import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import compatibility, hooks, hub, user_code
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.runtimes import frameworks
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks import registry
from hf_inference_toolkit.tasks.service import Service


def load_model(settings: Settings) -> Service:
    """The service for these settings; StartError that says what to set when there cannot be one."""
    hub.prepare(settings)
    compatibility.register()
    folder = Path(settings.model_dir)
    _check_readable(folder)
    source = user_code.find(settings, folder)
    user_code.install_requirements(settings, folder, source)
    model: Optional[Path] = None
    if source is None:
        model = find_model(settings)
        if model != folder:
            source = user_code.find_in_repository(model)
            if source is not None:
                user_code.install_requirements(settings, model, source)
    if source is None:
        return load_standard(settings, model)
    return hooks.build(
        user_code.load(source),
        lambda: model or _folder_for_user_code(settings),
        lambda: load_standard(settings, model or find_model(settings, for_user_code=True)),
    )


def _folder_for_user_code(settings: Settings) -> Path:
    """What user code of HF_MODEL_DIR gets as its model's folder; it may hold a model of any kind."""
    folder = Path(settings.model_dir)
    if _holds_model(folder) or not settings.model_id:
        return folder
    return find_model(settings, for_user_code=True)


def load_standard(settings: Settings, folder: Optional[Path] = None) -> Service:
    """The service of the model itself, without user code."""
    folder = folder or find_model(settings)
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


def find_model(settings: Settings, for_user_code: bool = False) -> Path:
    """The model folder if there is a model in it, else HF_MODEL_ID as a local folder or from the hub."""
    folder = Path(settings.model_dir)
    if _holds_model(folder):
        return folder
    if settings.model_id:
        local = Path(settings.model_id)
        if local.is_absolute() or settings.model_id.startswith("."):
            _check_readable(local)
            if not _holds_model(local):
                raise StartError("HF_MODEL_ID is {}, which holds no config.json".format(local))
            return local
        weights = frameworks.runtime(frameworks.installed()).weights
        return hub.download(settings, weights, for_user_code)
    raise StartError(_no_model(settings))


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _check_readable(folder: Path) -> None:
    """StartError that names the first file of a model that this user may not read."""
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
    if deeper:
        return (
            "{0} holds no config.json, but {0}/{1} does: the archive was packed one level too deep. Pack the "
            "folder's content: tar -C {1} -czf model.tar.gz .".format(folder, deeper[0])
        )
    content = "holds no config.json, only " + ", ".join(inside[:8]) if inside else "is empty"
    program = " (and no {}, which SAGEMAKER_PROGRAM names)".format(settings.program)
    return (
        "no model: {} {}{}, and HF_MODEL_ID is not set. Mount a model there, or set HF_MODEL_ID to one on the "
        "hub".format(folder, content, program if settings.program else "")
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
