"""Wheels of the building machine: which come along, and how a build gets them."""

from pathlib import Path

import requests

from hfdlc.build import packages
from hfdlc.build.bake import BuildContext
from hfdlc.locks.indexes import IndexConfig
from hfdlc.project import Project
from hfdlc.state import State

NAME = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"


def sources(tmp_path: Path, **others: object) -> IndexConfig:
    """A machine with a folder of wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir(parents=True)
    for name in (NAME, "torch-2.12.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl", "numpy-2.0-cp311.whl"):
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
