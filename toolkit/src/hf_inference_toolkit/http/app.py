"""The ASGI application: routes, request ids, error responses, and counting.

`create_app(settings, load_model)` does not read the environment and has no global state.
"""

import asyncio
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Awaitable, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from starlette.requests import Request
from starlette.responses import Response

from hf_inference_toolkit import errors
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.http import multi_model, openai, openapi, tei, tgi
from hf_inference_toolkit.http.asgi import Message, Receive, Scope, Send
from hf_inference_toolkit.http.bodies import LOOK_SECONDS, current_task
from hf_inference_toolkit.http.metrics import CONTENT_TYPE, text_of
from hf_inference_toolkit.http.multi_model import MultiModel
from hf_inference_toolkit.http.openai_answers import error_document
from hf_inference_toolkit.http.responses import json_response
from hf_inference_toolkit.http.served import Served
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.models.model import DRAINING, Model
from hf_inference_toolkit.runtimes import memory, threads
from hf_inference_toolkit.scheduling.workers import Workers
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks.service import Service

LoadModel = Callable[[Settings], Service]
Endpoint = Callable[[Request], Awaitable[Response]]


class Route(NamedTuple):
    """The methods and the endpoint of a path."""

    methods: Tuple[str, ...]
    endpoint: Endpoint
    is_prediction: bool = False


class Answering:
    """A request that is being answered; `statuses` has the status of the answer once it has begun."""

    def __init__(
        self, request_id: str, began: float, task: "asyncio.Task[object]", statuses: List[int]
    ) -> None:
        self.request_id = request_id
        self.began = began
        self.task = task
        self.statuses = statuses


ID_HEADERS = (b"x-request-id", b"x-amzn-sagemaker-inference-id")
_GOOD_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
# The interval of the watchdog.
WATCH_SECONDS = 1.0


def create_app(
    settings: Settings, load_model: LoadModel, on_failure: Optional[Callable[[BaseException], None]] = None
) -> "App":
    """Create the ASGI application. It loads the model in its lifespan startup, when the port is open.

    `on_failure` is called in the loading thread if the model cannot be loaded.
    """
    return App(settings, load_model, on_failure or (lambda _: None))


class App:
    """The application; it starts and stops its background tasks in the lifespan events."""

    def __init__(
        self, settings: Settings, load_model: LoadModel, on_failure: Callable[[BaseException], None]
    ) -> None:
        self.settings = settings
        self.model = Model(lambda: load_model(settings), on_failure)
        executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="codec")
        workers = Workers(threads.shared() if settings.multi_model else 1)
        # On a multi-model endpoint it has no requests, and `model` is the state of the server.
        self.served = Served(settings, self.model, workers, executor)
        self.metrics, self.scheduler = self.served.metrics, self.served.scheduler
        self.models: Optional[MultiModel] = None
        if settings.multi_model:
            self.models = MultiModel(settings, self.model, load_model, workers, executor)
        self._answering: Set[Answering] = set()
        self._is_ending = False
        self._watches: List[asyncio.Future[None]] = []
        self._routes = _routes(self, self.served) if self.models is None else _many(self, self.models)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                for watch in self._watches:
                    watch.cancel()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def start(self) -> None:
        """Start loading the model and the watchdogs. Needs a running event loop."""
        self.model.start()
        self._watches = [asyncio.ensure_future(watch) for watch in (self._watch(), self._look())]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            idle = sum(served.watch() for served in self._all_served())
            if idle:
                await asyncio.get_event_loop().run_in_executor(None, memory.trim)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.served.invocations.look()
            if self.models is not None:
                self.models.look()

    def _all_served(self) -> List[Served]:
        return [served for _, served in self.models.served] if self.models is not None else [self.served]

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        headers = {name.lower(): value for name, value in scope["headers"]}
        request_id = _request_id(headers)
        scope["request_id"] = request_id
        sent: List[int] = []
        # After a final response, a client that sent Expect: 100-continue may still send its body, or the next request.
        is_last = headers.get(b"expect", b"").lower() == b"100-continue"

        async def receive_body() -> Message:
            nonlocal is_last
            is_last = False
            return await receive()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent.append(message["status"])
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode("ascii"))]
                # The client's next request must go to another server.
                if is_last or self.model.state == DRAINING:
                    message["headers"] = [pair for pair in message["headers"] if pair[0] != b"connection"]
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        answering = Answering(request_id, began, current_task(), sent)
        self._answering.add(answering)
        try:
            await self._handle(scope, receive_body, send_with_id, request_id)
        finally:
            self._answering.discard(answering)
            self._count(scope, sent[0] if sent else 499, time.monotonic() - began, request_id)

    async def _handle(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        try:
            response = await self._find(scope)(Request(scope, receive))
        except RequestError as error:
            response = _error(scope, error)
        except asyncio.CancelledError:
            if not self._is_ending:
                raise
            response = _error(scope, _late())
        except Exception as problem:
            event(40, "unexpected error", problem, request_id=request_id)
            hidden = RequestError("internal", "internal error; see the log entry with this request_id")
            response = _error(scope, hidden)
        if scope["http_version"] == "1.0":
            send = WholeAnswer(send)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> Endpoint:
        """The endpoint of a request. RequestError (404, 405) with the known routes or methods."""
        path = scope["path"]
        route = self._routes.get(_route_of(path))
        if route is None:
            raise RequestError(
                "not_found", "no route {}; the routes are {}".format(path[:200], ", ".join(self._routes))
            )
        if scope["method"] not in route.methods:
            allowed = ", ".join(route.methods)
            raise RequestError(
                "method_not_allowed", "{} supports {}".format(path[:200], allowed), {"Allow": allowed}
            )
        return route.endpoint

    def _count(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = _route_of(scope["path"])
        route = route if route in self._routes else "other"
        # It must not stay in the scope, which the connection keeps.
        entry = scope.pop("model", None)
        metrics = self.metrics
        if entry is not None:
            entry.in_flight -= 1
            metrics = entry.served.metrics if entry.served is not None else metrics
        metrics.answered(route, status)
        is_prediction = route in self._routes and self._routes[route].is_prediction
        if is_prediction:
            metrics.predicted(seconds)
        quiet = status < 400 and not is_prediction
        event(
            10 if quiet or route in self.health_routes else 20,
            "request",
            request_id=request_id,
            method=scope["method"],
            path=scope["path"][:200],
            status=status,
            seconds=round(seconds, 4),
        )

    @property
    def in_flight(self) -> int:
        """The number of requests in flight."""
        return len(self._answering)

    def drain(self) -> None:
        """Refuse new requests, because the server shuts down."""
        self.model.drain()
        if self.models is not None:
            self.models.drain()

    def end(self) -> List[Tuple[str, float]]:
        """Answer all requests in flight with 503. Returns the id and the age in seconds of each."""
        self._is_ending = True
        for served in self._all_served():
            served.invocations.end_streams(_late())
        now = time.monotonic()
        for one in self._answering:
            if not one.statuses:
                one.task.cancel()
        return [(one.request_id, now - one.began) for one in self._answering]

    @property
    def health_routes(self) -> List[str]:
        """The paths of the health check."""
        return [path for path in ("/ping", self.settings.health_route) if path]

    async def ping(self, request: Request) -> Response:
        """200 if predictions are served, 503 while loading or draining, 500 if the model cannot serve."""
        # starlette before 0.20 does not set the length of an empty body.
        return Response(status_code=self.model.status, headers={"Content-Length": "0"})

    async def show_metrics(self, request: Request) -> Response:
        """The metrics in the text format of Prometheus."""
        for served in self._all_served():
            if served.model.service is not None:
                served.metrics.loaded(served.model.service.facts)
        models = None
        if self.models is not None:
            models = [(name, served.metrics) for name, served in self.models.served]
        text = text_of(self.metrics, models)
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def show_openapi(self, request: Request) -> Response:
        """The OpenAPI document of the task."""
        return json_response(
            openapi.document(
                self.model.serving(),
                self.served.invocations.routes,
                openai.documented(),
                tgi.documented(),
                tei.documented(),
            )
        )

    async def execution_parameters(self, request: Request) -> Response:
        """The defaults of SageMaker's batch transform for this container."""
        return json_response(
            {
                "MaxConcurrentTransforms": min(self.settings.queue_size, 16),
                "BatchStrategy": "SINGLE_RECORD",
                # 0 would mean that there is no limit.
                "MaxPayloadInMB": max(1, min(self.settings.max_payload // (1024 * 1024), 100)),
            }
        )


class WholeAnswer:
    """Sends an answer when all of it is there, for HTTP/1.0, which has no chunks to mark the end of a stream."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message = {}
        self._parts: List[bytes] = []

    async def __call__(self, message: Message) -> None:
        """Called as ASGI's `send`."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._parts.append(message.get("body", b""))
        if not message.get("more_body"):
            body = b"".join(self._parts)
            headers = [pair for pair in self._start["headers"] if pair[0].lower() != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode("ascii")))
            await self._send(dict(self._start, headers=headers))
            await self._send({"type": "http.response.body", "body": body, "more_body": False})


LOOK = ("GET", "HEAD")


def _routes(app: App, served: Served) -> Dict[str, Route]:
    """The routes of a server of one model."""
    routes = {path: Route(LOOK, app.ping) for path in app.health_routes}
    invocations = served.invocations
    routes.update((path, Route(("POST",), invocations.answer, True)) for path in invocations.routes)
    routes[openai.CHAT] = Route(("POST",), served.openai.chat, True)
    routes[openai.COMPLETIONS] = Route(("POST",), served.openai.completions, True)
    routes[openai.EMBEDDINGS] = Route(("POST",), served.openai.embeddings, True)
    routes[openai.MODELS] = Route(LOOK, served.openai.models)
    routes[openai.ONE_MODEL] = Route(LOOK, served.openai.model)
    routes[tgi.GENERATE] = Route(("POST",), served.tgi.generate, True)
    routes[tgi.STREAM] = Route(("POST",), served.tgi.generate_stream, True)
    routes[tgi.INFO] = Route(LOOK, served.tgi.info)
    routes.update((path, Route(("POST",), served.tei.answer, True)) for path in tei.ROUTES)
    routes["/metrics"] = Route(LOOK, app.show_metrics)
    routes["/openapi.json"] = Route(LOOK, app.show_openapi)
    routes["/execution-parameters"] = Route(LOOK, app.execution_parameters)
    return routes


def _many(app: App, models: MultiModel) -> Dict[str, Route]:
    """The routes of a multi-model endpoint."""
    routes = {path: Route(LOOK, app.ping) for path in app.health_routes}
    routes[multi_model.MODELS] = Route((*LOOK, "POST"), models.models)
    routes[multi_model.ONE_MODEL] = Route((*LOOK, "DELETE"), models.one)
    routes[multi_model.INVOKE] = Route(("POST",), models.invoke, True)
    routes["/metrics"] = Route(LOOK, app.show_metrics)
    return routes


def _route_of(path: str) -> str:
    """The key of a path in the table of routes."""
    if path.startswith(openai.ONE_MODEL):
        return openai.ONE_MODEL
    return multi_model.route_of(path) or path


def _late() -> RequestError:
    return RequestError("draining", "the server has ended before the answer", {"Retry-After": "1"})


def _error(scope: Scope, error: RequestError) -> Response:
    """An error response, in the form of the API that the request belongs to."""
    if scope["path"].startswith("/v1/") or scope.get("is_openai"):
        value: object = error_document(error)
    elif scope["path"] in (tgi.GENERATE, tgi.STREAM, tgi.INFO, *tei.ROUTES):
        value = {"error": error.message, "error_type": error.code}
    else:
        value = errors.document(error, scope["request_id"])
    return json_response(value, error.status, error.headers)


def _request_id(headers: Dict[bytes, bytes]) -> str:
    """The client's id if it is safe to log, otherwise a new one."""
    for name in ID_HEADERS:
        given = headers.get(name, b"").decode("latin-1")
        if _GOOD_ID.match(given):
            return given
    return os.urandom(16).hex()
