"""The name of a task."""

from typing import NamedTuple, Optional


class TaskName(NamedTuple):
    """A task as HF_TASK requests it, and its id. The languages are those of `translation_xx_to_yy`."""

    requested: str
    name: str
    source: Optional[str] = None
    target: Optional[str] = None
