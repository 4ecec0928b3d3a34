"""What cosign reports, in our words; its output is that of cosign 2.5."""

from pathlib import Path
from typing import NoReturn

import pytest

from hfdlc.errors import CommandFailed, HfdlcError, UserError
from hfdlc.publish import signing
from hfdlc.publish.signing import Cosign, NoMatch
from hfdlc.state import State

OTHER = "Error: no matching signatures: invalid signature when validating ASN.1 encoded signature"
PRIVATE = "Error: loading public key: pem to public key: unknown Public key PEM file type: ENCRYPTED SIGSTORE"
DENIED = "Error: no matching signatures: getting public key: operation error KMS: GetPublicKey"


@pytest.mark.parametrize(
    ("key", "output", "kind", "message"),
    [
        ("cosign.pub", OTHER, NoMatch, r"the signature does not match the key(.|\n)*do not use this image"),
        ("cosign.key", PRIVATE, UserError, r"cosign.key: cosign cannot read(.|\n)*hint: give cosign.pub"),
        ("awskms:///alias/a", DENIED, HfdlcError, r"awskms:///alias/a: cosign cannot read(.|\n)*credentials"),
    ],
)
def test_key_that_cannot_be_read_says_nothing_about_the_image(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    output: str,
    kind: type[HfdlcError],
    message: str,
) -> None:
    """It was reported as a signature that does not match, with the advice not to use the image."""
    if "://" not in key:
        (tmp_path / key).touch()
        key = str(tmp_path / key)

    def fail(argv: list[str], **_: object) -> NoReturn:
        raise CommandFailed(argv, 1, output)

    monkeypatch.setattr(signing, "run", fail)
    with pytest.raises(kind, match=message) as caught:
        Cosign(key, State(tmp_path), {}, "cosign")._check(["verify"], {}, "the signature")
    assert type(caught.value) is kind
