"""Publishing cells: compare, bring, prove, and only then let tags appear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hfdlc.engine import detect
from hfdlc.engine.detect import Engine
from hfdlc.errors import HfdlcError, Problems, UserError
from hfdlc.matrix.cells import Cell
from hfdlc.oci.image import Manifest
from hfdlc.process import say
from hfdlc.project import Project
from hfdlc.publish import attestations, attesting, preflight, referrers, releases, sbom, signing
from hfdlc.publish.comparing import Difference, compare
from hfdlc.publish.pack import Packer
from hfdlc.publish.referrers import Proof
from hfdlc.publish.signing import Cosign
from hfdlc.publish.targets import Place
from hfdlc.publish.transfer import FromEngine, FromRegistry, Moved, Source, bring, finish
from hfdlc.state import State


class Differs(Problems):
    """Tags that are there with another digest: they never move."""

    exit_code = 1


class NotCopied(HfdlcError):
    """Cells that could not be copied; the others were."""


@dataclass(frozen=True)
class Options:
    """How to publish."""

    key: str | None = None
    oci: bool = False
    dry_run: bool = False
    gpu_checks: bool = True  # whether those of a GPU image must have been run


def publish(
    project: Project,
    cells: Sequence[Cell],
    environ: Mapping[str, str],
    places: Sequence[Place],
    options: Options,
) -> list[Difference]:
    """Publish checked images of cells; the first place gets them from here, the others from there.

    Gives the difference that there was. Raises Refused, Differs or HfdlcError; what is there is whole.
    """
    if not cells:
        return []
    state = State.of(environ)
    used = detect.ensure(environ, state)
    with state.lock("publish"):
        packer = Packer(used, state, oci=options.oci)
        checked = preflight.candidates(cells, used, state, gpu_checks=options.gpu_checks)
        sources = {each.cell.id: FromEngine(each, packer) for each in checked}
        found = compare(places, sources, repositories(project))
        refuse_other_digests(found)
        if options.dry_run:
            return found
        todo = [one for one in found if one.state == "missing"]
        signer = _signer(options, state) if todo else None
        for source in sources.values():
            own = [one for one in found if one.cell == source.candidate.cell.id]
            if any(one.state == "missing" for one in own) and signer:
                _publish(source, own, project, used, signer, options)
            else:
                _note(source, own, project)
        packer.forget()
    return found


def copy(
    project: Project, cells: Sequence[Cell], start: Place, places: Sequence[Place], *, dry_run: bool = False
) -> list[Difference]:
    """Bring what is published at `start` to other places, by digest, with its proofs; no engine is asked.

    The record is written from the proofs. Raises NotCopied, when all the others are copied, that names each
    cell that is not there or has no proofs.
    """
    sources: dict[str, Source] = {}
    problems: list[HfdlcError] = []
    for cell in cells:
        try:
            manifest = start.registry.manifest(cell.repository, cell.tag)
            sources[cell.id] = FromRegistry(start.registry, cell.repository, manifest)
        except HfdlcError as problem:
            problems.append(problem)
    found = compare(places, sources, repositories(project))
    refuse_other_digests(found)
    for cell_id, source in {} if dry_run else sources.items():
        try:
            _copy(start, source, [one for one in found if one.cell == cell_id], project)
        except HfdlcError as problem:
            problems.append(problem)
    if problems:
        raise NotCopied("\n".join(map(str, problems)))
    return found


def repositories(project: Project) -> list[str]:
    """All that the matrix has."""
    return sorted({cell.repository for cell in project.cells})


def refuse_other_digests(found: Sequence[Difference]) -> None:
    """Raise Differs that names every tag that stands for something else."""
    if problems := [
        UserError(
            f"{one.place.name} has {one.there}, here is {one.here or 'another image'}: a tag never moves",
            where=one.cell,
            then=f"publish it under another tag, or `hfdlc plan --explain {one.cell}` names what differs",
        )
        for one in found
        if one.state == "different"
    ]:
        raise Differs(problems)


def _signer(options: Options, state: State) -> Cosign:
    if not options.key:
        raise UserError(
            "nothing is published without a signature, and no key is given",
            allowed="a file, or a URI like awskms:///alias/NAME",
            then="add --key KEY (or COSIGN_KEY)",
        )
    return Cosign(options.key, state)


def _publish(
    source: FromEngine,
    own: Sequence[Difference],
    project: Project,
    used: Engine,
    signer: Cosign,
    options: Options,
) -> None:
    """One cell, to all places that lack it."""
    start, proofs = _published(own) or (source, _proofs(source, own, project, used, signer, options))
    manifest = start.manifest
    for one in sorted(own, key=lambda one: one.state == "missing"):
        if one.state == "missing":
            _one(start, one, proofs)
            start = FromRegistry(one.place.registry, one.repository, manifest)
        if one.there in (None, manifest.digest):
            _keep(one.cell, one.place, manifest, proofs, project)


def _published(own: Sequence[Difference]) -> tuple[Source, Mapping[str, Proof]] | None:
    """A place that has the image whole, however it is packed there: the others get that with its proofs."""
    for one in own:
        if one.state == "there" and one.there:
            registry = one.place.registry
            proofs = referrers.proofs(registry, one.repository, one.there)
            if set(proofs) == set(referrers.ENDINGS):
                manifest = registry.manifest(one.repository, one.there)
                return FromRegistry(registry, one.repository, manifest), proofs
    return None


def _proofs(
    source: FromEngine,
    own: Sequence[Difference],
    project: Project,
    used: Engine,
    signer: Cosign,
    options: Options,
) -> Mapping[str, Proof]:
    """New ones, but for what a place has already: a signature is made once, goes everywhere, and stays."""
    cell_id, digest = source.candidate.cell.id, source.manifest.digest
    told = attesting.predicates(source, project, used)
    there = {kind: proof for one in own for kind, proof in _there(one, digest).items()}
    if len(there) == len(referrers.ENDINGS):
        return there
    return {**attesting.signed(cell_id, source.manifest, told, signer, refer=options.oci), **there}


def _copy(start: Place, source: Source, own: Sequence[Difference], project: Project) -> None:
    """One cell, from where it is published to all places that lack it."""
    cell, repository, manifest = own[0].cell, own[0].repository, source.manifest
    known = releases.read(cell, project.root)
    places = {start.name: start, **{one.place.name: one.place for one in own}}
    if known and known.digest == manifest.digest and {*places} <= {*known.places}:
        places = {}
    todo = [one for one in own if one.state == "missing"]
    if not (todo or places):
        return
    proofs = referrers.proofs(start.registry, repository, manifest.digest)
    if set(proofs) != set(referrers.ENDINGS):
        raise HfdlcError(
            "has no signature and statements: it is not copied",
            where=f"{start.name}: {cell}@{manifest.digest}",
            then=f"hfdlc publish {cell} --region {start.name}",
        )
    for one in todo:
        _one(source, one, proofs)
    for place in places.values():
        _keep(cell, place, manifest, proofs, project)


def _there(one: Difference, digest: str) -> dict[str, Proof]:
    """The proofs that a place has already, of a run that was cut off or of an earlier one."""
    return referrers.proofs(one.place.registry, one.repository, digest) if one.exists else {}


def _one(source: Source, one: Difference, proofs: Mapping[str, Proof]) -> None:
    """One cell to one place."""
    if one.place.ensure(one.repository):
        say(f"{one.place.name}: made the repository {one.repository}")
    moved = Moved()
    bring(source, one.place, one.repository, one.others, moved)
    finish(one.place, one.repository, one.tag, source.manifest, proofs)
    say(
        f"{one.place.name}: published {one.cell}@{source.manifest.digest} "
        f"({moved.sent / 1e6:.1f} MB sent, {moved.mounted / 1e6:.1f} mounted, {moved.there / 1e6:.1f} there)"
    )


def _note(source: FromEngine, own: Sequence[Difference], project: Project) -> None:
    """Write the record of a cell that is everywhere already, if a run was cut off before it did."""
    if releases.read(source.candidate.cell.id, project.root):
        return
    for one in own:
        registry, digest = one.place.registry, one.there or ""
        proofs = referrers.proofs(registry, one.repository, digest)
        if "att" in proofs:
            _keep(one.cell, one.place, registry.manifest(one.repository, digest), proofs, project)


def _keep(cell: str, place: Place, manifest: Manifest, proofs: Mapping[str, Proof], project: Project) -> None:
    """Write the record of what a place has, as its statements tell it."""
    parts = [signing.unverified(part.content) for part in referrers.parts(proofs["att"])]
    told = {part["predicateType"]: part["predicate"] for part in parts}
    if missing := {attestations.SBOM, attestations.PROVENANCE} - {*told}:
        where = f"{place.name}: {cell}@{manifest.digest}"
        raise HfdlcError(f"lacks the statement {', '.join(sorted(missing))}: no record is kept", where=where)
    layers = [releases.Layer(digest=e["digest"], size=e["size"]) for e in manifest.parsed["layers"]]
    packages = {kind: sbom.packages(told[attestations.SBOM], kind) for kind in ("pypi", "deb")}
    release = releases.Release(
        cell=cell,
        digest=manifest.digest,
        places={place.name: _now()},
        inputs=told[attestations.PROVENANCE]["buildDefinition"]["internalParameters"]["inputs"],
        packages=packages,
        layers=layers,
    )
    releases.keep(release, project.root)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
