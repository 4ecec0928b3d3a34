"""Predictors of the SageMaker SDK 2.x with its serializers and deserializers."""

import io
import warnings

import boto3
import numpy
from checks import MEDIA, SAGEMAKER, check, error_of, main

warnings.simplefilter("ignore")

import sagemaker  # noqa: E402
from sagemaker import deserializers, serializers  # noqa: E402
from sagemaker.huggingface import HuggingFacePredictor  # noqa: E402
from sagemaker.predictor import Predictor  # noqa: E402

AWS = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-west-1")
SESSION = sagemaker.Session(
    AWS,
    sagemaker_client=AWS.client("sagemaker", endpoint_url=SAGEMAKER),
    sagemaker_runtime_client=AWS.client("sagemaker-runtime", endpoint_url=SAGEMAKER),
    default_bucket="none",
)
DOCUMENT = {"inputs": ["I like you", "paris"]}
IMAGE = MEDIA / "image.png"


def predictor(serializer, deserializer, made=Predictor):
    return made("model", sagemaker_session=SESSION, serializer=serializer, deserializer=deserializer)


def expected():
    return HuggingFacePredictor("model", sagemaker_session=SESSION).predict(DOCUMENT)


@check("text-classification")
def json_as_hugging_face_predictor(url):
    labels = expected()
    assert [set(label) for label in labels] == [{"label", "score"}] * 2


@check("text-classification")
def json_lines(url):
    made = predictor(serializers.JSONLinesSerializer(), deserializers.JSONLinesDeserializer())
    assert made.predict([{"inputs": text} for text in DOCUMENT["inputs"]]) == expected()
    assert made.predict(DOCUMENT["inputs"]) == expected()


@check("text-classification")
def csv(url):
    made = predictor(serializers.CSVSerializer(), deserializers.CSVDeserializer())
    header, *rows = made.predict([["inputs"], *([text] for text in DOCUMENT["inputs"])])
    assert header == ["label", "score"]
    assert [row[0] for row in rows] == [label["label"] for label in expected()]
    # One column without a header.
    assert made.predict([[text] for text in DOCUMENT["inputs"]])[1:] == rows


@check("text-classification")
def csv_of_a_data_frame(url):
    """The serializer writes no header."""
    import pandas

    made = predictor(serializers.CSVSerializer(), deserializers.PandasDeserializer())
    table = made.predict(pandas.DataFrame({"inputs": DOCUMENT["inputs"]}))
    assert list(table.columns) == ["label", "score"]
    assert list(table["label"]) == [label["label"] for label in expected()]


@check("text-classification")
def numpy_strings(url):
    made = predictor(serializers.NumpySerializer(), deserializers.JSONDeserializer())
    assert made.predict(numpy.array(DOCUMENT["inputs"])) == expected()
    assert made.predict(DOCUMENT["inputs"]) == expected()


@check("text-classification")
def a_pickle_is_refused(url):
    made = predictor(serializers.NumpySerializer(), deserializers.JSONDeserializer())
    content = io.BytesIO()
    numpy.save(content, numpy.array([{"a": 1}], dtype=object), allow_pickle=True)
    error = error_of(lambda: made.predict(io.BytesIO(content.getvalue())))
    assert error.response["OriginalStatusCode"] == 400


@check("text-classification")
def strings_and_bytes(url):
    made = predictor(serializers.StringSerializer(), deserializers.JSONDeserializer())
    assert [label["label"] for label in made.predict("I like you")] == [expected()[0]["label"]]
    made = predictor(serializers.IdentitySerializer("application/json"), deserializers.StringDeserializer())
    assert "label" in made.predict(b'{"inputs": "I like you"}')
    made = predictor(serializers.IdentitySerializer(), deserializers.BytesDeserializer())
    assert b"label" in made.predict(b'{"inputs": "I like you"}')


@check("text-classification")
def content_types_that_are_not_read(url):
    for serializer, data in (
        (serializers.LibSVMSerializer(), "1 1:0.5"),
        (serializers.IdentitySerializer("application/x-recordio-protobuf"), b"\x00"),
        (serializers.IdentitySerializer("application/x-npz"), b"PK\x03\x04"),
    ):
        made = predictor(serializer, deserializers.JSONDeserializer())
        error = error_of(lambda made=made, data=data: made.predict(data))
        assert error.response["OriginalStatusCode"] == 415
        assert "application/json" in error.response["OriginalMessage"]


@check("feature-extraction")
def numpy_arrays_as_answers(url):
    made = predictor(serializers.JSONSerializer(), deserializers.NumpyDeserializer())
    assert made.predict({"inputs": "I like you"}).shape == (1, 5, 32)


@check("image-classification")
def images(url):
    """DataSerializer's own content type is file-path/raw-bytes; examples give image/x-image."""
    made = predictor(serializers.DataSerializer(content_type="image/png"), deserializers.JSONDeserializer())
    labels = made.predict(str(IMAGE))
    assert {label["label"] for label in labels} == {"cat", "dog", "eel"}
    assert made.predict(IMAGE.read_bytes()) == labels
    for serializer in (
        serializers.DataSerializer(content_type="image/x-image"),
        serializers.IdentitySerializer("image/png"),
        serializers.IdentitySerializer("image/x-image"),
        serializers.IdentitySerializer(),
    ):
        made = predictor(serializer, deserializers.JSONDeserializer(), HuggingFacePredictor)
        assert made.predict(IMAGE.read_bytes()) == labels, serializer.CONTENT_TYPE


@check("automatic-speech-recognition")
def sounds(url):
    sound = (MEDIA / "sound.wav").read_bytes()
    for content_type in ("audio/x-audio", "audio/wav"):
        serializer = serializers.DataSerializer(content_type=content_type)
        made = predictor(serializer, deserializers.JSONDeserializer(), HuggingFacePredictor)
        assert isinstance(made.predict(sound)["text"], str)


@check("text-generation")
def predict_stream(url):
    from sagemaker.iterators import LineIterator

    made = predictor(serializers.JSONSerializer(), deserializers.StreamDeserializer())
    document = {"inputs": "I like", "parameters": {"max_new_tokens": 6}, "stream": True}
    lines = [line for line in made.predict_stream(document, iterator=LineIterator) if line]
    assert len(lines) > 1
    assert all(line.startswith(b"data:") for line in lines)


if __name__ == "__main__":
    main()
