"""Docker 28.5 of Debian 14 with a bridge network, for tests. `--help` shows how to run a command with it.

The engine has namespaces of its own (mounts, processes, network). It ends with the process that started it,
even if that one is killed, and its mounts and network devices end with it.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hfdlc.engine import debian, private
from hfdlc.engine.context import Address
from hfdlc.engine.detect import query
from hfdlc.errors import CommandFailed, HfdlcError
from hfdlc.process import run, say, start
from hfdlc.state import State

SUITE = "forky"
PACKAGES = (
    "docker.io", "docker-buildx", "docker-cli", "docker-compose", "containerd", "runc", "tini", "iptables",
    "ca-certificates", "iproute2",
)  # fmt: skip
PLUGINS = "usr/libexec/docker/cli-plugins"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PORT = 2375
PATIENCE = 60.0  # seconds
NUMBERS = itertools.count()
STORES = ("containerd", "classic")
# Runs as the first process of the new namespaces. A line on standard input says that the cable is there.
SCRIPT = """
set -e
mkdir -p "$WORK/upper" "$WORK/work" "$WORK/merged" "$WORK/run" "$WORK/data"
mount -t overlay -o "lowerdir=$ROOT,upperdir=$WORK/upper,workdir=$WORK/work" engine "$WORK/merged"
cd "$WORK/merged"
cp --dereference /etc/resolv.conf etc/resolv.conf
mkdir -p old var/lib/docker ".$WORK/run"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --bind "$WORK/data" var/lib/docker
[ -n "$REMOTE" ] || mount --bind "$WORK/run" ".$WORK/run"
if [ -n "$SHARED" ]; then
    echo "$SHARED" | while IFS= read -r folder; do
        mkdir -p ".$folder"
        mount --rbind "$folder" ".$folder"
    done
fi
pivot_root . old
cd /
umount --lazy old
read -r _
ip link set lo up
ip address add "$OWN/30" dev "$CABLE"
ip link set "$CABLE" up
ip route add default via "$GATEWAY"
exec docker-init -- dockerd "$@"
"""


@dataclass(frozen=True)
class Modern:
    """A running engine, the process whose namespaces it has, and a folder with its buildx and compose."""

    host: str
    process: int
    plugins: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of programs that use it."""
        path = f"{self.plugins}:{os.environ.get('PATH', os.defpath)}"
        return {**os.environ, "DOCKER_HOST": self.host, "PATH": path}

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The words that run a program in its network, where the published ports of containers are."""
        return ["nsenter", f"--net=/proc/{self.process}/ns/net", "--", *argv]


def unpack(state: State) -> Path:
    """The file system with the engine, made once below the state folder.

    Raises HfdlcError if the mirror is unreachable or this is not root.
    """
    if os.geteuid():
        raise HfdlcError("only root can start this engine", hint="run this as root")
    folder, wanted = state.root / "tools" / "docker-28", {SUITE: PACKAGES}
    if root := debian.unpacked(wanted, folder):
        return root
    with state.lock("modern-engine"):
        if root := debian.unpacked(wanted, folder):
            return root
        debian.check_room(folder)
        fresh, mark = folder / "root", folder / "packages"
        shutil.rmtree(fresh, ignore_errors=True)
        say(f"making a file system with Docker from {SUITE} in {folder}")
        machine = debian.release()
        programs = debian.unpack({private.SUITE: ("mmdebstrap",)}, state.root / "mmdebstrap", state, machine)
        sources = [line for line in machine.sources(SUITE) if f" {SUITE} " in line]
        # With mounts of its own, which end with it.
        argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        argv += [str(programs / "usr/bin/mmdebstrap"), "--quiet", "--mode=root", "--variant=minbase"]
        argv += [f"--aptopt={line}" for line in debian.network_settings()]
        # The mirror's copy of a release that is not published yet may be a few days old.
        argv += ['--aptopt=Acquire::Check-Valid-Until "false"', f"--include={','.join(PACKAGES)}"]
        own = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:{PATH}"}
        try:
            run([*argv, SUITE, str(fresh), *sources], env=own)
        except CommandFailed as error:
            last = error.output.strip().splitlines()[-1:]
            raise HfdlcError(
                f"Docker of {SUITE} cannot be unpacked: {' '.join(last)}", hint=debian.advice(error)
            ) from error
        mark.write_text("".join(f"{package}/{SUITE}\n" for package in PACKAGES))
    return fresh


@contextmanager
def running(
    state: State, store: str = "containerd", *, remote: bool = False, shared: Sequence[Path] = ()
) -> Iterator[Modern]:
    """An engine that is empty, while the block runs.

    `remote`: it answers over TCP alone, at the other end of a cable, and shares no files with this machine.
    `shared`: folders of this machine that its containers can mount.
    Raises HfdlcError if it does not start.
    """
    root = unpack(state)
    _remove_strays(root, state)
    name = f"{os.getpid()}-{next(NUMBERS)}"
    work, cable, process = state.folder("tmp") / f"docker-{name}", Cable.of(root, name), None
    work.mkdir()
    environ = {
        "PATH": PATH,
        "ROOT": str(root),
        "WORK": str(work),
        "REMOTE": "1" if remote else "",
        "SHARED": "\n".join(str(folder.absolute()) for folder in shared),
        "CABLE": cable.name,
        "OWN": cable.inside,
        "GATEWAY": cable.outside,
    }
    try:
        with (work / "log").open("w") as log:
            process = start(
                ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork",
                 "--kill-child", "sh", "-c", SCRIPT, "sh", *_options(store, cable, work, remote)],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        cable.connect(process.pid)
        assert process.stdin
        with suppress(BrokenPipeError):
            process.stdin.write("\n")
            process.stdin.close()
        host = f"tcp://{cable.inside}:{PORT}" if remote else f"unix://{work}/run/docker.sock"
        _wait(host, process, work / "log")
        yield Modern(host, process.pid, root / PLUGINS)
    finally:
        if process:
            _end(process)
        cable.remove()
        shutil.rmtree(work)


def _remove_strays(root: Path, state: State) -> None:
    """Remove the folders and rules of engines whose owner was killed."""
    for folder in state.folder("tmp").glob("docker-*-*"):
        _, owner, number = folder.name.split("-")
        if not Path("/proc", owner).exists():
            Cable.of(root, f"{owner}-{number}").remove()
            shutil.rmtree(folder, ignore_errors=True)  # another process may remove it too


def _options(store: str, cable: "Cable", work: Path, remote: bool) -> list[str]:
    """The command line of dockerd."""
    where = f"tcp://0.0.0.0:{PORT}" if remote else f"unix://{work}/run/docker.sock"
    options = ["--host", where, "--mtu", str(cable.mtu), "--log-level", "warn"]
    options += ["--feature", f"containerd-snapshotter={str(store == 'containerd').lower()}"]
    return [*options, "--tls=false"] if remote else options


def _wait(host: str, process: subprocess.Popen[str], log: Path) -> None:
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE and process.poll() is None:
        if query(Address(host)):
            return
        time.sleep(0.2)
    last = log.read_text().strip().splitlines()[-1:]
    raise HfdlcError(f"the engine did not start: {' '.join(last)}")


def _end(process: subprocess.Popen[str]) -> None:
    """End the engine, first in order, so that it stops its containers."""
    assert process.stdin
    with suppress(OSError):
        process.stdin.close()  # it may wait for the cable
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with suppress(OSError):
        for child in children.read_text().split():
            os.kill(int(child), 15)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Cable:
    """A pair of network devices (veth) between the engine and this machine, which forwards its packets."""

    root: Path
    name: str
    outside: str
    inside: str
    mtu: int

    @classmethod
    def of(cls, root: Path, engine: str) -> "Cable":
        """A cable that no other engine has: its name and addresses come from the number of the engine."""
        owner, _, count = engine.partition("-")
        number = (int(owner) * 4 + int(count) % 4) % 16384
        # The smallest one, because larger packets would be lost behind it.
        mtu = min(int(file.read_text()) for file in Path("/sys/class/net").glob("*/mtu"))
        network, place = f"10.213.{number // 64}", number % 64 * 4
        return cls(root, f"hfdlc{number}", f"{network}.{place + 1}", f"{network}.{place + 2}", mtu)

    def connect(self, process: int) -> None:
        """Put one end into the network namespace of a process, as soon as that has its own."""
        here, there = Path("/proc/self/ns/net"), Path(f"/proc/{process}/ns/net")
        began = time.monotonic()
        while here.readlink() == there.readlink():
            if time.monotonic() - began > PATIENCE:
                raise HfdlcError("the engine did not start: it has no network namespace")
            time.sleep(0.02)
        mtu = ["mtu", str(self.mtu)]
        self._run("ip", "link", "add", f"{self.name}o", *mtu, "type", "veth", "peer", "name", self.name,
                  *mtu, "netns", str(process))  # fmt: skip
        self._run("ip", "address", "add", f"{self.outside}/30", "dev", f"{self.name}o")
        self._run("ip", "link", "set", f"{self.name}o", "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        self._run(*self._rule("-A"))

    def remove(self) -> None:
        """Remove what is left of it on this machine."""
        for words in (self._rule("-D"), ("ip", "link", "delete", f"{self.name}o")):
            with suppress(CommandFailed):  # the device ends with the namespace
                self._run(*words)

    def _rule(self, action: str) -> tuple[str, ...]:
        address = ("-s", f"{self.inside}/32", "!", "-d", f"{self.outside}/32")
        return ("iptables", "-w", "-t", "nat", action, "POSTROUTING", *address, "-j", "MASQUERADE")

    def _run(self, *words: str) -> None:
        # `ip` reads /proc to find the namespace of a process.
        script = 'mount --rbind /proc "$0/proc" && exec chroot "$0" "$@"'
        own = {**os.environ, "PATH": PATH}
        run(["unshare", "--mount", "sh", "-c", script, str(self.root), *words], env=own)


def main(words: Sequence[str]) -> int:
    """Start an engine, run a command with it, and end it; returns the exit code of the command."""
    parser = argparse.ArgumentParser(
        prog="modern_engine.py", description="Run a command with Docker 28.5 of its own."
    )
    parser.add_argument("--store", choices=STORES, default="containerd", help="the image store")
    parser.add_argument("--remote", action="store_true", help="an engine over TCP that shares no files")
    parser.add_argument(
        "--share", action="append", type=Path, default=[], help="a folder that containers see"
    )
    parser.add_argument("--inside", action="store_true", help="run the command in the network of the engine")
    parser.add_argument("command", nargs="+", help="the command, after --")
    given = parser.parse_args(words)
    try:
        with running(State.of(os.environ), given.store, remote=given.remote, shared=given.share) as engine:
            argv = engine.inside(given.command) if given.inside else given.command
            return start(argv, env=engine.environment, stdin=None).wait()
    except HfdlcError as error:
        say(f"error: {' '.join(str(error).split())}")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
