"""Loading: creates the service from settings, with the model's folder, task, user code and weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, Optional, Tuple, Type, Union

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import (
    adapter_folder,
    adapters,
    compatibility,
    footprint,
    hooks,
    hub,
    model_folder,
    placement,
    sentence_modules,
    user_code,
    weights,
)
from hf_inference_toolkit.loading.adapter_folder import Adapter, ModelFiles
from hf_inference_toolkit.loading.conversion import Conversion
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.runtimes import converted_models, memory, openvino, torch
from hf_inference_toolkit.runtimes.acceleration import Acceleration
from hf_inference_toolkit.runtimes.base import Runtime
from hf_inference_toolkit.runtimes.converted_models import Store
from hf_inference_toolkit.runtimes.select import create_runtime, installed_framework
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks import registry
from hf_inference_toolkit.tasks.adapters import AdapterService
from hf_inference_toolkit.tasks.generation import Generation
from hf_inference_toolkit.tasks.media_conversations import MediaConversations
from hf_inference_toolkit.tasks.pipeline_task import PipelineTask
from hf_inference_toolkit.tasks.sentence_embeddings import SentenceEmbeddings
from hf_inference_toolkit.tasks.sentence_model import SentenceModel
from hf_inference_toolkit.tasks.service import Service
from hf_inference_toolkit.tasks.table_question_answering import TableQuestionAnswering
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.text_ranking import Ranker, TextRanking
from hf_inference_toolkit.tasks.text_task import TextTask

if TYPE_CHECKING:
    import transformers

# The part of the free memory that the KV cache of one model of many may use.
SHARED_CACHE_PART = 16


def load_model(settings: Settings) -> Service:
    """Create the service. Raises StartError with what to set.

    For a multi-model endpoint itself it imports the libraries, and the service has no model.
    """
    hub.prepare(settings)
    compatibility.register()
    if settings.multi_model and settings.adapters:
        raise StartError(
            "HF_ADAPTERS does not work with SAGEMAKER_MULTI_MODEL: unset it, and load each adapter as a model"
        )
    if settings.multi_model and settings.model_name is None:
        return _load_libraries()
    folder = Path(settings.model_dir)
    model_folder.check_readable(folder)
    source = user_code.find(settings, folder)
    user_code.install_requirements(settings, folder, source)
    model: Optional[Path] = None
    if source is None:
        model = model_folder.find_model(settings)
        if model != folder:
            source = user_code.find_in_repository(model)
            if source is not None:
                user_code.install_requirements(settings, model, source)
    if source is None:
        return load_standard(settings, model)
    if settings.runtime == "openvino" or settings.dtype == "int8":
        # It may use the PyTorch model in any way.
        raise StartError(torch.refusal(settings.dtype, "user code ({}) computes the passes".format(source)))
    without = settings._replace(runtime="torch")
    loaded = user_code.load(source, is_isolated=settings.multi_model)
    if settings.adapters and loaded.loads_model:
        raise StartError(
            "HF_ADAPTERS has no effect, because {} loads the model itself: unset it, or remove model_fn".format(
                source.path
            )
        )
    return hooks.build(
        loaded,
        lambda: model or model_folder.for_user_code(settings),
        lambda: load_standard(without, model or model_folder.find_model(settings, for_user_code=True)),
        settings.model_name or "model",
    )


def _load_libraries() -> Service:
    """Import what every model needs, so that the first one loads as fast as the others."""
    import transformers

    framework = installed_framework()
    create_runtime(framework)
    for name in (
        "AutoConfig",
        "AutoTokenizer",
        ("TF" if framework == "tf" else "") + "AutoModel",
        "pipeline",
    ):
        getattr(transformers, name)
    return Service("multi-model", {"transformers": transformers.__version__})


def load_standard(settings: Settings, folder: Optional[Path] = None) -> Service:
    """Create the service of the model without user code."""
    files = adapter_folder.find(settings, folder or model_folder.find_model(settings))
    named = adapter_folder.find_named(settings)
    framework = installed_framework()
    if framework != "pt":
        _require_possible(settings, "TensorFlow is installed, and OpenVINO serves models of PyTorch")
    runtime = create_runtime(framework, settings.dtype)
    runtime.kv_cache = settings.kv_cache
    if settings.multi_model:
        runtime.maps_weights = False
        runtime.kv_cache = settings.kv_cache or memory.available() // SHARED_CACHE_PART
    early = _restore(runtime, files, settings) if isinstance(runtime, torch.Torch) else None
    config = model_folder.read_config(files.weights)
    head, _ = adapter_folder.task_of(files.adapter)
    task = model_folder.choose_task(settings, files.modules, config, head)
    _propagate_logs()
    event(20, "loading", task=task.requested, folder=str(files.folder))
    return build(task, files, settings, runtime, named, early)


def build(
    task: TaskName,
    files: ModelFiles,
    settings: Settings,
    runtime: Runtime,
    named: Dict[str, Adapter],
    early: Optional[Acceleration] = None,
) -> Service:
    """Create the service of a task. StartError if the model or the installed transformers do not support it.

    `named` are the adapters of HF_ADAPTERS, `early` is the result of _restore.
    """
    facts = _facts(files, settings, runtime)
    spec = registry.find(task.name)
    close = _accelerate(runtime, spec, files, settings, early) if isinstance(runtime, torch.Torch) else None
    if spec.implementation is not None:
        service = _own(task, spec.implementation, files, settings, runtime, facts, named)
    elif named:
        raise StartError(
            "HF_ADAPTERS: HF_TASK={} is served by a pipeline of transformers, which has one adapter at most; the tasks "
            "with several are {}".format(task.requested, ", ".join(registry.own_tasks()))
        )
    else:
        service = _of_pipeline(task, weights.load_pipeline(task, files, settings, runtime), runtime, facts)
    if close is not None:
        service.on_close.append(close)
    return service


def _of_pipeline(
    task: TaskName, pipeline: "transformers.Pipeline", runtime: Runtime, facts: Dict[str, str]
) -> Service:
    """The service of a task that a pipeline of transformers serves."""
    if task.name == "table-question-answering":
        return TableQuestionAnswering(task.requested, pipeline, runtime, facts)
    if task.name in ("image-text-to-text", "any-to-any"):
        return MediaConversations(task, pipeline, runtime, facts)
    return PipelineTask(task.requested, pipeline, runtime, facts)


def _own(
    task: TaskName,
    implementation: Type[TextTask],
    files: ModelFiles,
    settings: Settings,
    runtime: Runtime,
    facts: Dict[str, str],
    named: Dict[str, Adapter],
) -> Service:
    """The service of a task that the toolkit implements itself."""
    more: Tuple[Union[SentenceModel, Ranker], ...] = ()
    config = model_folder.read_config(files.weights)
    if issubclass(implementation, SentenceEmbeddings):
        if runtime.prefix:
            raise StartError("HF_TASK={} needs PyTorch, and this image has TensorFlow".format(task.requested))
        more = (sentence_modules.read(files.modules, config),)
    elif issubclass(implementation, TextRanking):
        more = (sentence_modules.read_ranker(files.modules, config),)
    select = weights.load_head(task, files, settings, runtime, named)
    tokenizer = weights.load_tokenizer(files.tokenizer, settings)
    if files.adapter is not None:
        adapters.check_vocabulary(tokenizer, runtime.model, files.adapter)
    base = implementation(task, runtime, tokenizer, facts, *more)
    if select is None:
        return base
    services: Dict[Optional[str], TextTask] = {None: base}
    for name, adapter in named.items():
        own = tokenizer
        if adapter_folder.has_tokenizer(adapter.folder):
            own = weights.load_tokenizer(adapter.folder, settings)
            adapters.check_vocabulary(own, runtime.model, adapter)
        services[name] = implementation(task, runtime, own, facts, *more)
    return AdapterService(services, select)


def _restore(runtime: torch.Torch, files: ModelFiles, settings: Settings) -> Optional[Acceleration]:
    """Begin to read the model that an earlier start has converted, if there is one for the only possible task.

    Inferring the task imports most of transformers. Both take place at the same time.
    """
    if settings.multi_model or settings.task or _refusal(runtime, files, settings):
        return None
    home = settings.hub_cache if settings.keeps_cache else None
    store = converted_models.only_store(files.folder, runtime.dtype, home, files.weights)
    return _acceleration(runtime, settings, store, None) if store is not None else None


def _acceleration(
    runtime: torch.Torch, settings: Settings, store: Optional[Store], conversion: Optional[Conversion]
) -> Acceleration:
    is_required = settings.runtime == "openvino" or runtime.dtype == "int8"
    return Acceleration(runtime.dtype, is_required, store, runtime.cpus(), runtime.check, conversion)


def _accelerate(
    runtime: torch.Torch,
    spec: registry.Task,
    files: ModelFiles,
    settings: Settings,
    early: Optional[Acceleration],
) -> Optional[Callable[[], None]]:
    """Let OpenVINO compute the passes where it can. StartError if it cannot and is required.

    Returns what ends a conversion in another process.
    """
    reason = _refusal(runtime, files, settings, spec)
    if reason:
        _require_possible(settings, reason)
        runtime.accelerate(None, reason)
        return None
    home = settings.hub_cache if settings.keeps_cache else None
    conversion: Optional[Conversion] = None
    if settings.multi_model:
        conversion = Conversion(settings, runtime.dtype, footprint.estimate(settings))
        home = conversion.home
    store = converted_models.store_of(files.folder, spec.name, runtime.dtype, home, files.weights)
    is_early = early is not None and store is not None and early.folder == store.folder
    runtime.accelerate(early if is_early else _acceleration(runtime, settings, store, conversion))
    return conversion.cancel if conversion is not None else None


def _refusal(
    runtime: torch.Torch, files: ModelFiles, settings: Settings, spec: Optional[registry.Task] = None
) -> str:
    """The reason why OpenVINO is not used, or an empty string. `spec` is None if the task is not known yet."""
    if settings.runtime == "torch":
        return "HF_RUNTIME=torch"
    if not openvino.is_installed():
        return "OpenVINO is not installed"
    if runtime.pipeline_device() >= 0:
        return "the model is on a GPU"
    if settings.device_map:
        return "HF_DEVICE_MAP={}".format(settings.device_map)
    if placement.method(files.weights):
        return "the model is quantised ({})".format(placement.method(files.weights))
    if settings.adapters:
        return "HF_ADAPTERS: requests choose from several adapters, for which PyTorch is used"
    if spec and spec.implementation and issubclass(spec.implementation, Generation):
        return "{} generates text, for which PyTorch is used".format(spec.name)
    return ""


def _require_possible(settings: Settings, reason: str) -> None:
    if settings.runtime == "openvino" or settings.dtype == "int8":
        raise StartError(torch.refusal(settings.dtype, reason))


def _facts(files: ModelFiles, settings: Settings, runtime: Runtime) -> Dict[str, str]:
    """Information on the loaded model for the log and /openapi.json."""
    import transformers

    adapter = files.adapter
    return {
        "model": settings.model_id or str(files.folder),
        **({"adapter": adapter.kind, "base_model": str(files.weights)} if adapter else {}),
        "framework": "TensorFlow" if runtime.prefix else "PyTorch",
        "transformers": transformers.__version__,
        "dtype": placement.method(files.weights) or runtime.dtype,
        "device": "cpu" if runtime.pipeline_device() < 0 else "gpu",
    }


def _propagate_logs() -> None:
    """Send the logs of transformers to the handler of `logs` instead of its own."""
    from transformers.utils import logging

    logging.disable_default_handler()
    logging.enable_propagation()
