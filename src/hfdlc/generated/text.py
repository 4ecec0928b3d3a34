"""Releases in the text of `matrix.yaml`: where they are, so that edits keep comments and order."""

from hfdlc.project import Project


def lines_of(text: str, here: Project, index: int) -> tuple[int, int]:
    """The lines of a release: its first one, and the one after its last, counted from 0."""
    places, lines = here.matrix.document.places, text.splitlines()
    start = places[("releases", index)][0] - 1
    behind = (place for place in places.values() if place[0] - 1 > start and place[1] == 1)
    end_of_file = (len(lines) + 1, 1)
    follower = places.get(("releases", index + 1)) or min(behind, default=end_of_file)
    end = follower[0] - 1
    # Comments at the end belong to what follows.
    while not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#"):
        end -= 1
    return start, end
