"""A hub of the tests' own, on loopback: one private model in two revisions, and a storage host beside it."""

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from urllib.parse import unquote, urlsplit


class _Server(ThreadingMixIn, HTTPServer):
    daemon_threads = True


def stored(name):
    """Whether a file is of the kind that hubs keep on another host."""
    return name.endswith((".safetensors", ".bin", ".h5"))


class Hub:
    """`files` by revision; `log` has each request as (host, method, path, token or None)."""

    def __init__(self, files, token):
        self.files, self.token, self.log = files, token, []
        self.server = _Server(("127.0.0.1", 0), self.handler("hub"))
        self.storage = _Server(("127.0.0.1", 0), self.handler("storage"))
        self.address = "http://127.0.0.1:{}".format(self.server.server_address[1])
        # Another name of the same machine: for a client, another host.
        self.storage_address = "http://localhost:{}".format(self.storage.server_address[1])

    def fetched(self, name):
        return [
            entry
            for entry in self.log
            if entry[1] == "GET" and entry[2].endswith("/" + name) and "/api/" not in entry[2]
        ]

    def handler(self, host):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                return

            def do_HEAD(self):
                self.answer()

            def do_GET(self):
                self.answer()

            def answer(self):
                given = (self.headers.get("Authorization") or "").replace("Bearer ", "") or None
                path = unquote(urlsplit(self.path).path)
                hub.log.append((host, self.command, path, given))
                if host == "storage":
                    return self.send(200, hub.content(path.rpartition("/")[2], path.split("/")[1]))
                if hub.token and given != hub.token:
                    return self.send(401, b"{}")
                if path.startswith("/api/models/"):
                    return self.describe(path[len("/api/models/") :])
                _, _, rest = path[1:].partition("/resolve/")
                revision, _, name = rest.partition("/")
                return self.give(hub.revision(revision), name)

            def describe(self, path):
                if "/tree/" in path:
                    return self.tree(hub.revision(path.partition("/tree/")[2].strip("/")))
                repo, _, revision = path.partition("/revision/")
                commit = hub.revision(revision or "main")
                if commit is None or repo != "someone/model":
                    return self.send(404, b"{}")
                names = [{"rfilename": name} for name in hub.files[commit]]
                body = {
                    "id": repo,
                    "modelId": repo,
                    "sha": commit,
                    "siblings": names,
                    "tags": [],
                    "private": True,
                    "downloads": 0,
                    "likes": 0,
                }
                return self.send(200, json.dumps(body).encode())

            def tree(self, commit):
                """What clients of 2026 ask for instead of the list of names."""
                entries = []
                for name, body in hub.files[commit].items():
                    entry = {
                        "type": "file",
                        "path": name,
                        "size": len(body),
                        "oid": hashlib.sha1(body).hexdigest(),
                    }
                    if stored(name):
                        entry["lfs"] = {
                            "size": len(body),
                            "oid": hashlib.sha256(body).hexdigest(),
                            "pointerSize": 130,
                        }
                    entries.append(entry)
                return self.send(200, json.dumps(entries).encode())

            def give(self, commit, name):
                if commit is None or name not in hub.files[commit]:
                    return self.send(404, b"")
                body = hub.files[commit][name]
                if stored(name):
                    where = "{}/{}/{}".format(hub.storage_address, commit, name)
                    return self.send(302, b"", commit, body, Location=where)
                return self.send(200, body, commit)

            def send(self, status, body, commit=None, linked=None, **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if commit:
                    self.send_header("X-Repo-Commit", commit)
                    self.send_header("ETag", '"{}"'.format(hashlib.sha1(linked or body).hexdigest()))
                if linked is not None:
                    self.send_header("X-Linked-ETag", '"{}"'.format(hashlib.sha256(linked).hexdigest()))
                    self.send_header("X-Linked-Size", str(len(linked)))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        return Handler

    def content(self, name, commit):
        return self.files[commit][name]

    def revision(self, name):
        """A commit by its own name, or by a branch's."""
        branches = {"main": max(self.files), "first": min(self.files)}
        return branches.get(name, name if name in self.files else None)


@contextlib.contextmanager
def running(files, token="hf_secret"):
    """A hub that answers until the block ends."""
    hub = Hub(files, token)
    for server in (hub.server, hub.storage):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        for server in (hub.server, hub.storage):
            server.shutdown()
            server.server_close()
