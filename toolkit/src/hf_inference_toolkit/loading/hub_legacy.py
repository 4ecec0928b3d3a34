"""Downloads with a huggingface_hub from 2021.

Its `snapshot_download` has neither a token nor patterns, and its `cached_download` sends the token to the host of a
redirect. Remove this module when no image has a huggingface_hub older than 0.5.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Dict, Iterable, Optional
from urllib.parse import quote, urljoin, urlsplit

from hf_inference_toolkit.settings import Settings


def fetch(settings: Settings, revision: str, names: Iterable[str]) -> Path:
    """Fetch the named files at a commit and return their folder. Existing files are not fetched again."""
    folder = (
        Path(settings.hub_cache)
        / "hub"
        / "{}.{}".format(str(settings.model_id).replace("/", "__"), revision.replace("/", "__"))
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (folder / name).is_file():
            url = "{}/{}/resolve/{}/{}".format(
                settings.hub_endpoint.rstrip("/"), settings.model_id, quote(revision, safe=""), quote(name)
            )
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _fetch_one(url, settings.token, folder / name)
    return folder


def _fetch_one(url: str, token: Optional[str], target: Path) -> None:
    import requests

    with requests.Session() as session:
        answer = session.get(
            url, headers=_headers(url, url, token), stream=True, allow_redirects=False, timeout=60
        )
        hops = 0
        while answer.is_redirect and hops < 5:
            where = urljoin(answer.url, answer.headers["Location"])
            answer = session.get(
                where, headers=_headers(url, where, token), stream=True, allow_redirects=False, timeout=60
            )
            hops += 1
        answer.raise_for_status()
        answer.raw.decode_content = True
        handle, part = tempfile.mkstemp(dir=str(target.parent))
        with os.fdopen(handle, "wb") as out:
            shutil.copyfileobj(answer.raw, out, 1024 * 1024)
        # Atomic: an interrupted start must not leave an incomplete file.
        os.replace(part, str(target))  # noqa: PTH105


def _headers(hub: str, url: str, token: Optional[str]) -> Dict[str, str]:
    is_hub = urlsplit(hub).netloc == urlsplit(url).netloc
    return {
        "Accept-Encoding": "identity",
        **({"Authorization": "Bearer " + token} if token and is_hub else {}),
    }
