"""Downloads of models from the hub by huggingface_hub.

The token is sent to HF_ENDPOINT only: huggingface_hub drops it at redirects to the storage host.
"""

import fnmatch
import inspect
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from hf_inference_toolkit.errors import StartError, first_line
from hf_inference_toolkit.loading import hub_legacy
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.settings import Settings

# Files to fetch with the weights: configurations, tokenizers, and the model's code.
SMALL_FILES = (
    "*.json",
    "*.txt",
    "*.model",
    "*.model.v*",
    "*.spm",
    "*.codes",
    "*.tokenizer",
    "*.tiktoken",
    "*.bpe",
    "*.vocab",
    "*.jinja",
    "*.py",
)
# File name patterns of weights, whole and in shards.
WHOLE = {
    "model.safetensors": ("model.safetensors", "model-*-of-*.safetensors"),
    "pytorch_model.bin": ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
    "tf_model.h5": ("tf_model.h5", "tf_model-*-of-*.h5"),
}
# Weights of adapters, the preferred first.
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
SHARDS = dict(WHOLE, **{name: (name,) for name in ADAPTER_WEIGHTS})
# Files of the modules that modules.json of sentence-transformers names, such as 1_Pooling.
MODULE_FILES = r"[0-9]+_[A-Za-z]+/(config\.json|model\.safetensors|pytorch_model\.bin)\Z"
# Copies of the weights for other frameworks, which are never fetched.
OTHER_WEIGHTS = (
    "flax_model*.msgpack",
    "rust_model.ot",
    "onnx/*",
    "openvino/*",
    "coreml/*",
)
# Files of a repository that are user code, which the server would run.
USER_CODE = ("handler.py", "code/handler.py", "code/inference.py")


# Where a user sets the name and the revision of the model.
SOURCE = "HF_MODEL_ID and HF_MODEL_REVISION"


def prepare(settings: Settings) -> None:
    """Set the cache folders and options of the libraries. Call it before they are imported."""
    cache = str(Path(settings.hub_cache) / "hub")
    os.environ["HF_HOME"] = settings.hub_cache
    os.environ["HF_ENDPOINT"] = settings.hub_endpoint
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        os.environ.setdefault(name, cache)
    # Progress bars would break the JSON lines of the log.
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")


def download(
    settings: Settings, weights: Sequence[str], for_user_code: bool = False, source: str = SOURCE
) -> Path:
    """Fetch `model_id` at `model_revision`, with the weights of this framework only, and return its folder.

    A repository without such weights may have an adapter. `source` is where the user has set the two.
    `for_user_code`: for user code in HF_MODEL_DIR, all other files are fetched too, and code of the repository is
    not used. Cached files are not fetched again. Raises StartError.
    """
    import huggingface_hub

    event(20, "fetching the model", model=settings.model_id, revision=settings.model_revision or "main")
    commit, names = _on_hub(huggingface_hub, settings, source)
    weights = (*weights, *ADAPTER_WEIGHTS)
    if names is None:
        wanted = [*SMALL_FILES, *weights]
    else:
        code = [name for name in names if name in USER_CODE]
        if code and not for_user_code:
            _check_trust(settings, code)
        is_whole = code or for_user_code
        wanted = (
            _for_user_code(names, weights) if is_whole else _wanted(names, weights, str(settings.model_id))
        )
    try:
        if "allow_patterns" not in inspect.signature(huggingface_hub.snapshot_download).parameters:
            folder = hub_legacy.fetch(settings, commit or settings.model_revision or "main", wanted)
        else:
            folder = Path(huggingface_hub.snapshot_download(**_arguments(huggingface_hub, settings, wanted)))
    except Exception as problem:  # the client has many exceptions, which differ between its releases
        raise StartError(_explained(settings, problem, source)) from None
    code = [name for name in USER_CODE if (folder / name).is_file()]
    if code and not for_user_code:
        _check_trust(settings, code)
    event(20, "fetched the model", model=settings.model_id, commit=commit or folder.name)
    return folder


def _check_trust(settings: Settings, code: List[str]) -> None:
    if not settings.trust_remote_code:
        raise StartError(
            "{} at revision {} contains code ({}), which is not run unless you trust it: set "
            "HF_TRUST_REMOTE_CODE=true, and HF_MODEL_REVISION to the commit that you have read".format(
                settings.model_id, settings.model_revision or "main", ", ".join(code)
            )
        )


def _on_hub(
    huggingface_hub: ModuleType, settings: Settings, source: str
) -> Tuple[Optional[str], Optional[List[str]]]:
    """The commit of the revision and the names of its files; None for both in offline mode."""
    if settings.hub_offline:
        return None, None
    request = huggingface_hub.HfApi(endpoint=settings.hub_endpoint).model_info
    try:
        info = request(settings.model_id, revision=settings.model_revision, **_token(request, settings))
    except Exception as problem:
        raise StartError(_explained(settings, problem, source)) from None
    return info.sha, [file.rfilename for file in info.siblings]


def _wanted(names: Iterable[str], weights: Sequence[str], model: str = "HF_MODEL_ID") -> List[str]:
    """The files to fetch: small files at the root, and the preferred weights."""
    roots = [name for name in names if "/" not in name]
    small = [name for name in roots if any(fnmatch.fnmatch(name, pattern) for pattern in SMALL_FILES)]
    if "modules.json" in roots:
        small += [name for name in names if re.match(MODULE_FILES, name)]
    kind = _best_weights(names, weights)
    if kind is None:
        rest = sorted(set(roots) - set(small))[:8]
        raise StartError(
            "{} has no weights that this image can load ({}); its files: {}".format(
                model, ", ".join(weights), ", ".join(rest) or "none"
            )
        )
    if kind in WHOLE:
        # transformers would apply the adapter that such a model was made with.
        small = [name for name in small if name != "adapter_config.json"]
    return small + _of_kind(names, kind)


def _for_user_code(names: Iterable[str], weights: Sequence[str]) -> List[str]:
    """All files, without weights for other frameworks if there are weights for this one."""
    names = [name for name in names if ".." not in name.split("/")]
    best = _best_weights(names, weights)
    if best is None:
        return names
    skipped = {name for kind in WHOLE if kind != best for name in _of_kind(names, kind)}
    skipped.update(name for name in names if any(fnmatch.fnmatch(name, other) for other in OTHER_WEIGHTS))
    return [name for name in names if name not in skipped]


def _best_weights(names: Iterable[str], weights: Sequence[str]) -> Optional[str]:
    return next((kind for kind in weights if _of_kind(names, kind)), None)


def _of_kind(names: Iterable[str], kind: str) -> List[str]:
    patterns = SHARDS[kind]
    roots = [name for name in names if "/" not in name]
    return [name for name in roots if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def _arguments(huggingface_hub: ModuleType, settings: Settings, wanted: List[str]) -> Dict[str, object]:
    """The arguments of `snapshot_download` in the installed release."""
    token = _token(huggingface_hub.snapshot_download, settings)
    return dict(
        repo_id=settings.model_id,
        revision=settings.model_revision,
        allow_patterns=wanted,
        cache_dir=str(Path(settings.hub_cache) / "hub"),
        **token,
    )


def _token(function: Callable[..., object], settings: Settings) -> Dict[str, object]:
    """The token with the argument's name in the installed release."""
    known = inspect.signature(function).parameters
    name = "token" if "token" in known else "use_auth_token"
    return {name: settings.token or None} if name in known else {}


def _explained(settings: Settings, problem: Exception, source: str) -> str:
    status = getattr(getattr(problem, "response", None), "status_code", None)
    where = "{} at revision {}".format(settings.model_id, settings.model_revision or "main")
    if status in (401, 403):
        hint = "the token was rejected" if settings.token else "it may be private: set HF_TOKEN"
        return "the hub refuses {} ({}): {}".format(where, status, hint)
    if status == 404:
        return "the hub has no {}: check {}{}".format(
            where, source, "" if settings.token else "; if the model is private, set HF_TOKEN"
        )
    return "{} cannot be fetched: {}. Check the network and HF_ENDPOINT, or mount the model at {}".format(
        where, first_line(problem), settings.model_dir
    )
