"""Publishing with bad input and over bad networks: each fault is reported, and nothing is half-published."""

import io
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from hfdlc.errors import HfdlcError
from hfdlc.oci.image import OCI_MANIFEST, Manifest, digest_of
from hfdlc.oci.registry import Registry
from hfdlc.publish import attestations, transfer
from hfdlc.publish.attestations import Predicates
from hfdlc.publish.signing import Attachment, Cosign
from hfdlc.state import State
from parts import PASSWORD, Hfdlc, Keys, Small, fine
from proxy import Proxy

pytestmark = pytest.mark.engine


def test_publish_retries_failed_requests(small: Small, hfdlc: Hfdlc, proxied: Proxy) -> None:
    """Every tenth one gets a 503; the image is complete."""
    small.image(small.project.default, ballast=3_000_000)
    proxied.does.fail_every = 10
    fine(hfdlc("publish", "--registry", proxied.host))
    assert proxied.does.failed
    fine(hfdlc("verify", f"{proxied.host}/{small.project.default.id}"))


def test_upload_resumes_after_a_failed_part(proxied: Proxy) -> None:
    """No part that the registry has is sent again."""
    content = bytes(range(256)) * 200_000  # 51 MB: four parts
    proxied.does.fail_bodies_every = 3
    there = Registry(proxied.host)
    there.upload("blobs", digest_of(content), len(content), lambda at: io.BytesIO(content[at:]))
    assert proxied.does.failed
    assert there.read("blobs", digest_of(content)) == content
    assert proxied.does.sent == len(content)


def test_publish_survives_cut_connections(small: Small, hfdlc: Hfdlc, proxied: Proxy) -> None:
    """Half a part arrived; Debian's registry drops such an upload, so the blob is sent from its start."""
    small.image(small.project.default, ballast=40_000_000)
    proxied.does.cut_every = 4
    fine(hfdlc("publish", "--registry", proxied.host))
    assert proxied.does.failed
    fine(hfdlc("verify", f"{proxied.host}/{small.project.default.id}"))


def test_upload_renews_an_expired_token(proxied: Proxy) -> None:
    """Once."""
    renewals = []

    def credentials(renew: bool) -> tuple[str, str]:
        renewals.append(renew)
        return ("AWS", "second" if any(renewals) else "first")

    content = bytes(50_000_000)
    proxied.does.passwords, proxied.does.expire_after = ("first", "second"), 4
    there = Registry(proxied.host, credentials)
    there.upload("blobs", digest_of(content), len(content), lambda at: io.BytesIO(content[at:]))
    assert there.has("blobs", digest_of(content))
    assert renewals.count(True) == 1


def test_publish_sets_no_tag_if_attestations_could_not_be_sent(
    small: Small, hfdlc: Hfdlc, proxied: Proxy
) -> None:
    """The run ends after all retries, and the next one continues.

    Even if tags are immutable: the signature that was sent stays.
    """
    cell = small.project.default
    small.image(cell)
    proxied.does.immutable = True
    proxied.does.refuse = ".att"
    ended = hfdlc("publish", "--registry", proxied.host)
    assert ended.returncode == 1
    assert "registry request failed after 8 attempts" in ended.stderr
    assert "Traceback" not in ended.stderr
    proxied.does.refuse = ""
    assert Registry(proxied.host).head(cell.repository, cell.tag) is None
    assert not (small.project.root / "releases").exists()
    sent = proxied.does.sent
    fine(hfdlc("publish", "--registry", proxied.host))
    assert proxied.does.sent - sent < 30_000, "only attestations and the manifest"
    fine(hfdlc("verify", f"{proxied.host}/{cell.id}"))


def test_immutable_tag_is_accepted_for_the_same_digest_only(proxied: Proxy) -> None:
    """ECR refuses it for the same digest too, which is no error."""
    there, config = Registry(proxied.host), b"{}"
    there.upload("images", digest_of(config), len(config), lambda at: io.BytesIO(config[at:]))
    described = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "size": 2,
        "digest": digest_of(config),
    }
    content = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": []}
    manifest = Manifest(json.dumps(content).encode(), OCI_MANIFEST)
    proxied.does.immutable = True
    for _ in range(2):
        there.put("images", "tag", manifest)
    with pytest.raises(HfdlcError, match=f"has {manifest.digest} already, and the registry refuses: 400"):
        there.put("images", "tag", Manifest(manifest.content + b" ", OCI_MANIFEST))
    assert there.head("images", "tag") == manifest.digest


def test_unreachable_registry_is_reported(small: Small, hfdlc: Hfdlc) -> None:
    """With its host, without a traceback."""
    small.image(small.project.default)
    ended = hfdlc("publish", "--registry", "127.0.0.1:9")
    assert ended.returncode == 1
    assert "127.0.0.1:9" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_publish_refuses_a_tag_of_another_image(small: Small, hfdlc: Hfdlc, registry: str) -> None:
    """It is named, before anything is sent."""
    cell = small.project.default
    small.image(cell)
    fine(hfdlc("publish", "--registry", registry))
    before = Registry(registry).head(cell.repository, cell.tag)
    small.image(cell, ballast=10)
    other = next(cell for cell in small.cells if cell.type == "training")
    small.image(other)
    ended = hfdlc("publish", cell.id, other.id, "--registry", registry)
    assert ended.returncode == 1
    assert f"{cell.id}: {registry} has {before}" in ended.stderr
    assert "a tag never moves" in ended.stderr
    assert Registry(registry).head(cell.repository, cell.tag) == before
    assert Registry(registry).head(other.repository, other.tag) is None


def test_two_runs_publish_the_same_cell(small: Small, hfdlc: Hfdlc, registry: str) -> None:
    """At the same time, on one machine: the second waits, and finds the image published."""
    cell = small.project.default
    small.image(cell, ballast=1_000_000)
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda _: fine(hfdlc("publish", "--registry", registry)), range(2)))
    assert sorted("up to date" in one.stdout for one in ended) == [False, True]
    fine(hfdlc("verify", f"{registry}/{cell.id}"))


def test_publish_refuses_unchecked_images(small: Small, hfdlc: Hfdlc, registry: str) -> None:
    """Not built, failed, older than the image, not checked, on a substitute base: all are named at once."""
    cell, gpu, training, older = small.cells
    small.image(cell, failed={"test_all: test_port": "no port"})
    small.image(gpu, labels={"io.hfdlc.stand-in": "Debian 12"})
    small.image(training)
    small.image(training, checked=False, ballast=5)
    ended = hfdlc("publish", "*", "--registry", registry)
    assert ended.returncode == 1
    assert f"{cell.id}: its checks failed for sha256:" in ended.stderr
    assert "test_all: test_port" in ended.stderr
    assert f"{gpu.id}: is on the substitute base Debian 12" in ended.stderr
    assert f"{training.id}: its checks are older than the image" in ended.stderr
    assert f"{older.id}: the image is not built" in ended.stderr
    small.image(older, checked=False)
    ended = hfdlc("publish", older.id, "--registry", registry)
    assert "no check was run on sha256:" in ended.stderr


def test_publish_refuses_results_of_older_checks(small: Small, hfdlc: Hfdlc, registry: str) -> None:
    """The checks have changed since."""
    digest = small.image(small.project.default)
    file = small.state.root / "checks" / f"{digest.replace(':', '-')}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "checks": "sha256:older"}))
    ended = hfdlc("publish", "--registry", registry)
    assert "the checks themselves have changed" in ended.stderr


def test_publish_refuses_an_image_with_packages_of_no_lock(small: Small, hfdlc: Hfdlc, registry: str) -> None:
    """The package is named, and no tag appears."""
    cell = small.project.default
    small.image(cell, packages={"stowaway": "1.0"})
    ended = hfdlc("publish", "--registry", registry)
    assert ended.returncode == 1
    assert "the SBOM does not match the image\n  not in the SBOM: stowaway 1.0" in ended.stderr
    assert Registry(registry).head(cell.repository, cell.tag) is None


def test_verify_refuses_a_signature_of_another_key(
    small: Small, hfdlc: Hfdlc, registry: str, other_keys: Keys
) -> None:
    """The key is named."""
    cell = small.project.default
    small.image(cell)
    fine(hfdlc("publish", "--registry", registry))
    ended = hfdlc("verify", f"{registry}/{cell.id}", "--key", other_keys.public)
    assert ended.returncode == 1
    assert "does not match the key" in ended.stderr


class Tampered:
    """The published image under other tags, with attachments that do not belong to it."""

    def __init__(self, registry: str, repository: str, tag: str) -> None:
        self.there, self.name = Registry(registry), repository
        self.manifest = self.there.manifest(repository, tag)
        self.attachments = transfer.attachments(self.there, repository, self.manifest.digest)
        statements = self.attachments["att"].statements
        self.predicates = {one["predicateType"]: one["predicate"] for one in statements}

    def copy(self, tag: str) -> Manifest:
        """The same image with another digest."""
        changed = Manifest(self.manifest.content + b" " * len(tag), self.manifest.media_type)
        self.there.put(self.name, tag, changed)
        return changed


@pytest.fixture
def tampered(small: Small, hfdlc: Hfdlc, registry: str) -> Tampered:
    """What a published image is, to be spoiled."""
    cell = small.project.default
    small.image(cell)
    fine(hfdlc("publish", "--registry", registry))
    return Tampered(registry, cell.repository, cell.tag)


def test_attachments_of_another_image_are_refused(
    tampered: Tampered, hfdlc: Hfdlc, registry: str, keys: Keys, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signature, and attestations below a right signature; and none at all."""
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
    there, name = tampered.there, tampered.name
    other = tampered.copy("a")
    transfer.attach(there, name, other.digest, tampered.attachments)
    assert (
        f"the signature of {registry}/{name}@{other.digest} does not match the key"
        in hfdlc("verify", f"{registry}/{name}:a").stderr
    )
    other = tampered.copy("bb")
    own = Cosign(keys.private, state, os.environ).sign(name, other, tampered.predicates)
    transfer.attach(there, name, other.digest, {**tampered.attachments, "sig": own["sig"]})
    assert f"the attestation {attestations.SBOM} of" in hfdlc("verify", f"{registry}/{name}:bb").stderr
    tampered.copy("ccc")
    assert "has no signature" in hfdlc("verify", f"{registry}/{name}:ccc").stderr


def test_changed_statement_is_refused(tampered: Tampered, hfdlc: Hfdlc, registry: str) -> None:
    """Its signature is right for what it was."""
    att = tampered.attachments["att"]
    blobs = {digest: blob.replace(b"eyJ", b"eyK", 1) for digest, blob in att.blobs.items()}
    text = att.manifest.content.decode()
    for digest, blob in blobs.items():
        text = text.replace(digest, digest_of(blob))
    changed = Attachment(
        Manifest(text.encode(), att.manifest.media_type), {digest_of(blob): blob for blob in blobs.values()}
    )
    there, name = tampered.there, tampered.name
    for digest, blob in changed.blobs.items():
        there.upload(name, digest, len(blob), lambda at, blob=blob: io.BytesIO(blob[at:]))  # type: ignore[misc]
    there.put(name, f"{tampered.manifest.digest.replace(':', '-')}.att", changed.manifest)
    ended = hfdlc("verify", f"{registry}/{name}@{tampered.manifest.digest}")
    assert ended.returncode == 1
    assert f"the attestation {attestations.SBOM} of" in ended.stderr


def _other_version(predicates: Predicates) -> None:
    for part in predicates[attestations.SBOM]["components"]:
        part["version"] += ".1" if part["name"] == "torch" else ""


def _failed(predicates: Predicates) -> None:
    predicates[attestations.CHECKS] |= {"result": "FAILED", "failedTests": ["test_all: test_port"]}


def _other_inputs(predicates: Predicates) -> None:
    predicates[attestations.PROVENANCE]["buildDefinition"]["internalParameters"]["inputs"] = {
        "Dockerfile": "x"
    }


def _other_image(predicates: Predicates) -> None:
    predicates[attestations.CHECKS]["configuration"][1]["digest"]["sha256"] = "0" * 64


def _one_less(predicates: Predicates) -> None:
    del predicates[attestations.CHECKS]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_other_version, "the SBOM does not match the image\n  not in the SBOM: torch 2.13.0+cpu\n"),
        (_failed, "its checks failed: ['test_all: test_port']"),
        (_other_inputs, "its provenance and its label differ in Dockerfile"),
        (_other_image, "its checks were run on the image sha256:0000"),
        (_one_less, f"the attestation {attestations.CHECKS} of"),
    ],
)
def test_signed_statements_that_do_not_match_the_image_are_refused(
    spoil: Callable[[Predicates], None], said: str, tampered: Tampered, hfdlc: Hfdlc, registry: str,
    keys: Keys, state: State, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The right key has signed them."""
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
    spoil(tampered.predicates)
    other = tampered.copy("dddd")
    made = Cosign(keys.private, state, os.environ).sign(tampered.name, other, tampered.predicates)
    transfer.attach(tampered.there, tampered.name, other.digest, made)
    ended = hfdlc("verify", f"{registry}/{tampered.name}:dddd")
    assert (ended.returncode, said in ended.stderr) == (1, True), ended.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["publish"], "no target given"),
        (["publish", "--region", "eu-east-9"], "no Deep Learning Containers are published in 'eu-east-9'"),
        (["publish", "--registry", "nowhere=host"], "'nowhere' is not a region"),
        (["publish", "--registry", "eu-west-1=host"], "but --region does not"),
        (["verify", "busybox"], "this is not an image in a registry"),
        (["verify", "127.0.0.1:9/a:b", "--key", "/no/key.pub"], "there is no such key"),
    ],
)
def test_bad_arguments_exit_with_2(words: list[str], said: str, hfdlc: Hfdlc) -> None:
    """The message names the argument."""
    ended = hfdlc(*words)
    assert (ended.returncode, said in ended.stderr) == (2, True), ended.stderr


def test_publish_needs_a_key_that_opens(small: Small, hfdlc: Hfdlc, registry: str) -> None:
    """Nothing is published without a signature."""
    small.image(small.project.default)
    ended = hfdlc("publish", "--registry", registry, environ={"COSIGN_KEY": ""})
    assert (ended.returncode, "no key is given" in ended.stderr) == (2, True), ended.stderr
    ended = hfdlc("publish", "--registry", registry, environ={"COSIGN_PASSWORD": "wrong"})
    assert (ended.returncode, "set COSIGN_PASSWORD to the password of the key" in ended.stderr) == (
        1,
        True,
    ), ended.stderr
    cell = small.project.default
    assert Registry(registry).head(cell.repository, cell.tag) is None


def test_publish_reports_an_image_that_was_removed(small: Small, hfdlc: Hfdlc, registry: str) -> None:
    """By its name."""
    cell = small.project.default
    small.image(cell)
    client = small.engine.client
    client.images.remove(cell.id, force=True)
    assert "the image is not built" in hfdlc("publish", "--registry", registry).stderr


def test_copy_refuses_an_image_without_attachments(
    small: Small, hfdlc: Hfdlc, new_registry: Callable[[], str]
) -> None:
    """Or one that does not exist."""
    cell = small.project.default
    first, second = new_registry(), new_registry()
    ended = hfdlc("publish", "--from", first, "--registry", second)
    assert "there is no such image" in ended.stderr
    small.image(cell)
    fine(hfdlc("publish", "--registry", first))
    there = Registry(first)
    manifest = there.manifest(cell.repository, cell.tag)
    there.put(cell.repository, cell.tag, Manifest(manifest.content + b" ", manifest.media_type))
    ended = hfdlc("publish", "--from", first, "--registry", second)
    assert "has no signature and attestations" in ended.stderr
