"""boto3's sagemaker-runtime with a custom endpoint URL."""

import json
import threading

import boto3
from checks import MEDIA, SAGEMAKER, check, error_of, main

CLIENT = boto3.client(
    "sagemaker-runtime",
    endpoint_url=SAGEMAKER,
    region_name="eu-west-1",
    aws_access_key_id="a",
    aws_secret_access_key="b",
)
DOCUMENT = {"inputs": "I like you"}


def invoke(body, content_type="application/json", **more):
    body = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return CLIENT.invoke_endpoint(EndpointName="model", Body=body, ContentType=content_type, **more)


def value(answer):
    return json.loads(answer["Body"].read())


@check("text-classification")
def invoke_endpoint(url):
    answer = invoke(DOCUMENT)
    assert answer["ContentType"] == "application/json"
    assert value(answer)[0]["label"] in ("NEGATIVE", "POSITIVE")


@check("text-classification")
def a_string_and_bytes_as_body(url):
    assert value(invoke(json.dumps(DOCUMENT))) == value(invoke(json.dumps(DOCUMENT).encode()))


@check("text-classification")
def no_content_type(url):
    """boto3 sends no Content-Type for bytes, and the service application/octet-stream."""
    body = json.dumps(DOCUMENT).encode()
    answer = CLIENT.invoke_endpoint(EndpointName="model", Body=body)
    assert value(answer) == value(invoke(DOCUMENT))
    assert value(invoke(body, "application/octet-stream")) == value(invoke(DOCUMENT))


@check("text-classification")
def content_types_and_accept(url):
    lines = value(invoke({"inputs": ["a", "b"]}))
    for content_type, body in (
        ("application/json; charset=utf-8", b'{"inputs": ["a", "b"]}'),
        ("application/jsonlines", b'{"inputs": "a"}\n{"inputs": "b"}\n'),
        ("text/csv", b"inputs\na\nb\n"),
    ):
        assert value(invoke(body, content_type)) == lines, content_type
    answer = invoke({"inputs": ["a", "b"]}, Accept="application/jsonlines")
    assert answer["ContentType"] == "application/jsonlines"
    assert [json.loads(line) for line in answer["Body"].read().splitlines()] == lines
    answer = invoke({"inputs": ["a", "b"]}, Accept="text/csv")
    assert answer["ContentType"] == "text/csv"
    assert answer["Body"].read().decode().splitlines()[0] == "label,score"
    for accept in ("*/*", "application/json, text/csv;q=0.5", "application/json;verbose=True"):
        assert value(invoke(DOCUMENT, Accept=accept)), accept


@check("text-classification")
def custom_attributes_and_inference_id(url):
    answers = [
        value(invoke(DOCUMENT, CustomAttributes="trace-id=abc/1", InferenceId="inference-1")),
        value(invoke(DOCUMENT)),
    ]
    # OpenVINO may take over between the two.
    one, other = [[(found["label"], round(found["score"], 4)) for found in answer] for answer in answers]
    assert one == other


@check("text-classification")
def a_model_error_has_the_answer_of_the_container(url):
    error = error_of(lambda: invoke({"inptus": "a"}), CLIENT.exceptions.ModelError)
    assert error.response["OriginalStatusCode"] == 400
    message = json.loads(error.response["OriginalMessage"])["error"]["message"]
    assert "inptus" in message
    assert "inputs" in message


@check("text-classification")
def many_threads(url):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(value(invoke(DOCUMENT)))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = value(invoke(DOCUMENT))[0]
    assert len(answers) == 16
    for answer in answers:
        assert answer[0]["label"] == expected["label"]
        assert abs(answer[0]["score"] - expected["score"]) < 1e-4


@check("feature-extraction")
def an_array_as_answer(url):
    answer = invoke(DOCUMENT, Accept="application/x-npy")
    assert answer["ContentType"] == "application/x-npy"
    assert answer["Body"].read().startswith(b"\x93NUMPY")


@check("image-classification")
def an_image(url):
    image = (MEDIA / "image.png").read_bytes()
    labels = value(invoke(image, "image/png"))
    assert {label["label"] for label in labels} == {"cat", "dog", "eel"}
    for content_type in ("image/*", "image/x-image", "application/octet-stream"):
        assert value(invoke(image, content_type)) == labels, content_type
    assert value(invoke(image, "image/png", CustomAttributes="top_k=1")) == labels[:1]


@check("automatic-speech-recognition")
def a_sound(url):
    sound = (MEDIA / "sound.wav").read_bytes()
    text = value(invoke(sound, "audio/wav"))["text"]
    for content_type in ("audio/x-wav", "audio/x-audio", "audio/wave", "application/octet-stream"):
        assert value(invoke(sound, content_type))["text"] == text, content_type


@check("text-generation")
def response_stream(url):
    """Events in parts of any size; together they are the text that a request without stream gets."""
    document = {"inputs": "I like", "parameters": {"max_new_tokens": 6, "return_full_text": False}}
    body = json.dumps(dict(document, stream=True))
    answer = CLIENT.invoke_endpoint_with_response_stream(
        EndpointName="model", Body=body, ContentType="application/json"
    )
    assert answer["ContentType"].startswith("text/event-stream")
    parts = [event["PayloadPart"]["Bytes"] for event in answer["Body"]]
    events = [line[5:] for line in b"".join(parts).decode().splitlines() if line.startswith("data:")]
    assert len(events) == 6
    last = json.loads(events[-1])
    assert last["generated_text"] == value(invoke(document))[0]["generated_text"]


@check("text-generation")
def an_error_instead_of_a_response_stream(url):
    body = json.dumps({"inputs": "I like", "parameters": {"max_new_tokens": -1}, "stream": True})
    error = error_of(
        lambda: CLIENT.invoke_endpoint_with_response_stream(
            EndpointName="model", Body=body, ContentType="application/json"
        ),
        CLIENT.exceptions.ModelError,
    )
    assert "max_new_tokens" in error.response["OriginalMessage"]


if __name__ == "__main__":
    main()
