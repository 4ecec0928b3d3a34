"""What a container gets from its options: environment variables, shared memory, GPUs."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from hfdlc.errors import UserError
from hfdlc.project import Project
from hfdlc.sagemaker import endpoint, environment, job

if TYPE_CHECKING:
    from hfdlc.engine.detect import Engine

SECRET = "hf_secret"


class Containers:
    """Remembers how a container is created, and is the container."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def create(self, *_: object, **options: Any) -> "Containers":
        """Remember the options."""
        self.options = options
        return self

    def put_archive(self, *_: object) -> None:
        """Take the files."""

    def remove(self, **_: object) -> None:
        """Be removed."""


@pytest.fixture
def containers() -> Containers:
    return Containers()


@pytest.fixture
def engine(containers: Containers) -> "Engine":
    """An engine of a machine with 8 GB of memory."""
    client = SimpleNamespace(containers=containers, info=lambda: {"MemTotal": 8 << 30})
    return cast("Engine", SimpleNamespace(client=client, private=True))


def test_variables_are_given_or_taken_from_the_environment(tmp_path: Path) -> None:
    """As `docker run` reads them: comments, values with spaces and `=`; `--env` replaces those of files."""
    (tmp_path / "env").write_text(f"# tokens\n\nHF_TOKEN={SECRET}\nWANDB_MODE\nA= b = c\n")
    found = environment.read(
        ["WANDB_MODE=online", "HOME"], [tmp_path / "env"], {"WANDB_MODE": "x", "HOME": "/h"}
    )
    assert found == {"HF_TOKEN": SECRET, "WANDB_MODE": "online", "A": " b = c", "HOME": "/h"}


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (["HF_TOKEN"], "", "--env: HF_TOKEN is not set"),
        ([f"={SECRET}"], "", "--env: not an environment variable"),
        ([f"a b={SECRET}"], "", "--env: not an environment variable"),
        ([""], "", "--env: not an environment variable"),
        ([], f"A=1\nexport HF_TOKEN={SECRET}\n", "env:2: not an environment variable"),
        ([], f"A=1\n{SECRET}\xff=\n", "env:2: not an environment variable"),
        ([], f"\nHF_TOKEN\nA={SECRET}", "env:2: HF_TOKEN is not set"),
        ([], None, "env: cannot be read: No such file"),
    ],
)
def test_wrong_variable_is_refused_without_its_value(
    tmp_path: Path, words: list[str], content: str | None, message: str
) -> None:
    """The message names the option, or the file and its line."""
    if content is not None:
        (tmp_path / "env").write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        environment.read(words, [tmp_path / "env"], {})
    assert SECRET not in str(refused.value)


def test_settings_do_not_print_secrets() -> None:
    """Neither in a traceback with values nor in a log line."""
    resources = job.Resources(environment={"HF_TOKEN": SECRET})
    assert SECRET not in repr(resources)
    assert SECRET not in repr(endpoint.Request(None, None, 8080, {"HF_TOKEN": SECRET}))


@pytest.mark.parametrize(("text", "number"), [("512m", 512 << 20), ("2g", 2 << 30), ("4096", 4096)])
def test_a_size_is_read_as_docker_reads_it(text: str, number: int) -> None:
    assert job.size(text) == number


@pytest.mark.parametrize("text", ["0", "-1g", "much", "2 x", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not a size"):
        job.size(text)


def test_a_training_container_gets_half_of_the_memory_as_shared_memory(
    engine: "Engine", containers: Containers
) -> None:
    """64 MB, Docker's default, ends workers of a DataLoader with a bus error."""
    with job.created("image", engine, {}, {}):
        assert containers.options["shm_size"] == 4 << 30
    with job.created("image", engine, {}, {}, job.Resources(shared_memory=job.size("1g"))):
        assert containers.options["shm_size"] == 1 << 30


def test_a_training_container_gets_variables_and_gpus(engine: "Engine", containers: Containers) -> None:
    """A variable of the user replaces one of ours."""
    with job.created("image", engine, {}, {}, job.Resources(gpus=True, environment={"HF_HUB_OFFLINE": "0"})):
        assert containers.options["environment"] == {
            "TRAINING_JOB_NAME": "hfdlc",
            "HF_HUB_OFFLINE": "0",
            "HFDLC_JOIN_TIMEOUT": "120",
        }
        assert containers.options["device_requests"]


def test_an_endpoint_gets_variables_and_gpus(
    engine: "Engine", containers: Containers, repository: Project
) -> None:
    """Without the option it gets no GPU."""
    endpoint.create(repository.default, engine, Path(), 8080, {"HF_TOKEN": SECRET}, gpus=True)
    assert containers.options["environment"]["HF_TOKEN"] == SECRET
    assert containers.options["device_requests"]
    endpoint.create(repository.default, engine, Path(), 8080, {})
    assert containers.options["device_requests"] is None
