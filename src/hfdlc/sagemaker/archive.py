"""Archives of folders of a container: model.tar.gz and output.tar.gz."""

import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from docker.errors import DockerException
from docker.models.containers import Container

from hfdlc.errors import HfdlcError
from hfdlc.streams import as_file

MOST_LINKS = 40  # followed for one path, as in the kernel


def write(container: Container, folder: str, output: Path) -> int:
    """Write the files of a folder to the root of an archive, atomically and readable by all.

    Links inside the folder become their content. Returns the number of files; without any nothing is written.

    Raises HfdlcError for a link that leads out of the folder, or if the archive cannot be written.
    """
    part: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
        part = Path(name)
        with (
            os.fdopen(descriptor, "wb") as file,
            tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar,  # weights compress badly
        ):
            number = _Packing(container, folder, tar).run()
        if number:
            part.chmod(0o644)
            part.rename(output)
        return number
    except (OSError, DockerException, tarfile.TarError) as error:
        raise HfdlcError(
            f"cannot write the archive: {error}",
            location=str(output),
            hint="free disk space or set --output, then train again",
        ) from error
    finally:
        if part:
            with suppress(FileNotFoundError):
                part.unlink()


@dataclass
class _Packing:
    container: Container
    folder: str
    target: tarfile.TarFile
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)  # by their path in the folder
    number: int = 0

    def run(self) -> int:
        """Files are copied as the engine sends them; what links lead to is read afterwards."""
        with _members(self.container, self.folder) as archive:
            for member in archive:
                path = member.name.partition("/")[2]
                if not path:
                    continue
                self.members[path] = member
                if member.isdir() or member.isfile():
                    self._add(path, member, archive)
                elif not member.issym() and not member.islnk():
                    raise HfdlcError("neither a file nor a folder", location=f"{self.folder}/{path}")
        for path, member in self.members.items():
            if member.issym() or member.islnk():
                self._add_target(path, self._resolve(path), depth=0)
        return self.number

    def _add(self, path: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        copy = member.replace(name=path, deep=False)
        copy.mode |= 0o755 if member.isdir() else 0o644
        self.target.addfile(copy, archive.extractfile(member) if member.isfile() else None)
        self.number += member.isfile()

    def _add_target(self, path: str, real: str, depth: int) -> None:
        """Add the file or folder `real` under another path."""
        if depth > MOST_LINKS or f"{path}/".startswith(f"{real}/" if real else ""):
            raise HfdlcError("the link leads to a folder that contains it", location=f"{self.folder}/{path}")
        if self.members[real].isfile():
            with _members(self.container, f"{self.folder}/{real}") as archive:
                self._add(path, next(iter(archive)), archive)
            return
        self.target.addfile(self.members[real].replace(name=path, mode=0o755, deep=False))
        for name in [name for name in self.members if name.startswith(f"{real}/")]:
            copy = path + name.removeprefix(real)
            if self.members[name].isdir():
                self.target.addfile(self.members[name].replace(name=copy, mode=0o755, deep=False))
            else:
                self._add_target(copy, self._resolve(name), depth + 1)

    def _resolve(self, path: str) -> str:
        """The path of the file or folder that a path leads to through links."""
        rest, done, links = path.split("/"), list[str](), 0
        while rest:
            part = rest.pop(0)
            if part == ".." and not done:
                raise self._outside(path)
            done = done[:-1] if part == ".." else [*done, *([part] if part not in ("", ".") else [])]
            member = self.members.get("/".join(done))
            if done and member is None:
                raise HfdlcError("the link leads to no file", location=self._named(path))
            if member and (member.issym() or member.islnk()):
                links += 1
                done, target = self._target(done, member, path)
                rest = target.split("/") + rest
            if links > MOST_LINKS:
                raise HfdlcError("the link leads to itself", location=self._named(path))
        return "/".join(done)

    def _target(self, done: list[str], link: tarfile.TarInfo, path: str) -> tuple[list[str], str]:
        """Where a link at `done` leads to: the folder to begin in, and the path from there."""
        if link.islnk():
            return [], link.linkname.partition("/")[2]
        if not link.linkname.startswith("/"):
            return done[:-1], link.linkname
        if not f"{link.linkname}/".startswith(f"{self.folder}/"):
            raise self._outside(path)
        return [], link.linkname.removeprefix(self.folder)

    def _outside(self, path: str) -> HfdlcError:
        return HfdlcError(
            f"the link leads out of {self.folder}",
            location=self._named(path),
            hint="copy the file itself to the folder in the script: shutil.copy",
        )

    def _named(self, path: str) -> str:
        return f"{self.folder}/{path} -> {self.members[path].linkname}"


@contextmanager
def _members(container: Container, path: str) -> Iterator[tarfile.TarFile]:
    """The members of the engine's archive of a path, in the order in which they come."""
    pieces, _ = container.get_archive(path)
    try:
        with tarfile.open(fileobj=as_file(iter(pieces)), mode="r|") as archive:
            yield archive
    finally:
        for _ in pieces:  # the engine locks the container until its archive has been read
            pass
