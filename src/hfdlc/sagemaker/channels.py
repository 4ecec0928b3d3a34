"""The data channels of a training job: files and folders of this machine, and objects of S3."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from hfdlc.errors import HfdlcError, UserError
from hfdlc.process import say

NAME = re.compile(r"[A-Za-z0-9._-]{1,20}")  # as SageMaker's API has it
DEFAULT = "training"  # the SageMaker SDK's name for inputs without one
ALLOWED = "FILE, FOLDER or s3://BUCKET/PREFIX, with or without NAME= before it"


@dataclass(frozen=True)
class Channel:
    """A name, and a file, a folder, or the URI of a prefix in S3."""

    name: str
    place: Path | str


def read(words: Sequence[str]) -> tuple[Channel, ...]:
    """The channels of `--data [NAME=]PLACE`; a folder that has only folders is a channel for each of them.

    Raises UserError if there is nothing at a place, or two channels have one name.
    """
    channels = [channel for word in words for channel in _channels(word)]
    names = [channel.name for channel in channels]
    for channel in channels:
        if not NAME.fullmatch(channel.name):
            raise UserError("not the name of a channel", location=channel.name, allowed=NAME.pattern)
        if names.count(channel.name) > 1:
            raise UserError("two channels have this name", location=channel.name, allowed=ALLOWED)
    return tuple(channels)


def _channels(word: str) -> list[Channel]:
    name, equals, place = word.partition("=")
    if not name or not equals or "/" in name or Path(word).exists():
        name, place = "", word
    if place.startswith("s3://"):
        return [Channel(name or DEFAULT, place)]
    path = Path(place)
    if path.is_file():
        return [Channel(name or DEFAULT, path)]
    if not path.is_dir():
        raise UserError("no such file or folder", location=place, allowed=ALLOWED)
    inside = [each for each in sorted(path.iterdir()) if not each.name.startswith(".")]
    if not inside:
        raise UserError("the data folder is empty", location=place)
    if not name and all(each.is_dir() for each in inside):
        return [Channel(each.name, each) for each in inside]
    return [Channel(name or DEFAULT, path)]


@contextmanager
def local(channels: Sequence[Channel], scratch: Path) -> Iterator[Mapping[str, Path]]:
    """The files and folders of the channels by name; objects are downloaded below `scratch` while it lasts.

    Raises UserError if a prefix has no objects, HfdlcError if they cannot be read.
    """
    with TemporaryDirectory(prefix="data-", dir=scratch) as folder:
        places = {}
        for channel in channels:
            place = channel.place
            if isinstance(place, str):
                target = Path(folder, channel.name)
                _download(place, target)
                place = target
            places[channel.name] = place
        yield places


def _download(uri: str, target: Path) -> None:
    """Download the objects of a prefix: `s3://bucket/data` has data itself and data/*, not data-2."""
    # boto3 is slow to import, and other channels do not need it.
    import boto3
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    number = 0
    try:
        client: Any = boto3.client("s3")
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Contents", ()):
                path = _relative(found["Key"], prefix)
                if path is None:
                    continue
                if ".." in path.parts:
                    raise HfdlcError("the name of the object leads out of the folder", location=uri)
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                client.download_file(bucket, found["Key"], str(target / path))
                number += 1
    except (ClientError, BotoCoreError, Boto3Error, OSError) as error:
        raise HfdlcError(
            f"cannot be downloaded: {error}",
            location=uri,
            hint="run `aws sts get-caller-identity` to see which credentials are used",
        ) from error
    if not number:
        raise UserError("no objects have this prefix", location=uri)
    say(f"downloaded {number} files of {uri}")


def _relative(key: str, prefix: str) -> PurePosixPath | None:
    """The path of an object below a prefix; None for folders, and for keys of a longer name."""
    if key.endswith("/"):
        return None
    if key == prefix:
        return PurePosixPath(PurePosixPath(key).name)
    inside = prefix.rstrip("/") + "/" if prefix else ""
    return PurePosixPath(key.removeprefix(inside)) if key.startswith(inside) else None
