"""AWS's part: repositories, credentials, permissions and retention, through the real boto3."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
import requests

from hfdlc.oci.image import OCI_MANIFEST, digest_of
from hfdlc.oci.registry import Registry
from parts import Hfdlc, Small, fine
from proxy import Proxy

pytestmark = pytest.mark.engine
REGION = "us-east-1"
Environ = dict[str, str]


def _client(aws: Environ, service: str) -> Any:
    return boto3.client(  # type: ignore[call-overload]
        service,
        region_name=REGION,
        endpoint_url=aws["AWS_ENDPOINT_URL"],
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def _powers(aws: Environ, *actions: str) -> Environ:
    """The environment of a user who may do only this; AWS asks who it is from here on."""
    iam = _client(aws, "iam")
    iam.create_user(UserName="publisher")
    policy = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": "*"}],
    }
    iam.put_user_policy(UserName="publisher", PolicyName="p", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="publisher")["AccessKey"]
    requests.post(f"{aws['AWS_ENDPOINT_URL']}/moto-api/reset-auth", data=b"0", timeout=30)
    return {**aws, "AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


def test_publish_creates_a_missing_repository(
    small: Small, hfdlc: Hfdlc, registry: str, aws: Environ
) -> None:
    """With immutable tags, and scanned on push; two regions get the same digest."""
    cell = small.project.default
    small.image(cell)
    words = ("--region", REGION, "--registry", f"{REGION}={registry}")
    ended = fine(hfdlc("publish", *words, environ=aws))
    assert f"{REGION}: created the repository {cell.repository}" in ended.stderr
    (made,) = _client(aws, "ecr").describe_repositories()["repositories"]
    assert made["imageTagMutability"] == "IMMUTABLE"
    assert made["imageScanningConfiguration"] == {"scanOnPush": True}
    ended = hfdlc("publish", *words, environ=aws)
    assert "up to date" in ended.stdout, ended.stderr


def test_publish_copies_from_the_first_region_to_the_second(
    small: Small, hfdlc: Hfdlc, registry: str, proxied: Proxy, aws: Environ
) -> None:
    """Each blob is read there, none from here; both have the attachments, and the record names both."""
    cell = small.project.default
    small.image(cell, ballast=100_000)
    words = ["--region", REGION, "--region", "eu-west-1", "--registry", f"{REGION}={proxied.host}/one"]
    fine(hfdlc("publish", *words, "--registry", f"eu-west-1={proxied.host}/two", environ=aws))
    there = [Registry(f"{registry}/{name}").manifest(cell.repository, cell.tag) for name in ("one", "two")]
    assert there[0] == there[1]
    begun = [f"POST /v2/two/{cell.repository}/blobs/uploads/" in line for line in proxied.does.log]
    read = {line for line in proxied.does.log[begun.index(True) - 1 :] if line.startswith("GET /v2/one/")}
    wanted = {f"GET /v2/one/{cell.repository}/blobs/{blob['digest']}" for blob in there[0].blobs}
    assert read == wanted, "the second region got something that was not read from the first"
    kept = json.loads((small.project.root / "releases" / cell.repository / f"{cell.tag}.json").read_text())
    assert sorted(kept["targets"]) == ["eu-west-1", REGION]
    fine(hfdlc("verify", f"{registry}/two/{cell.id}"))


def test_publish_without_credentials_is_an_error(
    small: Small, hfdlc: Hfdlc, aws: Environ, tmp_path: str
) -> None:
    """What boto3 looked for, and what to do."""
    nothing = {"AWS_ENDPOINT_URL": aws["AWS_ENDPOINT_URL"], "HOME": str(tmp_path)}
    nothing["HFDLC_STATE"] = str(small.state.root)
    ended = hfdlc("publish", "--region", REGION, environ=nothing)
    assert ended.returncode == 1
    assert f"{REGION}: no AWS credentials for ecr:GetAuthorizationToken" in ended.stderr


def test_publish_with_unknown_credentials_is_an_error(small: Small, hfdlc: Hfdlc, aws: Environ) -> None:
    """As AWS says it, and whose they are."""
    requests.post(f"{aws['AWS_ENDPOINT_URL']}/moto-api/reset-auth", data=b"0", timeout=30)
    unknown = {**aws, "AWS_ACCESS_KEY_ID": "AKIAUNKNOWN000000000"}
    ended = hfdlc("publish", "--region", REGION, environ=unknown)
    assert ended.returncode == 1
    assert "authentication failed: AWS rejected the credentials" in ended.stderr


def test_publish_with_expired_credentials_is_an_error(small: Small, hfdlc: Hfdlc, aws: Environ) -> None:
    """A stand-in answers as AWS does: moto's tokens never expire."""

    class Expired(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = b'{"__type":"ExpiredTokenException","message":"The security token is expired"}'
            self.send_response(400)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Expired) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        ended = hfdlc("publish", "--region", REGION, environ={**aws, "AWS_ENDPOINT_URL": url})
        server.shutdown()
    assert ended.returncode == 1
    assert f"{REGION}: the AWS credentials have expired" in ended.stderr


def test_missing_permission_is_named(small: Small, hfdlc: Hfdlc, aws: Environ) -> None:
    """Which action, on which resource."""
    ended = hfdlc("publish", "--region", REGION, environ=_powers(aws, "s3:*"))
    assert ended.returncode == 1
    assert "ecr:GetAuthorizationToken on * is not allowed" in ended.stderr


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "User: arn:aws:iam::1:user/u is not authorized to perform: ecr:InitiateLayerUpload on resource: "
            "arn:aws:ecr:us-east-1:1:repository/r because no identity-based policy allows it",
            "ecr:InitiateLayerUpload on arn:aws:ecr:us-east-1:1:repository/r is not allowed",
        ),
        ("not today", "the registry forbids POST"),
    ],
)
def test_missing_permission_to_push_is_reported(
    message: str, said: str, small: Small, hfdlc: Hfdlc, proxied: Proxy
) -> None:
    """The proxy responds as ECR does: the action and the resource are named, and no tag appears."""
    cell = small.project.default
    small.image(cell)
    proxied.does.forbid = "/blobs/uploads/"
    proxied.does.forbidden = json.dumps({"errors": [{"code": "DENIED", "message": message}]})
    ended = hfdlc("publish", "--registry", proxied.host)
    assert ended.returncode == 1
    assert f"{proxied.host}: {said}" in ended.stderr
    assert Registry(proxied.host).head(cell.repository, cell.tag) is None


def test_prune_without_permission_is_an_error(hfdlc: Hfdlc, aws: Environ) -> None:
    """Which action, on which repository."""
    ended = hfdlc(
        "prune", "--keep", "1", "--region", REGION, environ=_powers(aws, "ecr:GetAuthorizationToken")
    )
    assert ended.returncode == 1
    assert "ecr:DescribeImages on huggingface-pytorch-inference is not allowed" in ended.stderr


def test_missing_permission_to_create_a_repository_is_reported(
    small: Small, hfdlc: Hfdlc, registry: str, aws: Environ
) -> None:
    """It is named, and nothing was sent."""
    cell = small.project.default
    small.image(cell)
    environ = _powers(aws, "ecr:GetAuthorizationToken", "ecr:Describe*")
    ended = hfdlc("publish", "--region", REGION, "--registry", registry, environ=environ)
    assert ended.returncode == 1
    assert f"the repository {cell.repository} does not exist and cannot be created" in ended.stderr
    assert f"ecr:CreateRepository on {cell.repository}" in ended.stderr
    assert Registry(registry).head(cell.repository, cell.tag) is None


def test_prune_keeps_tags_of_the_matrix(small: Small, hfdlc: Hfdlc, aws: Environ) -> None:
    """A dry run first; then old images are removed with their attachments, by digest."""
    cell = small.project.default
    ecr = _client(aws, "ecr")
    ecr.create_repository(repositoryName=cell.repository)
    digests = {}
    for number, tag in enumerate([cell.tag, "old-1", "old-2", "new"]):
        time.sleep(1.1 if tag == "new" else 0)  # times are in seconds there
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}
        layer = {"digest": f"sha256:{number}", "size": 1}  # of which moto makes the image's digest
        manifest |= {"config": {"digest": f"sha256:{number}", "size": 1}, "layers": [layer]}
        put = ecr.put_image(repositoryName=cell.repository, imageTag=tag, imageManifest=json.dumps(manifest))
        digests[tag] = put["image"]["imageId"]["imageDigest"]
    attachment = f"{digests['old-1'].replace(':', '-')}.sig"
    manifest = {**manifest, "layers": [{"digest": "sha256:9", "size": 1}]}
    ecr.put_image(repositoryName=cell.repository, imageTag=attachment, imageManifest=json.dumps(manifest))
    ended = fine(hfdlc("prune", "--keep", "1", "--region", REGION, environ=aws))
    assert "add --yes" in ended.stderr
    assert len(ecr.describe_images(repositoryName=cell.repository)["imageDetails"]) == 5
    ended = fine(hfdlc("prune", "--keep", "1", "--region", REGION, "--yes", environ=aws))
    left = {
        tag
        for image in ecr.describe_images(repositoryName=cell.repository)["imageDetails"]
        for tag in image.get("imageTags", [])
    }
    assert left == {cell.tag, "new"}


def test_prune_removes_referrers_with_their_image(small: Small, hfdlc: Hfdlc, aws: Environ) -> None:
    """They have no tag, do not count as releases, and stay as long as their image."""
    cell = small.project.default
    ecr = _client(aws, "ecr")
    ecr.create_repository(repositoryName=cell.repository)

    def put(number: int, tag: str, about: str | None = None) -> str:
        manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
        described = {"digest": f"sha256:{number}", "size": 1}
        manifest |= {"config": described, "layers": [described]}
        if about:
            manifest |= {"subject": {"mediaType": OCI_MANIFEST, "digest": about, "size": 1}}
        text = json.dumps(manifest)
        digest = digest_of(text.encode())
        words = {"imageTag": tag} if tag else {"imageDigest": digest}
        put_image = ecr.put_image(
            repositoryName=cell.repository, imageManifest=text, imageManifestMediaType=OCI_MANIFEST, **words
        )
        return str(put_image["image"]["imageId"]["imageDigest"])

    old_one = put(1, "old")
    gone = put(2, "", old_one)
    time.sleep(1.1)  # times are in seconds there
    current = put(3, cell.tag)
    time.sleep(1.1)
    stays = {current, *(put(number, "", current) for number in (4, 5))}
    fine(hfdlc("prune", "--keep", "1", "--region", REGION, "--yes", environ=aws))
    left = {i["imageDigest"] for i in ecr.describe_images(repositoryName=cell.repository)["imageDetails"]}
    assert left == stays
    assert not {old_one, gone} & left
