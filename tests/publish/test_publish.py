"""Publishing small images to a real registry: what appears there, what is sent, and what a record keeps."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from hfdlc.engine import images
from hfdlc.oci import store
from hfdlc.oci.image import DOCKER_MANIFEST, OCI_MANIFEST
from hfdlc.oci.registry import Registry
from hfdlc.oci.store import LayerStore
from hfdlc.publish import publisher, releases, transfer
from hfdlc.publish.targets import parse
from parts import PASSWORD, Hfdlc, Keys, Small, fine
from proxy import Proxy

pytestmark = pytest.mark.engine
COSIGNS = ("2.5", "3.1")


def test_publish_sends_one_manifest_of_docker_schema_2(small: Small, hfdlc: Hfdlc, registry: str) -> None:
    """As SageMaker requires: no index, and gzip layers."""
    cell = small.project.default
    small.image(cell)
    fine(hfdlc("publish", "--registry", registry))
    manifest = Registry(registry).manifest(cell.repository, cell.tag)
    assert manifest.media_type == DOCKER_MANIFEST
    kinds = {blob["mediaType"] for blob in manifest.blobs}
    assert kinds == {
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    }


@pytest.mark.parametrize("oci", [(), ("--oci",)], ids=["docker", "oci"])
@pytest.mark.parametrize("version", COSIGNS)
def test_each_cosign_verifies_what_each_cosign_signed(
    version: str, oci: tuple[str, ...], small: Small, hfdlc: Hfdlc, registry: str, keys: Keys,
    cosigns: Callable[[str], str],
) -> None:  # fmt: skip
    """Also the SBOM, the provenance and the check results, by their types."""
    cell = small.project.default
    small.image(cell)
    path = {"PATH": f"{Path(cosigns(version)).parent}:{os.environ['PATH']}"}
    fine(hfdlc("publish", "--registry", registry, *oci, environ=path))
    image = f"{registry}/{cell.id}"
    words = ["--key", keys.public, "--insecure-ignore-tlog=true", image]
    for program in map(cosigns, COSIGNS):
        subprocess.run([program, "verify", *words], check=True, capture_output=True)
        for kind in ("cyclonedx", "slsaprovenance1", "https://in-toto.io/attestation/test-result/v0.1"):
            command = [program, "verify-attestation", "--type", kind, *words]
            ended = subprocess.run(command, capture_output=True, text=True)
            assert ended.returncode == 0, ended.stderr
        search = {"PATH": f"{Path(program).parent}:{os.environ['PATH']}"}
        fine(hfdlc("verify", image, environ=search))


def test_config_digest_is_that_of_the_checked_image(
    small: Small, hfdlc: Hfdlc, new_registry: Callable[[], str]
) -> None:
    """With gzip layers, with zstd layers, in the attestations and in the record."""
    cell = small.project.default
    identity = small.image(cell)
    docker, oci = new_registry(), new_registry()
    fine(hfdlc("publish", "--registry", docker))
    kept = releases.read(cell.id, small.project.root)
    assert kept
    fine(hfdlc("publish", "--registry", oci, "--oci"))
    manifests = [Registry(host).manifest(cell.repository, cell.tag) for host in (docker, oci)]
    assert {manifest.config_digest for manifest in manifests} == {identity, kept.config_digest}
    assert manifests[0].digest == kept.digest != manifests[1].digest
    found = transfer.attachments(Registry(docker), cell.repository, manifests[0].digest)
    (checks,) = [one for one in found["att"].statements if "test-result" in one["predicateType"]]
    named = {one["name"]: one["digest"]["sha256"] for one in checks["predicate"]["configuration"]}
    assert f"sha256:{named['image configuration']}" == identity
    assert f"image config {identity}" in fine(hfdlc("verify", f"{docker}/{cell.id}")).stdout


def test_config_digest_is_found_without_the_layer_store(small: Small) -> None:
    """The engine exports the image, as for one that was built on another machine."""
    cell = small.project.default
    identity = small.image(cell)
    assert images.config_digest(images.image_of(cell.id, small.engine), small.engine) == identity


def test_verify_lists_what_it_verified(small: Small, hfdlc: Hfdlc, registry: str) -> None:
    """Signature, attestations, inputs, and the SBOM, which is compared with the layers."""
    cell = small.project.default
    small.image(cell)
    fine(hfdlc("publish", "--registry", registry))
    ended = fine(hfdlc("verify", f"{registry}/{cell.id}"))
    assert "the 3 packages of its SBOM are those in its layers; 2 have a licence" in ended.stdout


def test_oci_images_are_published_as_they_were_built(small: Small, hfdlc: Hfdlc, registry: str) -> None:
    """With --oci the manifest digest is the one of the layer store: nothing is compressed again."""
    cell = small.project.default
    small.image(cell)
    fine(hfdlc("publish", "--registry", registry, "--oci"))
    manifest = Registry(registry).manifest(cell.repository, cell.tag)
    assert manifest.media_type == OCI_MANIFEST
    assert manifest.digest == small.images[0].manifest.digest


def test_publishing_again_sends_nothing(small: Small, hfdlc: Hfdlc, proxied: Proxy) -> None:
    """The digest of the tag is enough: one request a cell."""
    small.image(small.project.default)
    fine(hfdlc("publish", "--registry", proxied.host))
    before = len(proxied.does.log)
    ended = hfdlc("publish", "--registry", proxied.host)
    assert "up to date" in ended.stdout, ended.stderr
    assert [line.split()[0] for line in proxied.does.log[before:]] == ["HEAD"]


def test_published_image_is_recognised_by_its_config_digest(
    small: Small, hfdlc: Hfdlc, proxied: Proxy
) -> None:
    """Its gzip layers are not in the store any more: nothing is compressed to know the manifest digest."""
    small.image(small.project.default)
    fine(hfdlc("publish", "--registry", proxied.host))
    image = small.images[0].known_as_docker()
    assert image
    for layer in image.layers:
        image.store.path(layer.digest).unlink()
    fine(hfdlc("publish", "--registry", proxied.host, "--dry-run"))
    assert "up to date" in fine(hfdlc("publish", "--registry", proxied.host)).stdout
    assert not small.images[0].known_as_docker()


@pytest.mark.parametrize("form", ["zstd", "gzip"])
def test_damaged_layer_is_not_sent(
    form: str, small: Small, hfdlc: Hfdlc, new_registry: Callable[[], str]
) -> None:
    """A gzip layer is compressed again; a zstd layer is built again, which a small image cannot be."""
    cell, registry = small.project.default, new_registry()
    small.image(cell, ballast=100_000)
    fine(hfdlc("publish", "--registry", new_registry()))
    image = small.images[0] if form == "zstd" else small.images[0].known_as_docker()
    assert image
    damaged = image.store.path(image.layers[0].digest)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    words = ("--oci",) if form == "zstd" else ()
    ended = hfdlc("publish", "--registry", registry, *words)
    assert f"{damaged}: is damaged: its content does not match its digest" in ended.stderr
    if form == "gzip":
        fine(ended)
        fine(hfdlc("verify", f"{registry}/{cell.id}"))
        return
    assert ended.returncode == 1
    assert f"{cell.id}: not all its layers are in the layer store" in ended.stderr
    assert Registry(registry).head(cell.repository, cell.tag) is None


def test_layers_are_sent_once_and_mounted_in_the_other_repository(
    small: Small, hfdlc: Hfdlc, proxied: Proxy
) -> None:
    """Training and inference share layers, and live in different repositories."""
    inference = small.project.default
    training = next(cell for cell in small.cells if cell.type == "training")
    small.image(inference, ballast=200_000)
    small.share(inference, training)
    fine(hfdlc("publish", inference.id, training.id, "--registry", proxied.host))
    assert any("mount=" in line for line in proxied.does.log)
    assert proxied.does.sent < 300_000, "the ballast went twice"
    fine(hfdlc("verify", f"{proxied.host}/{training.id}"))


def test_another_registry_gets_the_image_from_the_first(
    small: Small, hfdlc: Hfdlc, new_registry: Callable[[], str]
) -> None:
    """By digest, with the same attachments, without engine and key."""
    cell = small.project.default
    first, second = new_registry(), new_registry()
    small.image(cell, ballast=100_000)
    fine(hfdlc("publish", "--registry", first))
    small.clean()
    nothing = {"DOCKER_HOST": "unix:///nowhere", "COSIGN_KEY": ""}
    fine(hfdlc("publish", "--from", first, "--registry", second, environ=nothing))
    digests = {Registry(host).manifest(cell.repository, cell.tag).digest for host in (first, second)}
    assert len(digests) == 1
    fine(hfdlc("verify", f"{second}/{cell.id}"))


def test_copy_in_a_fresh_clone_writes_the_record(
    small: Small, hfdlc: Hfdlc, new_registry: Callable[[], str]
) -> None:
    """As CI's last job: it has no engine, no key, and no record of what the other jobs published."""
    cell, first = small.project.default, new_registry()
    small.image(cell)
    fine(hfdlc("publish", "--registry", first))
    before = releases.read(cell.id, small.project.root)
    releases.file(cell.id, small.project.root).unlink()
    nothing = {"DOCKER_HOST": "unix:///nowhere", "COSIGN_KEY": ""}
    for second in (new_registry(), first):  # once it is copied, once it is there
        fine(hfdlc("publish", "--from", first, "--registry", second, environ=nothing))
        after = releases.read(cell.id, small.project.root)
        assert before
        assert after
        assert (after.digest, after.inputs) == (before.digest, before.inputs)
        assert (after.packages, after.layers) == (before.packages, before.layers)
        assert {*after.targets} == {first, second}
        releases.file(cell.id, small.project.root).unlink()
    ended = fine(hfdlc("publish", "--from", first, "--registry", first, environ=nothing))
    assert "up to date" in ended.stdout
    fine(hfdlc("diff", cell.id, cell.id))


def test_copy_continues_after_a_cell_that_is_not_published(
    small: Small, hfdlc: Hfdlc, new_registry: Callable[[], str]
) -> None:
    """A job of CI failed: what the others published is copied, and what lacks is named at the end."""
    cell, lacks = small.project.default, small.cells[1]
    first, second = new_registry(), new_registry()
    small.image(cell)
    fine(hfdlc("publish", "--registry", first))
    ended = hfdlc("publish", lacks.id, cell.id, "--from", first, "--registry", second)
    assert ended.returncode == 1
    assert f"{lacks.id}: there is no such image" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert Registry(second).head(cell.repository, cell.tag)


def test_image_with_another_compression_is_copied_to_the_next_registry(
    small: Small, new_registry: Callable[[], str], keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a registry has stays: another one gets that digest, not what would be packed now."""
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
    cell, first, second = small.project.default, new_registry(), new_registry()
    small.image(cell, ballast=1_000)
    there = [*parse([], [first]), *parse([], [second])]
    options = publisher.Options(keys.private)
    monkeypatch.setattr(store, "GZIP_LEVEL", 1)  # as another release would compress it
    publisher.publish(small.project, [cell], os.environ, there[:1], options)
    monkeypatch.undo()
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
    lost = small.images[0].known_as_docker()
    assert lost
    for layer in lost.layers:
        layers = LayerStore.of(small.state)
        layers.path(layer.digest).unlink()
    publisher.publish(small.project, [cell], os.environ, there, options)
    digests = {Registry(host).head(cell.repository, cell.tag) for host in (first, second)}
    assert len(digests) == 1
    kept = releases.read(cell.id, small.project.root)
    assert kept
    assert ({kept.digest}, {*kept.targets}) == (digests, {first, second})
    assert set(transfer.attachments(Registry(second), cell.repository, kept.digest)) == {"sig", "att"}


def test_dry_run_changes_nothing(small: Small, hfdlc: Hfdlc, registry: str) -> None:
    """It tells the difference between registry and matrix."""
    cell = small.project.default
    small.image(cell)
    ended = hfdlc("publish", "--registry", registry, "--dry-run")
    assert f"to publish    {registry}  {cell.id}" in ended.stdout
    assert requests.get(f"http://{registry}/v2/_catalog", timeout=10).json()["repositories"] == []
    assert not (small.project.root / "releases").exists()


def test_diff_lists_changed_packages_and_bytes_to_pull(small: Small, hfdlc: Hfdlc, registry: str) -> None:
    """Packages that differ, and the bytes of layers that one who has the old one lacks."""
    old, new = [cell for cell in small.cells if cell.type == "inference" and not cell.cuda]
    small.image(old, ballast=50_000)
    small.image(new, ballast=60_000)
    file = small.project.root / new.folder / "framework.lock"
    file.write_text(file.read_text().replace("2.13.0+cpu", "2.14.0+cpu"))
    small.image(new, packages={"torch": "2.14.0+cpu"}, ballast=60_000)
    ended = fine(hfdlc("publish", old.id, new.id, "--registry", registry))
    changes = json.loads(hfdlc("diff", old.id, new.id, "--json").stdout)
    assert changes["packages"] == {"deb": {}, "pypi": {"torch": ["2.13.0+cpu", "2.14.0+cpu"]}}
    assert 60_000 < changes["pull"] <= changes["new"]["bytes"]
    kept = json.loads((small.project.root / "releases" / old.repository / f"{old.tag}.json").read_text())
    assert list(kept["targets"]) == [registry]
    assert kept["inputs"] == {"Dockerfile": "abc"}
    ended = hfdlc("diff", old.id, "huggingface-pytorch-inference:1.0")
    assert ended.returncode == 2
    assert "was never published" in ended.stderr


def test_publishing_after_the_record_was_lost_writes_it_again(
    small: Small, hfdlc: Hfdlc, registry: str
) -> None:
    """A run that was cut off between the tag and the record."""
    cell = small.project.default
    small.image(cell)
    fine(hfdlc("publish", "--registry", registry))
    file = small.project.root / "releases" / cell.repository / f"{cell.tag}.json"
    before = json.loads(file.read_text())
    Path(file).unlink()
    fine(hfdlc("publish", "--registry", registry))
    after = json.loads(file.read_text())
    assert {**after, "targets": None} == {**before, "targets": None}
