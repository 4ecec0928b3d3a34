"""The SageMaker SDK 2.x in local mode, with the images of a release: `fit` on one and two hosts, and `deploy`."""

import json
import os
import tarfile
import warnings
from pathlib import Path

import boto3
from checks import check, main

warnings.simplefilter("ignore")

from sagemaker.huggingface import HuggingFace  # noqa: E402
from sagemaker.local import LocalSession  # noqa: E402

FOLDER = Path(os.environ["LOCAL_MODE_FOLDER"])
TRAINING, INFERENCE = os.environ["LOCAL_MODE_TRAINING"], os.environ["LOCAL_MODE_INFERENCE"]
SOURCE = FOLDER / "source"
ROWS = [
    (word + end, label) for word, label in (("good", "yes"), ("bad", "no")) for end in ("", " film", " song")
]
SESSION = LocalSession(
    boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-west-1")
)
SESSION.config = {"local": {"local_code": True, "container_root": str(FOLDER)}}


def fitted(instances, **more):
    """An estimator after `fit`, and the hosts whose processes trained together."""
    data, output = FOLDER / "data", FOLDER / f"output-{instances}"
    data.mkdir(exist_ok=True)
    output.mkdir()
    (data / "texts.json").write_text(json.dumps(ROWS), encoding="utf-8")
    estimator = HuggingFace(
        entry_point="train.py",
        source_dir=str(SOURCE),
        image_uri=TRAINING,
        py_version="py311",
        role="arn:aws:iam::111111111111:role/none",
        instance_type="local",
        instance_count=instances,
        sagemaker_session=SESSION,
        output_path=f"file://{output}",
        # Nothing is uploaded in local mode, but `deploy` asks AWS for the name of a bucket if it has none.
        code_location="s3://none",
        **more,
    )
    estimator.fit({"training": f"file://{data}"})
    with tarfile.open(output / "model.tar.gz") as archive:
        hosts = json.loads(archive.extractfile("hosts.json").read())
    return estimator, hosts


def served(estimator):
    """The answers of the endpoint that `deploy` makes."""
    predictor = estimator.deploy(1, "local", image_uri=INFERENCE)
    try:
        return predictor.predict({"inputs": ["good film", "bad film"]})
    finally:
        predictor.delete_endpoint()


@check("local-mode")
def fit_on_one_host_and_deploy(url):
    estimator, hosts = fitted(1)
    assert len(hosts) == 1
    assert [answer["label"] for answer in served(estimator)] == ["yes", "no"]


@check("local-mode")
def fit_on_two_hosts_and_deploy(url):
    estimator, hosts = fitted(2, distribution={"torch_distributed": {"enabled": True}})
    assert len(set(hosts)) == 2
    assert [answer["label"] for answer in served(estimator)] == ["yes", "no"]


if __name__ == "__main__":
    main()
