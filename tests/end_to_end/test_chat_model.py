"""A chat model is fine-tuned with TRL and LoRA, and its adapter is served."""

import json
import subprocess
import tarfile
import urllib.request
from pathlib import Path

import pytest

from hfdlc.build.session import Session
from training_jobs import PYTORCH, ROOT, build_both, hfdlc, served

CHAT = ROOT / "examples" / "chat"
# As in examples/README.md.
OPTIONS = (
    "-p", "use_peft=true", "-p", "lora_target_modules=all-linear", "-p", "learning_rate=5e-3",
    "-p", "per_device_train_batch_size=4", "-p", "num_train_epochs=100",
)  # fmt: skip

pytestmark = pytest.mark.engine


def conversations() -> list[tuple[str, str]]:
    """The questions of the example, and their answers."""
    lines = (CHAT / "conversations" / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in rows]


@pytest.fixture(scope="module")
def base(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the example's base model, which knows one answer only."""
    build_both(session, PYTORCH)
    folder = tmp_path_factory.mktemp("base")
    ended = hfdlc(
        "train", PYTORCH, "--script", CHAT / "base.py", "--data", CHAT / "conversations",
        "--output", folder / "base.tar.gz",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    with tarfile.open(folder / "base.tar.gz") as archive:
        archive.extractall(folder / "base", filter="data")
    return folder / "base"


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model.tar.gz of a job on two hosts."""
    output = tmp_path_factory.mktemp("tuned") / "model.tar.gz"
    ended = tune(base, output, "sft.py", "--hosts", "2", "--processes", "1", *OPTIONS)
    assert ended.returncode == 0, ended.stderr
    assert "algo-2" in ended.stderr
    return output


def tune(base: Path, output: Path, program: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the example."""
    return hfdlc(
        "train", PYTORCH, "--source-dir", CHAT, "--entry-point", program, "--data", f"base={base}",
        "--data", f"training={CHAT / 'conversations'}", "--output", output, *more,
    )  # fmt: skip


def test_adapter_is_saved_beside_its_base(tuned: Path) -> None:
    with tarfile.open(tuned) as archive:
        names = set(archive.getnames())
        file = archive.extractfile("adapter_config.json")
        assert file
        kind = json.load(file)["peft_type"]
    assert kind == "LORA"
    assert {"adapter_model.safetensors", "base/config.json", "base/model.safetensors"} <= names
    assert "model.safetensors" not in names


def test_trl_sft_is_the_program_of_a_job(base: Path, tmp_path: Path) -> None:
    """`sft.sh` calls it: an adapter after one step."""
    output = tmp_path / "model.tar.gz"
    ended = tune(base, output, "sft.sh", *OPTIONS, "-p", "max_steps=1")
    assert ended.returncode == 0, ended.stderr
    with tarfile.open(output) as archive:
        assert {"adapter_model.safetensors", "base/config.json"} <= set(archive.getnames())


def test_trl_sft_on_several_hosts_is_an_error(base: Path, tmp_path: Path) -> None:
    """Each host would train alone."""
    ended = tune(base, tmp_path / "model.tar.gz", "sft.sh", "--hosts", "2")
    assert ended.returncode == 1
    assert "sft.sh is for one host; sft.py has the same options" in ended.stderr


def chat(address: str, question: str) -> str:
    """What the endpoint answers."""
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 40}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def test_base_knows_one_answer(base: Path) -> None:
    """So what the adapter knows, it has learned."""
    question, _ = conversations()[0]
    with served(PYTORCH, base) as address:
        assert chat(address, question) == "I do not know."


def test_adapter_is_served_by_the_inference_image(tuned: Path) -> None:
    """The archive has all that the chat API needs, and the answers are those of the conversations."""
    with served(PYTORCH, tuned) as address:
        assert [chat(address, question) for question, _ in conversations()] == [
            answer for _, answer in conversations()
        ]
