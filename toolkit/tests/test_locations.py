"""No string of a request is a location: nothing is fetched, opened, looked for or run that a request names.

Bodies that every task answers are changed at every depth: addresses, paths, templates and names of code take the place
of values, and names that libraries load from take the place of keys. An audit hook of Python notices each access.
"""

import base64
import csv
import functools
import io
import json
import os
import sys
import threading

import pytest
import tiny
import tiny_pipelines

from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.loading.hooks import DefaultModel
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.models.failures import as_request_error
from hf_inference_toolkit.settings import Settings

pytest.importorskip("transformers", minversion="4.46")
pytest.importorskip("PIL")
hypothesis = pytest.importorskip("hypothesis")
if tiny.FRAMEWORK != "pt" or not hasattr(sys, "addaudithook"):
    pytest.skip("shown on PyTorch with Python 3.8 or later", allow_module_level=True)
st = hypothesis.strategies

MARK = "location-of-a-request"
PATHS = ["/tmp/{}.png".format(MARK), "file:///tmp/{}".format(MARK), "~/{}".format(MARK), MARK]
ADDRESSES = [
    "http://127.0.0.1:9/{}.png",
    "https://{}.example/a.wav",
    "ftp://127.0.0.1/{}",
    "hf://{}",
    "//127.0.0.1:9/{}",
    "s3://{}/a",
]
STRINGS = [
    *PATHS,
    *(address.format(MARK) for address in ADDRESSES),
    "data:image/png;base64,/tmp/" + MARK,
    "data:;base64,aHR0cDovLzEyNy4wLjAuMTo5",
    base64.b64encode(b"http://127.0.0.1:9/" + MARK.encode()).decode(),
    "{{ ''.__class__.__mro__ }}",
    "{0.__class__}",
    "{:>60000000}",
    "someone/" + MARK,
    "__import__('os').system('id')",
    "os.system",
    "|touch /tmp/" + MARK,
]
KEYS = [
    "inputs", "image", "images", "url", "path", "paths", "image_url", "audio", "audios", "video", "videos", "raw",
    "array", "bytes", "base64", "text", "text_inputs", "args", "question", "context", "table", "query", "messages",
    "role", "content", "type", "data", "file", "word_boxes", "model", "tokenizer", "assets", "custom_generate",
    "chat_template", "generation_config", "assistant_model", "processor_kwargs", "generate_kwargs", "timeout",
    "hypothesis_template", "language", "prompt", "voice_preset", "tesseract_config", "__class__", "cls", "self",
]  # fmt: skip
LEAF = st.sampled_from(STRINGS)
HARMFUL = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=2),
        st.dictionaries(st.sampled_from(KEYS), inner, min_size=1, max_size=2),
        inner.map(lambda value: {"type": "image", "url": value}),
        inner.map(lambda value: {"type": "image_url", "image_url": {"url": value}}),
        inner.map(lambda value: [{"role": "user", "content": [{"type": "image", "path": value}]}]),
    ),
    max_leaves=4,
)


OTHER_EVENTS = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec")
FILE_EVENTS = ("open", "os.listdir", "os.scandir", "import", "exec", "shutil.copyfile", "glob.glob")


class Watch:
    """Notes accesses that a request caused, while it is on."""

    def __init__(self):
        self.thread = None
        self.seen = []
        sys.addaudithook(self._note)

    def _note(self, event, args):
        if self.thread != threading.get_ident():
            return
        if event in OTHER_EVENTS or (event in FILE_EVENTS and MARK in repr(args[:1])):
            self.seen.append((event, repr(args)[:200]))

    def looked_for(self, function):
        """os.stat has no audit event, and tells whether a file exists."""

        def stat(path, *args, **kwargs):
            if self.thread == threading.get_ident() and MARK in repr(path):
                self.seen.append(("os.stat", repr(path)))
            return function(path, *args, **kwargs)

        return stat


@pytest.fixture(scope="module")
def watch():
    """The audit hook; it cannot be removed, and is off outside of tests."""
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", watch.looked_for(os.stat))
        patch.setattr(os, "lstat", watch.looked_for(os.lstat))
        yield watch
    watch.thread = None


SOUND = base64.b64encode(tiny_pipelines.wav(seconds=0.1)).decode()
IMAGE = base64.b64encode(tiny_pipelines.png(32, 32)).decode()
SHORT = {"max_new_tokens": 1}
PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + IMAGE}}
CHAT = [{"role": "user", "content": [{"type": "text", "text": "what"}, PART]}]
# Bodies that are answered with 200, by the name of a model.
RIGHT = {
    "text-classification": [{"inputs": "I like you"}, {"inputs": {"text": "I", "text_pair": "you"}}],
    "token-classification": [{"inputs": ["I like you"], "parameters": {"ignore_labels": ["O"]}}],
    "feature-extraction": [{"inputs": "I like you"}],
    "sentence-embeddings": [
        {"inputs": "I like you", "parameters": {"pooling": "mean", "prompt_name": "query"}},
        {"inputs": {"source_sentence": "I", "sentences": ["you"]}},
    ],
    "text-ranking": [{"inputs": {"query": "who", "texts": ["I like you"]}}],
    "fill-mask": [{"inputs": "I [MASK] you", "parameters": {"targets": ["like"]}}],
    "summarization": [{"inputs": "I like you", "parameters": SHORT}],
    "text-generation": [{"inputs": "I like", "parameters": dict(SHORT, stop_sequence=["a"])}],
    "question-answering": [{"inputs": {"question": "who", "context": "I like you"}}],
    "zero-shot-classification": [
        {"inputs": "I", "parameters": {"candidate_labels": ["a"], "hypothesis_template": "a {}"}}
    ],
    "table-question-answering": [{"inputs": {"query": "how many", "table": {"a": ["1", "2"]}}}],
    "image-classification": [{"inputs": IMAGE}, {"inputs": [IMAGE], "parameters": {"top_k": 1}}],
    "image-feature-extraction": [{"inputs": IMAGE, "parameters": {"pool": False}}],
    "image-segmentation": [{"inputs": IMAGE, "parameters": {"subtask": "semantic"}}],
    "depth-estimation": [{"inputs": IMAGE}],
    "object-detection": [{"inputs": IMAGE, "parameters": {"threshold": 0.5}}],
    "zero-shot-object-detection": [{"inputs": IMAGE, "parameters": {"candidate_labels": ["cat"]}}],
    "zero-shot-image-classification": [
        {"inputs": IMAGE, "parameters": {"candidate_labels": ["cat"], "hypothesis_template": "a {}"}}
    ],
    "document-question-answering": [{"inputs": {"question": "who", "word_boxes": [["you", [0, 0, 9, 9]]]}}],
    "visual-question-answering": [{"inputs": {"question": "who", "image": IMAGE}}],
    "audio-classification": [{"inputs": SOUND}, {"inputs": {"raw": [0.5] * 999, "sampling_rate": 16000}}],
    "automatic-speech-recognition": [{"inputs": SOUND, "parameters": {"return_timestamps": "word"}}],
    "whisper": [{"inputs": SOUND, "parameters": {"generate_kwargs": dict(SHORT, language="en")}}],
    "image-text-to-text": [
        {"inputs": {"images": [IMAGE], "text": "<image> what"}, "parameters": SHORT},
        {"inputs": CHAT, "parameters": {"generate_kwargs": SHORT}},
        {"inputs": "what", "parameters": SHORT},
    ],
    "any-to-any": [{"inputs": CHAT, "parameters": SHORT}],
    "text-to-audio": [{"inputs": "hello"}],
}


def places(value, path=()):
    """Every place of a body."""
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def changed(value, path, change):
    """A copy of a body with one place changed."""
    if not path:
        return change(value)
    if isinstance(value, dict):
        return dict(value, **{path[0]: changed(value[path[0]], path[1:], change)})
    return [changed(one, path[1:], change) if place == path[0] else one for place, one in enumerate(value)]


def harmed(is_whole, key, value, old):
    """A harmful value in an object or a list, or in place of what is there."""
    if isinstance(old, dict):
        return {key: value} if is_whole else dict(old, **{key: value})
    return [*old, value] if isinstance(old, list) else value


@st.composite
def bodies(draw, right):
    """A right body with a harmful value in some place: instead of what is there, or under a key of its own."""
    body = dict({"parameters": {}}, **draw(st.sampled_from(right)))
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(places(body))))
        value, key = draw(HARMFUL), draw(st.sampled_from(KEYS))
        body = changed(body, path, functools.partial(harmed, len(path) == 1, key, value))
    return body


def written(body, form):
    """The same body as another content type."""
    if form == "vertex" and "inputs" in body:
        body = dict(body, instances=[body["inputs"]])
        del body["inputs"]
    if form == "lines":
        return "\n".join([json.dumps(body)] * 2).encode(), codecs.JSON_LINES
    row = body.get("inputs")
    if form == "csv" and isinstance(row, dict):
        out = io.StringIO()
        csv.writer(out).writerows([list(row), [json.dumps(value) for value in row.values()]])
        return out.getvalue().encode(), codecs.CSV
    return json.dumps(body).encode(), codecs.JSON


def answer(service, body, kind):
    """The answer's status; what is no refusal is a fault of the server."""
    request = None
    try:
        request = service.read(body, codecs.MediaType(kind, {}), codecs.JSON)
        service.predict(request, lambda: None)
    except RequestError as error:
        return error.status
    except Exception as problem:
        assert request is not None, problem
        status = as_request_error(problem, service, request).status
        assert status < 500, (problem, body)
        return status
    return 200


def attack(watch, service, right, examples):
    for body in right:
        assert answer(service, json.dumps(body).encode(), codecs.JSON) == 200
    harmless = DefaultModel(service)

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples < 100,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(bodies(right), st.sampled_from(["json", "json", "json", "lines", "csv", "vertex"]))
    def one(body, form):
        watch.seen, watch.thread = [], threading.get_ident()
        try:
            answer(service, *written(body, form))
            # The standard model behind user code gets what a client sent, without any check before it.
            if isinstance(body.get("parameters"), dict):
                try:
                    harmless(body.get("inputs"), **{str(k): v for k, v in body["parameters"].items()})
                except Exception as problem:
                    assert not isinstance(problem, MemoryError)
        finally:
            watch.thread = None
        assert not watch.seen, (watch.seen, body, form)

    one()


def service_of(name, model_folder, pipeline_service):
    if name in tiny_pipelines.MAKERS:
        return pipeline_service(name)
    if name == "table-question-answering":
        pytest.importorskip("pandas")
    return load_model(Settings(model_dir=str(model_folder(name)), task=name))


@pytest.mark.parametrize("name", list(RIGHT))
def test_no_string_of_a_request_is_a_location(watch, model_folder, pipeline_service, name):
    """Nothing is fetched, opened, looked for or run."""
    attack(watch, service_of(name, model_folder, pipeline_service), RIGHT[name], 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RIGHT))
def test_no_string_of_many_requests_is_a_location(watch, model_folder, pipeline_service, name):
    """The same with many more requests, other ones on every run."""
    attack(watch, service_of(name, model_folder, pipeline_service), RIGHT[name], 2000)


def test_the_watch_notices_accesses(watch, tmp_path):
    """What the tests above rely on."""
    watch.seen, watch.thread = [], threading.get_ident()
    try:
        assert not (tmp_path / MARK).exists()
        (tmp_path / MARK).write_text("x")
    finally:
        watch.thread = None
    assert {event for event, _ in watch.seen} == {"os.stat", "open"}


def test_messages_take_media_as_base64_and_data_urls_only(pipeline_service):
    """Each form of the clients of Hugging Face and OpenAI, and each with an address or a path."""
    service = pipeline_service("image-text-to-text")
    data = "data:image/png;base64," + IMAGE

    def status(part):
        body = {"inputs": [{"role": "user", "content": [part]}], "parameters": SHORT}
        return answer(service, json.dumps(body).encode(), codecs.JSON)

    for value in (IMAGE, data):
        assert status({"type": "image", "image": value}) == 200
        assert status({"type": "image", "url": value}) == 200
        assert status({"type": "image", "base64": value}) == 200
        assert status({"type": "image_url", "image_url": {"url": value}}) == 200
        assert status({"type": "image", "path": value}) == 400
    for location in ("http://127.0.0.1:9/x.png", "/etc/hostname", "file:///etc/hostname"):
        for key in ("image", "url", "base64", "path"):
            assert status({"type": "image", key: location}) == 400
        assert status({"type": "image_url", "image_url": {"url": location}}) == 400
        assert status({"type": "video", "video": location}) == 400
        assert status({"type": "audio", "audio": location}) == 400
        assert status({"type": "text", "text": [{"type": "image", "url": location}]}) == 400


def test_answers_repeat_images_as_they_were_sent(pipeline_service):
    """The conversation in an answer has the client's own text, not an image that is encoded again."""
    service = pipeline_service("image-text-to-text")
    body = json.dumps({"inputs": CHAT, "parameters": SHORT}).encode()
    request = service.read(body, codecs.MediaType(codecs.JSON, {}), codecs.JSON)
    assert IMAGE in json.dumps(service.predict(request, lambda: None).value)


def test_tasks_whose_inputs_are_not_known_do_not_start(pipeline_folder):
    """Their pipelines read paths and addresses only, or kinds of inputs that came later."""
    from hf_inference_toolkit.errors import StartError
    from hf_inference_toolkit.tasks.pipeline_task import known_tasks

    if "video-classification" not in known_tasks():
        pytest.skip("the installed transformers has no such task")
    with pytest.raises(StartError, match=r"video-classification.*code/inference\.py"):
        load_model(
            Settings(model_dir=str(pipeline_folder("image-classification")), task="video-classification")
        )
