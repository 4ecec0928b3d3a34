"""`requirements.txt` of user code, installed into a virtual environment on top of the image's packages.

pip treats the image's packages as installed, so it fetches only what is missing or has another version. What it
installs goes into the virtual environment and takes precedence there; nothing outside of it is changed or uninstalled.
"""

import importlib
import importlib.util
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Dict, List, Optional

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import codeartifact
from hf_inference_toolkit.logs import event
from hf_inference_toolkit.settings import Settings

# The running server imports more modules of these packages later, which must have the version of the loaded ones.
SERVER_PACKAGES = frozenset(
    ("anyio", "h11", "hf_inference_toolkit", "prometheus_client", "sniffio", "starlette", "uvicorn")
)
# These would make pip install to another place than the virtual environment.
IGNORED_VARIABLES = ("PIP_PREFIX", "PIP_ROOT", "PIP_TARGET", "PIP_USER", "PYTHONHOME")


def install(listing: Path, settings: Settings) -> None:
    """Install a requirements file and make its packages importable here and in child processes.

    Raises StartError with pip's errors; its whole output is in the log.
    """
    if not listing.is_file():
        return
    if importlib.util.find_spec("pip") is None:
        raise StartError(
            "{} cannot be installed: this image has no pip. Build an image of your own with the packages, or "
            "put their source code beside your module".format(listing)
        )
    secrets: Dict[str, str] = {}
    if settings.codeartifact:
        secrets["PIP_INDEX_URL"] = codeartifact.index_url(settings.codeartifact)
    event(20, "installing requirements", file=str(listing))
    try:
        environment = _create()
        listing = _writable(listing, environment)
    except OSError as problem:
        raise StartError(
            "{} cannot be installed: no writable temporary folder ({}). Mount one at /tmp, or set "
            "TMPDIR".format(listing, problem)
        ) from None
    _run_pip(environment, listing, secrets)
    _activate(environment)


def check_installed(listing: Path) -> None:
    """StartError unless all packages of a requirements file are installed.

    Installing others would change the packages of other models in the same process.
    """
    lacking = [line for line in _requirements(listing) if not _is_installed(line)]
    if lacking:
        raise StartError(
            "{} lists packages that are not installed: {}. A multi-model endpoint installs none, because all models "
            "share one process. Build an image with them, or put their source code beside your module".format(
                listing, ", ".join(lacking[:8])
            )
        )


def _requirements(listing: Path) -> List[str]:
    lines = listing.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    stripped = (line.split(" #")[0].split(" --hash")[0].strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def _is_installed(line: str) -> bool:
    """Whether a requirement is met. An option, a path or an address is not."""
    try:
        from packaging.requirements import Requirement

        requirement = Requirement(line)
    except Exception:
        return False
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _version(name: str) -> Optional[str]:
    """The installed version of a package."""
    # transformers requires the backport for Python before 3.8.
    module = "importlib.metadata" if sys.version_info >= (3, 8) else "importlib_metadata"
    metadata = importlib.import_module(module)
    try:
        return str(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def _create() -> Path:
    """A virtual environment that also sees every package of the running one.

    The module venv would link to the base Python's packages only, and the image's Python is a virtual environment
    already.
    """
    environment = Path(tempfile.mkdtemp(prefix="requirements-"))
    (environment / "bin").mkdir()
    base = os.path.realpath(sys.executable)
    for name in ("python", "python3"):
        (environment / "bin" / name).symlink_to(base)
    (environment / "pyvenv.cfg").write_text(
        "home = {}\ninclude-system-site-packages = false\n".format(Path(base).parent)
    )
    for folder in _site_folders(environment):
        folder.mkdir(parents=True, exist_ok=True)
    (_site_folders(environment)[0] / "_image_packages.pth").write_text(
        "".join("import site; site.addsitedir({!r})\n".format(path) for path in sys.path if _is_site(path))
    )
    return environment


def _site_folders(environment: Path) -> List[Path]:
    scheme = "venv" if "venv" in sysconfig.get_scheme_names() else "posix_prefix"
    variables = {"base": str(environment), "platbase": str(environment)}
    paths = sysconfig.get_paths(scheme, vars=variables)
    return [Path(path) for path in dict.fromkeys((paths["purelib"], paths["platlib"]))]


def _is_site(path: str) -> bool:
    return Path(path).name in ("site-packages", "dist-packages")


def _writable(listing: Path, environment: Path) -> Path:
    """The requirements file, in a copy of its folder if that is read-only and contains a project to build.

    Build tools write to the project's folder, and SageMaker mounts /opt/ml/model read-only.
    """
    folder = listing.parent
    projects = ("*/pyproject.toml", "*/setup.py", "pyproject.toml", "setup.py")
    if os.access(str(folder), os.W_OK) or not any(any(folder.glob(pattern)) for pattern in projects):
        return listing
    copy = environment / "source"
    shutil.copytree(str(folder), str(copy))
    for path in [copy, *copy.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)
    return copy / listing.name


def _run_pip(environment: Path, listing: Path, secrets: Dict[str, str]) -> None:
    options = ("--no-input", "--disable-pip-version-check", "--no-warn-script-location", "--no-cache-dir")
    command = [str(environment / "bin" / "python"), "-m", "pip", "install", *options, "-r", str(listing)]
    inherited = {name: value for name, value in os.environ.items() if name not in IGNORED_VARIABLES}
    result = subprocess.run(  # noqa: S603 - the arguments are ours
        command,
        cwd=str(listing.parent),
        env=dict(inherited, VIRTUAL_ENV=str(environment), **secrets),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if result.returncode != 0:
        output = result.stdout.decode("utf-8", "replace")
        for secret in secrets.values():
            output = output.replace(secret, "***")
        event(30, "pip failed", output=output[-8000:])
        raise StartError("{} cannot be installed: {}".format(listing, " | ".join(_errors(output)[-4:])))


def _errors(output: str) -> List[str]:
    """The lines of pip's output that say what is wrong, each once; all lines if there are none."""
    lines = list(dict.fromkeys(line.strip() for line in output.splitlines() if line.strip()))
    # pip marks what did not run with a multiplication sign.
    marks = ("error:", "fatal:", "\u00d7 ")
    errors = [line for line in lines if line.lower().startswith(marks)]
    return [line for line in errors if "subprocess-exited-with-error" not in line] or lines


def _activate(environment: Path) -> None:
    """Activate the environment in this process, and for child processes."""
    before = list(sys.path)
    for folder in _site_folders(environment):
        site.addsitedir(str(folder))
    added = [path for path in sys.path if path not in before]
    # Before the image's packages and after the standard library, as in any virtual environment.
    place = next((number for number, path in enumerate(before) if _is_site(path)), len(before))
    sys.path[:] = before[:place] + added + before[place:]
    _forget_replaced_modules(environment)
    sys.executable = str(environment / "bin" / "python")
    if "multiprocessing" in sys.modules:
        sys.modules["multiprocessing"].set_executable(sys.executable)
    os.environ["VIRTUAL_ENV"] = str(environment)
    os.environ["PATH"] = os.pathsep.join([str(environment / "bin"), os.environ.get("PATH", os.defpath)])
    importlib.invalidate_caches()


def _forget_replaced_modules(environment: Path) -> None:
    """Forget loaded modules that the environment replaces, so that user code imports the new versions."""
    entries = [entry for folder in _site_folders(environment) for entry in folder.iterdir()]
    for name in sorted({entry.name.split(".")[0] for entry in entries if entry.name != "__pycache__"}):
        loaded = [key for key in sys.modules if key.partition(".")[0] == name]
        if not loaded:
            continue
        # A process can load most extension modules only once.
        if name in SERVER_PACKAGES or any(_is_extension(sys.modules[key]) for key in loaded):
            event(
                30, "the server uses this package already: user code gets the image's version", package=name
            )
            continue
        for key in loaded:
            del sys.modules[key]


def _is_extension(module: ModuleType) -> bool:
    return str(getattr(module, "__file__", None) or "").endswith(".so")
