"""The registry that keeps layers between machines (HFDLC_CACHE), and signing in to it for buildx."""

import json
from collections.abc import Mapping
from pathlib import Path

from hfdlc.build.bake import ECR
from hfdlc.build.session import Session
from hfdlc.process import say


def registry(session: Session) -> str | None:
    """The registry, HOST/PREFIX; None if there is none, or the builder cannot use it."""
    found = session.environ.get("HFDLC_CACHE")
    if found and not session.builder.exports_images:
        say("HFDLC_CACHE is not used: Docker's classic image store cannot export caches")
        return None
    return found or None


def environment(session: Session, folder: Path) -> dict[str, str]:
    """Variables that sign buildx in to a registry of ECR, by a copy of Docker's configuration in `folder`.

    Empty for other registries, whose logins Docker's configuration has. If AWS gives no login, the build
    continues without the cache.
    """
    host = (session.environ.get("HFDLC_CACHE") or "").partition("/")[0]
    match = ECR.match(host)
    if not match or not session.builder.exports_images:
        return {}
    import boto3  # slow to import, and only ECR needs it
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = boto3.client("ecr", region_name=match["region"])
        token = client.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    except (BotoCoreError, ClientError) as error:
        say(f"HFDLC_CACHE: no login for {host}: {error}")
        return {}
    return _signed_in(session.environ, folder, host, token)


def _signed_in(environ: Mapping[str, str], folder: Path, host: str, token: str) -> dict[str, str]:
    home = Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME", "/root"), ".docker"))
    settings = json.loads((home / "config.json").read_text()) if (home / "config.json").is_file() else {}
    settings["auths"] = {**settings.get("auths", {}), host: {"auth": token}}
    # Credential helpers would be asked first.
    settings["credHelpers"] = {k: v for k, v in settings.get("credHelpers", {}).items() if k != host}
    if settings.pop("credsStore", None):
        say(f"HFDLC_CACHE: buildx uses no credential store while it is signed in to {host}")
    own = folder / "docker"
    own.mkdir(mode=0o700)
    for entry in home.iterdir() if home.is_dir() else ():
        if entry.name != "config.json":
            (own / entry.name).symlink_to(entry)
    file = own / "config.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(settings))
    return {"DOCKER_CONFIG": str(own)}
