"""The default cell's real image: published, and seen by syft as its SBOM says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from hfdlc.build.session import Session
from hfdlc.checks import facts, report, runner
from hfdlc.engine import images
from hfdlc.engine.detect import Engine
from hfdlc.oci.registry import Registry
from hfdlc.project import Project
from hfdlc.publish import attestations, publisher, sbom, transfer
from hfdlc.publish.targets import parse
from hfdlc.state import State
from parts import Keys

pytestmark = pytest.mark.engine
SYFT = str(Path(sys.executable).with_name("syft"))


def test_syft_finds_the_packages_of_the_sbom(
    built: str, repository: Project, session: Session, used_engine: Engine, state: State, registry: str,
    keys: Keys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """Real image, real registry, real syft: the same Python and Debian packages, by name and version."""
    monkeypatch.setenv("COSIGN_PASSWORD", "of a test")
    cell = repository.default
    identity = facts.identity(images.image_of(built, used_engine), used_engine, state)
    if not report.remembered(identity, state):
        runner.check(session, [cell])
    record = repository.root / "releases" / cell.repository / f"{cell.tag}.json"
    assert not record.exists(), "the repository's own record is none of a test's"
    try:
        options = publisher.Options(keys.private)
        publisher.publish(repository, [cell], os.environ, parse([], [registry]), options)
    finally:
        record.unlink(missing_ok=True)
        for folder in (record.parent, record.parent.parent):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    there = Registry(registry)
    manifest = there.manifest(cell.repository, cell.tag)
    assert manifest.config_digest == identity
    statements = transfer.attachments(there, cell.repository, manifest.digest)["att"].statements
    predicates = {one["predicateType"]: one["predicate"] for one in statements}
    assert predicates[attestations.CHECKS]["result"] == "PASSED"
    document = predicates[attestations.SBOM]
    assert sbom.with_license(document) > 0.9 * len(document["components"])
    environ = {**os.environ, "SYFT_REGISTRY_INSECURE_USE_HTTP": "true", "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    command = [SYFT, "scan", f"registry:{registry}/{built}", "-q", "-o", "syft-json"]
    ended = subprocess.run(
        command, env={**environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    seen = json.loads(ended.stdout)["artifacts"]
    for kind, ours in (
        ("python", sbom.installed(document, "pypi")),
        ("deb", sbom.installed(document, "deb")),
    ):
        theirs = {canonicalize_name(a["name"]): a["version"] for a in seen if a["type"] == kind}
        mine = {canonicalize_name(name): version for name, version in ours.items()}
        others = {(n, v) for n, v in theirs.items() if mine.get(n) != v}
        bundled = {(each.name, each.version) for each in sbom.packages(document) if each.bundled}
        assert others - bundled == set(), f"{kind}: syft sees others"
        assert {n: v for n, v in mine.items() if n not in theirs} == {}, f"{kind}: syft does not see"
