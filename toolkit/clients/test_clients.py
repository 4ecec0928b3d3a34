"""The clients that people use against the real server: `make test-clients`.

A server for each task; each client of the task in its own environment, as a program that makes the checks.
"""

import os
import subprocess
import sys

import environments
import pytest
import sagemaker_runtime
import servers

# By task, so that one server runs at a time.
RUNS = sorted((task, client.name) for client in environments.CLIENTS for task in client.tasks)
BY_NAME = {client.name: client for client in environments.CLIENTS}


@pytest.fixture(scope="session")
def current(tmp_path_factory):
    """A function from a task to the environment variables of its server's addresses."""
    folder = tmp_path_factory.mktemp("clients")
    python = environments.server_python()
    open_now = []

    def close():
        while open_now:
            for context in open_now.pop()[1:]:
                context.__exit__(None, None, None)

    def addresses(task):
        if not open_now or open_now[0][0][0] != task:
            close()
            server = servers.serving(python, folder, task)
            address = server.__enter__()
            runtime = sagemaker_runtime.running(address)
            found = {
                "CLIENT_SERVER": address,
                "CLIENT_SAGEMAKER": runtime.__enter__(),
                "CLIENT_MEDIA": str(folder),
            }
            open_now.append(((task, found), runtime, server))
        return open_now[0][0][1]

    yield addresses
    close()


@pytest.mark.parametrize(("task", "name"), RUNS, ids=["-".join(run) for run in RUNS])
def test_client(current, outcomes, tmp_path, task, name):
    client = BY_NAME[name]
    try:
        command = environments.command(client)
    except environments.NotRunError as problem:
        outcomes.not_run(client, str(problem))
        pytest.skip(str(problem))
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "AWS_"))}
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        environ.pop(proxy, None)
        environ.pop(proxy.upper(), None)
    # No credentials and no settings of the person who runs this.
    environ.update(current(task), HOME=str(tmp_path), HF_HOME=str(tmp_path))
    done = subprocess.run(
        [*command, task],
        env=environ,
        cwd=str(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    checks = [line.split("\t") for line in done.stdout.splitlines() if line.count("\t") == 2]
    outcomes.add(client, environments.version_of(client), task, checks)
    assert done.returncode == 0, done.stderr[-3000:]
    assert checks, f"{client.program} has no check for {task}:\n{done.stdout}\n{done.stderr}"
    failed = [f"{check}: {reason}" for outcome, check, reason in checks if outcome == "failed"]
    if failed:
        pytest.fail("\n".join(failed), pytrace=False)


def test_a_check_that_fails_is_reported(tmp_path):
    """A wrong answer fails; a call that is declared as unsupported fails when it works; another task is left out."""
    program = tmp_path / "client.py"
    program.write_text(
        "from checks import check, main\n"
        "@check('task', routes=('/', '/invocations'))\n"
        "def right(url): assert url\n"
        "@check('task')\n"
        "def wrong(url): assert 1 == 2, 'not\\tequal'\n"
        "@check('task', 'the reason')\n"
        "def unsupported(url): raise OSError\n"
        "@check('task', 'the reason')\n"
        "def supported_now(url): pass\n"
        "@check('other')\n"
        "def other(url): pass\n"
        "main()\n"
    )
    environ = dict(os.environ, PYTHONPATH=str(environments.FOLDER), CLIENT_SERVER="http://127.0.0.1:1")
    command = [sys.executable, str(program), "task"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [
        ["passed", "right at /"],
        ["passed", "right at /invocations"],
        ["failed", "wrong"],
        ["unsupported", "unsupported"],
        ["failed", "supported_now"],
    ]
    assert "not equal" in lines[2][2]
    assert "the reason" in lines[4][2]
