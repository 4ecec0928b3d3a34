"""Loading of weights, tokenizers and pipelines by transformers, with a check that no weight is missing."""

import contextlib
import importlib.util
import inspect
import json
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Dict, Iterator, List, Mapping, Optional, Tuple, Type

from hf_inference_toolkit.annotations import JsonObject
from hf_inference_toolkit.errors import StartError, first_line
from hf_inference_toolkit.loading import adapter_folder, adapters, checks, model_folder, placement
from hf_inference_toolkit.loading.adapter_folder import Adapter, ModelFiles
from hf_inference_toolkit.runtimes.base import Runtime
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks import architectures, pipeline_task, registry
from hf_inference_toolkit.tasks.adapters import Select
from hf_inference_toolkit.tasks.task_name import TaskName

if TYPE_CHECKING:
    import torch
    import transformers
    from transformers import PreTrainedModel

# What `from_pretrained` reports: the names of missing, unexpected and mismatched weights.
LoadingInfo = JsonObject
# Tasks whose models are encoders, and the classes of encoders where AutoModel has a decoder too.
EMBEDDINGS = ("sentence-embeddings", "sentence-similarity")
ENCODERS = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
}
# Tasks of pipelines whose models have a last layer for their labels, which an adapter may bring.
CLASSIFIERS = {
    "audio-classification": "AutoModelForAudioClassification",
    "image-classification": "AutoModelForImageClassification",
}
# Classes whose outputs are scores of labels.
LABELLED = ("AutoModelForSequenceClassification", "AutoModelForTokenClassification")


def load_tokenizer(folder: Path, settings: Settings) -> "transformers.PreTrainedTokenizerBase":
    """The model's tokenizer."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **_trust(settings))
    except Exception as problem:
        if _lacks_files(problem):
            raise StartError(_missing_files(folder)) from None
        raise StartError("the tokenizer in {} cannot be loaded: {}".format(folder, problem)) from None
    checks.check_tokenizer(tokenizer, folder)
    return tokenizer


def load_head(
    task: TaskName, files: ModelFiles, settings: Settings, runtime: Runtime, named: Mapping[str, Adapter]
) -> Optional[Select]:
    """Load the task's model class into the runtime; StartError unless every weight of it came from the folder.

    With adapters by name (HF_ADAPTERS), what selects one of them is returned.
    """
    import transformers

    folder = files.weights
    if not adapter_folder.task_of(files.adapter)[0]:
        _check_head(task, folder)
    auto = getattr(transformers, runtime.prefix + _class_of(task, folder))
    arguments = dict(_trust(settings), **placement.arguments(settings, folder, runtime))
    if files.adapter is not None:
        _check_adapter(files.adapter, folder)
        arguments.update(adapters.head_arguments(files.adapter, folder, auto, _trust(settings)))
    model, info = _from_pretrained(auto, task, folder, arguments)
    missing = _missing(task, info)
    if files.adapter is not None:
        model, replaced = adapters.merge(model, files.adapter, _dtype_of(runtime))
        missing = [name for name in missing if name not in replaced]
    if missing:
        raise StartError("{} The weights lack {}".format(_misfit(task, folder, ""), checks.listed(missing)))
    select = adapters.attach(model, named) if named else None
    checks.check_finite(model, files.folder)
    if registry.find(task.name).auto_class in LABELLED:
        checks.check_labels(model.config)
    runtime.place(model)
    return select


def _from_pretrained(
    auto: "transformers.AutoModel", task: TaskName, folder: Path, arguments: Dict[str, object]
) -> Tuple["PreTrainedModel", LoadingInfo]:
    try:
        model, info = auto.from_pretrained(str(folder), output_loading_info=True, **arguments)
        return model, info
    except (ImportError, RuntimeError, ValueError) as problem:
        if placement.method(folder):
            raise placement.unloadable(folder, problem) from None
        if isinstance(problem, RuntimeError) and "mismatch" in str(problem):
            raise StartError(
                "the weights in {} have other shapes than its config.json says; one reason is another number of labels "
                "in id2label".format(folder)
            ) from None
        if not isinstance(problem, ValueError):
            raise
        raise StartError(_misfit(task, folder, str(problem))) from None
    except OSError as problem:
        raise StartError("the weights in {} cannot be loaded: {}".format(folder, problem)) from None
    except Exception as problem:
        if type(problem).__name__ not in ("SafetensorError", "UnpicklingError"):
            raise
        raise StartError(
            "a file of weights in {} is damaged, or contains code, which is not run: {}".format(
                folder, first_line(problem)
            )
        ) from None


def _check_adapter(adapter: Adapter, base: Path) -> None:
    """StartError for an adapter that cannot be merged into its base model."""
    adapters.check_kind(adapter)
    method = placement.method(base)
    if method:
        raise StartError(
            "the base model of the adapter in {} is {}, which is quantised ({}): merging would round its weights "
            "again. Mount the adapter at HF_MODEL_DIR, and set HF_MODEL_ID to one that is not quantised".format(
                adapter.folder, base, method
            )
        )


def _dtype_of(runtime: Runtime) -> "torch.dtype":
    dtype: "torch.dtype" = runtime.type  # type: ignore[attr-defined]  # adapters need PyTorch
    return dtype


def _class_of(task: TaskName, folder: Path) -> str:
    """The class that loads the model. Only the encoder of a model with a decoder makes vectors of texts."""
    name = registry.find(task.name).auto_class
    kind = model_folder.read_config(folder).get("model_type", "")
    return ENCODERS.get(kind, name) if task.name in EMBEDDINGS else name


def _check_head(task: TaskName, folder: Path) -> None:
    """StartError for a text classifier served as token classifier or the reverse, because the weights fit both."""
    inferred = registry.infer(model_folder.read_config(folder))
    made_for = registry.find(inferred).auto_class if inferred else ""
    wanted = registry.find(task.name).auto_class
    if made_for in LABELLED and wanted in LABELLED and made_for != wanted:
        raise StartError(_misfit(task, folder, ""))


def _missing(task: TaskName, info: LoadingInfo) -> List[str]:
    """The weights that transformers initialised because the folder does not have them."""
    lost = [*info.get("missing_keys", ()), *(key[0] for key in info.get("mismatched_keys", ()))]
    lost = [key for key in lost if not key.endswith("position_ids")]
    unused = registry.find(task.name).unused_weights
    lost = [key for key in lost if not any(part in key for part in unused)]
    return sorted(lost)


def _lacking(task: TaskName, runtime: Runtime) -> List[str]:
    """The packages that a task needs and this image does not have."""
    needed = dict(registry.find(task.name).packages)
    if task.name == "table-question-answering" and runtime.prefix:
        needed["tensorflow_probability"] = "tensorflow-probability"
    # TAPAS needs it before transformers 4.20. It is published as source only.
    elif task.name == "table-question-answering" and _needs_scatter():
        needed["torch_scatter"] = "torch-scatter"
    return [name for module, name in needed.items() if importlib.util.find_spec(module) is None]


def _needs_scatter() -> bool:
    import transformers

    return tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 20)


def _misfit(task: TaskName, folder: Path, reason: str) -> str:
    config = model_folder.read_config(folder)
    architectures = ", ".join(config.get("architectures") or ["of no known architecture"])
    inferred = registry.infer(config)
    if inferred == task.name:
        return "HF_TASK={} fits this model ({}), but it cannot be loaded. {}".format(
            task.requested, architectures, reason[:300]
        ).strip()
    hint = "set HF_TASK={}".format(inferred) if inferred and inferred != task.name else "use another model"
    return "HF_TASK={} does not fit this model ({}): {}. {}".format(
        task.requested, architectures, hint, reason.split(".\n")[0].splitlines()[0][:300] if reason else ""
    ).strip()


@contextlib.contextmanager
def _loading_infos(transformers: ModuleType, runtime: Runtime, infos: List[LoadingInfo]) -> Iterator[None]:
    """Collect the loading infos that `pipeline` discards: which weights were missing and initialised randomly."""
    base = getattr(transformers, runtime.prefix + "PreTrainedModel")
    original = base.__dict__["from_pretrained"]

    def from_pretrained(cls: "Type[PreTrainedModel]", *args: object, **kwargs: object) -> "PreTrainedModel":
        model, info = original.__func__(cls, *args, **dict(kwargs, output_loading_info=True))
        infos.append(info)
        return model

    base.from_pretrained = classmethod(from_pretrained)  # type: ignore[arg-type]
    try:
        yield
    finally:
        base.from_pretrained = original


def _arguments(settings: Settings, folder: Path, runtime: Runtime) -> Dict[str, object]:
    import transformers

    placed = placement.arguments(settings, folder, runtime)
    if placed:
        return dict(_trust(settings), **placed)
    arguments = dict(_trust(settings), device=runtime.pipeline_device())
    known = inspect.signature(transformers.pipeline).parameters
    for name in ("dtype", "torch_dtype"):
        if name in known:
            # Without torch the default, "auto", is a NameError in several releases from 4.51 on; with it, it is the
            # precision of the file.
            return dict(arguments, **{name: getattr(runtime, "type", None)})
    if runtime.dtype != "float32":
        raise StartError(
            "HF_DTYPE={}: transformers {} serves this task in float32".format(
                runtime.dtype, transformers.__version__
            )
        )
    return arguments


def _check_task(task: TaskName, folder: Path, runtime: Runtime) -> None:
    """StartError if no pipeline can serve the task in this image."""
    import transformers

    known = pipeline_task.known_tasks()
    if task.name not in known and pipeline_task.is_served(task.name):
        raise StartError(
            "HF_TASK={}: transformers {} has no pipeline for this task. Use an image with another release of "
            "transformers, or serve the model by code/inference.py".format(
                task.requested, transformers.__version__
            )
        )
    if task.name not in known:
        raise StartError(
            "transformers {}: {}".format(
                transformers.__version__, registry.unknown_task(task.requested, known)
            )
        )
    if not pipeline_task.is_served(task.name):
        raise StartError(
            "HF_TASK={}: the inputs of its pipeline cannot be checked, so requests could name files and addresses. "
            "Serve the model by code/inference.py with model_fn and predict_fn, which get the bytes of the "
            "request".format(task.requested)
        )
    if model_folder.read_config(folder).get("model_type") == "idefics":
        raise StartError("models of type idefics fetch URLs in texts: use idefics2 or idefics3")
    lacking = _lacking(task, runtime)
    if lacking:
        raise StartError(
            "HF_TASK={} needs {}, which this image does not have: add it to code/requirements.txt".format(
                task.requested, " and ".join(lacking)
            )
        )


def load_pipeline(
    task: TaskName, files: ModelFiles, settings: Settings, runtime: Runtime
) -> "transformers.Pipeline":
    """The pipeline of a task that the toolkit does not implement itself."""
    import transformers

    folder = files.weights
    _check_task(task, folder, runtime)
    arguments = _arguments(settings, folder, runtime)
    if files.adapter is not None:
        _check_adapter(files.adapter, folder)
        if task.name in CLASSIFIERS:
            auto = getattr(transformers, CLASSIFIERS[task.name])
            head = adapters.head_arguments(files.adapter, folder, auto, _trust(settings))
            arguments["model_kwargs"] = head
    infos: List[LoadingInfo] = []
    try:
        with _loading_infos(transformers, runtime, infos):
            pipeline = transformers.pipeline(task.name, model=str(folder), **arguments)
    except (AttributeError, ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as problem:
        raise _unloadable(task, folder, problem) from None
    _check_class(task, folder, pipeline)
    missing = [key for info in infos for key in _missing(task, info)]
    if files.adapter is not None:
        pipeline.model, replaced = adapters.merge(pipeline.model, files.adapter, _dtype_of(runtime))
        missing = [key for key in missing if key not in replaced]
    if missing:
        raise StartError("{} The weights lack {}".format(_misfit(task, folder, ""), checks.listed(missing)))
    for model in (pipeline.model, getattr(pipeline, "vocoder", None)):
        if model is not None:
            runtime.watch(model)
            runtime.settle_weights(model)
    runtime.model = pipeline.model
    runtime.record(pipeline.model)
    if getattr(pipeline, "tokenizer", None) is not None:
        checks.check_tokenizer(pipeline.tokenizer, folder)
    checks.check_finite(pipeline.model, folder)
    return pipeline


def _unloadable(task: TaskName, folder: Path, problem: Exception) -> StartError:
    """The error for a pipeline that transformers cannot load."""
    import transformers

    if placement.method(folder):
        return placement.unloadable(folder, problem)
    if isinstance(problem, ImportError):
        return StartError(_missing_package(task, problem))
    if _lacks_files(problem):
        return StartError("HF_TASK={}: {}".format(task.requested, _missing_files(folder)))
    return StartError(
        "{} transformers {} says: {}".format(_misfit(task, folder, ""), transformers.__version__, problem)
    )


def _check_class(task: TaskName, folder: Path, pipeline: "transformers.Pipeline") -> None:
    """StartError for a model of another kind than the pipeline takes: it may answer all the same, with nonsense."""
    kind = type(pipeline.model)
    taken = sorted(architectures.taken_by(task.name, pipeline))
    # The class of a model's own code is in no table.
    if not taken or kind.__name__ in taken or not kind.__module__.startswith("transformers."):
        return
    raise StartError(_misfit(task, folder, "The task takes {}".format(checks.listed(taken))))


def _lacks_files(problem: Exception) -> bool:
    """Whether files of a tokenizer are missing. Several open them without a look at whether there are any."""
    words = str(problem)
    if isinstance(problem, OSError):
        return words.startswith("Can't load tokenizer for") and "all relevant files" in words
    return isinstance(problem, TypeError) and "NoneType" in words


def _missing_files(folder: Path) -> str:
    return (
        "the tokenizer in {} cannot be loaded: files of it are missing. Save the tokenizer beside the model: "
        "tokenizer.save_pretrained(FOLDER) ({})".format(folder, _vocabulary_files(folder))
    )


def _tokenizer_class(folder: Path) -> Optional[str]:
    """What tokenizer_config.json says, if there is one."""
    try:
        name = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["tokenizer_class"]
    except (KeyError, OSError, TypeError, ValueError):
        return None
    return name if isinstance(name, str) else None


def _vocabulary_files(folder: Path) -> str:
    """The names of the files that the tokenizer of a model reads, as far as transformers has them in its tables."""
    from transformers.models.auto import tokenization_auto

    kind = model_folder.read_config(folder).get("model_type", "")
    names = getattr(tokenization_auto, "TOKENIZER_MAPPING_NAMES", {}).get(kind) or ()
    for name in (_tokenizer_class(folder), *((names,) if isinstance(names, str) else names)):
        if name is None:
            continue
        found = getattr(tokenization_auto.tokenizer_class_from_name(name), "vocab_files_names", None)
        if found:
            return "its files are " + ", ".join(sorted(map(str, found.values())))
    return "a vocabulary, and tokenizer_config.json"


def _missing_package(task: TaskName, problem: ImportError) -> str:
    """The package in a message of transformers' `requires_backends`, which is several lines long."""
    packages = re.findall(r"pip install (?:-U |--upgrade )?([A-Za-z0-9][\w.-]*)", str(problem))
    packages = packages or re.findall(r"requires the (\w+) library", str(problem))
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()] or [repr(problem)]
    return "HF_TASK={} needs {}, which this image does not have: add it to code/requirements.txt ({})".format(
        task.requested, " and ".join(packages).lower() or "another package", lines[0][:300]
    )


def _trust(settings: Settings) -> Dict[str, object]:
    # Releases of 2021 do not know the argument.
    return {"trust_remote_code": True} if settings.trust_remote_code else {}
