"""The data of a training job: files, folders, several channels, and objects of S3."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from hfdlc.errors import HfdlcError, UserError
from hfdlc.sagemaker import channels
from hfdlc.sagemaker.channels import Channel


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with folders of data."""
    for name in ("text/train/a.csv", "text/test/b.csv", "plain/a.csv", "plain/more/b.csv", "odd=name/a.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["text"], {"test": "text/test", "train": "text/train"}),
        (["plain"], {"training": "plain"}),
        (["plain/a.csv"], {"training": "plain/a.csv"}),
        (["train=text"], {"train": "text"}),
        (["train=plain", "test=plain"], {"train": "plain", "test": "plain"}),
        (["train=text/train", "test=text/test/b.csv"], {"train": "text/train", "test": "text/test/b.csv"}),
        (["plain", "test=text/test"], {"training": "plain", "test": "text/test"}),
        (["odd=name"], {"training": "odd=name"}),
    ],
)
def test_channels_are_named_or_folders(data: Path, words: list[str], expected: dict[str, str]) -> None:
    """A folder that has only folders is a channel for each; a folder with files is `training`."""
    assert channels.read(words) == tuple(Channel(name, Path(place)) for name, place in expected.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["empty"], "empty: the data folder is empty"),
        (["nothing"], "nothing: no such file or folder"),
        (["train=nothing"], "nothing: no such file or folder"),
        (["plain", "text/train"], "training: two channels have this name"),
        (["a b=plain"], "a b: not the name of a channel"),
        (["=plain"], "=plain: no such file or folder"),
    ],
)
def test_wrong_channel_is_refused(data: Path, words: list[str], message: str) -> None:
    """Before an engine is used."""
    with pytest.raises(UserError, match=message):
        channels.read(words)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A bucket with objects, simulated by moto."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="ours")
        for key in ("data/a.csv", "data/more/b.csv", "data/", "data-2/c.csv", "bad/../../d.csv"):
            client.put_object(Bucket="ours", Key=key, Body=key.encode())
        yield


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://ours/data", ["a.csv", "more/b.csv"]),
        ("s3://ours/data/", ["a.csv", "more/b.csv"]),
        ("s3://ours/data/more/b.csv", ["b.csv"]),
    ],
)
def test_objects_of_a_prefix_are_a_channel(
    bucket: None, tmp_path: Path, uri: str, expected: list[str]
) -> None:
    """They are on this machine while the job runs."""
    with channels.local(channels.read([f"train={uri}"]), tmp_path) as places:
        folder = places["train"]
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        assert [path.relative_to(folder).as_posix() for path in found] == expected
        assert found[0].read_text().endswith(expected[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "kind", "message"),
    [
        ("s3://ours/nothing", UserError, "s3://ours/nothing: no objects have this prefix"),
        ("s3://theirs/data", HfdlcError, "cannot be downloaded: .*NoSuchBucket"),
        ("s3://ours/bad", HfdlcError, "leads out of the folder"),
        ("s3://", HfdlcError, "cannot be downloaded"),
    ],
)
def test_objects_that_cannot_be_read_are_an_error(
    bucket: None, tmp_path: Path, uri: str, kind: type[HfdlcError], message: str
) -> None:
    with (
        pytest.raises(kind, match=message),
        channels.local(channels.read([uri]), tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_missing_credentials_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what shows which ones are used."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    boto3.setup_default_session()
    with (
        pytest.raises(HfdlcError, match=r"Unable to locate credentials(.|\n)*get-caller-identity"),
        channels.local(channels.read(["s3://ours/data"]), tmp_path),
    ):
        pass


def test_profile_that_does_not_exist_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read when the client is made."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "missing")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with (
        pytest.raises(HfdlcError, match=r"s3://ours/data: cannot be downloaded: .*profile \(missing\)"),
        channels.local(channels.read(["s3://ours/data"]), tmp_path),
    ):
        pass
