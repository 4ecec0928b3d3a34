"""The package index of an AWS CodeArtifact repository, with a token from the machine's AWS credentials."""

import re
from typing import TYPE_CHECKING, Optional

from hf_inference_toolkit.errors import StartError

if TYPE_CHECKING:
    from mypy_boto3_codeartifact import CodeArtifactClient

VARIABLE = "CA_REPOSITORY_ARN"
_ARN = re.compile(r"arn:[^:]+:codeartifact:([^:]+):([^:]+):repository/([^/]+)/([^/]+)\Z")


def index_url(arn: str, client: Optional["CodeArtifactClient"] = None) -> str:
    """The index URL of a repository for pip. It contains a token: never log it.

    `client` is boto3's client for CodeArtifact; the default uses the repository's region.
    https://docs.aws.amazon.com/codeartifact/latest/ug/python-configure-pip.html
    """
    match = _ARN.match(arn)
    if match is None:
        raise StartError(
            "{}={} is not the ARN of a repository: "
            "arn:aws:codeartifact:REGION:ACCOUNT:repository/DOMAIN/REPOSITORY".format(VARIABLE, arn)
        )
    region, owner, domain, repository = match.groups()
    client = client or _client(region)
    try:
        token = client.get_authorization_token(domain=domain, domainOwner=owner)["authorizationToken"]
        endpoint = client.get_repository_endpoint(
            domain=domain, domainOwner=owner, repository=repository, format="pypi"
        )["repositoryEndpoint"]
    except Exception as problem:  # botocore has a class for each service's errors, made at run time
        raise StartError("{}={}: AWS refused access: {}".format(VARIABLE, arn, problem)) from None
    scheme, _, rest = str(endpoint).partition("://")
    return "{}://aws:{}@{}/simple/".format(scheme, token, rest.rstrip("/"))


def _client(region: str) -> "CodeArtifactClient":
    try:
        import boto3
    except ImportError:
        raise StartError(
            "{} needs the package boto3, which this image does not have. Build an image of your own with "
            "boto3, or set PIP_INDEX_URL".format(VARIABLE)
        ) from None
    return boto3.client("codeartifact", region_name=region)
