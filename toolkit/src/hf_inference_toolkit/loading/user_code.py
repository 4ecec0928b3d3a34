"""User code: finding the module, importing it, checking the signatures of its functions."""

import importlib.util
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Callable, Dict, List, NamedTuple, Optional, Union

from hf_inference_toolkit.annotations import UserFunction
from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import requirements
from hf_inference_toolkit.loading.isolated_modules import Package
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.settings import Settings

DEFAULT_PROGRAM = "inference.py"
HANDLER = "handler.py"
REQUIREMENTS = "requirements.txt"
# The number of arguments of each function, without the context.
HOOKS = {"model_fn": 1, "input_fn": 2, "predict_fn": 2, "output_fn": 2, "transform_fn": 4}
ARGUMENTS = {
    "model_fn": "(model_dir)",
    "input_fn": "(data, content_type)",
    "predict_fn": "(data, model)",
    "output_fn": "(prediction, accept)",
    "transform_fn": "(model, data, content_type, accept)",
}
# The largest batch of user code that declares `batch = True`.
DEFAULT_BATCH = 32


class Source(NamedTuple):
    """The file of the user's module."""

    path: Path
    is_handler: bool


class Hooks(NamedTuple):
    """The user's functions, wrapped to take the context as their last argument, or the class of a handler.

    `batch` is the largest number of inputs of one call, 0 if the code is not batched. `forget` removes its modules.
    """

    source: Path
    functions: Dict[str, UserFunction]
    handler: Optional[UserFunction] = None
    batch: int = 0
    forget: Callable[[], None] = lambda: None

    @property
    def loads_model(self) -> bool:
        """Whether the user's code loads the model, and not the server."""
        return self.handler is not None or "model_fn" in self.functions


def find(settings: Settings, folder: Path) -> Optional[Source]:
    """The user's module in or beside a local model folder.

    SAGEMAKER_PROGRAM may name a file that does not exist: the SageMaker SDK sets it to inference.py in any case.
    """
    code = _code_folder(settings, folder)
    program = settings.program or DEFAULT_PROGRAM
    places = [code / program] + ([folder / program] if settings.program else [])
    for place in places:
        if place.is_file():
            return Source(place, is_handler=False)
    found = _handler_in(folder, code)
    if found is not None:
        return found
    _check_depth(folder, code, program)
    if settings.program:
        event(
            30,
            "SAGEMAKER_PROGRAM is {}, which is neither in {} nor in {}: the model is served without user "
            "code".format(program, code, folder),
        )
    return None


def find_in_repository(folder: Path) -> Optional[Source]:
    """The module of a model that HF_MODEL_ID names."""
    program = folder / "code" / DEFAULT_PROGRAM
    if program.is_file():
        return Source(program, is_handler=False)
    return _handler_in(folder, folder / "code")


def _handler_in(folder: Path, code: Path) -> Optional[Source]:
    for place in (folder / HANDLER, code / HANDLER):
        if place.is_file():
            return Source(place, is_handler=True)
    return None


def _code_folder(settings: Settings, folder: Path) -> Path:
    given = settings.submit_directory
    if given and Path(given).is_dir():
        return Path(given)
    if given and "://" in given:
        event(30, "SAGEMAKER_SUBMIT_DIRECTORY is a URL; code/ in the model's folder is used", value=given)
    return folder / "code"


def install_requirements(settings: Settings, folder: Path, source: Optional[Source]) -> None:
    """Install the requirements.txt beside the module, otherwise the one in code/.

    On a multi-model endpoint its packages must be installed already, because all models share them.
    """
    places = [source.path.parent] if source else []
    for place in [*places, _code_folder(settings, folder)]:
        if (place / REQUIREMENTS).is_file():
            if settings.multi_model:
                requirements.check_installed(place / REQUIREMENTS)
            else:
                requirements.install(place / REQUIREMENTS, settings)
            return


def is_present(settings: Settings, folder: Path) -> bool:
    """Whether a folder has user code."""
    code = _code_folder(settings, folder)
    program = settings.program or DEFAULT_PROGRAM
    names = (code / program, folder / HANDLER, code / HANDLER)
    return any(path.is_file() for path in names) or bool(
        settings.program and (folder / settings.program).is_file()
    )


def load(source: Source, is_isolated: bool = False) -> Hooks:
    """Import the module and check its functions. Raises StartError.

    Isolated modules have names of their own, which no other model's modules have.
    """
    package = Package(source.path.parent) if is_isolated else None
    try:
        module = _imported(source.path, package)
        make = _handler if source.is_handler else _functions
        hooks = make(module, source.path)
    except BaseException:
        if package is not None:
            package.remove()
        raise
    return hooks._replace(forget=package.remove) if package is not None else hooks


def _check_depth(folder: Path, code: Path, program: str) -> None:
    """Detect an archive that contains the folder instead of its content."""
    patterns = [(code, "*/" + program), (folder, "*/code/" + program), (folder, "*/" + HANDLER)]
    for root, pattern in patterns:
        for found in sorted(root.glob(pattern)):
            raise StartError(
                "{} is one folder too deep: it must be {}. Pack the folder's content, not the folder: "
                "tar -C FOLDER -czf model.tar.gz .".format(
                    found, code / program if found.name == program else folder / HANDLER
                )
            )


def _imported(path: Path, package: Optional[Package]) -> ModuleType:
    try:
        return package.load(path.stem) if package is not None else _imported_by_name(path)
    except ImportError as problem:
        raise StartError(
            "{} cannot be imported: {}. List packages that the image does not have in {}".format(
                path, problem, path.parent / REQUIREMENTS
            )
        ) from problem
    except StartError:
        raise
    except BaseException as problem:
        line = getattr(problem, "lineno", None) or _line(problem, path)
        raise StartError(
            "{} cannot be imported: line {}: {}: {}".format(path, line, type(problem).__name__, problem)
        ) from problem


def _imported_by_name(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.parent))
    # Child processes of user code import the modules beside it, too.
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(path.parent)] + ([inherited] if inherited else []))
    spec = importlib.util.spec_from_file_location(path.stem, str(path))
    if spec is None or spec.loader is None:
        raise StartError("{} is not a Python module".format(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _line(problem: BaseException, path: Path) -> Union[int, str]:
    trace = problem.__traceback__
    line: Union[int, str] = "?"
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _handler(module: ModuleType, path: Path) -> Hooks:
    handler = getattr(module, "EndpointHandler", None)
    if not inspect.isclass(handler):
        raise StartError("{} has no class EndpointHandler".format(path))
    for name, wanted in (("__init__", "(self, path)"), ("__call__", "(self, data)")):
        function = getattr(handler, name, None)
        if function is None or not (_takes(function, 2) or _wants_context(function, 2)):
            raise StartError("{}: EndpointHandler.{} must take {}".format(path, name, wanted))
    return Hooks(path, {}, handler, _batch(handler, handler.__call__, "EndpointHandler", path))


def call_handler(handler: UserFunction) -> UserFunction:
    """A handler's `__call__` as a function of the data and the context."""
    if _wants_context(handler, 1):
        return lambda data, context: handler(data, context)
    return lambda data, _: handler(data)


def _functions(module: ModuleType, path: Path) -> Hooks:
    found = {name: getattr(module, name) for name in HOOKS if callable(getattr(module, name, None))}
    if not found:
        raise StartError("{} has none of the functions {}".format(path, ", ".join(HOOKS)))
    both = sorted(set(found) & {"input_fn", "predict_fn", "output_fn"})
    if "transform_fn" in found and both:
        raise StartError(
            "{} has transform_fn and {}: transform_fn replaces the other three, so remove it or them".format(
                path, ", ".join(both)
            )
        )
    predict = found.get("predict_fn")
    return Hooks(
        path,
        {name: _with_context(name, function, path) for name, function in found.items()},
        batch=_batch(predict, predict, "predict_fn", path) if predict else 0,
    )


def _batch(owner: object, function: UserFunction, name: str, path: Path) -> int:
    """The largest batch that user code declares: `batch = True`, or the number itself."""
    declared = getattr(owner, "batch", False)
    if declared is False or declared is None or callable(declared):
        return 0
    if not isinstance(declared, int) or declared < 1:
        raise StartError(
            "{}: {}.batch must be True, or the largest number of inputs of one call, not {!r}".format(
                path, name, declared
            )
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise StartError(
            "{}: {} has batch = {!r} and is a generator: batched user code cannot stream".format(
                path, name, declared
            )
        )
    return DEFAULT_BATCH if declared is True else declared


def _with_context(name: str, function: UserFunction, path: Path) -> UserFunction:
    """Wrap a function so that it accepts the context as its last argument."""
    plain = HOOKS[name]
    if _wants_context(function, plain):
        return function
    if _takes(function, plain):
        return lambda *arguments: function(*arguments[:-1])
    raise StartError(
        "{}: {}{} must take {}, or one more for the context".format(
            path, name, inspect.signature(function), ARGUMENTS[name]
        )
    )


def _wants_context(function: UserFunction, plain: int) -> bool:
    """Whether it requires one more argument, or has one named `context`."""
    names: List[str] = list(inspect.signature(function).parameters)
    return _takes(function, plain + 1) and (not _takes(function, plain) or "context" in names)


def _takes(function: UserFunction, count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    return True
