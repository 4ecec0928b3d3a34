"""What runs builds: the builder of the engine, or one of buildx that the user names (BUILDX_BUILDER)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from hfdlc.engine import detect
from hfdlc.engine.detect import Engine
from hfdlc.errors import CommandFailed, HfdlcError, UserError
from hfdlc.process import run
from hfdlc.state import State

VARIABLE = "BUILDX_BUILDER"
OWN = "default"  # how buildx calls the builder of the engine
PLATFORM = "linux/amd64"  # the one that packages are locked for


@dataclass(frozen=True)
class Builder:
    """A builder of buildx. One with a name has no images of the engine, and its memory is not known."""

    buildx: tuple[str, ...]  # the command
    environment: Mapping[str, str] = field(repr=False)  # of buildx
    exports_images: bool  # as OCI layouts, and caches: Docker's classic image store does not
    shares_host_network: bool = False  # as the private engine does, which has no bridge network
    name: str = ""  # empty: the engine's own
    version: str = ""  # of its BuildKit; that of an engine's own is `Engine.buildkit`


def of_engine(engine: Engine) -> Builder:
    """The builder of the engine."""
    return Builder(engine.buildx, engine.environment, engine.containerd_store, engine.private)


def named(environ: Mapping[str, str], state: State) -> Builder | None:
    """The builder that BUILDX_BUILDER names, which is started if it is not running; None if it names none.

    It has the user's configuration of buildx and Docker, in which it is defined.
    Raises UserError if there is no such builder, HfdlcError if it does not answer or cannot build images.
    """
    name = environ.get(VARIABLE) or OWN
    if name == OWN:
        return None
    buildx = detect.find_buildx(state)
    own = {**environ, VARIABLE: name, "BUILDX_GIT_INFO": "false"}
    try:
        # With DEBUG, buildx lists the features of the builder.
        about = run([*buildx, "inspect", "--bootstrap", name], env={**own, "DEBUG": "1"}).stdout
    except CommandFailed as error:
        known = _names(run([*buildx, "ls"], env=own).stdout)
        if name not in known:
            raise UserError(
                f"buildx has no builder {name!r}; it has {', '.join(known)}", location=VARIABLE
            ) from error
        raise _unusable(name, f"does not start: {_reason(error.output)}") from error
    values: dict[str, list[str]] = {}
    for key, value in re.findall(r"^ *([\w ]+?):[ \t]+(.+)$", about, re.MULTILINE):
        values.setdefault(key, []).append(value.strip())
    _check(name, values)
    if values.get("Driver") == ["docker"]:
        # buildx builds with the engine of a Docker context only where that is the current one.
        own |= {"DOCKER_CONTEXT": name, "DOCKER_HOST": ""}
    return Builder(buildx, own, exports_images=True, name=name, version=detect.buildkit_version(about))


def _check(name: str, values: Mapping[str, list[str]]) -> None:
    """Raise HfdlcError where a builder cannot be used, from the values in the output of `buildx inspect`."""
    if "running" not in values.get("Status", []):
        reasons = values.get("Error") or values.get("Status") or ["it has no nodes"]
        raise _unusable(name, f"does not answer: {reasons[0]}")
    if "false" in values.get("OCI exporter", []):
        raise _unusable(
            name,
            "cannot export images: its engine uses Docker's classic image store",
            f"enable the containerd image store there, or use that engine itself: DOCKER_CONTEXT={name}",
        )
    platforms = ", ".join(values.get("Platforms", []))
    if platforms and PLATFORM not in platforms:
        raise _unusable(name, f"builds for {platforms}, and the packages of images are locked for {PLATFORM}")


def _unusable(name: str, why: str, hint: str = "") -> HfdlcError:
    hint = hint or f"docker buildx inspect --bootstrap {name}; or unset {VARIABLE} to build on the engine"
    return HfdlcError(f"the builder {name!r} {why}", location=VARIABLE, hint=hint)


def _names(listed: str) -> list[str]:
    """The names of builders in the output of `buildx ls`, which indents the lines of their nodes."""
    lines = [line for line in listed.splitlines()[1:] if line and not line[0].isspace()]
    return [line.split()[0].rstrip("*") for line in lines]


def _reason(output: str) -> str:
    """The error in the output of a program, which may be followed by a stack trace."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error: ")]
    return (errors or lines or ["no reason given"])[0].removeprefix("ERROR: ").removeprefix("error: ")
