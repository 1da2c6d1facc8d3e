"""The viewer's server: this machine alone, reading alone, and nothing but its own few answers."""

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from backtracking.core.errors import InputError
from backtracking.faces.viewer.gallery import Gallery
from backtracking.faces.viewer.page import content_policy, served_page

LOCAL = "127.0.0.1"
_DETAIL = re.compile(r"/completions/([0-9]{1,9})\.json", re.ASCII)


class ViewerServer(ThreadingHTTPServer):
    """Serves one gallery on 127.0.0.1."""

    daemon_threads = True

    def __init__(self, gallery: Gallery, *, port: int = 0) -> None:
        """Bind to a port; a free one if it is 0.

        Raises:
            InputError: The port cannot be had.
        """
        self.gallery = gallery
        self.page = served_page(gallery)
        self.index = gallery.index_json()
        try:
            super().__init__((LOCAL, port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"cannot serve on port {port} ({error}); give another --port, or none") from error

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{LOCAL}:{self.server_port}/"

    @property
    def hosts(self) -> tuple[str, str]:
        """The names this server answers to: another one in a request is a page of elsewhere in disguise."""
        return f"{LOCAL}:{self.server_port}", f"localhost:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ViewerServer
    server_version, sys_version = "viewer", ""
    timeout = 30

    def do_GET(self) -> None:
        """Answer one of the few addresses there are."""
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            self._answer(421, "text/plain", "this viewer answers to 127.0.0.1 and localhost alone\n")
            return
        kind, body = self._found()
        if body is None:
            self._answer(404, "text/plain", "there is nothing here\n")
        else:
            self._answer(200, kind, body)

    def _refuse(self) -> None:
        self.close_connection = True
        self._answer(405, "text/plain", "this viewer is for reading: GET alone\n")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refuse

    def _found(self) -> tuple[str, str | None]:
        address = urlsplit(self.path)
        gallery = self.server.gallery
        if address.path == "/":
            return "text/html", self.server.page
        if address.path == "/data.json":
            return "application/json", self.server.index
        if address.path == "/search.json":
            wanted = parse_qs(address.query, keep_blank_values=True).get("q", [""])[0]
            return "application/json", gallery.search_json(wanted)
        if (match := _DETAIL.fullmatch(address.path)) and int(match[1]) < len(gallery.entries):
            return "application/json", gallery.detail_json(int(match[1]))
        return "", None

    def _answer(self, status: int, kind: str, text: str) -> None:
        body = text.encode("utf-8")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", f"{content_policy()}; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        if status == 405:
            self.send_header("Allow", "GET")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal shows the address and no more."""
