"""Comparing tags and copying images, between a layer store and registries in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hfdlc.errors import HfdlcError
from hfdlc.oci.image import Manifest
from hfdlc.oci.loopback import Content
from hfdlc.oci.registry import Conflict, Registry
from hfdlc.publish import transfer
from hfdlc.publish.targets import Target
from hfdlc.publish.transfer import FromRegistry, TagStatus, Wanted
from proxy import Proxy
from publishing import Signer, image, target

ROOT = Path("nowhere")


@pytest.fixture
def registry() -> Iterator[tuple[Target, Content]]:
    """One empty registry."""
    with target() as made:
        yield made


def state(where: Target, wanted: Wanted) -> TagStatus:
    """The status of the tag `repository:tag`."""
    (found,) = transfer.compare([where], {"repository:tag": wanted}, ["repository"])
    return found


def test_tag_is_missing_there_or_different(registry: tuple[Target, Content], tmp_path: Path) -> None:
    """There is the same config digest, whatever the compression; the status has both manifest digests."""
    where, _ = registry
    built, other = image(tmp_path, b"a"), image(tmp_path, b"b")
    wanted = Wanted(built.config_digest, built.manifest.digest)
    assert state(where, wanted).state == "missing"
    docker = built.as_docker(ROOT)
    transfer.copy_blobs(docker, where, "repository", [])
    transfer.set_tag(where, "repository", "tag", docker.manifest)
    found = state(where, wanted)
    assert (found.state, found.here, found.there) == ("there", built.manifest.digest, docker.manifest.digest)
    assert state(where, Wanted(built.config_digest)).state == "there"
    assert state(where, Wanted(other.config_digest, other.manifest.digest)).state == "different"
    assert state(where, Wanted(None, other.manifest.digest)).state == "different"


def test_blobs_are_sent_once(registry: tuple[Target, Content], tmp_path: Path) -> None:
    """What the repository has stays, what another one has is mounted, and no tag appears."""
    where, content = registry
    first, second = image(tmp_path, b"shared" * 99, b"a"), image(tmp_path, b"shared" * 99, b"b")
    shared = first.layers[0].size
    moved = transfer.copy_blobs(first, where, "one", ["one", "two"])
    assert moved.sent == sum(blob["size"] for blob in first.manifest.blobs)
    moved = transfer.copy_blobs(second, where, "two", ["one", "two"])
    assert moved.mounted == shared
    moved = transfer.copy_blobs(second, where, "one", [])
    assert moved.there == shared
    assert transfer.copy_blobs(first, where, "one", []).sent == 0
    assert all(reference.startswith("sha256:") for _, reference in content.manifests)
    assert content.manifests["one", first.manifest.digest] == first.manifest


def test_copy_between_registries_is_the_same_image(registry: tuple[Target, Content], tmp_path: Path) -> None:
    """By digest, without a blob on this machine."""
    where, _ = registry
    built = image(tmp_path, b"a" * 3_000_000)
    transfer.copy_blobs(built, where, "repository", [])
    with target() as (second, content):
        source = FromRegistry(where.registry, "repository", built.manifest)
        transfer.copy_blobs(source, second, "repository", [])
        assert content.manifests["repository", built.manifest.digest] == built.manifest
        digest = built.layers[0].digest
        assert content.blobs["repository", digest] == built.store.path(digest).read_bytes()


def test_damaged_layer_is_not_accepted(registry: tuple[Target, Content], tmp_path: Path) -> None:
    """Nor is a manifest sent that names it."""
    where, content = registry
    built = image(tmp_path, b"a")
    built.store.path(built.layers[0].digest).write_bytes(b"x" * built.layers[0].size)
    with pytest.raises(HfdlcError, match="does not match its digest"):
        transfer.copy_blobs(built, where, "repository", [])
    assert content.manifests == {}


def test_tag_does_not_move(registry: tuple[Target, Content], tmp_path: Path) -> None:
    """Another run has set it since the tags were compared."""
    where, _ = registry
    first, second = image(tmp_path, b"a"), image(tmp_path, b"b")
    transfer.set_tag(where, "repository", "tag", first.manifest)
    transfer.set_tag(where, "repository", "tag", first.manifest)
    with pytest.raises(Conflict, match=f"was published as {first.manifest.digest} meanwhile"):
        transfer.set_tag(where, "repository", "tag", second.manifest)
    assert where.registry.head("repository", "tag") == first.manifest.digest


@pytest.mark.parametrize("immutable", [True, False])
def test_attachments_of_another_run_stay(
    immutable: bool, registry: tuple[Target, Content], tmp_path: Path
) -> None:
    """Both runs get those of the first, so both record the same."""
    proxy = Proxy(registry[0].registry.host)
    proxy.does.immutable = immutable
    where = Registry(proxy.host)
    manifest = image(tmp_path, b"a").manifest
    made = [Signer(name).sign("repository", manifest, {"kind": {}}) for name in ("one", "two")]
    digest = manifest.digest
    assert [transfer.attach(where, "repository", digest, each) for each in made] == [made[0], made[0]]
    assert transfer.attachments(where, "repository", digest) == made[0]
    proxy.close()


def test_immutable_attachment_that_appears_meanwhile_stays(
    registry: tuple[Target, Content], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the question whether there is one and the answer to sending it."""
    proxy = Proxy(registry[0].registry.host)
    proxy.does.immutable = True
    where = Registry(proxy.host)
    manifest = image(tmp_path, b"a").manifest
    mine, theirs = (Signer(name).sign("repository", manifest, {"kind": {}}) for name in ("one", "two"))
    head, attached = where.head, list[str]()

    def late(repository: str, reference: str) -> str | None:
        if len(attached) < 2:
            attached.append(reference)
            found = head(repository, reference)
            suffix = reference.rpartition(".")[2]
            transfer.attach(Registry(proxy.host), repository, manifest.digest, {suffix: theirs[suffix]})
            return found
        return head(repository, reference)

    monkeypatch.setattr(where, "head", late)
    assert transfer.attach(where, "repository", manifest.digest, {"sig": mine["sig"]}) == {
        "sig": theirs["sig"]
    }
    proxy.close()


def test_manifest_that_is_no_attachment_is_named(registry: tuple[Target, Content], tmp_path: Path) -> None:
    """An index below cosign's tag, for example."""
    where, _ = registry
    digest = image(tmp_path, b"a").manifest.digest
    index = Manifest(b'{"manifests": []}', "application/vnd.oci.image.index.v1+json")
    where.registry.put("repository", f"{digest.replace(':', '-')}.sig", index)
    with pytest.raises(HfdlcError, match="is not a manifest of signatures: it lacks 'config'"):
        transfer.attachments(where.registry, "repository", digest)
