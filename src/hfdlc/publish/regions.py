"""The regions in which AWS publishes Deep Learning Containers, with the account and the domain of each.

Source: AWS's list of available images and the registries in the SageMaker Python SDK, read in November 2026.
"""

from dataclasses import dataclass

DOMAIN = "amazonaws.com"
COMMON = "763104351884"


@dataclass(frozen=True)
class Region:
    """A region, and the account that publishes its images."""

    name: str
    account: str = COMMON
    domain: str = DOMAIN

    @property
    def registry(self) -> str:
        """The registry's host."""
        return f"{self.account}.dkr.ecr.{self.name}.{self.domain}"


_COMMON = (
    "us-east-1 us-east-2 us-west-1 us-west-2 ca-central-1 sa-east-1 "
    "eu-central-1 eu-north-1 eu-west-1 eu-west-2 eu-west-3 "
    "ap-northeast-1 ap-northeast-2 ap-south-1 ap-southeast-1 ap-southeast-2"
)
_OWN_ACCOUNT = {
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-northeast-3": "364406365360",
    "ap-south-2": "772153158452",
    "ap-southeast-3": "907027046896",
    "ap-southeast-4": "457447274322",
    "ap-southeast-5": "550225433462",
    "ap-southeast-7": "590183813437",
    "ca-west-1": "204538143572",
    "eu-central-2": "380420809688",
    "eu-south-1": "692866216735",
    "eu-south-2": "503227376785",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
    "mx-central-1": "637423239942",
    "us-gov-east-1": "446045086412",
    "us-gov-west-1": "442386744353",
}
_OWN_DOMAIN = {
    "cn-north-1": ("727897471807", "amazonaws.com.cn"),
    "cn-northwest-1": ("727897471807", "amazonaws.com.cn"),
    "us-iso-east-1": ("886529160074", "c2s.ic.gov"),
    "us-isob-east-1": ("094389454867", "sc2s.sgov.gov"),
    "us-isof-east-1": ("303241398832", "csp.hci.ic.gov"),
    "us-isof-south-1": ("454834333376", "csp.hci.ic.gov"),
}

REGIONS = {
    region.name: region
    for region in (
        *(Region(name) for name in _COMMON.split()),
        *(Region(name, account) for name, account in _OWN_ACCOUNT.items()),
        *(Region(name, account, domain) for name, (account, domain) in _OWN_DOMAIN.items()),
    )
}
