"""Requests as common tools send them: curl, coreutils, gzip, pandas, Java, and SageMaker's batch transform."""

import base64
import io
import json
import shutil
import subprocess

import pytest
import serving
from services import Echo

JAVA = """
import java.net.URI;
import java.net.http.*;

public class Client {
    public static void main(String[] urls) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (String url : urls) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(url))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString("{\\"inputs\\": \\"from Java\\"}"))
                .build();
            for (int i = 0; i < 2; i++) {
                HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
                System.out.println(answer.statusCode() + " " + answer.body());
            }
        }
        System.exit(0);
    }
}
"""


@pytest.fixture(scope="module", params=["httptools", "h11"])
def server(request):
    if request.param == "httptools":
        pytest.importorskip("httptools")
    with serving.serve(lambda settings: Echo(), parser=request.param, max_payload=300000) as running:
        yield running


def curl(server, *words, path="/invocations", body=None):
    """The status and the body of the answer."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    url = "http://127.0.0.1:{}{}".format(server.port, path)
    command = ["curl", "-sS", "--noproxy", "*", "-m", "20", "-w", "\n%{http_code}", *words, url]
    done = subprocess.run(command, input=body, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    answer, _, status = done.stdout.decode().rpartition("\n")
    return int(status), answer


@pytest.mark.parametrize(
    "words",
    [
        ["-d", '{"inputs": "a"}'],
        ["-d", '{"inputs": "a"}', "-H", "Content-Type: application/json"],
        ["-d", '{"inputs": "a"}', "-H", "Content-Type:"],
        ["-d", '{"inputs": "a"}', "-H", "Content-Type: application/octet-stream"],
        ["-d", '{"inputs": "a"}', "-H", "Transfer-Encoding: chunked"],
        ["-d", '{"inputs": "a"}', "-H", "Expect: 100-continue"],
        ["-d", '{"inputs": "a"}', "--http1.0"],
        ["-d", '{"inputs": "a"}', "--compressed"],
    ],
)
def test_curl(server, words):
    """With the types and the ways of sending that it has."""
    assert curl(server, *words) == (200, '"a"')


def test_curl_sends_files(server, tmp_path):
    """Byte for byte by --data-binary, in lines that `-d` would join; large ones after 100 Continue."""
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"inputs": "a"}\n{"inputs": "b"}\n')
    file = "@" + str(lines)
    assert curl(server, "--data-binary", file, "-H", "Content-Type: application/jsonlines") == (
        200,
        '["a","b"]',
    )
    assert curl(server, "--data-binary", file) == (200, '["a","b"]')
    lines.write_text(json.dumps({"inputs": "x" * 200000}))
    assert curl(server, "--data-binary", file) == (200, '"{}"'.format("x" * 200000))
    lines.write_text(json.dumps({"inputs": "x" * 5000000}))
    assert curl(server, "--data-binary", file)[0] == 413
    assert curl(server, "--data-binary", file, "-H", "Expect:")[0] == 413
    assert curl(server, "-T", str(lines))[0] == 405


def test_curl_sends_what_gzip_and_base64_write(server, tmp_path):
    """A compressed body; a JSON string with the line breaks of coreutils."""
    packed = subprocess.run(["gzip", "-c"], input=b'{"inputs": "a"}', stdout=subprocess.PIPE).stdout
    assert curl(server, "--data-binary", "@-", "-H", "Content-Encoding: gzip", body=packed) == (200, '"a"')
    content = bytes(range(256)) * 3
    text = subprocess.run(["base64"], input=content, stdout=subprocess.PIPE).stdout
    assert text.count(b"\n") > 10
    body = b'{"inputs": "' + text + b'"}'
    status, answer = curl(server, "--data-binary", "@-", body=body)
    assert (status, base64.b64decode(json.loads(answer))) == (200, content)


def test_java(server, tmp_path):
    """Its HttpClient offers HTTP/2 with the first request; the body must not be lost by that."""
    if shutil.which("javac") is None:
        pytest.skip("no JDK is installed")
    (tmp_path / "Client.java").write_text(JAVA)
    url = "http://127.0.0.1:{}/invocations".format(server.port)
    done = subprocess.run(
        ["java", str(tmp_path / "Client.java"), url],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    assert done.stdout.decode().splitlines() == ['200 "from Java"'] * 2


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"index": False},
        {"index": False, "sep": ";"},
        {"index": False, "encoding": "utf-8-sig"},
        {"index": False, "encoding": "utf-16"},
        {"index": False, "quoting": 1},
        {"index": False, "lineterminator": "\r\n"},
    ],
)
def test_pandas(server, how, tmp_path):
    """Tables of texts and of questions, with its index and without; answers in CSV are read back."""
    pandas = pytest.importorskip("pandas")
    texts = ["I like you", 'with "quotes", commas\nand lines', "Gr\u00fc\u00dfe"]
    for columns in ({"inputs": texts}, {"question": texts, "context": texts[::-1]}):
        table = pandas.DataFrame(columns)
        file = tmp_path / "table.csv"
        table.to_csv(str(file), **how)
        reply = server.post(file.read_bytes(), {"Content-Type": "text/csv", "Accept": "text/csv"})
        assert reply.status == 200, reply.body
        back = pandas.read_csv(io.BytesIO(reply.body), header=None if len(columns) == 1 else 0)
        assert back.values.tolist() == table.values.tolist()


@pytest.mark.parametrize(
    ("content_type", "single", "several", "expected"),
    [
        ("application/jsonlines", b'{"inputs": "a"}\n', b'{"inputs": "a"}\n{"inputs": "b"}\n', b'"a"\n"b"\n'),
        ("application/json", b'{"inputs": "a"}', b'{"inputs": "a"}\n{"inputs": "b"}', b'"a"\n"b"\n'),
        ("text/csv", b"a\n", b"a\nb\n", b'"a"\n"b"\n'),
    ],
)
def test_batch_transform(server, content_type, single, several, expected):
    """SingleRecord and MultiRecord split a file at its lines; the answer has a line for each record."""
    headers = {"Content-Type": content_type, "Accept": "application/jsonlines"}
    assert server.post(several, headers).body == expected
    alone = server.post(single, headers).body
    assert alone == expected.splitlines(True)[0]
