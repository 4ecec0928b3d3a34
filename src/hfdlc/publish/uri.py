"""Image URIs: composed from a cell and a region, and parsed."""

import re
from dataclasses import asdict, dataclass
from typing import Any

from hfdlc.errors import UserError
from hfdlc.matrix import cells
from hfdlc.matrix.schema import nearest
from hfdlc.publish.regions import REGIONS, Region

HOST = re.compile(r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.(?P<domain>[a-z0-9.]+)")
SHAPE = f"ACCOUNT.dkr.ecr.REGION.DOMAIN/{cells.SHAPE}"


@dataclass(frozen=True)
class Uri:
    """The parts of a published image's URI."""

    account: str
    region: str
    domain: str
    framework: str
    type: str
    framework_version: str
    transformers_version: str
    device: str
    python: str
    cuda: str | None
    os: str

    @property
    def image(self) -> str:
        """The part after the registry: a cell's id, if there is such a cell."""
        tag = cells.compose_tag(
            framework_version=self.framework_version,
            transformers_version=self.transformers_version,
            python=self.python,
            cuda=self.cuda,
            os=self.os,
        )
        return f"huggingface-{self.framework}-{self.type}:{tag}"

    def __str__(self) -> str:
        return f"{self.account}.dkr.ecr.{self.region}.{self.domain}/{self.image}"

    def json(self) -> dict[str, Any]:
        """What `hfdlc uri --parse` prints."""
        return {"uri": str(self), **asdict(self)}


def region(name: str) -> Region:
    """A region by its name.

    Raises UserError that suggests the nearest one if images are not published there.
    """
    if name not in REGIONS:
        raise UserError(
            f"no Deep Learning Containers are published in {name!r}{nearest(name, list(REGIONS))}",
            allowed=", ".join(sorted(REGIONS)),
        )
    return REGIONS[name]


def compose(image: str, where: Region) -> str:
    """The URI of a cell's image in a region."""
    return f"{where.registry}/{image}"


def parse(text: str) -> Uri:
    """The parts of a URI.

    Raises UserError if it is not one of ours, or its region is unknown, or the account is not the region's.
    """
    host, _, image = text.partition("/")
    match = HOST.fullmatch(host)
    if not match or not re.fullmatch(cells.ID, image):
        raise UserError("this is not the URI of a Hugging Face container", location=text, allowed=SHAPE)
    parts = match.groupdict()
    there = region(parts["region"])
    for name, right in (("account", there.account), ("domain", there.domain)):
        if parts[name] != right:
            raise UserError(f"{parts[name]} is not the {name} of {there.name}", location=text, allowed=right)
    return Uri(**parts, **cells.parse(image))
