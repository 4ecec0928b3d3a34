"""The command `serve`, which starts the server."""

import http.client
import os
import signal
import sys
import textwrap
from typing import List, Optional

from hf_inference_toolkit import __version__, logs, settings
from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.runtimes import memory, threads
from hf_inference_toolkit.tasks.service import Service

# Timeout of a health check's request to /ping.
CHECK_SECONDS = 5


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command. Returns the exit code: 2 for invalid arguments or settings, 1 for other failures."""
    # Process 1 of a container has no default action for SIGTERM, and the imports take seconds.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    words = sys.argv[1:] if arguments is None else arguments
    if words == ["--version"]:
        print(__version__)
        return 0
    if words and words not in (["--help"], ["-h"], ["--check"]):
        print(
            "serve: unknown argument '{}'. The arguments are --check, --help and --version; settings are "
            "environment variables".format(" ".join(words)),
            file=sys.stderr,
        )
        return 2
    try:
        if words == ["--check"]:
            return check(settings.read_without_folders(os.environ))
        values = settings.read(os.environ)
    except StartError as problem:
        print("serve: {}".format(problem), file=sys.stderr)
        return 2
    if words:
        print(help_text(values))
        return 0
    return _serve(values)


def _leave(*_: object) -> None:
    os._exit(0)


def _serve(values: settings.Settings) -> int:
    threads.limit_threads(os.environ, threads.shared() if values.multi_model else 1)
    memory.limit(os.environ)
    secrets = [value for value in map(os.environ.get, settings.secret_names()) if value]
    logs.configure(values.log_level, secrets)
    unused = settings.unused(os.environ)
    if unused:
        logs.event(30, "these environment variables have no effect: {}".format(", ".join(unused)))
    from hf_inference_toolkit.http import process

    process.raise_file_limit()
    try:
        code = process.Process(values, _load_model).run()
    except StartError as problem:
        logs.event(40, "cannot start: {}".format(problem))
        code = 2
    process.leave(code)
    return code


def _load_model(values: settings.Settings) -> Service:
    """Runs in the loading thread, so that the port opens before the tasks import numpy."""
    from hf_inference_toolkit.loading.loader import load_model

    return load_model(values)


def check(values: settings.Settings) -> int:
    """The health check of a container: 0 if the server in it answers /ping with 200, otherwise 1."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(values.bind_host, values.bind_host)  # noqa: S104
    connection = http.client.HTTPConnection(host, values.port, timeout=CHECK_SECONDS)
    try:
        connection.request("GET", "/ping", headers={"Connection": "close"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as problem:
        print("serve: no response from {} port {}: {}".format(host, values.port, problem), file=sys.stderr)
        return 1
    finally:
        connection.close()
    if status != 200:
        print("serve: /ping returns {}".format(status), file=sys.stderr)
    return int(status != 200)


def help_text(values: settings.Settings) -> str:
    """The output of `serve --help`: routes, arguments, and every variable with its current value."""
    lines = [
        "usage: serve [--check | --help | --version]",
        "",
        "Serves one model on port {}: GET /ping, POST /invocations, GET /metrics, GET /openapi.json.".format(
            values.port
        ),
        "With SAGEMAKER_MULTI_MODEL=true it serves many models: POST /models, POST /models/NAME/invoke.",
        "",
        "--check exits with 0 if the server in this container is ready, otherwise with 1.",
        "",
        "Environment variables, with their current values:",
        "",
    ]
    for name, shown, about in settings.describe(os.environ, values):
        lines.append("  {}  [{}]".format(name, shown))
        lines.extend(textwrap.wrap(about, 90, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
