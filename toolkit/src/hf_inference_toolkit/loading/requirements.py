"""`code/requirements.txt`, installed before the user's module is imported."""

import importlib
import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.logs import event


def install(listing: Path) -> None:
    """Install what a requirements file lists, into a folder of its own that is put on sys.path.

    Not into site-packages, which may be read-only; what the image has already is not installed again. Raises
    StartError with pip's own last words.
    """
    if not listing.is_file():
        return
    if importlib.util.find_spec("pip") is None:
        raise StartError(
            "{} cannot be installed: this image has no pip. Put the packages into an image of your own, "
            "or their source beside your module".format(listing)
        )
    prefix = tempfile.mkdtemp(prefix="requirements-")
    event(20, "installing", listing=str(listing))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-input",
        "--disable-pip-version-check",
        "--no-warn-script-location",
        "--no-cache-dir",
        "--prefix",
        prefix,
        "-r",
        str(listing),
    ]
    result = subprocess.run(  # noqa: S603 - our own interpreter
        command,
        cwd=str(listing.parent),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if result.returncode != 0:
        words = result.stdout.decode("utf-8", "replace").strip().splitlines()
        raise StartError("{} cannot be installed: {}".format(listing, " | ".join(words[-4:])))
    paths = sysconfig.get_paths(vars={"base": prefix, "platbase": prefix})
    for folder in dict.fromkeys((paths["purelib"], paths["platlib"])):
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
