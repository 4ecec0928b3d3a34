"""Publishing to registries on loopback: how long a repetition takes, and which bytes go over the wire.

The images are small ones of two layers, as many as the matrix has cells: what is measured is publishing.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("benchmarks", "tests/helpers")]

from results import Row, report  # noqa: E402

from hfdlc.engine import detect  # noqa: E402
from hfdlc.oci.registry import Registry  # noqa: E402
from hfdlc.publish import signing  # noqa: E402
from hfdlc.state import State  # noqa: E402
from parts import (  # noqa: E402
    PASSWORD,
    Keys,
    Small,
    aws_api,
    aws_environ,
    docker_registry,
    key_pair,
    serving,
    write_project,
)
from proxy import Proxy  # noqa: E402

HFDLC = str(Path(sys.executable).with_name("hfdlc"))
MORE = 15  # releases, for nineteen cells
BALLAST = 20_000_000  # bytes of the layer that cells share


REGIONS = ("--region", "us-east-1", "--region", "eu-west-1")


def hfdlc(
    root: Path, keys: Keys, *words: str, host: str | None = None, more: Mapping[str, str] | None = None
) -> float:
    """Run it, and give its wall-clock time."""
    environ = {**os.environ, "COSIGN_KEY": keys.private, "COSIGN_PASSWORD": PASSWORD}
    environ |= {"DOCKER_HOST": host} if host else {}
    environ |= more or {}
    began = time.perf_counter()
    words = (*words, "--without-gpu-checks") if words[0] == "publish" else words
    subprocess.run([HFDLC, *words], cwd=root, env=environ, check=True, capture_output=True)
    return time.perf_counter() - began


def measure(folder: Path, stack: ExitStack) -> list[Row]:
    """Publish, publish again, to another registry, and after a small change."""
    state = State.of(os.environ)
    program, keys = docker_registry(state), key_pair(signing.find_program(state, os.environ), folder)
    small = Small(write_project(folder / "project", MORE), detect.ensure(os.environ, state), state)
    stack.callback(small.clean)
    root, cells = small.project.root, small.cells
    first = Proxy(stack.enter_context(serving(program, folder / "one")))
    second = Proxy(stack.enter_context(serving(program, folder / "two")))
    for proxy in (first, second):
        stack.callback(proxy.close)
    new = cells[1]
    for cell in cells:
        small.image(cell, ballast=BALLAST)
    to_first = ("publish", *(cell.id for cell in cells if cell != new), "--registry", first.host)
    cold = hfdlc(root, keys, *to_first)
    whole = first.does.sent
    again = min(hfdlc(root, keys, *to_first) for _ in range(5))
    repeated = first.does.sent - whole
    aws = aws_environ(stack.enter_context(aws_api()))
    to_regions = (*to_first[:-2], *REGIONS, "--registry", f"{first.host}/ecr")
    hfdlc(root, keys, *to_regions, more=aws)
    regions = min(hfdlc(root, keys, *to_regions, more=aws) for _ in range(5))
    bare = min(hfdlc(root, keys, "list", "--json") for _ in range(5))
    manifest = Registry(first.host).manifest(cells[0].repository, cells[0].tag)
    image = sum(blob["size"] for blob in manifest.blobs)
    copy = ("publish", cells[0].id, "--from", first.host, "--registry", second.host)
    hfdlc(root, keys, *copy, host="unix:///nowhere")  # no engine: there is nothing to be sent from
    before = first.does.sent
    hfdlc(root, keys, "publish", new.id, "--registry", first.host)
    patch = first.does.sent - before
    print(f"published {len(cells) - 1} cells in {cold:.1f} s, {whole / 1e6:.1f} MB sent")
    print(f"a copy sends {second.does.sent / 1e6:.1f} MB from where it runs, none from an engine")
    return [
        Row(f"publish {len(cells) - 1} cells again", again, None, "s", 1.0),
        Row("the same in two regions, AWS's API played by moto", regions, None, "s", 1.0),
        Row(f"publish {len(cells) - 1} cells again, against `hfdlc list --json`", again, bare, "s", 4.0),
        Row("bytes sent by that", repeated, None, "B", 0.0),
        Row(
            "MB for all cells, against each by itself", whole / 1e6, image * (len(cells) - 1) / 1e6, "M", 0.2
        ),
        Row("MB for a cell with one small new layer, against all of it", patch / 1e6, image / 1e6, "M", 0.01),
    ]


def main() -> int:
    """Everything on loopback, and gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        rows = measure(Path(folder), stack)
    return report("publish", rows)


if __name__ == "__main__":
    sys.exit(main())
