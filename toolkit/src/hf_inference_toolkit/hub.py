"""Models from the hub, by huggingface_hub, into a folder that can be written."""

import os
from pathlib import Path
from typing import Sequence

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.settings import Settings


def prepare(settings: Settings) -> None:
    """Tell the libraries, before they are imported, where they may write."""
    os.environ["HF_HOME"] = settings.hub_cache
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        os.environ.setdefault(name, str(Path(settings.hub_cache) / "hub"))
    # Bars are for people; here they would stand between the log's lines.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_CACHE", str(Path(settings.hub_cache) / "hub"))


def download(settings: Settings, weights: Sequence[str]) -> Path:
    """The folder of HF_MODEL_ID."""
    raise StartError("HF_MODEL_ID from the hub is not there yet: mount the model")
