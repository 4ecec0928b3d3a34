"""Signatures, by cosign: with a key from a file or of a key management service, and nothing sent anywhere."""

import base64
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfdlc.engine import debian
from hfdlc.errors import CommandFailed, HfdlcError, UserError
from hfdlc.process import run
from hfdlc.state import State

PACKAGES = {"trixie": ("cosign",)}
PAYLOAD_TYPE = "application/vnd.in-toto+json"
SIMPLE = "cosign container image signature"


class NoMatch(HfdlcError):
    """A signature does not belong to what it should, or not to the key."""


class Cosign:
    """The program, and one key of it: `awskms://…` and the like, or a file."""

    def __init__(self, key: str, state: State) -> None:
        if "://" not in key and not Path(key).is_file():
            raise UserError(
                "there is no such key",
                where=key,
                allowed="a file, or a URI like awskms:///alias/NAME",
                then="cosign generate-key-pair makes cosign.key and cosign.pub",
            )
        self.key = key
        self._program = program(state)

    def sign(self, content: bytes) -> str:
        """The signature of bytes, in base64. COSIGN_PASSWORD opens the key, as it does for cosign itself.

        Raises HfdlcError where the key cannot be used.
        """
        with tempfile.TemporaryDirectory() as folder:
            file, out = Path(folder) / "payload", Path(folder) / "signature"
            file.write_bytes(content)
            words = ["--key", self.key, "--tlog-upload=false", "--yes", "--output-signature", str(out)]
            try:
                run([self._program, "sign-blob", *words, str(file)], timeout=120)
            except CommandFailed as error:
                raise HfdlcError(
                    f"cosign cannot sign with this key\n{error.output.strip()[-600:]}",
                    where=self.key,
                    then="see that COSIGN_PASSWORD opens the key, or that the service lets it be used",
                ) from error
            return out.read_text().strip()

    def verify(self, content: bytes, signature: str, what: str) -> None:
        """Raise NoMatch where a signature (base64) is not that of these bytes with this key."""
        with tempfile.TemporaryDirectory() as folder:
            file, signed = Path(folder) / "payload", Path(folder) / "signature"
            file.write_bytes(content)
            signed.write_text(signature)
            words = ["--key", self.key, "--insecure-ignore-tlog", "--signature", str(signed), str(file)]
            try:
                run([self._program, "verify-blob", *words], timeout=120)
            except CommandFailed as error:
                raise NoMatch(
                    f"the signature of {what} does not match the key {self.key}",
                    then="do not use this image; publish it again, under another tag",
                ) from error


def program(state: State) -> str:
    """Cosign where it is installed, else the distribution's, unpacked below the state folder."""
    if found := shutil.which("cosign"):
        return found
    folder = state.root / "tools" / "cosign"
    root = debian.unpacked(PACKAGES, folder) or debian.unpack(PACKAGES, folder, debian.release(), state)
    return str(root / "usr/bin/cosign")


def payload(repository: str, digest: str) -> bytes:
    """What cosign signs of an image: https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md."""
    critical = {
        "identity": {"docker-reference": repository},
        "image": {"docker-manifest-digest": digest},
        "type": SIMPLE,
    }
    return json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()


def envelope(statement: Mapping[str, Any], signer: Cosign) -> bytes:
    """A signed statement: https://github.com/secure-systems-lab/dsse/blob/master/envelope.md."""
    body = json.dumps(statement, separators=(",", ":"), sort_keys=True).encode()
    signature = signer.sign(_encoded(body))
    told = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(body).decode(),
        "signatures": [{"keyid": "", "sig": signature}],
    }
    return json.dumps(told, separators=(",", ":")).encode()


def opened(envelope: bytes, verifier: Cosign) -> dict[str, Any]:
    """The statement of an envelope.

    Raises NoMatch where none of its signatures is the key's.
    """
    told = json.loads(envelope)
    body = base64.b64decode(told["payload"])
    statement: dict[str, Any] = json.loads(body)
    verifier.verify(
        _encoded(body), told["signatures"][0]["sig"], f"the statement {statement['predicateType']}"
    )
    return statement


def unverified(envelope: bytes) -> dict[str, Any]:
    """The statement of an envelope that this machine has signed before, or that is only counted."""
    statement: dict[str, Any] = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    return statement


def _encoded(body: bytes) -> bytes:
    """DSSE's encoding of what is signed."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)
