"""Publishing: compare tags, copy blobs, attach signature and attestations, and set the tag last.

`push` is the same without checks, signature and attestations. Both send layers from the layer store.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from hfdlc.build import assemble, builder, prepare
from hfdlc.build.buildkit import BuildFailed
from hfdlc.build.session import Session
from hfdlc.errors import HfdlcError, Problems, UserError
from hfdlc.matrix.cells import Cell
from hfdlc.oci import image as oci_image
from hfdlc.oci.image import Image, Manifest
from hfdlc.oci.store import GZIP, Damaged, LayerStore, StoredLayer
from hfdlc.process import say
from hfdlc.project import Project
from hfdlc.publish import attestations, preflight, releases, sbom, targets, transfer
from hfdlc.publish.attestations import Predicates
from hfdlc.publish.preflight import Candidate
from hfdlc.publish.signing import SUFFIXES, Attachment, Attachments, Cosign
from hfdlc.publish.targets import Target
from hfdlc.publish.transfer import FromRegistry, Moved, Source, TagStatus, Wanted
from hfdlc.state import State

ATTEMPTS = 3  # at preparing an image whose layers turn out to be damaged
OnLayer = Callable[[StoredLayer, Cell], None]


class Differs(Problems):
    """Tags that name another image: they never move."""

    exit_code = 1


class NotCopied(HfdlcError):
    """Cells that could not be copied; the others were."""


@dataclass(frozen=True)
class Options:
    """How to publish."""

    key: str | None = None
    oci: bool = False  # the image as it was built, with zstd layers, instead of Docker's schema 2 with gzip
    dry_run: bool = False
    gpu_checks: bool = True  # whether those of a GPU image must have been run


class Signer(Protocol):
    """Makes the signature and the attestations of an image; `signing.Cosign` does."""

    def sign(self, repository: str, manifest: Manifest, predicates: Predicates) -> dict[str, Attachment]: ...


@dataclass(frozen=True)
class Publication:
    """What publishing from this machine needs."""

    project: Project
    store: LayerStore
    oci: bool
    rebuild: Callable[[Cell], Image]
    predicates: Callable[[Candidate, Image], Predicates]
    signer: Callable[[], Signer]  # called only if something is to be published

    def wanted(self, candidate: Candidate) -> Wanted:
        """What is to be published, without compressing a layer to know it."""
        image = oci_image.load(self.store, candidate.config_digest)
        known = image if self.oci or not image else image.known_as_docker()
        return Wanted(candidate.config_digest, known.manifest.digest if known else None)

    def prepare(self, candidate: Candidate) -> tuple[Image, Predicates]:
        """The checked image as it is published, with every blob verified, and what is attested of it.

        Layers that are missing or damaged are made again. Raises HfdlcError if that gives another image.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                return self._prepare(candidate)
            except Damaged as problem:
                say(f"{problem.location}: {problem.message}; it is made again")
        return self._prepare(candidate)

    def _prepare(self, candidate: Candidate) -> tuple[Image, Predicates]:
        stored = oci_image.load(self.store, candidate.config_digest) or self.rebuild(candidate.cell)
        if stored.config_digest != candidate.config_digest:
            raise HfdlcError(
                f"its layers are not in the layer store, and building it now gives {stored.config_digest}, "
                f"not the checked image {candidate.config_digest}",
                location=candidate.cell.id,
                hint=f"hfdlc build --check {candidate.cell.id}",
            )
        stored.verify()
        # Reading the packages takes as long as compressing the layers: both are done at once.
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(self.predicates, candidate, stored)
            image = stored if self.oci else stored.as_docker(self.project.root)
            image.verify()
            return image, found.result()


def publish(
    project: Project,
    cells: Sequence[Cell],
    environ: Mapping[str, str],
    to: Sequence[Target],
    options: Options,
) -> list[TagStatus]:
    """Publish checked images; the first target gets them from here, the others from there.

    Gives the status that tags had before. Raises Refused, Differs or HfdlcError; what has a tag is complete.
    """
    if not cells:
        return []
    with Session(project, environ) as session, ExitStack() as held:
        builder, engine, state = session.builder, session.engine, session.state
        publication = Publication(
            project,
            LayerStore.of(state),
            options.oci,
            rebuild=partial(_rebuilt, session),
            predicates=partial(attestations.predicates, project, engine, builder),
            signer=partial(_signer, options, session),
        )
        prepare.hold(held, "publish", state)
        checked = preflight.candidates(cells, engine, state, gpu_checks=options.gpu_checks)
        return publish_checked(publication, checked, to, dry_run=options.dry_run)


def publish_checked(
    publication: Publication, candidates: Sequence[Candidate], to: Sequence[Target], *, dry_run: bool = False
) -> list[TagStatus]:
    """Publish these images; see `publish`."""
    project = publication.project
    wanted = {candidate.cell.id: publication.wanted(candidate) for candidate in candidates}
    found = transfer.compare(to, wanted, project.repositories)
    refuse_other_images(found)
    if dry_run:
        return found
    signer = publication.signer() if any(one.state == "missing" for one in found) else None
    for candidate in candidates:
        own = [one for one in found if one.cell == candidate.cell.id]
        if signer and any(one.state == "missing" for one in own):
            _publish(publication, candidate, own, signer)
        else:
            _record_published(candidate.cell.id, own, project)
    return found


def copy(
    project: Project, cells: Sequence[Cell], start: Target, to: Sequence[Target], *, dry_run: bool = False
) -> list[TagStatus]:
    """Copy what is published at `start` to other targets, by digest, with attachments; this needs no engine.

    The record is written from the attestations. Raises NotCopied, after all the others were copied, that
    names each cell that is not there or has no attestations.
    """
    sources: dict[str, Source] = {}
    problems: list[HfdlcError] = []
    for cell in cells:
        try:
            manifest = start.registry.manifest(cell.repository, cell.tag)
            sources[cell.id] = FromRegistry(start.registry, cell.repository, manifest)
        except HfdlcError as problem:
            problems.append(problem)
    wanted = {
        cell: Wanted(source.manifest.config_digest, source.manifest.digest)
        for cell, source in sources.items()
    }
    found = transfer.compare(to, wanted, project.repositories)
    refuse_other_images(found)
    for cell_id, source in {} if dry_run else sources.items():
        try:
            _copy(start, source, [one for one in found if one.cell == cell_id], project)
        except HfdlcError as problem:
            problems.append(problem)
    if problems:
        raise NotCopied("\n".join(map(str, problems)))
    return found


def push(
    project: Project,
    cells: Sequence[Cell],
    environ: Mapping[str, str],
    registry: str,
    *,
    docker_media_types: bool = False,
) -> dict[str, str]:
    """Push cells to `registry` (HOST or HOST/PREFIX), building what is not built; manifest digests by cell.

    Raises HfdlcError if a lock file or Dockerfile is not current, a build fails, or the registry does.
    """
    for cell in cells:
        builder.check_current(cell, project)
    target, store = targets.of_registry(registry), LayerStore.of(State.of(environ))
    registry = target.registry.address
    again = f"hfdlc push --registry {registry}"

    def send(layer: StoredLayer, cell: Cell) -> None:
        """Send a layer while others are built; the registry compares it with its digest."""
        if docker_media_types:
            layer = store.compressed(layer, GZIP, project.root)
        if not target.registry.has(cell.repository, layer.digest):
            opened = partial(store.open_at, layer.digest)
            target.registry.upload(cell.repository, layer.digest, layer.size, opened)

    try:
        with Session(project, environ) as session:
            images = _assembled(session, cells, send)
    except BuildFailed as problem:
        then = problem.hint.replace("hfdlc build", again, 1)
        raise HfdlcError(problem.message, location=problem.location, hint=then) from problem
    shared = sorted({cell.repository for cell in cells})
    digests = {}
    for cell in cells:
        image = images[cell.id].as_docker(project.root) if docker_media_types else images[cell.id]
        try:
            moved = push_image(image, target, cell, shared)
        except HfdlcError as problem:
            then = f"{again} {cell.id}"
            raise HfdlcError(problem.message, location=problem.location or registry, hint=then) from problem
        say(f"pushed {registry}/{cell.id}@{image.manifest.digest} ({moved})")
        digests[cell.id] = image.manifest.digest
    return digests


def push_image(image: Image, target: Target, cell: Cell, others: Sequence[str]) -> Moved:
    """Send an image and set its tag, which may have named another image.

    Raises Damaged, before a manifest is sent, if a blob does not match its digest.
    """
    if not target.registry.head(cell.repository, image.manifest.digest):
        image.verify()
    moved = transfer.copy_blobs(image, target, cell.repository, others)
    target.registry.put(cell.repository, cell.tag, image.manifest)
    return moved


def refuse_other_images(found: Sequence[TagStatus]) -> None:
    """Raise Differs that names every tag of another image."""
    if problems := [
        UserError(
            f"{one.target.name} has {one.there}, here is {one.here or 'another image'}: a tag never moves",
            location=one.cell,
            hint=f"publish it under another tag; `hfdlc plan --explain {one.cell}` names what differs",
        )
        for one in found
        if one.state == "different"
    ]:
        raise Differs(problems)


def _assembled(session: Session, cells: Sequence[Cell], on_layer: OnLayer | None = None) -> dict[str, Image]:
    """The images of cells from the layer store; layers that it lacks are built."""
    with prepare.prepared(session, cells) as context:
        return assemble.assemble(session, cells, context, on_layer=on_layer).images


def _rebuilt(session: Session, cell: Cell) -> Image:
    say(f"{cell.id}: not all its layers are in the layer store: building those that are missing")
    builder.check_current(cell, session.project)
    return _assembled(session, [cell])[cell.id]


def _signer(options: Options, session: Session) -> Cosign:
    if not options.key:
        raise UserError(
            "nothing is published without a signature, and no key is given",
            allowed="a file, or a URI like awskms:///alias/NAME",
            hint="add --key KEY (or COSIGN_KEY)",
        )
    return Cosign(options.key, session.state, session.environ)


def _publish(
    publication: Publication, candidate: Candidate, own: Sequence[TagStatus], signer: Signer
) -> None:
    """One cell, to all targets that lack it."""
    if published := _published(own):
        start, attachments = published
        _send(start, own, lambda: attachments, publication.project)
        return
    image, predicates = publication.prepare(candidate)
    existing = {k: v for one in own for k, v in _existing(one, image.manifest.digest).items()}

    def sign() -> Attachments:
        if set(existing) == set(SUFFIXES):
            return existing
        return {**signer.sign(candidate.cell.repository, image.manifest, predicates), **existing}

    with ThreadPoolExecutor(1) as pool:  # the image is sent meanwhile
        _send(image, own, pool.submit(sign).result, publication.project)


def _send(
    start: Source, own: Sequence[TagStatus], attachments: Callable[[], Attachments], project: Project
) -> None:
    """One cell to all targets that lack it: the first gets it from `start`, the others from there."""
    manifest = start.manifest
    for one in sorted(own, key=lambda one: one.state == "missing"):
        attached = attachments
        if one.state == "missing":
            attached = partial(dict, _one(start, one, attachments))
            start = FromRegistry(one.target.registry, one.repository, manifest)
        if one.there in (None, manifest.digest):
            _record(one.cell, one.target, manifest, attached(), project)


def _published(own: Sequence[TagStatus]) -> tuple[FromRegistry, Attachments] | None:
    """A target that has the image with its attachments, whatever its compression: the others get that."""
    for one in own:
        if one.state == "there" and one.there:
            registry = one.target.registry
            attachments = transfer.attachments(registry, one.repository, one.there)
            if set(attachments) == set(SUFFIXES):
                manifest = registry.manifest(one.repository, one.there)
                return FromRegistry(registry, one.repository, manifest), attachments
    return None


def _existing(one: TagStatus, digest: str) -> dict[str, Attachment]:
    """What a target has of a run that was interrupted, or of an earlier one."""
    return transfer.attachments(one.target.registry, one.repository, digest) if one.exists else {}


def _copy(start: Target, source: Source, own: Sequence[TagStatus], project: Project) -> None:
    """One cell, from where it is published to all targets that lack it."""
    cell, repository, manifest = own[0].cell, own[0].repository, source.manifest
    known = releases.read(cell, project.root)
    recorded = {start.name: start, **{one.target.name: one.target for one in own}}
    if known and known.digest == manifest.digest and {*recorded} <= {*known.targets}:
        recorded = {}
    todo = [one for one in own if one.state == "missing"]
    if not (todo or recorded):
        return
    attachments = transfer.attachments(start.registry, repository, manifest.digest)
    if set(attachments) != set(SUFFIXES):
        raise HfdlcError(
            "has no signature and attestations: it is not copied",
            location=f"{start.name}: {cell}@{manifest.digest}",
            hint=f"hfdlc publish {cell} --region {start.name}",
        )
    for one in todo:
        _one(source, one, lambda: attachments)
    for target in recorded.values():
        _record(cell, target, manifest, attachments, project)


def _one(source: Source, one: TagStatus, attachments: Callable[[], Attachments]) -> Attachments:
    """One cell to one target; what is attached to it there in the end."""
    if one.target.ensure(one.repository):
        say(f"{one.target.name}: created the repository {one.repository}")
    manifest = source.manifest
    moved = transfer.copy_blobs(source, one.target, one.repository, one.others)
    registry = one.target.registry
    attached = transfer.attach(registry, one.repository, manifest.digest, attachments())
    transfer.set_tag(one.target, one.repository, one.tag, manifest)
    say(f"{one.target.name}: published {one.cell}@{manifest.digest} ({moved})")
    return attached


def _record_published(cell: str, own: Sequence[TagStatus], project: Project) -> None:
    """Write the record of a cell that all targets have, if a run was interrupted before it did."""
    if releases.read(cell, project.root):
        return
    for one in own:
        registry, digest = one.target.registry, one.there or ""
        attachments = transfer.attachments(registry, one.repository, digest)
        if "att" in attachments:
            manifest = registry.manifest(one.repository, digest)
            _record(cell, one.target, manifest, attachments, project)


def _record(
    cell: str, target: Target, manifest: Manifest, attachments: Attachments, project: Project
) -> None:
    """Record what a target has, from its attestations."""
    found = {each["predicateType"]: each["predicate"] for each in attachments["att"].statements}
    if missing := {attestations.SBOM, attestations.PROVENANCE} - {*found}:
        where = f"{target.name}: {cell}@{manifest.digest}"
        raise HfdlcError(
            f"lacks the attestation {', '.join(sorted(missing))}: it is not recorded", location=where
        )
    layers = [releases.Layer(digest=each["digest"], size=each["size"]) for each in manifest.parsed["layers"]]
    release = releases.Release(
        cell=cell,
        digest=manifest.digest,
        config_digest=manifest.config_digest or "",
        targets={target.name: datetime.now(UTC).isoformat(timespec="seconds")},
        inputs=found[attestations.PROVENANCE]["buildDefinition"]["internalParameters"]["inputs"],
        packages={kind: sbom.installed(found[attestations.SBOM], kind) for kind in ("pypi", "deb")},
        layers=layers,
    )
    releases.keep(release, project.root)
