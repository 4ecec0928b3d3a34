"""The table of clients below the results: versions, and how many checks passed, failed or were not run."""

import pytest


class Outcomes:
    """What the programs of the clients printed."""

    def __init__(self):
        self.by_client = {}

    def _of(self, client):
        empty = {"version": "-", "passed": 0, "failed": 0, "unsupported": 0, "reasons": []}
        return self.by_client.setdefault(client.name, empty)

    def add(self, client, version, task, checks):
        found = self._of(client)
        found["version"] = version
        for outcome, check, reason in checks:
            found[outcome] += 1
            if outcome == "unsupported":
                found["reasons"].append(f"{task}, {check}: {reason}")

    def not_run(self, client, reason):
        reasons = self._of(client)["reasons"]
        if f"not run: {reason}" not in reasons:
            reasons.append(f"not run: {reason}")

    def lines(self):
        yield f"{'client':24} {'version':10} {'passed':>6} {'failed':>6} {'unsupported':>11}"
        for name, found in sorted(self.by_client.items()):
            counts = f"{found['passed']:6} {found['failed']:6} {found['unsupported']:11}"
            yield f"{name:24} {found['version']:10} {counts}"
        for name, found in sorted(self.by_client.items()):
            for reason in found["reasons"]:
                yield f"{name}: {reason}"


COLLECTED = Outcomes()


@pytest.fixture(scope="session")
def outcomes():
    return COLLECTED


def pytest_terminal_summary(terminalreporter):
    if COLLECTED.by_client:
        terminalreporter.section("clients")
        for line in COLLECTED.lines():
            terminalreporter.write_line(line)
