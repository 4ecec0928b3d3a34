"""Signatures and attestations, made and verified by cosign.

cosign reads and writes a registry only, and replaces a tag with each attestation that it adds. Registries
with immutable tags (ECR) refuse that. So cosign works on a registry in memory, and what it wrote is copied
whole.

Its tags (`sha256-….sig` and `sha256-….att`) are the format that both cosign 2 and cosign 3 read:
https://github.com/sigstore/cosign/blob/v2.5.0/specs/SIGNATURE_SPEC.md
"""

import base64
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hfdlc.engine import debian
from hfdlc.errors import CommandFailed, HfdlcError, UserError
from hfdlc.oci import loopback
from hfdlc.oci.image import Manifest
from hfdlc.process import run
from hfdlc.state import State

PACKAGES = {"trixie": ("cosign",)}
SUPPORTED = "cosign 2.5 to 3.1"
SUFFIXES = ("sig", "att")  # of cosign's tags: signatures, attestations
TIMEOUT = 120  # seconds
# Nothing of the environment moves signatures elsewhere or changes their format.
ENVIRONMENT = {"COSIGN_REPOSITORY": "", "COSIGN_EXPERIMENTAL": "0", "COSIGN_DOCKER_MEDIA_TYPES": "0"}
# How cosign reports a public key that it cannot read, or get from a key management service.
UNUSABLE = re.compile("(loading|getting) public key:")

Predicates = Mapping[str, Mapping[str, Any]]  # predicate type -> predicate


class NoMatch(HfdlcError):
    """A signature does not belong to the image, or was not made with the key."""


@dataclass(frozen=True)
class Attachment:
    """A manifest that belongs to an image by its tag, with its blobs: all signatures or all attestations."""

    manifest: Manifest
    blobs: Mapping[str, bytes]

    @property
    def statements(self) -> list[dict[str, Any]]:
        """The in-toto statements of attestations, whose signatures are not verified here."""
        found = []
        for layer in self.manifest.parsed["layers"]:
            envelope = json.loads(self.blobs[layer["digest"]])
            found.append(json.loads(base64.b64decode(envelope["payload"])))
        return found


Attachments = Mapping[str, Attachment]  # by suffix


def tag(digest: str, suffix: str) -> str:
    """Cosign's tag for the signatures or attestations of an image."""
    return f"{digest.replace(':', '-')}.{suffix}"


class Cosign:
    """The program with one key: a file, or the URI of a key management service (`awskms://…`)."""

    def __init__(
        self, key: str, state: State, environ: Mapping[str, str], program: str | None = None
    ) -> None:
        if "://" not in key and not Path(key).is_file():
            raise UserError(
                "there is no such key",
                location=key,
                allowed="a file, or a URI like awskms:///alias/NAME",
                hint="cosign generate-key-pair makes cosign.key and cosign.pub",
            )
        self.key = key if "://" in key else str(Path(key).absolute())
        self.environ = environ  # cosign reads COSIGN_PASSWORD, and what a key management service needs
        self.program = program or find_program(state, environ)

    def sign(self, repository: str, manifest: Manifest, predicates: Predicates) -> dict[str, Attachment]:
        """A signature of the image, and an attestation for each predicate.

        cosign reads COSIGN_PASSWORD, which opens a key file. Raises HfdlcError if the key cannot be used.
        """
        options = ["--key", self.key, "--tlog-upload=false", "--yes", *self._legacy_format]
        with self._registry(repository, manifest) as (image, content, environment):
            identity = f"--sign-container-identity={repository}"  # not that of the registry in memory
            self._write(["sign", *options, identity, image], environment)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "predicate.json")
                for kind, predicate in predicates.items():
                    file.write_text(json.dumps(predicate, sort_keys=True))
                    words = ["attest", *options, "--type", kind, "--predicate", str(file), image]
                    self._write(words, environment)
            return {suffix: _attachment(content, repository, manifest, suffix) for suffix in SUFFIXES}

    def verify(
        self, repository: str, manifest: Manifest, attachments: Attachments, kinds: Sequence[str], where: str
    ) -> dict[str, dict[str, Any]]:
        """The predicates of these types, after the signature and all attestations were verified.

        Raises NoMatch if the signature or an attestation does not match the key or the image.
        """
        with self._registry(repository, manifest) as (image, content, environment):
            for suffix, attachment in attachments.items():
                content.put(repository, tag(manifest.digest, suffix), attachment.manifest)
                content.blobs |= {(repository, digest): blob for digest, blob in attachment.blobs.items()}
            options = ["--key", self.key, "--insecure-ignore-tlog=true"]
            self._check(["verify", *options, image], environment, f"the signature of {where}")
            found = {}
            for kind in kinds:
                words = ["verify-attestation", *options, "--type", kind, image]
                output = self._check(words, environment, f"the attestation {kind} of {where}")
                found[kind] = _predicate(output)
            return found

    @contextmanager
    def _registry(
        self, repository: str, manifest: Manifest
    ) -> Iterator[tuple[str, loopback.Content, dict[str, str]]]:
        with loopback.serving() as (host, content), tempfile.TemporaryDirectory() as folder:
            content.put(repository, manifest.digest, manifest)
            # An empty Docker configuration: no credential helper is started for the registry in memory.
            yield (
                f"{host}/{repository}@{manifest.digest}",
                content,
                {
                    **self.environ,
                    **ENVIRONMENT,
                    "DOCKER_CONFIG": folder,
                },
            )

    @cached_property
    def _legacy_format(self) -> list[str]:
        """The options of cosign 3 that make it write what cosign 2 reads; cosign 2.5 does not know them."""
        known = run([self.program, "sign", "--help"], timeout=TIMEOUT).stdout
        return (
            ["--use-signing-config=false", "--new-bundle-format=false"]
            if "--use-signing-config" in known
            else []
        )

    def _write(self, words: list[str], environment: Mapping[str, str]) -> None:
        try:
            run([self.program, *words], env=environment, timeout=TIMEOUT)
        except CommandFailed as error:
            raise HfdlcError(
                f"cosign {words[0]} failed with this key\n{error.output.strip()[-600:]}",
                location=self.key,
                allowed=SUPPORTED,
                hint=_advice(self.key, error.output),
            ) from error

    def _check(self, words: list[str], environment: Mapping[str, str], what: str) -> str:
        try:
            return run([self.program, *words], env=environment, timeout=TIMEOUT).stdout
        except CommandFailed as error:
            output = error.output.strip()[-600:]
            if UNUSABLE.search(error.output):
                kind = HfdlcError if "://" in self.key else UserError
                raise kind(
                    f"cosign cannot read this public key\n{output}",
                    location=self.key,
                    hint="check the credentials for it"
                    if "://" in self.key
                    else "give cosign.pub, not cosign.key",
                ) from error
            raise NoMatch(
                f"{what} does not match the key {self.key}, or is about another image\n{output}",
                hint="do not use this image; publish it again, under another tag",
            ) from error


def find_program(state: State, environ: Mapping[str, str]) -> str:
    """Cosign where it is installed, else Debian's, unpacked below the state folder."""
    if found := shutil.which("cosign", path=environ.get("PATH")):
        return found
    return str(debian.unpack(PACKAGES, state.root / "tools" / "cosign", state) / "usr/bin/cosign")


def _attachment(content: loopback.Content, repository: str, manifest: Manifest, suffix: str) -> Attachment:
    found = content.manifests.get((repository, tag(manifest.digest, suffix)))
    if not found:
        raise HfdlcError(f"cosign wrote no {tag(manifest.digest, suffix)}", allowed=SUPPORTED)
    blobs = {blob["digest"]: content.blobs[repository, blob["digest"]] for blob in found.blobs}
    return Attachment(found, blobs)


def _predicate(output: str) -> dict[str, Any]:
    """The predicate of the last envelope that cosign printed, one a line."""
    envelope = json.loads(output.strip().splitlines()[-1])
    statement = json.loads(base64.b64decode(envelope["payload"]))
    found: dict[str, Any] = statement["predicate"]
    return found


def _advice(key: str, output: str) -> str:
    if "decrypt" in output or "password" in output.lower():
        return "set COSIGN_PASSWORD to the password of the key"
    if "://" in key:
        return "check that these credentials may sign with the key"
    return "check that the file is a private key of cosign"
