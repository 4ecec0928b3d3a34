"""Publishing from a layer store to registries in memory: order, recovery, and runs at the same time."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier

import pytest

from hfdlc.errors import HfdlcError
from hfdlc.matrix.cells import Cell
from hfdlc.oci.image import DOCKER_MANIFEST, OCI_MANIFEST, Image
from hfdlc.oci.loopback import Content
from hfdlc.oci.registry import Conflict
from hfdlc.oci.store import Damaged
from hfdlc.project import Project
from hfdlc.publish import publisher, releases, transfer
from hfdlc.publish.attestations import Predicates
from hfdlc.publish.preflight import Candidate
from hfdlc.publish.publisher import Differs, NotCopied, Publication
from hfdlc.publish.signing import Attachment
from hfdlc.publish.targets import Target
from publishing import INPUTS, Signer, candidate, image, predicates, target


@dataclass
class Setup:
    """A checked image of the default cell, and what publishes it."""

    cell: Cell
    built: Image
    checked: Candidate
    signer: Signer
    publication: Publication

    def publish(self, *to: Target) -> list[str]:
        """Publish, and give the states that there were."""
        return [one.state for one in publisher.publish_checked(self.publication, [self.checked], to)]


def never(_: Cell) -> Image:
    """Building layers again, where nothing is missing."""
    raise AssertionError


def setup_of(project: Project, folder: Path, *layers: bytes, name: str = "one") -> Setup:
    """An image of these layers, in a store in this folder."""
    cell, built, signer = project.default, image(folder, *layers), Signer(name)
    publication = Publication(project, built.store, False, never, predicates, lambda: signer)
    return Setup(cell, built, candidate(cell, built), signer, publication)


@pytest.fixture
def project(repository: Project, tmp_path: Path) -> Project:
    """The repository's cells; records are kept in a folder of the test."""
    return replace(repository, root=tmp_path / "project")


@pytest.fixture
def setup(project: Project, tmp_path: Path) -> Setup:
    """An image that is checked and stored."""
    return setup_of(project, tmp_path / "store", b"base" * 99, b"packages" * 99)


@pytest.fixture
def new_target() -> Iterator[Callable[[], tuple[Target, Content]]]:
    """Start empty registries."""
    with ExitStack() as started:
        yield lambda: started.enter_context(target())


New = Callable[[], tuple[Target, Content]]


def tag(where: Target, cell: Cell) -> str | None:
    """The digest that the cell's tag has."""
    return where.registry.head(cell.repository, cell.tag)


def test_published_image_has_attachments_and_a_record(
    setup: Setup, new_target: New, project: Project
) -> None:
    """Docker's schema 2, the checked config digest, and the same digest at both targets."""
    (first, _), (second, _) = new_target(), new_target()
    assert setup.publish(first, second) == ["missing", "missing"]
    manifest = first.registry.manifest(setup.cell.repository, setup.cell.tag)
    assert (manifest.media_type, manifest.config_digest) == (DOCKER_MANIFEST, setup.built.config_digest)
    assert setup.signer.signed == [manifest.digest]
    for where in (first, second):
        attached = transfer.attachments(where.registry, setup.cell.repository, manifest.digest)
        assert set(attached) == {"sig", "att"}
    kept = releases.needed(setup.cell.id, project.root)
    assert (kept.digest, kept.config_digest) == (manifest.digest, manifest.config_digest)
    assert (kept.inputs, kept.packages) == (INPUTS, {"pypi": {"torch": "2.13.0"}, "deb": {}})
    assert set(kept.targets) == {first.name, second.name}


def test_oci_image_is_published_as_it_was_built(setup: Setup, new_target: New) -> None:
    """The manifest digest is the local one."""
    where, _ = new_target()
    setup.publication = replace(setup.publication, oci=True)
    setup.publish(where)
    manifest = where.registry.manifest(setup.cell.repository, setup.cell.tag)
    assert (manifest.media_type, manifest.digest) == (OCI_MANIFEST, setup.built.manifest.digest)


def test_second_run_signs_and_sends_nothing(setup: Setup, new_target: New) -> None:
    """Even if the gzip layers are lost."""
    where, content = new_target()
    setup.publish(where)
    before = dict(content.manifests)
    docker = setup.built.known_as_docker()
    assert docker
    for layer in docker.layers:
        docker.store.path(layer.digest).unlink()
    assert setup.publish(where) == ["there"]
    assert (content.manifests, len(setup.signer.signed)) == (before, 1)
    assert not setup.built.known_as_docker()


def test_dry_run_changes_nothing(setup: Setup, new_target: New, project: Project) -> None:
    """It only gives the status."""
    where, content = new_target()
    found = publisher.publish_checked(setup.publication, [setup.checked], [where], dry_run=True)
    assert [one.state for one in found] == ["missing"]
    assert (content.manifests, content.blobs, setup.signer.signed) == ({}, {}, [])
    assert releases.read(setup.cell.id, project.root) is None


def test_target_gets_what_another_one_has(setup: Setup, new_target: New, project: Project) -> None:
    """Though it is compressed differently there: one digest everywhere, signed once."""
    (first, _), (second, _) = new_target(), new_target()
    oci = replace(setup.publication, oci=True)
    publisher.publish_checked(oci, [setup.checked], [first])
    assert setup.publish(first, second) == ["there", "missing"]
    assert tag(first, setup.cell) == tag(second, setup.cell) == setup.built.manifest.digest
    assert setup.signer.signed == [setup.built.manifest.digest]
    assert set(releases.needed(setup.cell.id, project.root).targets) == {first.name, second.name}


def test_other_image_is_refused_before_anything_is_sent(
    setup: Setup, new_target: New, project: Project, tmp_path: Path
) -> None:
    """A tag never moves."""
    where, content = new_target()
    setup.publish(where)
    before = dict(content.blobs)
    other = setup_of(project, tmp_path / "other", b"another")
    with pytest.raises(Differs, match="a tag never moves"):
        other.publish(where)
    assert content.blobs == before


def test_no_tag_without_attestations(setup: Setup, new_target: New, project: Project) -> None:
    """The next run goes on, and keeps the signature that is there."""
    where, content = new_target()

    def fail(*_: object) -> Predicates:
        raise HfdlcError("the SBOM does not match the image")

    working = setup.publication
    setup.publication = replace(working, predicates=fail)
    with pytest.raises(HfdlcError, match="the SBOM does not match the image"):
        setup.publish(where)
    assert tag(where, setup.cell) is None
    assert releases.read(setup.cell.id, project.root) is None
    manifest = setup.built.as_docker(project.root).manifest
    attached = Signer("earlier").sign(setup.cell.repository, manifest, predicates(setup.checked, setup.built))
    transfer.attach(where.registry, setup.cell.repository, manifest.digest, attached)
    setup.publication = working
    setup.publish(where)
    assert transfer.attachments(where.registry, setup.cell.repository, manifest.digest) == attached
    assert setup.signer.signed == []
    assert content.manifests[setup.cell.repository, setup.cell.tag] == manifest


def damage(made: Image) -> None:
    """Change a layer's blob."""
    path = made.store.path(made.layers[0].digest)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + b"x")


def test_damaged_gzip_layer_is_made_again(
    setup: Setup, new_target: New, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the zstd layer; this is reported."""
    where, _ = new_target()
    docker = setup.built.as_docker(setup.publication.project.root)
    damage(docker)
    setup.publish(where)
    assert tag(where, setup.cell) == docker.manifest.digest
    assert "is damaged: its content does not match its digest" in capsys.readouterr().err


@pytest.mark.parametrize("lost", [False, True], ids=["damaged", "missing"])
def test_unusable_zstd_layer_is_built_again(
    lost: bool, setup: Setup, new_target: New, tmp_path: Path
) -> None:
    """The image that was checked is published."""
    where, _ = new_target()
    if lost:
        setup.built.store.path(setup.built.layers[0].digest).unlink()
    else:
        damage(setup.built)
    built = []

    def rebuild(cell: Cell) -> Image:
        built.append(cell)
        return image(tmp_path / "store", b"base" * 99, b"packages" * 99)

    setup.publication = replace(setup.publication, rebuild=rebuild)
    setup.publish(where)
    assert built == [setup.cell]
    assert where.registry.manifest(setup.cell.repository, setup.cell.tag).config_digest == (
        setup.built.config_digest
    )


def test_layer_that_stays_damaged_ends_the_run(setup: Setup, new_target: New) -> None:
    """As on a disk that fails; no tag appears."""
    where, _ = new_target()

    def rebuild(_: Cell) -> Image:
        made = image(setup.built.store.root, b"base" * 99, b"packages" * 99)
        damage(made)
        return made

    damage(setup.built)
    setup.publication = replace(setup.publication, rebuild=rebuild)
    with pytest.raises(Damaged, match="hint: run this again"):
        setup.publish(where)
    assert tag(where, setup.cell) is None


def test_rebuilt_image_that_was_not_checked_is_refused(setup: Setup, new_target: New, tmp_path: Path) -> None:
    """The repository has changed since the image was built."""
    where, content = new_target()
    setup.built.store.path(setup.built.layers[0].digest).unlink()
    other = image(tmp_path / "store", b"new")
    setup.publication = replace(setup.publication, rebuild=lambda _: other)
    with pytest.raises(HfdlcError, match=f"building it now gives {other.config_digest}") as caught:
        setup.publish(where)
    assert caught.value.hint == f"hfdlc build --check {setup.cell.id}"
    assert content.blobs == {}


def at_once(*runs: Callable[[], object]) -> list[BaseException | None]:
    """Run all at the same time; how each ended."""
    with ThreadPoolExecutor(len(runs)) as pool:
        return [future.exception() for future in [pool.submit(run) for run in runs]]


@dataclass
class Waiting(Signer):
    """Signs when the other run does, too: both have compared tags, and neither has set one."""

    barrier: Barrier | None = None

    def sign(self, *words: object) -> dict[str, Attachment]:
        assert self.barrier
        self.barrier.wait(10)
        return super().sign(*words)  # type: ignore[arg-type]


def test_two_runs_publish_the_same_image(project: Project, new_target: New, tmp_path: Path) -> None:
    """From two machines, at the same time: both succeed, and the image has one set of attachments."""
    where, _ = new_target()
    barrier, runs = Barrier(2), []
    for name in ("one", "two"):
        made = setup_of(
            replace(project, root=tmp_path / name), tmp_path / f"store-{name}", b"same", name=name
        )
        signer = Waiting(name, barrier=barrier)
        made.publication = replace(made.publication, signer=lambda signer=signer: signer)  # type: ignore[misc]
        runs.append(made)
    assert at_once(*(lambda made=made: made.publish(where) for made in runs)) == [None, None]
    digest = tag(where, project.default)
    assert digest
    attached = transfer.attachments(where.registry, project.default.repository, digest)
    assert {one["about"] for one in attached["att"].statements} == {digest}
    kept = [releases.needed(project.default.id, tmp_path / name) for name in ("one", "two")]
    assert kept[0].digest == kept[1].digest == digest


def test_two_runs_publish_different_images(project: Project, new_target: New, tmp_path: Path) -> None:
    """Of the same cell: the tag names the first one, and the second run reports it."""
    where, _ = new_target()
    first = setup_of(replace(project, root=tmp_path / "one"), tmp_path / "store-one", b"one")
    second = setup_of(replace(project, root=tmp_path / "two"), tmp_path / "store-two", b"two")

    def late(*words: object) -> dict[str, Attachment]:
        first.publish(where)
        return Signer("two").sign(*words)  # type: ignore[arg-type]

    second.signer.sign = late  # type: ignore[method-assign, assignment]
    with pytest.raises(Conflict, match=r"was published as sha256:.* meanwhile: a tag never moves"):
        second.publish(where)
    manifest = where.registry.manifest(project.default.repository, project.default.tag)
    assert manifest.config_digest == first.built.config_digest
    assert releases.read(project.default.id, tmp_path / "two") is None


def test_push_does_not_send_a_damaged_layer(setup: Setup, new_target: New) -> None:
    """Nothing is sent; what was sent before is pushed again without reading it."""
    where, content = new_target()
    damage(setup.built)
    with pytest.raises(Damaged, match="does not match its digest"):
        publisher.push_image(setup.built, where, setup.cell, [])
    assert (content.blobs, content.manifests) == ({}, {})
    made = image(setup.built.store.root, b"base" * 99, b"packages" * 99)
    assert publisher.push_image(made, where, setup.cell, []).sent
    assert not publisher.push_image(made, where, setup.cell, []).sent
    assert tag(where, setup.cell) == made.manifest.digest


def test_copy_needs_attachments(setup: Setup, new_target: New, project: Project) -> None:
    """The others are copied; the record is that of publishing."""
    (first, _), (second, _) = new_target(), new_target()
    setup.publish(first)
    before = releases.needed(setup.cell.id, project.root)
    releases.file(setup.cell.id, project.root).unlink()
    other = next(
        cell for cell in project.cells if cell != setup.cell and cell.repository != setup.cell.repository
    )
    unsigned = setup.built.as_docker(project.root)
    transfer.copy_blobs(unsigned, first, other.repository, [])
    transfer.set_tag(first, other.repository, other.tag, unsigned.manifest)
    with pytest.raises(NotCopied, match="has no signature and attestations: it is not copied"):
        publisher.copy(project, [other, setup.cell], first, [second])
    assert tag(second, setup.cell) == before.digest
    assert tag(second, other) is None
    after = releases.needed(setup.cell.id, project.root)
    assert (after.config_digest, after.layers) == (before.config_digest, before.layers)
    assert set(after.targets) == {first.name, second.name}
