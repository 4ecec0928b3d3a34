"""Amazon ECR in a region: authentication and repositories, with boto3 and its credential chain."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

from hfdlc.errors import HfdlcError
from hfdlc.oci.registry import ACCEPT
from hfdlc.oci.transport import ACTION

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_ecr.type_defs import ImageDetailTypeDef

EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
UNKNOWN = ("UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException")
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")
AT_ONCE = 100  # images that one request may name
_CREATING = Lock()  # creating clients of a boto3 session is not thread-safe; using them is


class Denied(HfdlcError):
    """The credentials are valid, but lack a permission."""


@dataclass(frozen=True)
class Ecr:
    """The registry of the credentials' account in one region."""

    region: str
    client: "ECRClient"

    @classmethod
    def of(cls, region: str) -> "Ecr":
        """A client of the region; nothing is sent yet."""
        with _reporting(region, "authentication"), _CREATING:
            return cls(region, _session().client("ecr", region_name=region))

    def sign_in(self) -> tuple[str, str, str]:
        """The registry's host, and a user and a password that are valid for twelve hours."""
        with _reporting(self.region, "ecr:GetAuthorizationToken"):
            found = self.client.get_authorization_token()["authorizationData"][0]
        user, _, password = base64.b64decode(found["authorizationToken"]).decode().partition(":")
        return found["proxyEndpoint"].removeprefix("https://"), user, password

    def ensure(self, repository: str) -> bool:
        """Create a repository with immutable tags and scan on push if it is missing; whether it was.

        Raises HfdlcError if it may not be created.
        """
        if self.has(repository):
            return False
        try:
            with _reporting(self.region, "ecr:CreateRepository", repository):
                self.client.create_repository(
                    repositoryName=repository,
                    imageTagMutability="IMMUTABLE",
                    imageScanningConfiguration={"scanOnPush": True},
                )
        except Denied as problem:
            raise HfdlcError(
                f"the repository {repository} does not exist and cannot be created: {problem.message}",
                location=self.region,
                hint=f"create it, or allow {problem.allowed or 'ecr:CreateRepository'}",
            ) from problem
        return True

    def has(self, repository: str) -> bool:
        """Whether the repository exists."""
        try:
            with _reporting(self.region, "ecr:DescribeRepositories", repository):
                self.client.describe_repositories(repositoryNames=[repository])
        except self.client.exceptions.RepositoryNotFoundException:
            return False
        return True

    def images(self, repository: str) -> "list[ImageDetailTypeDef]":
        """All images of a repository, with their tags and times; none if it does not exist."""
        try:
            with _reporting(self.region, "ecr:DescribeImages", repository):
                pages = self.client.get_paginator("describe_images").paginate(repositoryName=repository)
                return [image for page in pages for image in page["imageDetails"]]
        except self.client.exceptions.RepositoryNotFoundException:
            return []

    def subjects(self, repository: str, digests: list[str]) -> dict[str, str]:
        """The image that each of these manifests refers to (OCI 1.1), by digest; most refer to none.

        Raises HfdlcError that names what could not be read.
        """
        found = {}
        for some in _batches(digests):
            with _reporting(self.region, "ecr:BatchGetImage", repository):
                response = self.client.batch_get_image(
                    repositoryName=repository, imageIds=some, acceptedMediaTypes=ACCEPT.split(", ")
                )
            _require_all(response, "could not be read", repository)
            for image in response["images"]:
                if subject := json.loads(image["imageManifest"]).get("subject"):
                    found[image["imageId"]["imageDigest"]] = str(subject["digest"])
        return found

    def remove(self, repository: str, digests: list[str]) -> None:
        """Remove images by their digests.

        Raises HfdlcError that names what could not be removed.
        """
        for some in _batches(digests):
            with _reporting(self.region, "ecr:BatchDeleteImage", repository):
                response = self.client.batch_delete_image(repositoryName=repository, imageIds=some)
            _require_all(response, "could not be removed", repository)


def _batches(digests: list[str]) -> Iterator[Any]:
    for first in range(0, len(digests), AT_ONCE):
        yield [{"imageDigest": digest} for digest in digests[first : first + AT_ONCE]]


def _require_all(response: Any, what: str, repository: str) -> None:
    if failures := response.get("failures"):
        lines = [f"{one['imageId'].get('imageDigest')}: {one.get('failureReason')}" for one in failures]
        raise HfdlcError(f"{what}\n  " + "\n  ".join(lines), location=repository)


@cache
def _session() -> boto3.session.Session:
    """One for all regions: reading AWS's service descriptions takes a while."""
    return boto3.session.Session()


@contextmanager
def _reporting(region: str, action: str, resource: str = "") -> Iterator[None]:
    """Raise AWS's errors as HfdlcError, except that of a missing repository."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise HfdlcError(
            f"no AWS credentials for {action}: {error}",
            location=region,
            hint="run `aws configure`, set AWS_PROFILE, or use a role: boto3's credential chain finds them",
        ) from error
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code == "RepositoryNotFoundException":
            raise
        raise _error(code, message, region, action, resource) from error
    except BotoCoreError as error:
        raise HfdlcError(f"{action} failed: {error}", location=region) from error


def _error(code: str, message: str, region: str, action: str, resource: str) -> HfdlcError:
    # AWS documents the codes; a proxy in between may respond in another form.
    if code in EXPIRED or "token included in the request is expired" in message:
        return HfdlcError(
            f"the AWS credentials have expired: {message}",
            location=region,
            hint="authenticate again (`aws sso login`, or assume the role again), then run this again",
        )
    if code in UNKNOWN or "token included in the request is invalid" in message:
        return HfdlcError(
            f"authentication failed: AWS rejected the credentials: {message}",
            location=region,
            hint="run `aws sts get-caller-identity` to see which credentials are used",
        )
    if code in DENIED or "not authorized to perform" in message:
        found = ACTION.search(message)
        which = found["action"] if found else action
        on = (found["resource"] if found else None) or resource or "*"
        return Denied(f"{which} on {on} is not allowed", location=region, allowed=f"{which} on {on}")
    return HfdlcError(f"{action} failed: {code}: {message}", location=region)
