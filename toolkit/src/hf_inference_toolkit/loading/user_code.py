"""The user's module: where it is, whether it can be used, and what is said when it cannot."""

import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import requirements
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.settings import Settings

DEFAULT_PROGRAM = "inference.py"
HANDLER = "handler.py"
# How many arguments each hook takes; one more is the context.
HOOKS = {"model_fn": 1, "input_fn": 2, "predict_fn": 2, "output_fn": 2, "transform_fn": 4}
ARGUMENTS = {
    "model_fn": "(model_dir)",
    "input_fn": "(data, content_type)",
    "predict_fn": "(data, model)",
    "output_fn": "(prediction, accept)",
    "transform_fn": "(model, data, content_type, accept)",
}


class Context:
    """What hooks with one argument more get; the names are those of SageMaker's toolkits."""

    def __init__(self, model_dir: str) -> None:
        self.system_properties: Dict[str, Any] = {"model_dir": model_dir, "gpu_id": None}
        self.manifest: Dict[str, Any] = {}


class Hooks(NamedTuple):
    """The user's functions, each taking its arguments without the context; or a handler's class."""

    source: Path
    functions: Dict[str, Callable[..., Any]]
    handler: Optional[Callable[..., Any]] = None


def find(settings: Settings, folder: Path) -> Optional[Hooks]:
    """The user's hooks for a model folder; None when there is no user code. Installs its requirements first."""
    source, is_handler = _source(settings, folder)
    requirements.install((source.parent if source else folder / "code") / "requirements.txt")
    if source is None:
        return None
    module = _imported(source)
    if is_handler:
        return Hooks(source, {}, _handler(module, source))
    return Hooks(source, _functions(module, source, Context(str(folder))))


def _source(settings: Settings, folder: Path) -> Tuple[Optional[Path], bool]:
    code = folder / "code"
    given = settings.submit_directory
    if given and Path(given).is_dir():
        code = Path(given)
    elif given and "://" in given:
        event(30, "SAGEMAKER_SUBMIT_DIRECTORY is an address; the model's own code/ is used", value=given)
    program = settings.program or DEFAULT_PROGRAM
    if (code / program).is_file():
        return code / program, False
    for place in (folder / HANDLER, code / HANDLER):
        if place.is_file():
            return place, True
    _check_depth(folder, code, program)
    if settings.program:
        raise StartError("SAGEMAKER_PROGRAM is {}, and {} has no such file".format(program, code))
    return None, False


def _check_depth(folder: Path, code: Path, program: str) -> None:
    """The most common mistake: an archive of the folder instead of its content."""
    patterns = [(code, "*/" + program), (folder, "*/code/" + program), (folder, "*/" + HANDLER)]
    for root, pattern in patterns:
        for found in sorted(root.glob(pattern)):
            raise StartError(
                "{} is one folder too deep: it must be {}. Pack the folder's content, not the folder: "
                "tar -C FOLDER -czf model.tar.gz .".format(
                    found, code / program if found.name == program else folder / HANDLER
                )
            )


def _imported(source: Path) -> Any:
    sys.path.insert(0, str(source.parent))
    spec = importlib.util.spec_from_file_location(source.stem, str(source))
    if spec is None or spec.loader is None:
        raise StartError("{} is no Python module".format(source))
    module = importlib.util.module_from_spec(spec)
    sys.modules[source.stem] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as problem:
        raise StartError(
            "{} does not import: {}. What it needs and the image does not have goes into {}".format(
                source, problem, source.parent / "requirements.txt"
            )
        ) from problem
    except BaseException as problem:
        line = getattr(problem, "lineno", None) or _line(problem, source)
        raise StartError(
            "{} does not import: line {}: {}: {}".format(source, line, type(problem).__name__, problem)
        ) from problem
    return module


def _line(problem: BaseException, source: Path) -> Any:
    trace: Any = problem.__traceback__
    line: Any = "?"
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(source):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _handler(module: Any, source: Path) -> Callable[..., Any]:
    handler = getattr(module, "EndpointHandler", None)
    if not inspect.isclass(handler):
        raise StartError("{} has no class EndpointHandler".format(source))
    for name, wanted in (("__init__", "(self, path)"), ("__call__", "(self, data)")):
        function = getattr(handler, name, None)
        if function is None or not _takes(function, 2):
            raise StartError("{}: EndpointHandler.{} must take {}".format(source, name, wanted))
    return handler


def _functions(module: Any, source: Path, context: Context) -> Dict[str, Callable[..., Any]]:
    found = {name: getattr(module, name) for name in HOOKS if callable(getattr(module, name, None))}
    if not found:
        raise StartError("{} has none of the functions {}".format(source, ", ".join(HOOKS)))
    both = sorted(set(found) & {"input_fn", "predict_fn", "output_fn"})
    if "transform_fn" in found and both:
        raise StartError(
            "{} has transform_fn and {}: transform_fn does the work of all three, so keep one or the "
            "others".format(source, ", ".join(both))
        )
    return {name: _without_context(name, function, source, context) for name, function in found.items()}


def _without_context(
    name: str, function: Callable[..., Any], source: Path, context: Context
) -> Callable[..., Any]:
    """A hook that takes the plain arguments, whether or not it wants the context behind them."""
    plain = HOOKS[name]
    # `def model_fn(model_dir, context=None)`: who names the context gets it.
    if _takes(function, plain + 1) and (not _takes(function, plain) or "context" in _names(function)):
        return lambda *arguments: function(*arguments, context)
    if _takes(function, plain):
        return function
    raise StartError(
        "{}: {}{} must take {}, or one more for the context".format(
            source, name, inspect.signature(function), ARGUMENTS[name]
        )
    )


def _names(function: Callable[..., Any]) -> Any:
    return inspect.signature(function).parameters


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    return True
