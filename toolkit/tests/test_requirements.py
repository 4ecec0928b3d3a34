"""requirements.txt of user code, by the real pip in a real server."""

import base64
import contextlib
import http.server
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
from test_process import ended, process

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import codeartifact
from hf_inference_toolkit.settings import Settings

pytest.importorskip("pip")

INFERENCE = """
import importlib, json, multiprocessing, os, subprocess, sys
import click, iniconfig

def text(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.decode().strip()

def in_worker(_):
    import iniconfig
    return iniconfig.VERSION

def model_fn(model_dir):
    return None

def predict_fn(data, model):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        spawned = pool.map(in_worker, [0])
    return {
        "import": iniconfig.VERSION,
        "replaced after the server's import": click.VERSION,
        "pth": getattr(sys, "pth_has_run", False),
        "script": text("small-tool"),
        "python": text("python3", "-c", "import iniconfig; print(iniconfig.VERSION)"),
        "sys.executable": text(sys.executable, "-c", "import iniconfig; print(iniconfig.VERSION)"),
        "spawn": spawned,
        "module beside it in a child": text(sys.executable, "-c", "import beside; print(beside.NAME)"),
        "image's packages in a child": text(sys.executable, "-c", "import starlette; print('found')"),
        "editable": text(sys.executable, "-c", "import editable_library as e; print(e.NAME)"),
        "standard library first": json.__file__.endswith(os.path.join("json", "__init__.py")),
    }
"""


def wheel(folder, name, version, **files):
    """A wheel with these files; `__` in a name is a slash, and `_dot_` a dot."""
    path = folder / "{}-{}-py3-none-any.whl".format(name, version)
    info = "{}-{}.dist-info/".format(name, version)
    metadata = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n".format(name, version)
    with zipfile.ZipFile(str(path), "w") as archive:
        for file, text in files.items():
            archive.writestr(file.replace("__", "/").replace("_dot_", "."), text)
        archive.writestr(info + "METADATA", metadata)
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        if "tool_dot_py" in files:
            archive.writestr(info + "entry_points.txt", "[console_scripts]\nsmall-tool = tool:main\n")
        archive.writestr(info + "RECORD", "")
    return "./" + path.name


def project(folder, name):
    """The source of a package, to be built."""
    source = folder / ("source-of-" + name)
    (source / name).mkdir(parents=True)
    (source / name / "__init__.py").write_text("NAME = 'from source'\n")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "{0}"\nversion = "1"\n[tool.setuptools]\npackages = ["{0}"]\n'.format(name)
    )
    return "./" + source.name


def installed_here():
    script = "import importlib.metadata as m; print(sorted((d.name, d.version) for d in m.distributions()))"
    return subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE).stdout


def wait_and_post(child, server, value):
    while True:
        assert child.poll() is None, [line["message"] for line in ended(child)[1]]
        with contextlib.suppress(OSError):
            if server.get("/ping").status == 200:
                return server.post(value)
        time.sleep(0.05)


@pytest.fixture
def code(tmp_path):
    """A code folder with every kind of package."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "beside.py").write_text("NAME = 'beside'\n")
    lines = [
        "--no-index",
        wheel(folder, "iniconfig", "0.0.1", iniconfig_dot_py="VERSION = '0.0.1'"),
        wheel(folder, "click", "99.0", click_dot_py="VERSION = '99.0'"),
        wheel(folder, "hook", "1", hook_dot_pth="import sys; sys.pth_has_run = True\n"),
        wheel(folder, "tool", "1", tool_dot_py="def main(): print('tool has run')"),
    ]
    if importlib.util.find_spec("setuptools") and sys.version_info >= (3, 8):
        lines.append("-e " + project(folder, "editable_library"))
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n")
    return folder


def expected():
    return {
        "import": "0.0.1",
        "replaced after the server's import": "99.0",
        "pth": True,
        "script": "tool has run",
        "python": "0.0.1",
        "sys.executable": "0.0.1",
        "spawn": ["0.0.1"],
        "module beside it in a child": "beside",
        "image's packages in a child": "found",
        "editable": "from source",
        "standard library first": True,
    }


@pytest.mark.skipif(sys.version_info < (3, 8), reason="importlib.metadata, and the build tools of today")
def test_packages_work_as_in_an_activated_environment_and_the_image_stays_as_it_is(code):
    """Another version of an installed package, .pth files, scripts, children, an editable install.

    The code is read-only, as on SageMaker: a user without capabilities cannot write there even as root.
    """
    if os.getuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root may write everywhere here: setpriv is missing")
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    before = installed_here()
    (code / "inference.py").write_text(INFERENCE)
    for path in [*code.rglob("*"), code]:
        path.chmod(path.stat().st_mode & 0o555)
    try:
        # pip reads "false" as --no-build-isolation: the build needs no index then.
        environment = {"prefix": without, "PIP_NO_BUILD_ISOLATION": "false"}
        with process(code.parent, code=None, **environment) as (child, server):
            assert wait_and_post(child, server, {"inputs": 1}).json == expected()
        assert not list(code.rglob("*.egg-info"))
    finally:
        for path in [code, *code.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)
    assert installed_here() == before


def test_pip_reads_its_variables_and_never_installs_elsewhere(tmp_path):
    """PIP_FIND_LINKS is honoured; PIP_TARGET would put packages where they are not found."""
    private = tmp_path / "private"
    private.mkdir()
    wheel(private, "private_package", "3", private_package_dot_py="VALUE = 3")
    folder = tmp_path / "model"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "requirements.txt").write_text("private_package\n")
    text = "import private_package\ndef model_fn(d): return private_package.VALUE\ndef predict_fn(d, m): return m\n"
    variables = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(private),
        "PIP_TARGET": str(tmp_path / "target"),
        "PIP_USER": "1",
    }
    with process(folder, code=text, **variables) as (child, server):
        assert wait_and_post(child, server, {"inputs": 1}).json == 3
    assert not (tmp_path / "target").exists()


def test_codeartifact_gives_pip_its_index_and_the_token_is_not_logged(tmp_path):
    """The address has the token; pip fails to reach it here, and what it prints is in the message."""
    boto3 = pytest.importorskip("boto3")
    from botocore.stub import Stubber

    client = boto3.client(
        "codeartifact", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    arn = "arn:aws:codeartifact:eu-west-1:123456789012:repository/domain/repo"
    with Stubber(client) as stub:
        owner = {"domain": "domain", "domainOwner": "123456789012"}
        stub.add_response("get_authorization_token", {"authorizationToken": "secret"}, owner)
        stub.add_response(
            "get_repository_endpoint",
            {"repositoryEndpoint": "https://d.codeartifact.example/pypi/repo/"},
            dict(owner, repository="repo", format="pypi"),
        )
        url = codeartifact.index_url(arn, client)
        assert url == "https://aws:secret@d.codeartifact.example/pypi/repo/simple/"
        stub.assert_no_pending_responses()
        stub.add_client_error("get_authorization_token", "AccessDeniedException", "not yours")
        with pytest.raises(StartError, match=r"CA_REPOSITORY_ARN=arn.*AccessDenied"):
            codeartifact.index_url(arn, client)
    with pytest.raises(StartError, match="arn:aws:codeartifact:REGION:ACCOUNT:repository/DOMAIN/REPOSITORY"):
        codeartifact.index_url("arn:aws:s3:::bucket")


INSTALL = """
import sys
from pathlib import Path
import boto3
from botocore.stub import Stubber
from hf_inference_toolkit import logs
from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import codeartifact, requirements
from hf_inference_toolkit.settings import Settings

def client(region):
    made = boto3.client("codeartifact", region_name=region, aws_access_key_id="a", aws_secret_access_key="b")
    stub = Stubber(made)
    stub.add_response("get_authorization_token", {"authorizationToken": "verysecret"})
    stub.add_response("get_repository_endpoint", {"repositoryEndpoint": sys.argv[1]})
    stub.activate()
    return made

logs.configure(10)
codeartifact._client = client
folder = Path(sys.argv[2])
settings = Settings(codeartifact="arn:aws:codeartifact:eu-west-1:123456789012:repository/domain/repo")
requirements.install(folder / "good.txt", settings)
import private_package
print(private_package.VALUE)
try:
    requirements.install(folder / "bad.txt", settings)
except StartError as problem:
    print(problem)
"""


class Index(http.server.SimpleHTTPRequestHandler):
    """A package index in a folder, for one user and one token."""

    folder = ""
    seen = []

    def translate_path(self, path):
        return self.folder + "/" + path.split("/pypi/repo/", 1)[-1]

    def do_GET(self):
        given = self.headers.get("Authorization", "")
        self.seen.append(given)
        if given != "Basic " + base64.b64encode(b"aws:verysecret").decode():
            return self.send_error(401)
        return super().do_GET()

    def log_message(self, *args):
        return


def test_private_package_comes_from_codeartifact(tmp_path):
    """pip installs from the repository's index with the token, which is in no output."""
    pytest.importorskip("boto3")
    page = tmp_path / "index" / "simple" / "private-package"
    page.mkdir(parents=True)
    name = wheel(page, "private_package", "3", private_package_dot_py="VALUE = 3")[2:]
    (page / "index.html").write_text('<a href="{0}">{0}</a>'.format(name))
    (tmp_path / "good.txt").write_text("private-package\n")
    (tmp_path / "bad.txt").write_text("no-such-package-here\n")
    Index.folder, Index.seen = str(tmp_path / "index"), []
    server = http.server.HTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    names.update(PYTHONPATH=str(Path(__file__).parent.parent / "src"), PIP_CONFIG_FILE=os.devnull)
    address = "http://127.0.0.1:{}/pypi/repo/".format(server.server_address[1])
    try:
        done = subprocess.run(
            [sys.executable, "-c", INSTALL, address, str(tmp_path)],
            env=names,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    finally:
        server.shutdown()
        server.server_close()
    lines = done.stdout.decode().splitlines()
    assert lines[:1] == ["3"], done.stderr.decode()[-3000:]
    assert "no-such-package-here" in lines[1]
    assert Index.seen
    assert b"verysecret" not in done.stdout + done.stderr


def test_codeartifact_without_boto3_names_it(tmp_path, monkeypatch):
    """The image may not have the AWS SDK."""
    from hf_inference_toolkit.loading import requirements

    monkeypatch.setitem(sys.modules, "boto3", None)
    listing = tmp_path / "requirements.txt"
    listing.write_text("x\n")
    arn = "arn:aws:codeartifact:eu-west-1:123456789012:repository/domain/repo"
    with pytest.raises(StartError, match="CA_REPOSITORY_ARN needs the package boto3"):
        requirements.install(listing, Settings(codeartifact=arn))


def test_without_a_writable_folder_the_message_says_what_to_mount(tmp_path):
    """A read-only container without /tmp: one line and exit code 2, with and without requirements."""
    if os.getuid() or subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no mount namespaces here")
    hidden = [Path(folder) for folder in ("/tmp", "/var/tmp", "/usr/tmp") if Path(folder).is_dir()]
    if any(folder in Path(sys.prefix).parents or folder in Path(__file__).parents for folder in hidden):
        pytest.skip("Python or the tests are in a temporary folder")
    mounts = "".join("mount -t tmpfs -o ro none {} && ".format(folder) for folder in hidden)
    command = "{}cd /proc && exec {} -m hf_inference_toolkit.cli".format(mounts, sys.executable)
    names = {
        key: value for key, value in os.environ.items() if key not in ("TMPDIR", "TEMP", "TMP", "HF_HOME")
    }
    names["PYTHONPATH"] = str(Path(__file__).parent.parent / "src")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command], env=names, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    lines = done.stderr.decode().strip().splitlines()
    assert (done.returncode, len(lines)) == (2, 1), lines
    assert "--tmpfs /tmp" in lines[0]
    assert "TMPDIR" in lines[0]


def test_unreadable_weights_are_named_with_the_command_that_helps(tmp_path):
    """A file whose mode keeps the server's user out."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "model.safetensors").chmod(0)
    if os.getuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root may read everything here: setpriv is missing")
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    with process(tmp_path, code=None, prefix=without) as (child, _):
        code, lines = ended(child)
    assert code == 2
    (error,) = [line["message"] for line in lines if line["level"] == "error"]
    assert "model.safetensors cannot be read" in error
    assert "chmod -R a+rX" in error
