"""GPU images: checks that need a GPU are run before they are published, or named as not run."""

import pytest

from hfdlc.oci.registry import Registry
from hfdlc.publish import attestations, transfer
from parts import Hfdlc, Small, fine

pytestmark = pytest.mark.engine


def test_publish_refuses_gpu_images_without_gpu_checks(small: Small, hfdlc: Hfdlc, registry: str) -> None:
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
