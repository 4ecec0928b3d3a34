"""The clients and their virtual environments, made once below the state folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List, NamedTuple

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


class Client(NamedTuple):
    """A client in a version; `packages` are requirements of pip, none for Java."""

    name: str
    program: str
    packages: List[str]

    @property
    def tasks(self):
        """The tasks that the program checks."""
        text = (FOLDER / self.program).read_text(encoding="utf-8")
        return sorted(set(re.findall(r'\bcheck\(\s*"([a-z_-]+)"', text)))


CLIENTS = [
    Client("boto3", "client_boto3.py", ["boto3"]),
    Client(
        "huggingface_hub 0.36",
        "client_huggingface_hub.py",
        ["huggingface_hub==0.36.*", "aiohttp", "numpy", "pillow"],
    ),
    Client("huggingface_hub 1.x", "client_huggingface_hub.py", ["huggingface_hub==1.*", "numpy", "pillow"]),
    Client("huggingface_hub 2.x", "client_huggingface_hub.py", ["huggingface_hub==2.*", "numpy", "pillow"]),
    Client("langchain-huggingface", "client_langchain.py", ["langchain-huggingface", "numpy"]),
    Client("langchain-openai", "client_langchain_openai.py", ["langchain-openai"]),
    Client("openai", "client_openai.py", ["openai"]),
    Client("sagemaker 2.x", "client_sagemaker.py", ["sagemaker<3"]),
    Client("java.net.http", "Client.java", []),
]


class NotRunError(Exception):
    """A client cannot run on this machine; the text is the reason."""


def state_folder():
    """Where environments and models are kept."""
    given = os.environ.get("HFDLC_STATE")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given or Path(cache) / "hfdlc").absolute() / "clients"


def server_python():
    """The Python that serves: CLIENTS_SERVER_PYTHON, or an environment with the packages of the default image."""
    given = os.environ.get("CLIENTS_SERVER_PYTHON")
    if given:
        return Path(given)
    sys.path.insert(0, str(ROOT / "benchmarks" / "serving"))
    import place

    return place.server()


def command(client):
    """The words that run a client's program, without the task."""
    program = str(FOLDER / client.program)
    if client.packages:
        return [str(python_of(client)), program]
    java = shutil.which("java")
    if java is None:
        raise NotRunError("no java on PATH")
    modules = subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=False)
    if not re.search(r"^jdk\.compiler@(1[1-9]|[2-9]\d)", modules.stdout, re.MULTILINE):
        raise NotRunError(f"{java} is no JDK from 11 on, which compiles a program of one file")
    return [java, program]


def version_of(client):
    """The installed version of a client, or of Java."""
    if client.packages:
        name = re.split("[=<]", client.packages[0])[0]
        code = f"import importlib.metadata as m; print(m.version({name!r}))"
        out = subprocess.run([str(python_of(client)), "-c", code], capture_output=True, text=True, check=True)
        return out.stdout.strip()
    out = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True)
    return out.stderr.split('"')[1]


def python_of(client):
    """The Python of a client's environment; NotRunError where its packages cannot be installed."""
    folder = state_folder() / client.name.replace(" ", "-")
    python, mark = folder / "bin" / "python", folder / "packages"
    wanted = "\n".join(client.packages)
    if not mark.is_file() or mark.read_text() != wanted:
        shutil.rmtree(str(folder), ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*install, *client.packages], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotRunError(
                "pip install {}: {}".format(" ".join(client.packages), done.stderr.strip()[-500:])
            )
        mark.write_text(wanted)
    return python
