"""The doctor's findings fit one screen, and say what to do."""

from hfdlc.doctor import Finding, screen


def test_a_finding_is_a_line_and_its_advice_another() -> None:
    """How it stands, what it is, what was found, what to do."""
    findings = [Finding("python", "ok", "3.11.2"), Finding("engine", "missing", "none", "start Docker")]
    assert screen(findings).splitlines() == [
        "ok       python           3.11.2",
        "missing  engine           none",
        "                          -> start Docker",
    ]
