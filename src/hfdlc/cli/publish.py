"""The commands of the panel Registry, and `ci`."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from hfdlc.cli.options import (
    AsJson,
    PlainHttp,
    current_project,
    print_json,
    registries,
    selecting,
    some,
    write_changed,
)
from hfdlc.errors import UserError
from hfdlc.process import say

if TYPE_CHECKING:
    from hfdlc.matrix.selector import Filter
    from hfdlc.publish.transfer import TagStatus

Regions = Annotated[list[str] | None, typer.Option("--region", help="An AWS region. Can be repeated.")]
Registries = Annotated[
    list[str] | None,
    typer.Option(
        "--registry",
        help="HOST[/PREFIX], or REGION=HOST[/PREFIX] to replace the registry of a region. Can be repeated.",
    ),
]
WithoutGpuChecks = Annotated[
    bool,
    typer.Option(
        "--without-gpu-checks",
        help="Publish GPU images without GPU checks; the attestation lists these.",
    ),
]
Key = Annotated[
    str | None, typer.Option(envvar="COSIGN_KEY", help="The private key: a file, or awskms:///alias/NAME.")
]


@selecting
def publish(
    wanted: "Filter",
    region: Regions = None,
    registry: Registries = None,
    key: Key = None,
    oci: Annotated[
        bool,
        typer.Option(
            "--oci", help="Use OCI media types and zstd layers. SageMaker needs the default, Docker schema 2."
        ),
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="REGION|HOST",
            help="Copy published images from there; needs no engine and no key.",
        ),
    ] = None,
    build: Annotated[
        bool,
        typer.Option(
            "--build", help="First build and check the cells that are not published from the same inputs."
        ),
    ] = False,
    without_gpu_checks: WithoutGpuChecks = False,
    plain_http: PlainHttp = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be published, and publish nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish checked images with signature and attestations. Default: the default cell.

    The attestations are SBOM, provenance and check results.
    """
    from hfdlc.publish import publisher, targets

    if build and dry_run:
        raise UserError(
            "--build and --dry-run were given: what would be published is known only when it is built",
            allowed="one of them",
            hint="`hfdlc plan` prints what would be built",
        )
    project = current_project()
    cells = some(project, wanted, default=True)
    there = targets.parse(region or [], registries(registry or [], plain_http=plain_http))
    if start:
        found = publisher.copy(project, cells, targets.named(start, there), there, dry_run=dry_run)
    else:
        options = publisher.Options(key, oci, dry_run, not without_gpu_checks)
        if build:
            from hfdlc.publish import builds

            found = builds.publish(project, cells, os.environ, there, options)
        else:
            found = publisher.publish(project, cells, os.environ, there, options)
    if as_json:
        print_json([one.json() for one in found])
        return
    _print(found, dry_run)


def _print(found: "list[TagStatus]", dry_run: bool) -> None:
    words = {"missing": "to publish" if dry_run else "published", "there": "up to date"}
    for one in found:
        digest = f"  {one.there or one.here}" if one.there or one.here else ""
        print(f"{words[one.state]:14}{one.target.name}  {one.cell}{digest}")


def verify(
    uri: Annotated[str, typer.Argument(metavar="URI", help="HOST/REPOSITORY:TAG or HOST/REPOSITORY@DIGEST.")],
    key: Annotated[
        str, typer.Option(envvar="COSIGN_PUBLIC_KEY", help="The public key: a file, or awskms:///alias/NAME.")
    ],
    layers: Annotated[bool, typer.Option(help="Compare the packages in the layers with the SBOM.")] = True,
    plain_http: PlainHttp = False,
) -> None:
    """Verify the signature, provenance, check results and SBOM of a published image."""
    from hfdlc.publish import targets
    from hfdlc.publish import verify as verifying
    from hfdlc.publish.signing import Cosign
    from hfdlc.state import State

    host, repository, reference = verifying.split(uri)
    verifier = Cosign(key, State.of(os.environ), os.environ)
    target = targets.of_address(registries([host], plain_http=plain_http)[0])
    found = verifying.verify(target.registry, repository, reference, verifier, layers=layers)
    print(f"{host}/{repository}@{found.digest}")
    print(f"  image config {found.config_digest}")
    for line in found.results:
        print(f"  {line}")


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A published cell.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another published cell.")],
    as_json: AsJson = False,
) -> None:
    """List the packages that differ between two published images, and the bytes to pull."""
    from hfdlc.publish import releases

    root = current_project().root
    before, after = releases.needed(old, root), releases.needed(new, root)
    found = releases.changes(before, after)
    if as_json:
        print_json(found)
        return
    for kind, packages in releases.differing(before, after).items():
        for name, (was, now) in packages.items():
            print(f"{kind:6}{name:32}{was or '-':20}{now or '-'}")
    print(f"to pull: {found['pull'] / 1e6:.1f} MB of {after.bytes / 1e6:.1f} MB")  # type: ignore[operator]


def prune(
    keep: Annotated[int, typer.Option(min=1, help="Images to keep in each repository.")],
    region: Annotated[str, typer.Option(help="An AWS region.")],
    yes: Annotated[bool, typer.Option("--yes", help="Remove the images. Default: only list them.")] = False,
    as_json: AsJson = False,
) -> None:
    """List or remove old images in an AWS region. Images with a tag of the matrix are kept."""
    from hfdlc.publish import retention
    from hfdlc.publish.ecr import Ecr
    from hfdlc.publish.uri import region as known_region

    project = current_project()
    gone = retention.prune(project, Ecr.of(known_region(region).name), keep, dry_run=not yes)
    if as_json:
        print_json([image.json() for image in gone])
    else:
        for image in gone:
            tags = ", ".join(image.tags) or "no tag"
            print(f"{'removed' if yes else 'to remove'}  {image.repository}@{image.digest}  {tags}")
    if gone and not yes:
        say(f"{len(gone)} images would be removed; add --yes to remove them")
    if not gone:
        say("no images to remove")


def ci(
    listed: Annotated[
        bool, typer.Option("--list", help="Print the cells that CI builds, in the format of GITHUB_OUTPUT.")
    ] = False,
) -> None:
    """Write the CI files in buildspec/ and .github/workflows/."""
    from hfdlc.generated import ci as writing

    project = current_project()
    if listed:
        print(writing.outputs(project, os.environ))
        if left := writing.without_runner(project, os.environ):
            names = ", ".join(cell.id for cell in left)
            say(f"::warning::not built, because GPU_RUNNER names no runner with a GPU: {names}")
        return
    write_changed(project, writing.files(project))
