"""Settings from environment variables. No other module but cli.py reads the environment."""

import re
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union, cast

from hf_inference_toolkit.errors import StartError

# The default time limit of an invocation in SageMaker's batch transform, in seconds.
BATCH_DEADLINE = 600.0
# Settings of multi-model-server and TorchServe. Those that are not in VARIABLES have no equivalent here.
_OTHER_SERVERS = re.compile(r"(MMS|TS|SAGEMAKER_MMS|SAGEMAKER_TS)_[A-Z_]+\Z|SAGEMAKER_MODEL_SERVER_WORKERS\Z")
_ADAPTER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}\Z")
LOG_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class Settings(NamedTuple):
    """The settings of a server. Sizes are in bytes, times in seconds."""

    task: Optional[str] = None
    model_id: Optional[str] = None
    model_revision: Optional[str] = None
    token: Optional[str] = None
    trust_remote_code: bool = False
    model_dir: str = "/opt/ml/model"
    multi_model: bool = False
    # The name of the model in `model_dir` on a multi-model endpoint; None for the server itself.
    model_name: Optional[str] = None
    bind_host: str = "0.0.0.0"  # noqa: S104 - the port of a container must be reachable from outside
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
    runtime: str = "auto"
    kv_cache: Optional[int] = None
    # Pairs of a name and a location.
    adapters: Optional[Tuple[Tuple[str, str], ...]] = None
    device_map: Optional[str] = None
    hub_endpoint: str = "https://huggingface.co"
    hub_offline: bool = False
    hub_cache: str = "/tmp/huggingface"  # noqa: S108 - `read` replaces it
    # Whether hub_cache is the user's HF_HOME, which may outlive the container.
    keeps_cache: bool = False


Value = Union[None, bool, int, float, str, Tuple[Tuple[str, str], ...]]


class Variable(NamedTuple):
    """One environment variable: the field of Settings that it sets, its parser and its text in `serve --help`.

    `parse` raises ValueError with what is allowed. A value of None leaves the field as it is.
    """

    name: str
    field: str
    parse: Callable[[str], Value]
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


def _gigabytes(value: str) -> int:
    try:
        size = float(value)
    except ValueError:
        size = 0.0
    if not 0.001 <= size <= 65536:
        raise ValueError("must be a number of gigabytes from 0.001 to 65536")
    return int(size * 1024**3)


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


def _adapters(value: str) -> Tuple[Tuple[str, str], ...]:
    pairs: List[Tuple[str, str]] = []
    for entry in value.split(","):
        name, _, location = (part.strip() for part in entry.partition("="))
        if not _ADAPTER.match(name) or not location:
            raise ValueError(
                "must be NAME=FOLDER,NAME=FOLDER, with names of letters, digits and ._-, each at most 64 characters"
            )
        if name in dict(pairs):
            raise ValueError("must have each name once")
        pairs.append((name, location))
    return tuple(pairs)


def _level(value: str) -> int:
    if value.isdigit() and int(value) <= 50:
        return int(value)
    if value.lower() not in LOG_LEVELS:
        raise ValueError("must be {}, or a number from 0 to 50".format(", ".join(LOG_LEVELS)))
    return LOG_LEVELS[value.lower()]


# If several variables set one field, the first of them in this order takes precedence.
VARIABLES = (
    Variable(
        "HF_TASK",
        "task",
        _text,
        "the task to serve; by default that of modules.json or of the model's architecture",
    ),
    Variable(
        "HF_MODEL_ID",
        "model_id",
        _text,
        "the model's name on the hub, or a local folder; used if HF_MODEL_DIR contains no model, and as the base model "
        "of an adapter there",
    ),
    Variable("HF_MODEL_REVISION", "model_revision", _text, "branch, tag or commit of HF_MODEL_ID"),
    Variable("HF_TOKEN", "token", _text, "access token for the hub; it is sent to HF_ENDPOINT only", True),
    Variable("HF_API_TOKEN", "token", _text, "alias of HF_TOKEN", True),
    Variable("HUGGING_FACE_HUB_TOKEN", "token", _text, "alias of HF_TOKEN", True),
    Variable(
        "HF_TRUST_REMOTE_CODE",
        "trust_remote_code",
        _flag,
        "whether to run Python code from the model's repository",
    ),
    Variable("HF_MODEL_DIR", "model_dir", _text, "folder of the model; it may be read-only"),
    Variable(
        "SAGEMAKER_MULTI_MODEL",
        "multi_model",
        _flag,
        "whether to serve many models, which are loaded by POST /models from the folder models beside HF_MODEL_DIR",
    ),
    Variable(
        "HF_BIND_HOST",
        "bind_host",
        _text,
        "address to listen on; set 127.0.0.1 if the container shares the host's network",
    ),
    Variable(
        "HF_QUEUE_SIZE",
        "queue_size",
        _whole(1, 100000),
        "maximum number of inputs in the queue, where each item of a list counts; further requests get a 503",
    ),
    Variable(
        "HF_DTYPE",
        "dtype",
        _choice("float32", "bfloat16", "float16", "int8", "auto"),
        "precision of the weights and of computation: float32, bfloat16, float16, int8 or auto; auto is bfloat16 if "
        "the CPU or GPU supports it, otherwise float32; int8 needs OpenVINO",
    ),
    Variable(
        "HF_RUNTIME",
        "runtime",
        _choice("auto", "torch", "openvino"),
        "what computes forward passes: torch, openvino or auto; auto starts with torch and changes to openvino on a "
        "CPU as soon as the model is converted and gives the same numbers",
    ),
    Variable(
        "HF_KV_CACHE_GB",
        "kv_cache",
        _gigabytes,
        "memory for the keys and values of running texts, in GB of 1,073,741,824 bytes; by default half of the memory "
        "that is free when the model is loaded, on the GPU or within the container's limit",
    ),
    Variable(
        "HF_DEVICE_MAP",
        "device_map",
        _choice("auto"),
        "auto: accelerate spreads the layers of a model over all GPUs and the memory of the machine; by default the "
        "model is on the first GPU",
    ),
    Variable(
        "HF_ADAPTERS",
        "adapters",
        _adapters,
        "adapters of PEFT that requests choose from, NAME=FOLDER,NAME=FOLDER; instead of a folder, the name of a "
        "repository on the hub, or NAME@REVISION of one",
    ),
    Variable(
        "HF_HOME",
        "hub_cache",
        _text,
        "folder for downloads; replaced by a temporary folder if it is not writable",
    ),
    Variable("HF_ENDPOINT", "hub_endpoint", _address, "URL of the hub"),
    Variable(
        "HF_HUB_OFFLINE",
        "hub_offline",
        _flag,
        "whether to read HF_MODEL_ID from the cache only, without the network",
    ),
    Variable("SAGEMAKER_BIND_TO_PORT", "port", _whole(1, 65535), "port to listen on"),
    Variable("AIP_HTTP_PORT", "port", _whole(1, 65535), "port to listen on, set by Vertex AI"),
    Variable(
        "AIP_PREDICT_ROUTE", "predict_route", _route, "additional route for predictions, set by Vertex AI"
    ),
    Variable("AIP_HEALTH_ROUTE", "health_route", _route, "additional route for health, set by Vertex AI"),
    Variable(
        "SAGEMAKER_PROGRAM", "program", _text, "file name of the user code in code/; by default inference.py"
    ),
    Variable(
        "SAGEMAKER_SUBMIT_DIRECTORY",
        "submit_directory",
        _text,
        "folder of the user code; by default code/ in the model's folder",
    ),
    Variable(
        "CA_REPOSITORY_ARN",
        "codeartifact",
        _text,
        "ARN of an AWS CodeArtifact repository to install requirements.txt from; needs boto3",
    ),
    Variable(
        "SAGEMAKER_CONTAINER_LOG_LEVEL",
        "log_level",
        _level,
        "lowest level that is logged: 10 debug, 20 info, 30 warning, 40 error, or the name",
    ),
    Variable(
        "SAGEMAKER_MAX_PAYLOAD_IN_MB",
        "max_payload",
        _megabytes,
        "maximum size of a request body, in MB of 1,048,576 bytes",
    ),
    Variable(
        "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS",
        "deadline",
        _seconds,
        "deadline of a request, in seconds; after it the request gets a 504",
    ),
    Variable(
        "SAGEMAKER_MODEL_SERVER_TIMEOUT",
        "deadline",
        _seconds,
        "alias of SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS",
    ),
    Variable(
        "MMS_DEFAULT_RESPONSE_TIMEOUT",
        "deadline",
        _seconds,
        "alias of SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS, from multi-model-server",
    ),
    Variable(
        "TS_DEFAULT_RESPONSE_TIMEOUT",
        "deadline",
        _seconds,
        "alias of SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS, from TorchServe",
    ),
    Variable(
        "SAGEMAKER_BATCH",
        "deadline",
        _batch_deadline,
        "set to true by SageMaker's batch transform; the deadline is then 600 seconds, unless it is set",
    ),
    Variable(
        "MMS_MAX_REQUEST_SIZE",
        "max_payload",
        _bytes,
        "maximum size of a request body in bytes, from multi-model-server",
    ),
    Variable(
        "TS_MAX_REQUEST_SIZE",
        "max_payload",
        _bytes,
        "maximum size of a request body in bytes, from TorchServe",
    ),
    Variable(
        "HF_DRAIN_SECONDS",
        "drain_seconds",
        _drain_seconds,
        "time after SIGTERM to finish accepted requests, in seconds; SageMaker sends SIGKILL after 30",
    ),
    Variable(
        "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT",
        "default_accept",
        _text,
        "content type of responses to requests without Accept",
    ),
)


def read(environ: Mapping[str, str]) -> Settings:
    """Settings from environment variables. An empty variable counts as not set.

    Raises StartError, which names every invalid variable with what is allowed.
    """
    values = _parsed(environ)
    home = cast(Optional[str], values.get("hub_cache"))
    values["hub_cache"] = _writable_cache(home)
    values["keeps_cache"] = values["hub_cache"] == home
    return Settings(**values)  # type: ignore[arg-type]  # each parser returns its field's type


def models_dir(settings: Settings) -> Path:
    """The folder below which the models of a multi-model endpoint are: `/opt/ml/models`, beside HF_MODEL_DIR."""
    return Path(settings.model_dir).parent / "models"


def read_without_folders(environ: Mapping[str, str]) -> Settings:
    """Like `read`, without creating or probing folders: a health check runs every few seconds."""
    return Settings(**_parsed(environ))  # type: ignore[arg-type]


def _parsed(environ: Mapping[str, str]) -> Dict[str, Value]:
    values: Dict[str, Value] = {}
    wrong: List[str] = []
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        if not text:
            continue
        try:
            value = variable.parse(text)
        except ValueError as problem:
            wrong.append("{}: {}, not {!r}".format(variable.name, problem, text))
            continue
        if value is not None:
            values.setdefault(variable.field, value)
    for name, field in (("HF_MODEL_ID", "model_id"), ("HF_ADAPTERS", "adapters")):
        if values.get("multi_model") and values.get(field):
            wrong.append(
                "{}: must not be set with SAGEMAKER_MULTI_MODEL=true: POST /models loads the models. Unset one of the "
                "two".format(name)
            )
    if wrong:
        raise StartError("invalid environment variables:\n  " + "\n  ".join(wrong))
    return values


def unused(environ: Mapping[str, str]) -> List[str]:
    """Variables of multi-model-server and TorchServe that are set and have no effect here."""
    known = {variable.name for variable in VARIABLES}
    return sorted(name for name in environ if _OTHER_SERVERS.match(name) and name not in known)


def _writable_cache(wanted: Optional[str]) -> str:
    """`wanted` if it is writable, otherwise a folder in the system's temporary folder."""
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
    """The name, the current value and the meaning of each variable. A secret's value is "set" or "not set"."""
    rows = []
    for variable in VARIABLES:
        given = environ.get(variable.name, "").strip()
        if variable.secret:
            shown = "set" if given else "not set"
        elif given:
            shown = given
        else:
            default = _written(variable, getattr(settings, variable.field))
            shown = "not set: {}".format(default) if default else "not set"
        rows.append((variable.name, shown, variable.about))
    return rows


def secret_names() -> List[str]:
    """The variables whose values must not be shown or logged."""
    return [variable.name for variable in VARIABLES if variable.secret]


def _written(variable: Variable, value: Value) -> str:
    """The value of a field as the variable would have it; empty for None."""
    if value is None:
        return ""
    if variable.parse is _batch_deadline:
        return "false"
    if variable.parse is _megabytes:
        return str(cast(int, value) // (1024 * 1024))
    if isinstance(value, float):
        return "{:g}".format(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
