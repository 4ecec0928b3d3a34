"""SageMaker's runtime API on loopback, in front of a container: the paths and headers that boto3 uses.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpointWithResponseStream.html

The service forwards the body and some headers to /invocations, and answers 424 ModelError with the container's status
and body where that is no success. It does not check signatures here.
"""

import contextlib
import http.client
import json
import struct
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FORWARDED = ("Content-Type", "Accept", "X-Amzn-SageMaker-Custom-Attributes", "X-Amzn-SageMaker-Inference-Id")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        return

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name: self.headers[name] for name in FORWARDED if name in self.headers}
        streams = self.path.endswith("/invocations-response-stream")
        if not streams and not self.path.endswith("/invocations"):
            return self.answer(404, b"{}", {"X-Amzn-ErrorType": "UnknownOperationException"})
        if streams and "X-Amzn-SageMaker-Accept" in self.headers:
            headers["Accept"] = self.headers["X-Amzn-SageMaker-Accept"]
        container = http.client.HTTPConnection(*self.server.container, timeout=120)
        try:
            container.request("POST", "/invocations", body, headers)
            reply = container.getresponse()
            if reply.status >= 400:
                return self.fail(reply.status, reply.read().decode("utf-8", "replace"))
            return self.stream(reply) if streams else self.give(reply)
        finally:
            container.close()

    def fail(self, status, message):
        error = {
            "Message": f"Received client error ({status}) from primary with message {message!r}",
            "OriginalStatusCode": status,
            "OriginalMessage": message,
        }
        self.answer(424, json.dumps(error).encode(), {"X-Amzn-ErrorType": "ModelError"})

    def give(self, reply):
        names = ("Content-Type", "X-Amzn-SageMaker-Custom-Attributes")
        headers = {name: reply.getheader(name) for name in names if reply.getheader(name)}
        headers["x-Amzn-Invoked-Production-Variant"] = "AllTraffic"
        self.answer(200, reply.read(), headers)

    def stream(self, reply):
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.amazon.eventstream")
        self.send_header("X-Amzn-SageMaker-Content-Type", reply.getheader("Content-Type"))
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        part = reply.read1(65536)
        while part:
            event = payload_part(part)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            self.wfile.flush()
            part = reply.read1(65536)
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def running(server):
    """The API's address while the block runs; `server` is the container's address."""
    api = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.container = (urlsplit(server).hostname, urlsplit(server).port)
    threading.Thread(target=api.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{api.server_address[1]}"
    finally:
        api.shutdown()
        api.server_close()


def payload_part(content):
    """A message of the encoding application/vnd.amazon.eventstream that carries a part of the answer.

    https://docs.aws.amazon.com/lexv2/latest/dg/event-stream-encoding.html
    """
    names = {
        ":event-type": "PayloadPart",
        ":content-type": "application/octet-stream",
        ":message-type": "event",
    }
    headers = b"".join(_header(name.encode(), value.encode()) for name, value in names.items())
    prelude = struct.pack("!II", 16 + len(headers) + len(content), len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + content
    return message + struct.pack("!I", zlib.crc32(message))


def _header(name, value):
    # 7 is the type of a string.
    return struct.pack("!B", len(name)) + name + struct.pack("!BH", 7, len(value)) + value
