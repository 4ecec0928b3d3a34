"""URIs are composed and parsed, and each is the other's inverse."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfdlc.errors import UserError
from hfdlc.publish import uri
from hfdlc.publish.regions import REGIONS, Region

# The table of the reference document, in its order, with its own spelling of the URIs.
TABLE = Path(__file__).parents[1] / "data" / "reference_table.csv"
with TABLE.open() as file:
    ROWS = list(csv.DictReader(file))

versions = st.builds("{}.{}.{}".format, *[st.integers(0, 40)] * 3)
devices = st.one_of(st.just(("cpu", None)), st.integers(100, 199).map(lambda n: ("gpu", f"cu{n}")))


@given(
    region=st.sampled_from(sorted(REGIONS.values(), key=lambda region: region.name)),
    framework=st.sampled_from(["pytorch", "tensorflow"]),
    kind=st.sampled_from(["training", "inference"]),
    framework_version=versions,
    transformers_version=versions,
    device=devices,
    minor=st.integers(6, 20),
    os=st.sampled_from(["debian12", "ubuntu18.04", "ubuntu24.04"]),
)
def test_parse_is_the_inverse_of_compose(
    region: Region,
    framework: str,
    kind: str,
    framework_version: str,
    transformers_version: str,
    device: tuple[str, str | None],
    minor: int,
    os: str,
) -> None:
    """Whatever is composed is parsed into its parts, and they give the same text again."""
    kind_of_device, cuda = device
    written = uri.Uri(
        region.account,
        region.name,
        region.domain,
        framework,
        kind,
        framework_version,
        transformers_version,
        kind_of_device,
        f"3.{minor}",
        cuda,
        os,
    )
    assert uri.parse(uri.compose(written.image, region)) == written
    assert str(uri.parse(str(written))) == str(written)


def right_image(row: dict[str, str]) -> str:
    """What the columns of a documented row say."""
    cuda = "-cu110" if row["device"] == "gpu" else ""
    python = "py" + row["python"].replace(".", "")
    return (
        f"huggingface-{row['framework']}-{row['type']}:{row['framework_version']}-transformers{row['transformers']}"
        f"-{row['device']}-{python}{cuda}-ubuntu18.04"
    )


@pytest.mark.parametrize("row", ROWS, ids=[str(number) for number in range(1, len(ROWS) + 1)])
def test_the_documented_uris_say_what_their_columns_say_but_for_two(row: dict[str, str]) -> None:
    """Rows 3 and 5 of the document carry the tag of the row above; the columns are right."""
    documented = uri.parse(row["documented_image_uri"]).image
    known_as_wrong = ROWS.index(row) + 1 in (3, 5)
    assert (documented != right_image(row)) == known_as_wrong


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("nginx:latest", "this is not the URI of a Hugging Face container"),
        (
            ROWS[0]["documented_image_uri"].replace("us-west-2", "us-west-9"),
            "published in 'us-west-9' (did you mean",
        ),
        (
            ROWS[0]["documented_image_uri"].replace("763104351884", "123456789012"),
            "is not the account of us-west-2",
        ),
        (ROWS[0]["documented_image_uri"].replace("-cu110", ""), "a gpu image needs a CUDA version"),
    ],
)
def test_wrong_uri_is_an_error_with_its_reason(text: str, output: str) -> None:
    """Form, region, account and CUDA each have their message."""
    with pytest.raises(UserError) as caught:
        uri.parse(text)
    assert output in str(caught.value)


def test_the_regions_have_their_own_accounts_and_domains() -> None:
    """China and the isolated partitions are elsewhere."""
    assert uri.region("eu-west-1").registry == "763104351884.dkr.ecr.eu-west-1.amazonaws.com"
    assert uri.region("cn-north-1").registry == "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn"
    assert uri.region("us-iso-east-1").registry == "886529160074.dkr.ecr.us-iso-east-1.c2s.ic.gov"
