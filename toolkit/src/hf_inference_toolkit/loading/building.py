"""From a folder to a service: the head that the task needs, checked to be there, and the task around it."""

import contextlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any, Dict, Iterator, List

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import loader
from hf_inference_toolkit.runtimes.frameworks import Runtime
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks import pipeline_task, registry
from hf_inference_toolkit.tasks.feature_extraction import FeatureExtraction
from hf_inference_toolkit.tasks.fill_mask import FillMask
from hf_inference_toolkit.tasks.question_answering import QuestionAnswering
from hf_inference_toolkit.tasks.service import Service
from hf_inference_toolkit.tasks.summarization import Summarization
from hf_inference_toolkit.tasks.table_question_answering import TableQuestionAnswering
from hf_inference_toolkit.tasks.text2text_generation import Text2TextGeneration
from hf_inference_toolkit.tasks.text_classification import TextClassification, ZeroShotClassification
from hf_inference_toolkit.tasks.text_generation import TextGeneration
from hf_inference_toolkit.tasks.token_classification import TokenClassification
from hf_inference_toolkit.tasks.translation import Translation

OWN: Dict[str, Any] = {
    "text-classification": TextClassification,
    "zero-shot-classification": ZeroShotClassification,
    "token-classification": TokenClassification,
    "feature-extraction": FeatureExtraction,
    "fill-mask": FillMask,
    "question-answering": QuestionAnswering,
    "summarization": Summarization,
    "translation": Translation,
    "text2text-generation": Text2TextGeneration,
    "text-generation": TextGeneration,
}


def build(task: registry.Task, folder: Path, settings: Settings, runtime: Runtime) -> Service:
    """The service of a task; StartError when the model or the installed transformers cannot do it."""
    import transformers

    facts = {
        "model": settings.model_id or str(folder),
        "framework": {"pt": "PyTorch", "tf": "TensorFlow"}["tf" if runtime.prefix else "pt"],
        "transformers": transformers.__version__,
        "dtype": runtime.dtype,
        "device": "cpu" if runtime.pipeline_device() < 0 else "gpu",
    }
    if task.name not in OWN:
        return _pipeline(task, folder, settings, runtime, facts)
    load_head(task, folder, settings, runtime)
    tokenizer = load_tokenizer(folder, settings)
    service: Service = OWN[task.name](task, runtime, tokenizer, facts)
    return service


def load_tokenizer(folder: Path, settings: Settings) -> Any:
    """The model's tokenizer."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), **_trust(settings))
    except Exception as problem:  # a missing file is a TypeError in some releases
        raise StartError("the tokenizer in {} cannot be loaded: {}".format(folder, problem)) from None


def load_head(task: registry.Task, folder: Path, settings: Settings, runtime: Runtime) -> None:
    """Load the task's model class into the runtime; StartError unless every weight of it came from the folder."""
    import transformers

    auto = getattr(transformers, runtime.prefix + registry.AUTO_CLASSES[task.name])
    try:
        model, info = auto.from_pretrained(str(folder), output_loading_info=True, **_trust(settings))
    except ValueError as problem:
        raise StartError(_misfit(task, folder, str(problem))) from None
    except OSError as problem:
        raise StartError("the weights in {} cannot be loaded: {}".format(folder, problem)) from None
    missing = _missing(task, info)
    if missing:
        raise StartError("{} The weights lack {}".format(_misfit(task, folder, ""), _listed(missing)))
    runtime.place(model)


def _missing(task: registry.Task, info: Dict[str, Any]) -> List[str]:
    """The weights that were made up because the folder has none; a pooler is not used by feature-extraction."""
    lost = [*info.get("missing_keys", ()), *(key[0] for key in info.get("mismatched_keys", ()))]
    lost = [key for key in lost if not key.endswith("position_ids")]
    if task.name == "feature-extraction":
        lost = [key for key in lost if "pooler" not in key]
    return sorted(lost)


def _listed(keys: List[str]) -> str:
    more = ", and {} more".format(len(keys) - 4) if len(keys) > 4 else ""
    return ", ".join(keys[:4]) + more


def _lacking(task: registry.Task, runtime: Runtime) -> List[str]:
    """The packages that a task needs beside transformers, and that this image does not have."""
    if task.name != "table-question-answering":
        return []
    needed = {"pandas": "pandas"}
    if runtime.prefix:
        needed["tensorflow_probability"] = "tensorflow-probability"
    # Until 4.20 Tapas could not do without it; it comes as source only.
    elif _needs_scatter():
        needed["torch_scatter"] = "torch-scatter"
    return [name for module, name in needed.items() if importlib.util.find_spec(module) is None]


def _needs_scatter() -> bool:
    import transformers

    return tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 20)


def _misfit(task: registry.Task, folder: Path, reason: str) -> str:
    config = loader.read_config(folder)
    architectures = ", ".join(config.get("architectures") or ["of no known architecture"])
    inferred = registry.infer(config)
    if inferred == task.name:
        return "HF_TASK={} fits this model ({}), but it cannot be loaded. {}".format(
            task.asked, architectures, reason[:300]
        ).strip()
    hint = "set HF_TASK={}".format(inferred) if inferred and inferred != task.name else "use another model"
    return "HF_TASK={} does not fit this model ({}): {}. {}".format(
        task.asked, architectures, hint, reason.split(".\n")[0].splitlines()[0][:300] if reason else ""
    ).strip()


@contextlib.contextmanager
def _loading_infos(transformers: Any, runtime: Runtime, infos: List[Dict[str, Any]]) -> Iterator[None]:
    """Collect what `pipeline` throws away: which weights were not in the folder and were made up."""
    base = getattr(transformers, runtime.prefix + "PreTrainedModel")
    original = base.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        model, info = original.__func__(cls, *args, **dict(kwargs, output_loading_info=True))
        infos.append(info)
        return model

    base.from_pretrained = classmethod(from_pretrained)
    try:
        yield
    finally:
        base.from_pretrained = original


def _arguments(settings: Settings, runtime: Runtime) -> Dict[str, Any]:
    import transformers

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


def _pipeline(
    task: registry.Task, folder: Path, settings: Settings, runtime: Runtime, facts: Dict[str, str]
) -> Service:
    import transformers

    known = pipeline_task.known_tasks()
    if task.name not in known:
        raise StartError(
            "transformers {}: {}".format(transformers.__version__, registry.not_known(task.asked, known))
        )
    lacking = _lacking(task, runtime)
    if lacking:
        raise StartError(
            "HF_TASK={} needs {}, which this image does not have; code/requirements.txt can bring it".format(
                task.asked, " and ".join(lacking)
            )
        )
    infos: List[Dict[str, Any]] = []
    try:
        with _loading_infos(transformers, runtime, infos):
            pipeline = transformers.pipeline(task.name, model=str(folder), **_arguments(settings, runtime))
    except (ValueError, KeyError, ImportError, OSError, RuntimeError) as problem:
        raise StartError(
            "{} transformers {} says: {}".format(_misfit(task, folder, ""), transformers.__version__, problem)
        ) from None
    missing = [key for info in infos for key in _missing(task, info)]
    if missing:
        raise StartError("{} The weights lack {}".format(_misfit(task, folder, ""), _listed(missing)))
    kind = TableQuestionAnswering if task.name == "table-question-answering" else pipeline_task.PipelineTask
    return kind(task.asked, pipeline, facts)


def _trust(settings: Settings) -> Dict[str, Any]:
    # Releases of 2021 do not know the argument.
    return {"trust_remote_code": True} if settings.trust_remote_code else {}
