"""Bodies: what is read of those that common tools write, and that what is written is read back."""

import csv
import gc
import io
import json
import math
import sys

import hypothesis
import pytest
from hypothesis import strategies as st

from hf_inference_toolkit import limits
from hf_inference_toolkit.content import codecs, payload
from hf_inference_toolkit.errors import RequestError


def read(body, kind="application/json"):
    """A request of this body."""
    return codecs.read(body, codecs.content_type(kind))


@pytest.fixture(params=["orjson", "json"])
def writer(request, monkeypatch):
    """Both ways in which JSON is read and written."""
    if request.param == "json":
        monkeypatch.setattr(payload, "orjson", None)
    elif payload.orjson is None:
        pytest.skip("orjson is not installed")
    return request.param


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0c", "\x0b", "\x1c", "\x1e", "\r"])
def test_only_line_feeds_end_lines(writer, character):
    """JSON strings may hold what other definitions call the end of a line."""
    texts = ["a{}b".format(character), "c"]
    for end in ("\n", "\r\n"):
        lines = end.join(json.dumps({"inputs": text}, ensure_ascii=False) for text in texts) + end
        assert read(lines.encode(), "application/jsonlines").inputs == texts
    for kind in ("application/jsonlines", "text/csv"):
        body = codecs.write(texts, kind)
        assert read(body, kind).inputs == texts


def test_lines_under_the_type_of_one_document():
    """SageMaker's batch transform sends several records so; one document may stand on several lines."""
    assert read(b'{"inputs": "a"}\n{"inputs": "b"}\n').inputs == ["a", "b"]
    assert read(b'\r\n{"inputs": "a"}\r\n\r\n{"inputs": "b"}').inputs == ["a", "b"]
    assert read(b'{\n"inputs":\n"a"\n}\n').inputs == "a"
    with pytest.raises(RequestError, match="line 2: the body is not JSON"):
        read(b'{"inputs": "a"}\n{"inputs": b}\n')
    with pytest.raises(RequestError, match="line 2 column 1"):
        read(b'{"inputs":\n')


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        (b"Great movie, loved it", ["Great movie, loved it"]),
        (b"Great movie, loved it\nBad movie, hated it\n", ["Great movie, loved it", "Bad movie, hated it"]),
        (b'"joe annes rifle"\n\n"cute puppies"', ["joe annes rifle", "cute puppies"]),
        (b"inputs\nGreat movie\n", ["Great movie"]),
        (b"Inputs\nGreat movie\n", ["Great movie"]),
        (b"text\nGreat movie\n", ["Great movie"]),
        (b"text,text_pair\na,b\n", [{"text": "a", "text_pair": "b"}]),
        (b"question,context\r\nwho,me\r\n", [{"question": "who", "context": "me"}]),
        (b"inputs\rGreat\rBad\r", ["Great", "Bad"]),
        (b"\xef\xbb\xbfinputs\r\nGreat\r\n", ["Great"]),
        ("inputs\nGr\u00fc\u00dfe\n".encode("utf-16"), ["Gr\u00fc\u00dfe"]),
        (b'question;context\r\n"a;b";c\r\n', [{"question": "a;b", "context": "c"}]),
        (b"question\tcontext\na\tc\n", [{"question": "a", "context": "c"}]),
        (b",inputs\n0,Great\n1,Bad\n", ["Great", "Bad"]),
        (b",text,text_pair\n0,a,b\n", [{"text": "a", "text_pair": "b"}]),
        (b"sepal,petal\n1,2\n3,4\n", [{"sepal": "1", "petal": "2"}, {"sepal": "3", "petal": "4"}]),
        (b"5.1,3.5\n4.9,3\n", [[5.1, 3.5], [4.9, 3.0]]),
        (b'inputs\n"' + b"x" * 200000 + b'"\n', ["x" * 200000]),
    ],
)
def test_csv_of_common_tools(body, inputs):
    """With a header or without; Excel's byte order mark, semicolons and tabs; the index of pandas."""
    assert read(body, "text/csv").inputs == inputs


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"id,inputs\n1,Great\n2,Bad\n", "read as the header: id, inputs"),
        (b"text,text_pair\na\n", "row 2 has 1 cells; the first row was read as the header"),
        (b'"Great","loved it"\n', "no header with a known column"),
        (b'"a', "not CSV"),
        (b"\n\n", "no rows"),
    ],
)
def test_csv_that_is_not_understood_is_explained(body, words):
    """What was read as the header, and what is missing."""
    with pytest.raises(RequestError, match=words) as refused:
        read(body, "text/csv")
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "kind", ["", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded"]
)
def test_type_that_is_not_given_is_found_by_the_first_bytes(kind):
    """huggingface_hub sends bytes without a type, Java and `curl --data-binary` with one that says nothing."""
    media = codecs.content_type(kind)
    for body, name in (
        (b"\x89PNG\r\n\x1a\n...", "image/png"),
        (b"\xff\xd8\xff\xe0..", "image/jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "audio/wav"),
        (b"fLaC....", "audio/flac"),
        (b"OggS....", "audio/ogg"),
        (b"ID3\x04..", "audio/mpeg"),
        (b"\xff\xfb\x90\x00", "audio/mpeg"),
        (b'{"inputs": 1}', "application/json"),
        (b'\xff\xfe{\x00"\x00', "application/json"),
        (b"", "application/json"),
    ):
        assert codecs.sniff(media, body).name == name
        if name.startswith(("image/", "audio/")):
            assert codecs.read(body, media).inputs == body
    assert codecs.read(b'{"inputs": 1}', media).inputs == 1


@pytest.mark.parametrize(
    ("document", "inputs"),
    [
        ({"question": "q", "context": "c"}, {"question": "q", "context": "c"}),
        ({"query": "q", "table": {}, "parameters": {"a": 1}}, {"query": "q", "table": {}}),
        ({"text": "a", "text_pair": "b"}, {"text": "a", "text_pair": "b"}),
        ({"inputs": "x", "options": {"wait_for_model": True, "use_cache": False}}, "x"),
        ({"inputs": "x", "options": None, "parameters": None}, "x"),
    ],
)
def test_requests_in_the_forms_of_the_hosted_api(document, inputs):
    """The parts of an input at the top level, and options that ask for nothing."""
    body = json.dumps(document).encode()
    assert read(body).inputs == inputs
    assert read(body + b"\n" + body, "application/jsonlines").inputs == [inputs, inputs]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"question": "q", "contxt": "c"}, "unknown key 'question'"),
        ({"question": "q", "context": "c", "inputs": "x"}, "unknown key 'question'"),
        ({"inputs": "x", "options": {"wait_model": True}}, r"'wait_model' \(did you mean 'wait_for_model'"),
        ({"inputs": "x", "options": {"use_cache": 1}}, "'use_cache' must be true or false"),
        ({"inputs": "x", "options": []}, "must be an object"),
    ],
)
def test_requests_that_are_ambiguous_are_refused(document, words):
    """By the name of what is wrong."""
    with pytest.raises(RequestError, match=words):
        read(json.dumps(document).encode())


class Unwritable:
    """A thing that JSON has no form for."""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": float("nan"), "b": {1}}, {"a": None, "b": [1]}),
        ([float("inf"), 2**70, -float("inf")], [None, 2**70, None]),
        ([float("nan")], [None]),
        ({"a": (1, [float("nan"), {2**65}])}, {"a": [1, [None, [2**65]]]}),
        ({1: float("nan"), None: {3}}, {"1": None, "null": [3]}),
        ({float("nan"): 2**70}, {"null": 2**70}),
        ("\ud800", "\ud800"),
        ([float("nan"), "\ud800"], [None, "\ud800"]),
    ],
)
def test_answers_are_always_json(writer, value, expected):
    """NaN beside a set or a large integer; with orjson and without it."""

    def refuse(name):
        raise AssertionError(name)

    text = payload.write_json(value).decode("utf-8")
    assert json.loads(text, parse_constant=refuse) == expected
    assert (
        json.loads(codecs.write([value], "application/jsonlines").decode(), parse_constant=refuse) == expected
    )
    if not isinstance(value, str):
        assert json.loads(codecs.write(value, "text/plain").decode(), parse_constant=refuse) == expected


def test_answers_without_a_json_form_are_errors(writer):
    """Objects, and lists that hold themselves, beside NaN too."""
    itself = [float("nan")]
    itself.append(itself)
    for value in (Unwritable(), [float("nan"), Unwritable()], itself):
        with pytest.raises((TypeError, ValueError, RecursionError)):
            payload.write_json(value)


def npy(header, data=b"", version=1):
    """An .npy file with this text as its header."""
    text = header.encode()
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + len(text).to_bytes(2 if version == 1 else 4, "little")
        + text
        + data
    )


@pytest.mark.parametrize(
    "body",
    [
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000000000)}"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000000000)}", version=2),
        npy("{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000,)}"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\nsystem\n"),
        npy("{'descr': '<c16', 'fortran_order': False, 'shape': (1,)}", bytes(16)),
        npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", bytes(8)),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': 1}", bytes(8)),
        npy("{'descr': '<f8', 'fortran_order': 0, 'shape': (1,)}", bytes(8)),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", bytes(9)),
        npy("{'descr': '<U1', 'fortran_order': False, 'shape': (1,)}", b"\xff\xff\xff\xff"),
        npy("{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        npy("__import__('os').getcwd()"),
        npy("(" * 4000),
        npy("(" * 60000),
        npy("{}"),
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x09\x00\x02\x00{}....",
        b"\x93NUMPY",
        b"",
    ],
)
def test_npy_headers_are_checked_before_memory_is_taken(body):
    """Shapes that the body does not hold, types that are no numbers, headers that are none."""
    pytest.importorskip("numpy")
    with pytest.raises(RequestError, match=r"\.npy|lists") as refused:
        read(body, "application/x-npy")
    assert refused.value.status == 400


@pytest.mark.parametrize("body", [b"|u1 (1000000000, 0)", b"|u1 (5000000, 1)"])
def test_npy_of_many_lists_is_refused(body):
    """Each list takes 64 bytes in memory, whatever it holds."""
    pytest.importorskip("numpy")
    kind, shape = body.decode().split(" ", 1)
    text = "{{'descr': '{}', 'fortran_order': False, 'shape': {}}}".format(kind, shape)
    with pytest.raises(RequestError, match="more than 4000000 lists"):
        read(npy(text, b"" if ", 0" in shape else bytes(5000000)), "application/x-npy")


def test_csv_and_lines_have_limits():
    """Each row and each line becomes an object of its own."""
    many = limits.ITEMS + 2
    for body, kind, words in (
        (b"a,b\n" * many, "text/csv", "rows"),
        (b"," * (limits.CSV_COLUMNS + 1), "text/csv", "columns"),
        (b"1\n" * many, "application/jsonlines", "lines"),
    ):
        with pytest.raises(RequestError, match="the body has more than [0-9]+ " + words):
            read(body, kind)


JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(blacklist_categories=("Cs",))),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
CELLS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=12)
SETTINGS = hypothesis.settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)


@SETTINGS
@hypothesis.given(st.lists(JSON_VALUES, min_size=1, max_size=4))
def test_json_and_lines_are_read_back(values):
    """By Python's own reader, and by ours."""
    assert json.loads(codecs.write(values, "application/json").decode()) == values
    lines = codecs.write(values, "application/jsonlines").decode().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == values
    wrapped = codecs.write([{"inputs": value} for value in values], "application/jsonlines")
    assert read(wrapped, "application/jsonlines").inputs == values
    assert read(codecs.write({"inputs": values}, "application/json")).inputs == values


@SETTINGS
@hypothesis.given(
    st.lists(st.fixed_dictionaries({"question": CELLS, "context": CELLS}), min_size=1, max_size=4)
)
def test_csv_of_objects_is_read_back(rows):
    """By Python's own reader, and by ours."""
    body = codecs.write(rows, "text/csv")
    assert list(map(dict, csv.DictReader(io.StringIO(body.decode(), newline="")))) == rows
    assert read(body, "text/csv").inputs == rows


@SETTINGS
@hypothesis.given(st.lists(CELLS, min_size=1, max_size=4))
def test_csv_of_texts_is_read_back(texts):
    """An empty text and one of several lines, too."""
    body = codecs.write([{"inputs": text} for text in texts], "text/csv")
    assert read(body, "text/csv").inputs == texts


@SETTINGS
@hypothesis.given(st.text(st.characters(blacklist_categories=("Cs",))))
def test_plain_text_is_read_back(text):
    """As it is, but for a byte order mark at its beginning."""
    hypothesis.assume(not text.startswith("\ufeff"))
    assert read(codecs.write(text, "text/plain"), "text/plain").inputs == text


@SETTINGS
@hypothesis.given(st.data())
def test_npy_is_read_back(data):
    """Every kind of number, text, shape and order that numpy writes."""
    numpy = pytest.importorskip("numpy")
    kind = data.draw(st.sampled_from(["<f8", ">f8", "<f4", "<f2", "|b1", "|u1", "|i1", "<i8", ">i4", "<U3"]))
    shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
    array = numpy.arange(int(numpy.prod(shape))).reshape(shape).astype(kind)
    if data.draw(st.booleans()):
        array = numpy.asfortranarray(array)
    out = io.BytesIO()
    numpy.save(out, array)
    assert read(out.getvalue(), "application/x-npy").inputs == array.tolist()
    if array.dtype.kind != "U":
        written = numpy.load(io.BytesIO(codecs.write(array.tolist(), "application/x-npy")))
        assert written.tolist() == array.tolist()


def test_npy_numbers_that_json_does_not_have_are_refused():
    """NaN and infinities are no inputs, in any type."""
    numpy = pytest.importorskip("numpy")
    for number in (math.nan, math.inf):
        out = io.BytesIO()
        numpy.save(out, numpy.array([number]))
        with pytest.raises(RequestError, match="NaN, infinite"):
            read(out.getvalue(), "application/x-npy")


def test_stream_of_null_is_not_given():
    assert not payload.request({"inputs": "x", "stream": None}).is_stream


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("[" * 64 + "]" * 64, False),
        ("[" * 65 + "]" * 65, True),
        ('{"a":' * 65, True),
        ("[" + "[]," * 1000 + "[]]", False),
        ('["' + "[" * 1000 + '"]', False),
        ('["\\"' + "[" * 1000 + '"]', False),
        ('["\\\\"' + ",[" * 1000, True),
        ('["' + "[" * 1000, False),
    ],
)
def test_depth_is_known_before_the_text_is_parsed(text, is_refused):
    """Brackets in strings do not count."""
    try:
        payload.check_depth(text)
    except RequestError:
        assert is_refused
    else:
        assert not is_refused


@pytest.mark.skipif(sys.version_info >= (3, 9), reason="needs a Python before 3.9")
def test_callback_of_the_garbage_collector_in_a_deep_body_does_not_end_the_process():
    """At the recursion limit the callback fails, which Python before 3.9 does not survive."""

    def nested(levels):
        return levels and nested(levels - 1)

    def callback(phase, info):
        nested(10)

    thresholds = gc.get_threshold()
    gc.callbacks.append(callback)
    gc.set_threshold(1)
    try:
        with pytest.raises(RequestError, match="deeper"):
            payload.read_json(b"[" * 2000)
    finally:
        gc.callbacks.remove(callback)
        gc.set_threshold(*thresholds)


@pytest.mark.parametrize("charset", ["UTF-8", "utf8", "Utf8"])
def test_other_names_of_utf_8_are_the_same_charset(monkeypatch, charset):
    """Without the slower parser, and without the byte order mark."""
    kind = "application/json; charset=" + charset
    assert read(b'\xef\xbb\xbf{"inputs": "\xc3\xa9"}', kind).inputs == "\xe9"
    assert read(b"\xef\xbb\xbfinputs\n\xc3\xa9\n", "text/csv; charset=" + charset).inputs == ["\xe9"]
    monkeypatch.setattr(payload, "_fast", lambda body: {"inputs": "fast"})
    assert read(b'{"inputs": "a"}', kind).inputs == "fast"
