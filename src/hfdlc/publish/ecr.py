"""Amazon ECR in a region: signing in, and its repositories, by boto3 and its chain of credentials."""

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
_MAKING = Lock()  # a session makes its clients one after another; the clients may be shared


class Denied(HfdlcError):
    """AWS knows who asks, and does not let them."""


@dataclass(frozen=True)
class Ecr:
    """The registry of the credentials' account in one region."""

    region: str
    client: "ECRClient"

    @classmethod
    def of(cls, region: str) -> "Ecr":
        """Speak to a region; nothing is sent yet."""
        with _letters(region, "signing in"), _MAKING:
            return cls(region, _session().client("ecr", region_name=region))

    def sign_in(self) -> tuple[str, str, str]:
        """The registry's host, and a user and a password that hold for twelve hours."""
        with _letters(self.region, "ecr:GetAuthorizationToken"):
            told = self.client.get_authorization_token()["authorizationData"][0]
        user, _, password = base64.b64decode(told["authorizationToken"]).decode().partition(":")
        return told["proxyEndpoint"].removeprefix("https://"), user, password

    def ensure(self, repository: str) -> bool:
        """Make a repository with immutable tags and scan on push where it is missing; whether it was.

        Raises HfdlcError where it is missing and may not be made.
        """
        if self.has(repository):
            return False
        try:
            with _letters(self.region, "ecr:CreateRepository", repository):
                self.client.create_repository(
                    repositoryName=repository,
                    imageTagMutability="IMMUTABLE",
                    imageScanningConfiguration={"scanOnPush": True},
                )
        except Denied as problem:
            raise HfdlcError(
                f"the repository {repository} is missing and may not be made: {problem.what}",
                where=self.region,
                then=f"let it be made, or allow {problem.allowed or 'ecr:CreateRepository'}",
            ) from problem
        return True

    def has(self, repository: str) -> bool:
        """Whether there is such a repository."""
        try:
            with _letters(self.region, "ecr:DescribeRepositories", repository):
                self.client.describe_repositories(repositoryNames=[repository])
        except self.client.exceptions.RepositoryNotFoundException:
            return False
        return True

    def images(self, repository: str) -> "list[ImageDetailTypeDef]":
        """All images of a repository, with their tags and times; none where it is not there."""
        try:
            with _letters(self.region, "ecr:DescribeImages", repository):
                pages = self.client.get_paginator("describe_images").paginate(repositoryName=repository)
                return [image for page in pages for image in page["imageDetails"]]
        except self.client.exceptions.RepositoryNotFoundException:
            return []

    def subjects(self, repository: str, digests: list[str]) -> dict[str, str]:
        """Which image each of these refers to, as OCI 1.1 says it, by their digests; most refer to none.

        Raises HfdlcError that names what could not be read.
        """
        found = {}
        for some in _portions(digests):
            with _letters(self.region, "ecr:BatchGetImage", repository):
                told = self.client.batch_get_image(
                    repositoryName=repository, imageIds=some, acceptedMediaTypes=ACCEPT.split(", ")
                )
            _whole(told, "could not be read", repository)
            for image in told["images"]:
                if subject := json.loads(image["imageManifest"]).get("subject"):
                    found[image["imageId"]["imageDigest"]] = str(subject["digest"])
        return found

    def remove(self, repository: str, digests: list[str]) -> None:
        """Remove images by their digests.

        Raises HfdlcError that names what could not be removed.
        """
        for some in _portions(digests):
            with _letters(self.region, "ecr:BatchDeleteImage", repository):
                told = self.client.batch_delete_image(repositoryName=repository, imageIds=some)
            _whole(told, "could not be removed", repository)


def _portions(digests: list[str]) -> Iterator[Any]:
    for first in range(0, len(digests), AT_ONCE):
        yield [{"imageDigest": digest} for digest in digests[first : first + AT_ONCE]]


def _whole(told: Any, what: str, repository: str) -> None:
    if failures := told.get("failures"):
        lines = [f"{one['imageId'].get('imageDigest')}: {one.get('failureReason')}" for one in failures]
        raise HfdlcError(f"{what}\n  " + "\n  ".join(lines), where=repository)


@cache
def _session() -> boto3.session.Session:
    """One for all regions: it reads AWS's descriptions once."""
    return boto3.session.Session()


@contextmanager
def _letters(region: str, action: str, resource: str = "") -> Iterator[None]:
    """AWS's errors as letters; a missing repository stays what it is."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise HfdlcError(
            f"there are no AWS credentials for {action}: {error}",
            where=region,
            then="aws configure, AWS_PROFILE, or a role: whatever boto3's credential chain finds",
        ) from error
    except ClientError as error:
        code, said = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code == "RepositoryNotFoundException":
            raise
        raise _letter(code, said, region, action, resource) from error
    except BotoCoreError as error:
        raise HfdlcError(f"AWS does not answer {action}: {error}", where=region) from error


def _letter(code: str, said: str, region: str, action: str, resource: str) -> HfdlcError:
    # A code is what AWS's documentation promises; what stands between may answer in another form.
    if code in EXPIRED or "token included in the request is expired" in said:
        return HfdlcError(
            f"the AWS credentials have expired: {said}",
            where=region,
            then="sign in anew (aws sso login, or take the role again), then run this again",
        )
    if code in UNKNOWN or "token included in the request is invalid" in said:
        return HfdlcError(
            f"AWS does not know these credentials: {said}",
            where=region,
            then="aws sts get-caller-identity shows whose they are",
        )
    if code in DENIED or "not authorized to perform" in said:
        told = ACTION.search(said)
        which = told["action"] if told else action
        on = (told["resource"] if told else None) or resource or "*"
        return Denied(f"{which} on {on} is not allowed", where=region, allowed=f"{which} on {on}")
    return HfdlcError(f"{action} failed: {code}: {said}", where=region)
