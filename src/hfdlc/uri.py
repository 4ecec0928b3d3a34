"""Image URIs: composed from a cell and a region, and taken apart again."""

import re
from dataclasses import asdict, dataclass
from typing import Any

from hfdlc.errors import UserError
from hfdlc.matrix import nearest
from hfdlc.regions import REGIONS, Region

FORM = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.(?P<domain>[a-z0-9.]+)"
    r"/huggingface-(?P<framework>pytorch|tensorflow)-(?P<type>training|inference)"
    r":(?P<framework_version>[0-9][\w.]*)-transformers(?P<transformers_version>[0-9][\w.]*)"
    r"-(?P<device>cpu|gpu)-py(?P<python>\d{2,3})(-(?P<cuda>cu\d{3}))?-(?P<os>[a-z]+[0-9][0-9.]*)"
)
SHAPE = (
    "ACCOUNT.dkr.ecr.REGION.DOMAIN/huggingface-FRAMEWORK-TYPE:"
    "VERSION-transformersVERSION-cpu|gpu-pyXY[-cuXYZ]-OS"
)


@dataclass(frozen=True)
class Uri:
    """What the name of a published image says."""

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
        """The part behind the registry: a cell's id, where there is such a cell."""
        parts = [self.framework_version, f"transformers{self.transformers_version}", self.device]
        parts += ["py" + self.python.replace(".", ""), *([self.cuda] if self.cuda else []), self.os]
        return f"huggingface-{self.framework}-{self.type}:{'-'.join(parts)}"

    def __str__(self) -> str:
        return f"{self.account}.dkr.ecr.{self.region}.{self.domain}/{self.image}"

    def json(self) -> dict[str, Any]:
        """Its parts, for programs."""
        return {"uri": str(self), **asdict(self)}


def region(name: str) -> Region:
    """A region by its name.

    Raises UserError, with the nearest one, where images are not published there.
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
    """Take a URI apart.

    Raises UserError where it is none of ours, its region is not known, or the account is not the region's.
    """
    match = FORM.fullmatch(text)
    if not match:
        raise UserError("this is no URI of a Hugging Face container", where=text, allowed=SHAPE)
    parts = match.groupdict()
    there = region(parts["region"])
    for name, right in (("account", there.account), ("domain", there.domain)):
        if parts[name] != right:
            raise UserError(f"{parts[name]} is not the {name} of {there.name}", where=text, allowed=right)
    if (parts["device"] == "gpu") != (parts["cuda"] is not None):
        raise UserError("a gpu image names its CUDA, a cpu image has none", where=text, allowed=SHAPE)
    return Uri(**{**parts, "python": f"{parts['python'][0]}.{parts['python'][1:]}"})


def axes(image: str) -> dict[str, str]:
    """A cell's id, there or not, by the axes that rules speak of."""
    parts = parse(compose(image, REGIONS["us-east-1"]))
    return {
        "framework": parts.framework,
        "framework_version": parts.framework_version,
        "transformers": parts.transformers_version,
        "type": parts.type,
        "device": parts.cuda or parts.device,
        "python": parts.python,
        "os": parts.os,
    }


def axis(word: str) -> tuple[str, str]:
    """`AXIS=VALUE`.

    Raises UserError where it is something else.
    """
    name, equals, value = word.partition("=")
    if not equals:
        raise UserError(
            f"{word!r} is no AXIS=VALUE", allowed="a cell's id, or words like framework=tensorflow"
        )
    return name, value
