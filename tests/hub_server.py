"""As much of the Hub's protocol as downloading needs, on localhost, with faults to order."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

SHA = "a" * 40


@dataclass
class Fault:
    """What goes wrong; each fault happens `times` times, then the request is answered as it should be."""

    kind: Literal["status", "cut", "stall", "trickle", "corrupt"]
    times: int = 10**6
    where: Literal["all", "api", "body"] = "all"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """Of a stall, before the body, and of a trickle, in the middle of it."""


@dataclass
class HubServer:
    """The Hub: repositories by kind and id, files by path, and the requests it was sent."""

    address: str = ""
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    datasets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def ranges(self) -> list[str]:
        """The `Range` headers of all requests."""
        return [headers["Range"] for _, _, headers in self.requests if "Range" in headers]


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serve until the block ends."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(body=False)

    def do_GET(self) -> None:  # noqa: N802
        self._answer(body=True)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        pass

    def _answer(self, *, body: bool) -> None:
        self.hub.requests.append((self.command, self.path, dict(self.headers)))
        url = urlsplit(self.path)
        path = unquote(url.path).lstrip("/")
        if path in ("api/models", "api/datasets"):
            return self._list(path.removeprefix("api/"), parse_qs(url.query))
        api = path.startswith("api/")
        kind, name, rest = _parse(path)
        repos = self.hub.datasets if kind == "datasets" else self.hub.models
        fault = self._fault(name, "api" if api else "body" if body else "head")
        if fault is not None and fault.kind == "status":
            fault.times -= 1
            return self._send(b"", fault.status, {"X-Repo-Commit": SHA} | fault.headers)
        if name not in repos:
            return self._send(b"", 404, {"X-Error-Code": "RepoNotFound"})
        files = repos[name]
        asked = rest[1] if len(rest) > 1 else "main"
        if asked not in ("main", "v1", SHA):
            return self._send(b"", 404, {"X-Error-Code": "RevisionNotFound"})
        if api:
            return self._json(_tree(files) if rest[:1] == ["tree"] else _info(name, files))
        return self._file(files, "/".join(rest[2:]), fault, body=body)

    def _fault(self, name: str, where: str) -> Fault | None:
        fault = self.hub.faults.get(name)
        return fault if fault is not None and fault.times > 0 and fault.where in ("all", where) else None

    def _list(self, kind: str, query: dict[str, list[str]]) -> None:
        repos = self.hub.datasets if kind == "datasets" else self.hub.models
        author = query.get("author", [""])[0]
        self._json([{"_id": "1", "id": name, "modelId": name} for name in repos if name.startswith(f"{author}/")])

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), 200, {"X-Repo-Commit": SHA, "Content-Type": "application/json"})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _file(self, files: dict[str, bytes], path: str, fault: Fault | None, *, body: bool) -> None:
        if path not in files:
            return self._send(b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": SHA})
        content = files[path]
        headers = {"X-Repo-Commit": SHA, "ETag": f'"{_etag(path, content)}"'}
        big = body and path.endswith((".safetensors", ".parquet"))
        if not big or fault is None:
            return self._send(*_part(content, self.headers.get("Range"), headers))
        fault.times -= 1
        if fault.kind == "corrupt":
            return self._send(bytes(byte ^ 1 for byte in content), 200, headers)
        sent, status, headers = _part(content, self.headers.get("Range"), headers)
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(sent))}).items():
            self.send_header(name, value)
        self.end_headers()
        first = {"cut": len(sent) // 2, "trickle": len(sent) // 2, "stall": 0}[fault.kind]
        self.wfile.write(sent[:first])
        self.wfile.flush()
        if fault.kind == "cut":
            self.close_connection = True
            return None
        time.sleep(fault.seconds)
        with suppress(OSError):  # the other side may have given up waiting, as it should
            self.wfile.write(sent[first:])
        return None


def _parse(path: str) -> tuple[str, str, list[str]]:
    """Kind, repository and what follows it, such as `["resolve", "main", "config.json"]`."""
    parts = path.removeprefix("api/").split("/")
    kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
    return kind, "/".join(parts[:2]), parts[2:]


def _part(content: bytes, asked: str | None, headers: dict[str, str]) -> tuple[bytes, int, dict[str, str]]:
    if asked is None:
        return content, 200, headers
    start = int(asked.removeprefix("bytes=").partition("-")[0])
    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return content[start:], 206, headers | {"Content-Range": span}


def _etag(path: str, content: bytes) -> str:
    if path.endswith((".safetensors", ".parquet")):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _etag(path, content)}
    if path.endswith((".safetensors", ".parquet")):
        entry["lfs"] = {"oid": _etag(path, content), "size": len(content), "pointerSize": 130}
    return entry


def _tree(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [_entry(path, content) for path, content in files.items()]


def _info(name: str, files: dict[str, bytes]) -> dict[str, Any]:
    siblings = [
        {"rfilename": path, "size": len(content), "blobId": _etag(path, content)} for path, content in files.items()
    ]
    return {
        "_id": "1", "id": name, "modelId": name, "sha": SHA, "siblings": siblings, "tags": [],
        "private": False, "downloads": 0, "likes": 0,
    }  # fmt: skip
