"""SageMaker's multi-model endpoints: loading, listing, unloading and invoking models by name.

https://docs.aws.amazon.com/sagemaker/latest/dg/mms-container-apis.html
"""

import asyncio
import gc
import re
import time
import weakref
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from hf_inference_toolkit import settings as variables
from hf_inference_toolkit.annotations import JsonObject
from hf_inference_toolkit.content import payload
from hf_inference_toolkit.errors import RequestError, StartError, first_line
from hf_inference_toolkit.http.bodies import Bodies
from hf_inference_toolkit.http.responses import json_response
from hf_inference_toolkit.http.served import PATIENCE_SECONDS, Served
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.models.model import Model
from hf_inference_toolkit.runtimes import memory
from hf_inference_toolkit.scheduling.workers import Workers
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks.service import Service

MODELS, ONE_MODEL, INVOKE = "/models", "/models/NAME", "/models/NAME/invoke"
# The longest path of Linux, in characters.
LONGEST_URL = 4096
# Names of models are opaque to the container.
_NAME = re.compile(r"[A-Za-z0-9._:=@+~-]{1,256}\Z")
# Models in one answer of the list.
PAGE = 100
# Free memory that must be left for requests, in bytes.
RESERVE = 256 * 1024 * 1024
LOOK_SECONDS = 0.02
T = TypeVar("T")
LoadModel = Callable[[Settings], Service]


class Entry:
    """A model with its name and folder. `served` is None until it is loaded."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.served: Optional[Served] = None
        self.optimizing: Optional["Future[None]"] = None
        self.is_unloading = False
        # Requests that are being answered.
        self.in_flight = 0
        # Done when loading has ended, even if it failed.
        self.loaded = asyncio.get_event_loop().create_future()

    def described(self) -> JsonObject:
        """The model in AWS's form."""
        return {"modelName": self.name, "modelUrl": self.url}


class MultiModel:
    """The loaded models, and the endpoints for them. All methods run on the event loop."""

    def __init__(
        self, settings: Settings, server: Model, load_model: LoadModel, workers: Workers, executor: Executor
    ) -> None:
        self._settings = settings
        self._server = server
        self._load_model = load_model
        self._workers = workers
        self._executor = executor
        self.bodies = Bodies(settings, server, executor)
        self._entries: Dict[str, Entry] = {}
        # Models are loaded and unloaded one at a time, so that free memory can be measured. So are conversions.
        self._loading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
        self._converting = ThreadPoolExecutor(max_workers=1, thread_name_prefix="convert")

    @property
    def served(self) -> List[Tuple[str, Served]]:
        """The loaded models by name."""
        return [(entry.name, entry.served) for entry in self._entries.values() if entry.served is not None]

    async def models(self, request: Request) -> Response:
        """GET /models and POST /models."""
        self._server.serving()
        if request.method == "POST":
            return await self._load(request)
        names = sorted(name for name, entry in self._entries.items() if _is_ready(entry))
        start = request.query_params.get("next_page_token") or ""
        page = [name for name in names if name >= start]
        listed: JsonObject = {"models": [self._entries[name].described() for name in page[:PAGE]]}
        if len(page) > PAGE:
            listed["nextPageToken"] = page[PAGE]
        return json_response(listed)

    async def one(self, request: Request) -> Response:
        """GET and DELETE /models/NAME."""
        self._server.serving()
        entry = self._find(request.scope["path"][len(MODELS) + 1 :])
        if request.method == "DELETE":
            await self._unload(entry)
        elif not _is_ready(entry):
            raise RequestError("model_not_found", "model {} is {}".format(entry.name, _state(entry)))
        return json_response(entry.described())

    async def invoke(self, request: Request) -> Response:
        """POST /models/NAME/invoke."""
        self._server.serving()
        entry = self._find(request.scope["path"][len(MODELS) + 1 : -len("/invoke")])
        if entry.is_unloading:
            raise RequestError("model_not_found", "model {} is being unloaded".format(entry.name))
        if entry.served is None:
            message = "model {} is being loaded".format(entry.name)
            raise RequestError("not_ready", message, {"Retry-After": "1"})
        entry.in_flight += 1
        # The application counts the request when its answer was sent.
        request.scope["model"] = entry
        return await entry.served.invocations.answer(request)

    def _find(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise RequestError("model_not_found", "no model named {!r} is loaded".format(name[:256]))
        return entry

    async def _load(self, request: Request) -> Response:
        body = await self.bodies.receive(request, time.monotonic() + self._settings.deadline)
        name, url = _read(await self.bodies.off_loop(len(body), lambda: payload.read_json(body)))
        folder = self._folder(url)
        known = self._entries.get(name)
        if known is not None:
            raise RequestError("conflict", "model {} is {}".format(name, _state(known)))
        entry = self._entries[name] = Entry(name, url)
        values = self._settings._replace(model_dir=str(folder), model_name=name, submit_directory=None)
        try:
            entry.served = await self._in(self._loading, lambda: self._loaded(values))
        except BaseException:
            del self._entries[name]
            raise
        finally:
            entry.loaded.set_result(None)
        entry.optimizing = self._converting.submit(entry.served.model.optimize)
        return json_response(entry.described())

    def _folder(self, url: str) -> Path:
        """The model's folder. RequestError unless it is below that of all models, symbolic links followed."""
        root = variables.models_dir(self._settings)
        if len(url) > LONGEST_URL:
            message = "'url' has {} characters; at most {} are allowed"
            raise RequestError("unsupported_value", message.format(len(url), LONGEST_URL), param="url")
        try:
            folder, real = Path(url).resolve(), root.resolve()
        except (OSError, RuntimeError, ValueError) as problem:  # a loop of links, a null byte
            raise RequestError(
                "unsupported_value", "'url' {!r}: {}".format(url[:200], first_line(problem)), param="url"
            ) from None
        if real not in folder.parents or not Path(url).is_absolute():
            message = "'url' must be a folder below {}, symbolic links followed, not {!r}"
            raise RequestError("unsupported_value", message.format(root, url[:200]), param="url")
        try:
            is_folder = folder.is_dir()
        except OSError:  # a name that is too long
            is_folder = False
        if not is_folder:
            raise RequestError(
                "unsupported_value", "'url' {!r} is not a folder".format(url[:200]), param="url"
            )
        return folder

    def _loaded(self, values: Settings) -> Served:
        """Load a model in the loading thread. RequestError if it cannot be loaded, and then nothing of it is left."""
        try:
            self._check_memory(values)
            model = Model(lambda: self._load_model(values), lambda _: None, self._server)
            served = Served(values, model, self._workers, self._executor)
            model.load(memory.trim)
            left = memory.available()
            if left < RESERVE // 2:
                _close(served, None)
                raise _too_large(values, "it leaves {} MB".format(left >> 20))
            return served
        except RequestError:
            _collect()
            raise
        except BaseException as problem:
            event(30, "model {} cannot be loaded: {}".format(values.model_name, problem), problem)
            error = _explained(values, problem)
        # The traceback of the exception has held the parts of the model.
        _collect()
        raise error

    def _check_memory(self, values: Settings) -> None:
        from hf_inference_toolkit.loading import footprint

        needed, free = footprint.estimate(values), memory.available()
        if needed + RESERVE > free:
            message = "it needs {} MB, {} MB are free, and {} MB are kept for requests"
            raise _too_large(values, message.format(needed >> 20, free >> 20, RESERVE >> 20))

    async def _unload(self, entry: Entry) -> None:
        """Let running requests finish, and release the model's memory."""
        if entry.served is None:
            await asyncio.wait([entry.loaded])
            entry = self._find(entry.name)  # loading it may have failed
        if entry.is_unloading or entry.served is None:
            raise RequestError("model_not_found", "model {} is {}".format(entry.name, _state(entry)))
        entry.is_unloading = True
        ends = time.monotonic() + self._settings.deadline + PATIENCE_SECONDS
        while entry.in_flight and time.monotonic() < ends:
            await asyncio.sleep(LOOK_SECONDS)
        served, entry.served = entry.served, None
        remains = weakref.ref(served.model.service)
        try:
            await self._in(self._loading, partial(_close, served, entry.optimizing))
            del served
            await self._in(self._loading, _collect)
        finally:
            del self._entries[entry.name]
        if remains() is not None:
            event(
                30, "model {} is unloaded, but a thread or its code still holds its memory".format(entry.name)
            )
        else:
            event(20, "unloaded", model=entry.name)

    async def _in(self, executor: Executor, work: Callable[[], T]) -> T:
        return await asyncio.get_event_loop().run_in_executor(executor, work)

    def look(self) -> None:
        """End bodies that arrive too slowly."""
        self.bodies.look()
        for _, served in self.served:
            served.invocations.look()

    def drain(self) -> None:
        """Refuse new requests for all models."""
        for _, served in self.served:
            served.model.drain()


def route_of(path: str) -> str:
    """The route of a path that has the name of a model, otherwise an empty string."""
    name = path[len(MODELS) + 1 :] if path.startswith(MODELS + "/") else ""
    is_call = name.endswith("/invoke")
    name = name[: -len("/invoke")] if is_call else name
    if not name or "/" in name:
        return ""
    return INVOKE if is_call else ONE_MODEL


def _is_ready(entry: Entry) -> bool:
    return entry.served is not None and not entry.is_unloading


def _state(entry: Entry) -> str:
    if entry.is_unloading:
        return "being unloaded"
    return "being loaded" if entry.served is None else "loaded already"


def _read(document: object) -> Tuple[str, str]:
    """The name and the URL in a body. Other keys are ignored: SageMaker may add some."""
    if not isinstance(document, dict):
        raise RequestError("malformed", 'the body must be {"model_name": "...", "url": "..."}')
    for key in ("model_name", "url"):
        if not isinstance(document.get(key), str) or not document[key]:
            raise RequestError("malformed", "'{}' must be a string that is not empty".format(key), param=key)
    name = document["model_name"]
    if not _NAME.match(name) or name in (".", ".."):
        raise RequestError(
            "unsupported_value",
            "'model_name' must be 1 to 256 letters, digits and . _ : = @ + ~ -, not {!r}".format(name[:256]),
            param="model_name",
        )
    return name, document["url"]


def _too_large(values: Settings, reason: str) -> RequestError:
    message = "model {} does not fit into memory: {}. Unload other models, or use a larger instance"
    return RequestError("out_of_memory", message.format(values.model_name, reason))


def _explained(values: Settings, problem: BaseException) -> RequestError:
    if memory.is_out_of_memory(problem):
        return _too_large(values, "loading it needs more than is free")
    reason = str(problem)
    if not isinstance(problem, StartError):
        reason = "{}: {}".format(type(problem).__name__, first_line(problem))
    return RequestError(
        "cannot_load", "model {} cannot be loaded: {}".format(values.model_name, reason[:2000])
    )


def _close(served: Served, optimizing: "Optional[Future[None]]") -> None:
    """End what uses a model."""
    service = served.model.service
    if optimizing is not None:
        optimizing.cancel()
    if service is not None:
        service.close()
    if optimizing is not None and not optimizing.cancelled():
        optimizing.result()


def _collect() -> None:
    """Release the memory of unloaded models, whose parts refer to each other."""
    gc.collect()
    memory.release_memory()
    memory.trim()
