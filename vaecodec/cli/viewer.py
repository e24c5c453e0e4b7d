"""Serves the viewer page and the given files on 127.0.0.1 to one user's browser, and nothing else to anybody else.

Addresses are looked up in a table that is built at the start, never on the disk. Each begins with a secret that no
other page knows, and the Host header must name this machine, which keeps out pages whose name resolves to 127.0.0.1
(DNS rebinding). The viewer's scripts decode; this module does not.
"""

import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from pathlib import Path

from vaecodec.errors import VaecError
from vaecodec.format.records import MAGIC

ADDRESS = "127.0.0.1"
PAGE = "viewer/index.html"
SCRIPT = "dist/vaecodec.js"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
DATA = "application/octet-stream"  # for weights and pictures; browsers do not display it by themselves
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; style-src 'self';"
    " img-src 'self' blob:; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    # Only this page may read the responses; and the page may use threads.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
METHODS = ("GET", "HEAD")
TIMEOUT_S = 30  # for clients that send or read nothing
BLOCK_BYTES = 1 << 18
BEAT_S = 1.0
PATIENCE_S = 60.0  # time for the page to be opened
GRACE_S = 5.0  # time for it to be reloaded


def web_folder() -> Path:
    """Returns the folder of the viewer: inside an installed package, or next to it in a checkout.

    Raises:
        VaecError: (VIEWER_MISSING) the viewer or the decoder for browsers has not been built.
    """
    inside = Path(__file__).parents[1] / "web"
    folder = inside if inside.exists() else Path(__file__).parents[2] / "web"
    for needed in (PAGE, SCRIPT):
        if not (folder / needed).is_file():
            message = f"the viewer lacks web/{needed}: run `make web` in the checkout"
            raise VaecError(message, code="VIEWER_MISSING")
    return folder


def is_vaec(path: str) -> bool:
    """Whether a file is to be opened as .vaec, by its name, or else by its first bytes; False if it cannot be read."""
    if path.lower().endswith(".vaec"):
        return True
    with suppress(OSError), open(path, "rb", opener=_without_waiting) as file:
        return file.read(len(MAGIC)) == MAGIC
    return False


def shown_names(paths: Sequence[str]) -> list[str]:
    """Names to show and to pair originals by: without folders, except where .vaec files of several folders share one.

    Example:
        >>> shown_names(["p/a/x.vaec", "p/a/x.png", "p/b/x.vaec", "p/b/y.vaec"])
        ['a/x.vaec', 'a/x.png', 'b/x.vaec', 'y.vaec']
    """
    full = [Path(os.path.abspath(path)) for path in paths]
    folders: dict[str, set[Path]] = {}
    opened: dict[str, set[Path]] = {}  # only those of .vaec files
    for path in full:
        folders.setdefault(path.stem, set()).add(path.parent)
        if is_vaec(str(path)):
            opened.setdefault(path.stem, set()).add(path.parent)
    names = []
    for path in full:
        is_clear = len(opened.get(path.stem, ())) < 2
        levels = zip(*(folder.parts for folder in folders[path.stem]), strict=False)
        shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
        names.append(path.name if is_clear else "/".join(path.parts[shared:]))
    return names


class ViewerServer(ThreadingHTTPServer):
    """The server: the constructor binds the port, `serve_forever` answers.

    Args:
        files: paths of the files to serve.
        folder: contains viewer/ and dist/; see `web_folder`.
        ends_with_page: stop when no page is open any longer.

    Raises:
        OSError: no port can be opened.
    """

    daemon_threads = True  # a hanging client does not keep the process alive

    def __init__(self, files: Sequence[str], folder: Path, *, ends_with_page: bool = False) -> None:
        super().__init__((ADDRESS, 0), _Handler)
        self.port = self.server_address[1]
        self.hosts = frozenset(f"{name}:{self.port}" for name in (ADDRESS, "localhost"))
        self.root = f"/{secrets.token_urlsafe(24)}/"
        listed = [
            {"name": name, "url": f"files/{number}", "vaec": is_vaec(path)}
            for number, (name, path) in enumerate(zip(shown_names(files), files, strict=True))
        ]
        self.list = json.dumps({"files": listed, **({"alive": "alive"} if ends_with_page else {})}).encode()
        self.files = {f"viewer/files/{number}": Path(path).absolute() for number, path in enumerate(files)}
        parts = [path for part in ("viewer", "dist") for path in (folder / part).iterdir() if path.is_file()]
        self.parts = {f"{path.parent.name}/{path.name}": path for path in parts}
        self.alive = _Alive(self.shutdown) if ends_with_page else None

    @property
    def url(self) -> str:
        """The address to open in a browser."""
        return f"http://{ADDRESS}:{self.port}{self.root}{PAGE}?list=files.json"


class _Alive:
    """Counts open pages, and calls `stop` when there has been none for a while."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop, self._pages, self._lock = stop, 0, threading.Lock()
        self._until = time.monotonic() + PATIENCE_S
        threading.Thread(target=self._watch, daemon=True).start()

    def count(self, change: int) -> None:
        with self._lock:
            self._pages += change
            self._until = time.monotonic() + GRACE_S

    def _watch(self) -> None:
        while True:
            time.sleep(BEAT_S / 4)
            with self._lock:
                if not self._pages and time.monotonic() > self._until:
                    break
        self._stop()


class _Handler(BaseHTTPRequestHandler):
    server: ViewerServer
    timeout = TIMEOUT_S
    server_version, sys_version = "vaecodec", ""

    def parse_request(self) -> bool:
        """Refuses everything but plain requests from the page itself."""
        if not super().parse_request():
            return False
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            return self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
        if self.command not in METHODS:
            return self._refuse(HTTPStatus.METHOD_NOT_ALLOWED)
        return True

    def do_GET(self) -> None:
        name = self._name()
        if name == "viewer/alive" and self.server.alive:
            self._beat(self.server.alive)
        elif name == "viewer/files.json":
            self._head(HTTPStatus.OK, TYPES[".json"], len(self.server.list))
            self._send(self.server.list)
        elif name in self.server.parts:
            path = self.server.parts[name]
            self._give(path, TYPES.get(path.suffix, DATA))
        elif name in self.server.files:
            self._give(self.server.files[name], DATA)
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET  # noqa: N815 -- the name that http.server calls

    def _name(self) -> str | None:
        """The part of the address after the secret; addresses are compared verbatim, without resolving anything."""
        path, root = self.path.partition("?")[0].encode(), self.server.root.encode()
        is_known = secrets.compare_digest(path[: len(root)], root)
        return path[len(root) :].decode() if is_known else None

    def _give(self, path: Path, kind: str) -> None:
        try:
            file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 -- closed below
        except OSError:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        with file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                self._refuse(HTTPStatus.NOT_FOUND)
                return
            left = status.st_size  # if the file grows meanwhile, no more than announced
            self._head(HTTPStatus.OK, kind, left)
            while self.command == "GET" and left and (data := file.read(min(left, BLOCK_BYTES))):
                self.wfile.write(data)
                left -= len(data)

    def _beat(self, alive: _Alive) -> None:
        """Writes a byte every second until the page is gone."""
        self._head(HTTPStatus.OK, DATA)
        if self.command == "GET":
            alive.count(1)
            try:
                while True:
                    self.wfile.write(b".")
                    time.sleep(BEAT_S)
            except OSError:
                pass
            finally:
                alive.count(-1)

    def _head(self, status: HTTPStatus, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", ", ".join(METHODS))
        self.end_headers()

    def _send(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: HTTPStatus) -> bool:
        data = f"{status.value} {status.phrase}\n".encode()
        self._head(status, "text/plain; charset=utf-8", len(data))
        self._send(data)
        return False

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Sends the base class's errors with the same headers as everything else."""
        self._refuse(HTTPStatus(code))

    def handle(self) -> None:
        """Ends quietly when the client has disconnected."""
        with suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing, because the log would contain the secret."""


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file without blocking, even if its name has become a pipe that has no writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
