"""Wheels of the building machine: which are copied, and how a build gets them."""

from pathlib import Path

import pytest
import requests

from hfdlc.build import packages
from hfdlc.build.bake import BuildContext
from hfdlc.locks import lockfile
from hfdlc.locks.indexes import IndexConfig
from hfdlc.project import Project
from hfdlc.state import State

NAME = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
# Of another version, another Python, another processor, and another package.
OTHERS = (
    "torch-2.12.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
    "torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl",
    "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_aarch64.whl",
    "numpy-2.0-cp311.whl",
)


def sources(tmp_path: Path, **others: object) -> IndexConfig:
    """A machine with a folder of wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir(parents=True)
    for name in (NAME, *OTHERS):
        (folder / name).write_bytes(name.encode())
    return IndexConfig(wheel_folders=(folder,), **others)  # type: ignore[arg-type]


def test_package_server_serves_the_files_of_a_lock(repository: Project, tmp_path: Path) -> None:
    """By a page of links, as long as the build lasts."""
    gathered, brought = packages.gather(
        sources(tmp_path), [repository.default], repository.root, tmp_path / "gathered"
    )
    assert brought == {repository.default.id}
    with packages.served(gathered) as address:
        assert address.startswith("http://127.0.0.1:")
        assert requests.get(address, timeout=5).text.count("<a href=") == 1
        assert requests.get(address + NAME.replace("+", "%2B"), timeout=5).content == NAME.encode()
    try:
        requests.get(address, timeout=5)
    except requests.ConnectionError:
        return
    raise AssertionError("it is still served")


def test_wheel_of_another_python_does_not_replace_the_page(repository: Project, tmp_path: Path) -> None:
    """The build looked for its framework in the folder only, and failed."""
    here = sources(tmp_path)
    (tmp_path / "wheels" / NAME).unlink()
    _, brought = packages.gather(here, [repository.default], repository.root, tmp_path / "gathered")
    assert not brought
    assert not list((tmp_path / "gathered").iterdir())


def test_a_build_elsewhere_or_behind_a_proxy_gets_them_sent(repository: Project, tmp_path: Path) -> None:
    """Loopback would be another machine there, or would be requested from the proxy."""
    state, cells = State(tmp_path / "state"), [repository.default]
    for number, (near, proxies) in enumerate([(True, {}), (False, {}), (True, {"HTTP_PROXY": "http://p"})]):
        here = sources(tmp_path / str(number), proxies=proxies)
        with packages.with_access(
            BuildContext(), here, cells, repository.root, state, shares_host_network=near
        ) as context:
            assert context.has_local_wheels == {repository.default.id}
            if near and not proxies:
                assert context.wheels.startswith("http://127.0.0.1:")
                assert not context.contexts
            else:
                assert context.wheels == "/wheels"
                assert Path(context.contexts["wheels"], NAME).is_file()


def test_a_build_gets_the_configuration_of_pip(
    repository: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As files for uv and pip that are secrets, and what is not passed in one line."""
    (tmp_path / "client.pem").write_text("key")
    here = IndexConfig(
        index="https://index.example/simple",
        wheel_pages=("https://pages.example/",),
        trusted_hosts=("index.example",),
        client_certificate=tmp_path / "client.pem",
        logins={"index.example": ("reader", "sesame")},
        proxies={"HTTPS_PROXY": "http://proxy.example"},
        not_passed=("keyring-provider subprocess (a reason)", "cert /nowhere.pem (another)"),
    )
    with packages.with_access(
        BuildContext(), here, [], repository.root, State(tmp_path / "state"), shares_host_network=True
    ) as context:
        assert context.arguments == {
            "HTTPS_PROXY": "http://proxy.example",
            "SSL_CLIENT_CERT": "/etc/ssl/client.pem",
        }
        assert context.secrets["client-cert"] == str(tmp_path / "client.pem")
        texts = {name: Path(file).read_text() for name, file in context.secrets.items()}
        assert Path(context.secrets["netrc"]).stat().st_mode & 0o777 == 0o600
    assert texts["netrc"] == "machine index.example login reader password sesame\n"
    assert 'allow-insecure-host = ["index.example"]' in texts["uv.toml"]
    assert 'find-links = ["https://pages.example/"]' in texts["uv.toml"]
    assert "trusted-host = index.example" in texts["pip.conf"]
    assert "client-cert = /etc/ssl/client.pem" in texts["pip.conf"]
    assert "no-index" not in texts["uv.toml"] + texts["pip.conf"]
    assert capsys.readouterr().err == (
        "not passed to the build: keyring-provider subprocess (a reason); cert /nowhere.pem (another)\n"
    )


def test_without_an_index_all_locked_packages_are_gathered(repository: Project, tmp_path: Path) -> None:
    """Those of the cell and of its installer; not other versions."""
    cell, folder = repository.default, tmp_path / "wheels"
    folder.mkdir()
    installer = lockfile.entries((repository.root / lockfile.installer_file(cell.python)).read_text())
    arrays = lockfile.read(cell, repository.root)["arrays"]
    for entry in (*installer, *arrays):
        (folder / f"{entry.name.replace('-', '_')}-{entry.version}-py3-none-any.whl").touch()
    for name in ("numpy-0.1-py3-none-any.whl", "numpy-0.1.tar.gz", "notes.txt"):
        (folder / name).touch()
    here = IndexConfig(wheel_folders=(folder,), no_index=True)
    with packages.with_access(
        BuildContext(), here, [cell], repository.root, State(tmp_path / "s"), shares_host_network=False
    ) as context:
        gathered = {file.name for file in Path(context.contexts["wheels"]).iterdir()}
        texts = [Path(context.secrets[name]).read_text() for name in ("uv.toml", "pip.conf")]
    assert len(gathered) == len(installer) + len(arrays)
    assert 'find-links = ["/wheels"]\nno-index = true' in texts[0]
    assert "find-links = /wheels\nno-index = true" in texts[1]
