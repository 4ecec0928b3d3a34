"""The environment, read once, here, into one frozen value."""

import re
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from hf_inference_toolkit.errors import StartError

# Batch transform waits this long for an answer unless its job says otherwise.
BATCH_DEADLINE = 600.0
# Settings of the servers in AWS's images. There is no equivalent here for those that are not in VARIABLES.
_OTHER_SERVERS = re.compile(r"(MMS|TS|SAGEMAKER_MMS|SAGEMAKER_TS)_[A-Z_]+\Z|SAGEMAKER_MODEL_SERVER_WORKERS\Z")
LOG_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class Settings(NamedTuple):
    """What the server is a function of. Paths are absolute, sizes in bytes, times in seconds."""

    task: Optional[str] = None
    model_id: Optional[str] = None
    model_revision: Optional[str] = None
    token: Optional[str] = None
    trust_remote_code: bool = False
    model_dir: str = "/opt/ml/model"
    bind_host: str = "0.0.0.0"  # noqa: S104 - a container's port is reached through every address it has
    port: int = 8080
    predict_route: Optional[str] = None
    health_route: Optional[str] = None
    program: Optional[str] = None
    submit_directory: Optional[str] = None
    codeartifact: Optional[str] = None
    log_level: int = 20
    max_payload: int = 25 * 1024 * 1024
    deadline: float = 60.0
    default_accept: str = "application/json"
    drain_seconds: float = 25.0
    queue_size: int = 1024
    dtype: str = "float32"
    hub_endpoint: str = "https://huggingface.co"
    hub_offline: bool = False
    hub_cache: str = "/tmp/huggingface"  # noqa: S108 - replaced in `read` by what the environment says


class Variable(NamedTuple):
    """One variable: where its value goes, how it is read, and what `serve --help` says about it."""

    name: str
    field: str
    parse: Callable[[str], Any]
    about: str
    secret: bool = False


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    known = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    if value.lower() not in known:
        raise ValueError("must be true or false")
    return known[value.lower()]


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not value.isdigit() or not low <= int(value) <= high:
            raise ValueError("must be a whole number from {} to {}".format(low, high))
        return int(value)

    return parse


def _megabytes(value: str) -> int:
    return _whole(1, 1024)(value) * 1024 * 1024


def _bytes(value: str) -> int:
    return _whole(1, 2**31 - 1)(value)


def _seconds(value: str) -> float:
    return float(_whole(1, 86400)(value))


def _drain_seconds(value: str) -> float:
    return float(_whole(0, 3600)(value))


def _batch_deadline(value: str) -> Optional[float]:
    return BATCH_DEADLINE if _flag(value) else None


def _route(value: str) -> str:
    if not value.startswith("/") or "{" in value:
        raise ValueError("must be a path that begins with /")
    return value


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in allowed:
            raise ValueError("must be {}".format(", ".join(allowed)))
        return value.lower()

    return parse


def _address(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value.rstrip("/")


def _level(value: str) -> int:
    if value.isdigit() and int(value) <= 50:
        return int(value)
    if value.lower() not in LOG_LEVELS:
        raise ValueError("must be {}, or a number from 0 to 50".format(", ".join(LOG_LEVELS)))
    return LOG_LEVELS[value.lower()]


# Where two variables fill one field, the one that stands first wins.
VARIABLES = (
    Variable(
        "HF_TASK", "task", _text, "the task to serve; inferred from the model's architecture when not set"
    ),
    Variable(
        "HF_MODEL_ID",
        "model_id",
        _text,
        "a model on the hub, or a local folder; used when HF_MODEL_DIR holds no model",
    ),
    Variable("HF_MODEL_REVISION", "model_revision", _text, "branch, tag or commit of HF_MODEL_ID"),
    Variable("HF_TOKEN", "token", _text, "token for the hub, and sent nowhere else", True),
    Variable("HF_API_TOKEN", "token", _text, "the same, by its documented name", True),
    Variable("HUGGING_FACE_HUB_TOKEN", "token", _text, "the same, by its older name", True),
    Variable("HF_TRUST_REMOTE_CODE", "trust_remote_code", _flag, "run Python code that comes with the model"),
    Variable("HF_MODEL_DIR", "model_dir", _text, "the folder that holds the model; may be read-only"),
    Variable(
        "HF_BIND_HOST",
        "bind_host",
        _text,
        "the address to listen on; 127.0.0.1 where the container shares the host's network",
    ),
    Variable(
        "HF_QUEUE_SIZE",
        "queue_size",
        _whole(1, 100000),
        "inputs that may wait for the model, each input of a list counted; more are answered with 503",
    ),
    Variable(
        "HF_DTYPE",
        "dtype",
        _choice("float32", "bfloat16", "float16", "auto"),
        "the precision of weights and passes; auto is bfloat16 where the processor or the GPU computes in it",
    ),
    Variable(
        "HF_HOME", "hub_cache", _text, "where downloads are kept; a folder under /tmp when not writable"
    ),
    Variable("HF_ENDPOINT", "hub_endpoint", _address, "the hub's address"),
    Variable(
        "HF_HUB_OFFLINE", "hub_offline", _flag, "take HF_MODEL_ID from the cache, and ask the hub nothing"
    ),
    Variable("SAGEMAKER_BIND_TO_PORT", "port", _whole(1, 65535), "the port to listen on"),
    Variable("AIP_HTTP_PORT", "port", _whole(1, 65535), "the port to listen on, on Vertex AI"),
    Variable("AIP_PREDICT_ROUTE", "predict_route", _route, "one more route for predictions, on Vertex AI"),
    Variable("AIP_HEALTH_ROUTE", "health_route", _route, "one more route for health, on Vertex AI"),
    Variable("SAGEMAKER_PROGRAM", "program", _text, "the user's module in code/; inference.py when not set"),
    Variable(
        "SAGEMAKER_SUBMIT_DIRECTORY",
        "submit_directory",
        _text,
        "the folder of the user's module; code/ in the model folder when not set",
    ),
    Variable(
        "CA_REPOSITORY_ARN",
        "codeartifact",
        _text,
        "the CodeArtifact repository that requirements.txt is installed from; needs boto3",
    ),
    Variable("SAGEMAKER_CONTAINER_LOG_LEVEL", "log_level", _level, "10 debug, 20 info, 30 warning, 40 error"),
    Variable(
        "SAGEMAKER_MAX_PAYLOAD_IN_MB", "max_payload", _megabytes, "largest body, in MB of 1,048,576 bytes"
    ),
    Variable(
        "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS",
        "deadline",
        _seconds,
        "time within which a request is answered, in seconds",
    ),
    Variable("SAGEMAKER_MODEL_SERVER_TIMEOUT", "deadline", _seconds, "the same, by its older name"),
    Variable("MMS_DEFAULT_RESPONSE_TIMEOUT", "deadline", _seconds, "the same, as for multi-model-server"),
    Variable("TS_DEFAULT_RESPONSE_TIMEOUT", "deadline", _seconds, "the same, as for TorchServe"),
    Variable(
        "SAGEMAKER_BATCH",
        "deadline",
        _batch_deadline,
        "set by batch transform; the time within which a request is answered is 600 seconds then",
    ),
    Variable(
        "MMS_MAX_REQUEST_SIZE", "max_payload", _bytes, "largest body in bytes, as for multi-model-server"
    ),
    Variable("TS_MAX_REQUEST_SIZE", "max_payload", _bytes, "largest body in bytes, as for TorchServe"),
    Variable(
        "HF_DRAIN_SECONDS",
        "drain_seconds",
        _drain_seconds,
        "time after SIGTERM in which accepted requests are answered; SageMaker sends SIGKILL after 30 s",
    ),
    Variable(
        "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT",
        "default_accept",
        _text,
        "content type of answers when a request names none",
    ),
)


def read(environ: Mapping[str, str]) -> Settings:
    """Settings from environment variables; an empty variable counts as not set.

    Raises StartError that names every wrong variable at once, with what is allowed.
    """
    values = _parsed(environ)
    values["hub_cache"] = _writable_cache(values.get("hub_cache"))
    return Settings(**values)


def read_without_folders(environ: Mapping[str, str]) -> Settings:
    """The same, but no folder is created or tried, for a health check that runs every few seconds."""
    return Settings(**_parsed(environ))


def _parsed(environ: Mapping[str, str]) -> Dict[str, Any]:
    values: Dict[str, Any] = {}
    wrong: List[str] = []
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        if not text:
            continue
        try:
            value = variable.parse(text)
        except ValueError as problem:
            wrong.append("{}: {} (it is {!r})".format(variable.name, problem, text))
            continue
        if value is not None:
            values.setdefault(variable.field, value)
    if wrong:
        raise StartError("settings that cannot be used:\n  " + "\n  ".join(wrong))
    return values


def unused(environ: Mapping[str, str]) -> List[str]:
    """Variables that are set for multi-model-server or TorchServe and that this server does not use."""
    known = {variable.name for variable in VARIABLES}
    return sorted(name for name in environ if _OTHER_SERVERS.match(name) and name not in known)


def _writable_cache(wanted: Optional[str]) -> str:
    """The folder in HF_HOME if it is writable, else one in the system's temporary folder."""
    if wanted and _is_writable(Path(wanted)):
        return wanted
    try:
        folder = Path(tempfile.gettempdir()) / "huggingface"
        return str(folder) if _is_writable(folder) else tempfile.mkdtemp(prefix="huggingface-")
    except OSError:
        raise StartError(
            "no writable folder for downloads and temporary files: mount one at /tmp (docker run --tmpfs "
            "/tmp), or set TMPDIR to a writable folder"
        ) from None


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=str(folder)):
            return True
    except OSError:
        return False


def describe(environ: Mapping[str, str], settings: Settings) -> List[Tuple[str, str, str]]:
    """Each variable with its value now and its meaning. A secret is only ever "set" or "not set"."""
    rows = []
    for variable in VARIABLES:
        given = environ.get(variable.name, "").strip()
        if variable.secret:
            shown = "set" if given else "not set"
        elif given:
            shown = given
        else:
            default = getattr(settings, variable.field) if variable.field in _OWN_DEFAULTS else None
            shown = "not set" if default is None else "not set: {}".format(_written(variable.field, default))
        rows.append((variable.name, shown, variable.about))
    return rows


def secret_names() -> List[str]:
    """The variables whose values are never shown."""
    return [variable.name for variable in VARIABLES if variable.secret]


_OWN_DEFAULTS = frozenset(variable.field for variable in VARIABLES)


def _written(field: str, value: Any) -> str:
    if field == "max_payload":
        return str(value // (1024 * 1024))
    if field in ("deadline", "drain_seconds"):
        return str(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
