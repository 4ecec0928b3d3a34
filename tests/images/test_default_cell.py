"""The default cell's image passes its checks, and its facts have the documented form."""

import json
import re

import pytest

from hfdlc.checks import report as reports
from hfdlc.checks import runner
from hfdlc.checks.subject import Subject
from hfdlc.project import Project
from hfdlc.state import State

pytestmark = pytest.mark.engine


def test_every_check_passes(subject: Subject, state: State) -> None:
    """All levels are run. A machine without credentials and mirrors has no secrets to search for."""
    report = runner.run(subject)
    assert report.failed == {}
    assert set(report.not_run) <= {"test_all: test_no_secrets_in_layers"}
    assert {name.partition(":")[0] for name in report.passed} == {
        "test_all",
        "test_pytorch",
        "test_inference",
        "test_cpu",
        "test_openvino",
        "test_grammar",
        "test_peft",
    }
    reports.remember(report, state)
    assert reports.remembered(report.config_digest, state) == report


def test_facts_have_the_documented_keys(subject: Subject, repository: Project) -> None:
    """Programs find what the README promises, and the sizes of the layers add up."""
    facts = subject.facts.json()
    assert list(facts) == [
        "python",
        "framework_version",
        "transformers_version",
        "toolkit_version",
        "cuda",
        "os",
        "size",
        "layers",
        "digest",
        "config_digest",
    ]
    json.dumps(facts)
    assert facts["size"] == sum(layer["size"] for layer in facts["layers"]) > 0.9 * 10**9
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", layer["digest"]) for layer in facts["layers"])
    assert facts["python"] == repository.default.python
