"""Each check fails on an image that is wrong in that one point, and says in what."""

import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from docker.models.images import Image

from hfdlc import check_run, containers
from hfdlc import engine as engines
from hfdlc.checks import test_all, test_cpu, test_inference, test_pytorch
from hfdlc.checks.subject import Subject
from hfdlc.engine import Engine
from hfdlc.facts import Facts, Layer
from hfdlc.machine import PackageSources

SITE = "/opt/venv/lib/python3.11/site-packages"
PEM = "-----BEGIN CERTIFICATE-----\nOnlyThisMachineTrustsIt\n-----END CERTIFICATE-----"

# A shell command that spoils the image, the one check that finds it, and a word of what it says.
SPOILED_FILES = {
    "test_no_conflicts": (f"sed -i 's/^Requires-Dist: filelock$/&>=99/' {SITE}/torch-*/METADATA", "filelock"),
    "test_entry_point": ("rm /opt/venv/bin/serve", ""),
    "test_no_build_tools": ("touch /usr/bin/gcc && chmod +x /usr/bin/gcc", "gcc"),
    "test_no_caches": ("mkdir -p /root/.cache && echo kept > /root/.cache/wheel", "/root/.cache/wheel"),
    "test_one_torch": ("cp /etc/hostname /usr/lib/libtorch_cpu.so", "libtorch_cpu"),
    "test_a_product_is_right": (f"echo 'import not_there' > {SITE}/torch/__init__.py", "not_there"),
    "test_no_cuda_libraries": ("touch /usr/lib/libcudart.so.13", "libcudart.so.13"),
    "test_no_secrets_in_files": ("echo https://index.example/simple > /etc/leaked", "/etc/leaked"),
}  # fmt: skip

# A change of the image's configuration, as a line of a Dockerfile.
SPOILED_CONFIGURATION = {
    "test_entry_point": ('ENTRYPOINT ["/bin/sh", "-c", "serve"]', "/bin/sh"),
    "test_port": ("EXPOSE 9090", "9090"),
    "test_working_folder": ("WORKDIR /srv", "/srv"),
    "test_labels": ("LABEL io.hfdlc.transformers=4.0.0", "4.0.0"),
    "test_no_secrets_in_configuration": ("ENV PIP_INDEX_URL=https://index.example/simple", "index.example"),
}

# Facts that are not the cell's.
SPOILED_FACTS = {
    "test_python": {"python": "3.12"},
    "test_framework": {"framework_version": "2.12.0+cpu"},
    "test_cuda": {"cuda": "cu130"},
    "test_transformers": {"transformers_version": "5.22.0"},
    "test_toolkit": {"toolkit_version": None},
    "test_os": {"os": "debian13"},
    "test_size": {"size": 10**12, "layers": (Layer("sha256:big", 10**12),)},
}


def outcome(subject: Subject, check: str) -> str:
    """What the named check says of the subject; the test fails where it finds nothing wrong."""
    report = check_run.run(subject, only=check)
    failed = {name: said for name, said in report.failed.items() if check in name}
    assert failed, f"{check} found nothing wrong: {report}"
    return "\n".join(failed.values())


@pytest.fixture
def example_index(subject: Subject) -> Subject:
    """The same subject on a machine that takes its packages from an index of its own."""
    return replace(subject, sources=PackageSources(index="https://index.example/simple"))


@pytest.mark.parametrize("check", SPOILED_FILES)
def test_a_spoiled_file_is_found(example_index: Subject, check: str, spoiled: "Spoiler") -> None:
    """The check that looks at files fails, and names the file."""
    command, word = SPOILED_FILES[check]
    image = spoiled.by_command(command)
    with containers.idle(image, example_index.engine) as container:
        said = outcome(replace(example_index, image=image, container=container), check)
    assert word in said


@pytest.mark.parametrize("check", SPOILED_CONFIGURATION)
def test_a_spoiled_configuration_is_found(example_index: Subject, check: str, spoiled: "Spoiler") -> None:
    """The check that looks at the configuration fails, and names the value."""
    change, word = SPOILED_CONFIGURATION[check]
    said = outcome(replace(example_index, image=spoiled.by_configuration(change)), check)
    assert word in said


@pytest.mark.parametrize("check", SPOILED_FACTS)
def test_wrong_facts_are_found(subject: Subject, check: str) -> None:
    """The check that compares facts with the tag fails."""
    wrong: Facts = replace(subject.facts, **SPOILED_FACTS[check])  # type: ignore[arg-type]
    assert outcome(replace(subject, facts=wrong), check)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"starlette": "0.0.1"}, "starlette"), ({"uv": "1.0"}, "uv"), ({"torch": None}, "torch")],
    ids=["another version", "one more", "one missing"],
)
def test_a_package_that_is_not_locked_is_found(
    subject: Subject, change: dict[str, str | None], word: str
) -> None:
    """A wrong version, a package more and a package less are each told by name."""
    merged = {**subject.facts.packages, **change}
    packages = {name: version for name, version in merged.items() if version}
    said = outcome(
        replace(subject, facts=replace(subject.facts, packages=packages)), "test_packages_are_the_locked"
    )
    assert word in said


def test_a_certificate_of_the_machine_is_found(subject: Subject, spoiled: "Spoiler", tmp_path: Path) -> None:
    """A certificate that only the building machine trusts must not stay."""
    bundle = tmp_path / "bundle.crt"
    bundle.write_text(PEM + "\n")
    image = spoiled.by_command(f"printf '%b' '{PEM.replace(chr(10), chr(92) + 'n')}' > /etc/leaked.crt")
    with containers.idle(image, subject.engine) as container:
        seen = replace(subject, image=image, container=container, sources=PackageSources(certificates=bundle))
        assert "/etc/leaked.crt" in outcome(seen, "test_no_secrets_in_files")


def test_a_layer_that_hides_something_is_found(subject: Subject, spoiled: "Spoiler") -> None:
    """A step that runs a command above the copies could hide what it wrote."""
    image = spoiled.by_configuration("RUN echo secret > /secret && rm /secret")
    assert "/secret" in outcome(replace(subject, image=image), "test_nothing_hides_in_a_layer")


def test_a_server_that_does_not_start_is_found(subject: Subject, spoiled: "Spoiler") -> None:
    """A round trip that gets no answer fails with the server's log, and so does its end."""
    image = spoiled.by_command("printf '#!/bin/sh\\necho broken on purpose; exit 3\\n' > /opt/venv/bin/serve")
    seen = replace(subject, image=image)
    assert "container" in outcome(seen, "test_round_trip")
    assert outcome(seen, "test_the_server_is_process_1")


def test_no_check_is_without_a_test_that_shows_it_failing() -> None:
    """A new check needs an entry above."""
    shown = {*SPOILED_FILES, *SPOILED_CONFIGURATION, *SPOILED_FACTS}
    shown |= {"test_packages_are_the_locked_ones", "test_nothing_hides_in_a_layer"}
    shown |= {"test_round_trip", "test_the_server_is_process_1"}
    modules = (test_all, test_pytorch, test_inference, test_cpu)
    checks = {name for module in modules for name, _ in inspect.getmembers(module, inspect.isfunction)}
    assert {name for name in checks if name.startswith("test_")} == shown


class Spoiler:
    """Makes wrong images of the right one, and removes them."""

    def __init__(self, image: str, engine: Engine) -> None:
        self.image, self.engine = image, engine
        self.client = engines.client(engine)
        self.made: list[str] = []

    def by_command(self, command: str) -> str:
        """The image after a shell command."""
        with containers.idle(self.image, self.engine) as container:
            status, output = container.exec_run(["sh", "-c", command])
            assert status == 0, output
            return self._kept(container.commit())

    def by_configuration(self, change: str) -> str:
        """The image with one more line in its Dockerfile."""
        with containers.idle(self.image, self.engine) as container:
            image = container.commit(changes=change) if not change.startswith("RUN") else None
        return self._kept(image) if image else self._built(change)

    def _built(self, line: str) -> str:
        from io import BytesIO

        image, _ = self.client.images.build(
            fileobj=BytesIO(f"FROM {self.image}\n{line}\n".encode()), network_mode="none", rm=True
        )
        return self._kept(image)

    def _kept(self, image: Image) -> str:
        self.made.append(str(image.id))
        return str(image.id)

    def clean(self) -> None:
        """Remove what was made."""
        for image in self.made:
            self.client.images.remove(image, force=True)


@pytest.fixture
def spoiled(subject: Subject) -> Iterator[Spoiler]:
    """Wrong images, gone after the test."""
    spoiler = Spoiler(subject.image, subject.engine)
    yield spoiler
    spoiler.clean()
