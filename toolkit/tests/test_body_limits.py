"""Bodies that are small and would become large: arrays, tables, numbers, nests, images and sound."""

import base64
import gzip
import importlib.util
import io
import json
import struct
import wave
import zlib

import numpy
import pytest
import tiny_pipelines

from hf_inference_toolkit import limits
from hf_inference_toolkit.content import codecs, compression, payload
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks.media import Decoder


def npy(header, data=b""):
    """An .npy body with any header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def refusal(body, kind):
    with pytest.raises(RequestError) as refused:
        codecs.read(body, codecs.MediaType(kind, {}))
    assert refused.value.status == 400
    return refused.value.message


HEADER = "{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}"


@pytest.mark.parametrize(
    ("descr", "shape", "data"),
    [
        ("<f8", "(1000000000000,)", b"12345678"),
        ("<f8", "(99999999999999999999999,)", b"12345678"),
        ("|u1", "(1000000000, 0)", b""),
        ("|V0", "(1000000000000,)", b""),
        ("<U0", "(1000000000000,)", b""),
        ("|O", "(1,)", b"x"),
        ("<c8", "(1,)", b"x" * 8),
        ("<M8[s]", "(1,)", b"x" * 8),
        ("|u1", "(5000000, 1)", b"x" * 5000000),
        ("|u1", "(400000" + ", 1" * 20 + ")", b"x" * 400000),
        ("|u1", "(" * 2000 + ")" * 2000, b""),
    ],
)
def test_npy_headers_that_promise_more_than_the_body_are_refused(descr, shape, data):
    """Before memory is taken for them."""
    refusal(npy(HEADER.format(descr, shape), data), codecs.NPY)


def test_npy_headers_have_a_limit():
    """numpy evaluates them as Python literals."""
    text = b" " * 20000
    assert "bytes of .npy header" in refusal(
        b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text, codecs.NPY
    )


@pytest.mark.parametrize("array", [[[1.5, 2.5]], [1, 2], [["a", "b"]], [True]])
def test_npy_arrays_of_numbers_and_text_are_read(array):
    """What numpy.save writes."""
    out = io.BytesIO()
    numpy.save(out, numpy.array(array))
    assert codecs.read(out.getvalue(), codecs.MediaType(codecs.NPY, {})).inputs == array


def test_tables_and_lines_have_limits():
    """Each row and each line becomes an object of its own."""
    many = limits.ITEMS + 2
    assert "rows" in refusal(b"a,b\n" * many, codecs.CSV)
    assert "columns" in refusal(b"," * (limits.CSV_COLUMNS + 1), codecs.CSV)
    assert "lines" in refusal(b"1\n" * many, codecs.JSON_LINES)


def test_lists_and_objects_of_json_have_a_limit(monkeypatch):
    """An empty list takes three bytes in a body and 64 in memory."""
    monkeypatch.setattr(limits, "CONTAINERS", 100)
    assert "lists and objects" in refusal(b"[" + b"[]," * 200 + b"[]]", codecs.JSON)
    assert payload.read_json(b"[" + b"[]," * 50 + b"[]]") == [[]] * 51


@pytest.mark.parametrize("charset", [None, "utf-16"])
def test_integers_of_many_digits_are_refused_before_they_are_computed(charset):
    """The time grows with the square of the digits: two million would take minutes on older Pythons."""
    body = ('{"inputs": ' + "9" * 2000000 + "}").encode(charset or "utf-8")
    with pytest.raises(RequestError, match="64 bits"):
        payload.read_json(body, charset)


@pytest.mark.parametrize("charset", ["punycode", "idna", "IDNA", "no-such"])
def test_charsets_that_are_no_encoding_of_bodies_are_refused(charset):
    """Their decoders take time that grows with the square of the length."""
    with pytest.raises(RequestError) as refused:
        payload.decode(b"{}", charset)
    assert refused.value.status == 415


def test_members_of_gzip_are_not_copied_again_and_again(monkeypatch):
    """zlib copies what follows a member, and 25 MB may have a million members, of which each takes 20 bytes."""
    given = []

    class Counting:
        def __init__(self, window, make=zlib.decompressobj):
            self._reader = make(window)

        def __getattr__(self, name):
            return getattr(self._reader, name)

        def decompress(self, data, most):
            given.append(len(data))
            return self._reader.decompress(data, most)

    monkeypatch.setattr(compression.zlib, "decompressobj", Counting)
    body = gzip.compress(b"") * 20000 + gzip.compress(b"{}")
    assert compression.decompress(body, "gzip", 100) == b"{}"
    assert sum(given) < 1000 * len(body)


@pytest.mark.parametrize("size", [0, 1, 10, compression.PIECE, 3 * compression.PIECE + 7])
def test_compressed_bodies_may_end_anywhere_in_a_piece(size):
    """Members and their padding, with data that do not become smaller."""
    data = numpy.random.RandomState(size).bytes(size)
    member = gzip.compress(data, 1)
    body = member + b"\0" * size + gzip.compress(b"") + member + b"\0" * compression.PIECE
    assert compression.decompress(body, "gzip", 2 * size) == data * 2
    assert compression.decompress(body, "gzip", 2 * size - 1) is None
    for packed in (zlib.compress(data), zlib.compress(data)[2:-4]):
        assert compression.decompress(packed, "deflate", size) == data
    for wrong in (member[:-1], member + b"x", member + member[:-9]):
        with pytest.raises(RequestError, match="valid and complete gzip"):
            compression.decompress(wrong, "gzip", 2 * size)


def bomb(width, height):
    """A PNG whose header names a size, and whose data are a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_images_have_limits(monkeypatch):
    """The size in the header counts, for one image and for all images of a request."""
    pytest.importorskip("PIL")
    for width, height in ((5001, 5001), (20000, 20000), (2**31 - 1, 1)):
        with pytest.raises(RequestError) as refused:
            Decoder().image(bomb(width, height))
        assert refused.value.status == 400
        assert str(limits.IMAGE_PIXELS) in refused.value.message
    monkeypatch.setattr(limits, "REQUEST_PIXELS", 4000)
    decoder = Decoder()
    for _ in range(2):
        assert decoder.image(tiny_pipelines.png(40, 40)).size == (40, 40)
    with pytest.raises(RequestError, match="all images"):
        decoder.image(tiny_pipelines.png(40, 40))


def test_images_of_formats_that_start_programs_are_refused():
    """Pillow hands EPS to Ghostscript."""
    pytest.importorskip("PIL")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(RequestError, match="formats: PNG"):
        Decoder().image(eps)


def test_images_are_turned_upright():
    """As the pipelines turn the files that they open."""
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    exif = image.Exif()
    exif[0x0112] = 6
    image.new("RGB", (40, 20)).save(out, format="JPEG", exif=exif)
    assert Decoder().image(out.getvalue()).size == (20, 40)


def test_sound_has_limits():
    """Seconds of all sounds of a request; a header that promises more than there is."""
    decoder = Decoder(rate=16000, seconds=2)
    assert len(decoder.sound(tiny_pipelines.wav(seconds=1.5))) == 24000
    with pytest.raises(RequestError, match="longer than 2 seconds"):
        decoder.sound(tiny_pipelines.wav(seconds=1.5))
    with pytest.raises(RequestError, match="longer than 2 seconds"):
        Decoder(seconds=2).sound({"raw": [0.5] * 3000, "sampling_rate": 1000})
    content = bytearray(tiny_pipelines.wav(seconds=0.5))
    for place in (4, 40):  # the sizes of the file and of its samples
        content[place : place + 4] = struct.pack("<I", 2**32 - 9)
    assert len(Decoder(seconds=2).sound(bytes(content))) <= 16000
    with pytest.raises(RequestError):
        Decoder().sound(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n")
    with pytest.raises(RequestError, match="no samples"):
        Decoder().sound(tiny_pipelines.wav(seconds=0))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_sound_is_resampled(rate):
    """By the library that is installed."""
    if not (importlib.util.find_spec("soxr") or importlib.util.find_spec("scipy")):
        pytest.skip("neither soxr nor scipy is installed")
    got = Decoder(rate=16000).sound(base64.b64encode(tiny_pipelines.wav(rate=rate)).decode())
    assert abs(len(got) - 8000) <= 2
    assert got.dtype == numpy.float32
    assert 0.2 < abs(got).max() < 0.4


def test_sound_is_read_without_soundfile(monkeypatch):
    """WAV of 8, 16 and 32 bit, by Python itself; the result is that of soundfile."""
    from hf_inference_toolkit.tasks import media as task_media

    content = tiny_pipelines.wav()
    plain, rate = task_media._by_wave(content, 10)
    assert rate == 16000
    assert plain.dtype == numpy.float32
    pytest.importorskip("soundfile")
    assert numpy.allclose(plain, task_media._by_soundfile(content, 10)[0], atol=1e-6)
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(3)
        sound.setframerate(16000)
        sound.writeframes(b"\x01\x02\x03" * 100)
    with pytest.raises(RequestError, match="24 bit"):
        task_media._by_wave(out.getvalue(), 10)


def test_limits_are_listed_once():
    """Each has a name and a meaning, for the documentation."""
    names = [limit.name + limit.about for limit in limits.TABLE]
    assert len(set(names)) == len(names)
    assert all(limit.value > 0 and limit.about for limit in limits.TABLE)
    assert json.dumps(limits.TABLE)
