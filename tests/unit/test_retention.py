"""Which images `hfdlc prune` may remove from a registry."""

from datetime import UTC, datetime, timedelta

import pytest

from hfdlc.publish.retention import Image, old

NOW = datetime(2026, 11, 29, tzinfo=UTC)
IMAGES = [Image("r", f"sha256:{n}", (f"t{n}",), NOW - timedelta(days=n), 1) for n in range(5)]


@pytest.mark.parametrize(
    ("keep", "current", "removed"),
    [
        (2, [], ["sha256:2", "sha256:3", "sha256:4"]),
        (2, ["t4"], ["sha256:2", "sha256:3"]),
        (9, [], []),
    ],
    ids=["older than the newest two", "current tag", "all are kept"],
)
def test_old_images_are_those_beyond_the_newest_without_a_current_tag(
    keep: int, current: list[str], removed: list[str]
) -> None:
    assert [image.digest for image in old(IMAGES, keep, current)] == removed
