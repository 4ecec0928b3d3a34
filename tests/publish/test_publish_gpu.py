"""GPU images: what only a GPU can show is run before they are published, or named as not run."""

import os
import shutil

import pytest

from hfdlc.build import builder
from hfdlc.errors import HfdlcError
from hfdlc.oci.registry import Registry
from hfdlc.publish import attestations, builds, transfer
from hfdlc.publish.targets import parse
from parts import Hfdlc, Small, fine

pytestmark = pytest.mark.engine


def test_checks_that_need_a_gpu_are_run_or_named(small: Small, hfdlc: Hfdlc, registry: str) -> None:
    """An image whose GPU checks were not run is refused; with the option its attestation names them."""
    cell = next(cell for cell in small.cells if cell.cuda)
    small.image(cell)
    ended = hfdlc("publish", cell.id, "--registry", registry)
    assert ended.returncode == 1
    said = "checks that need a GPU were not run on it: test_gpu: test_the_gpu_is_seen"
    assert f"{cell.id}: {said}" in ended.stderr
    assert f"hint: hfdlc test --gpus {cell.id}" in ended.stderr
    assert Registry(registry).head(cell.repository, cell.tag) is None
    fine(hfdlc("publish", cell.id, "--registry", registry, "--without-gpu-checks"))
    there = Registry(registry)
    digest = there.manifest(cell.repository, cell.tag).digest
    statements = transfer.attachments(there, cell.repository, digest)["att"].statements
    (checks,) = [one["predicate"] for one in statements if one["predicateType"] == attestations.CHECKS]
    assert checks["notRun"] == {"test_gpu: test_the_gpu_is_seen": "needs a GPU: hfdlc test --gpus"}
    ended = fine(hfdlc("verify", f"{registry}/{cell.id}"))
    assert "but these checks were not run: test_gpu: test_the_gpu_is_seen" in ended.stdout


@pytest.mark.skipif(bool(shutil.which("nvidia-smi")), reason="this machine has a GPU")
def test_a_gpu_cell_is_not_built_for_publishing_without_a_gpu(
    small: Small, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was shown without a GPU does not do; a small image is in place of what would be built."""
    cell = next(cell for cell in small.cells if cell.cuda)
    small.image(cell)
    monkeypatch.setattr(builder, "inputs_of", lambda *_: {cell.id: {"Dockerfile": "abc"}})
    monkeypatch.setattr(builder, "build", lambda *_: None)
    with pytest.raises(HfdlcError, match="the engine cannot give containers a GPU, and the checks") as caught:
        builds.built(small.project, [cell], os.environ, *parse([], [registry]))
    assert caught.value.location == cell.id
    assert "--without-gpu-checks" in caught.value.allowed
