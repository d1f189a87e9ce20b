"""The worker's web pages, served on threads of their own so that no reader holds the stream back.

What is shown comes from callables that return finished, immutable answers: nothing here touches live state.
"""

import base64
import gzip
import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import resources
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from streamapp.errors import ConfigError

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_REQUEST_SECONDS = 10.0
"""A reader that takes longer to send its request is dropped."""
_ODD_VERSION = re.compile(r"[;\s]version=(?![0-9]{1,9}(?:\.[0-9]{1,9})*\s*(?:[;,]|$))")
"""A version of a format that is none: the library compares it with numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether a worker owns its partitions and keeps up."""

    ready: bool
    reason: str = ""
    """What it waits for, in words; empty when ready."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Anything else worth reading, e.g. parked tasks."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class WebServer:
    """Serve ``/``, ``/healthz``, ``/readyz``, ``/metrics`` and ``/api/summary``.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one, which :attr:`port` then says.
        registry: What ``/metrics`` exposes.
        summary: Returns what ``/api/summary`` shows; called on the server's threads.
        readiness: Returns what ``/readyz`` says; called on the server's threads.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        registry: CollectorRegistry,
        summary: Callable[[], Mapping[str, Any]],
        readiness: Callable[[], Readiness],
    ) -> None:
        self._registry = registry
        self._summary = summary
        self._readiness = readiness
        page = resources.files("streamapp.web").joinpath("page.html").read_text(encoding="utf-8")
        self._page = _Answer(
            HTTPStatus.OK,
            "text/html; charset=utf-8",
            page.encode(),
            (("Content-Security-Policy", _policy(page)),),
        )
        try:
            self._server = _Server((host, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"STREAMAPP_WEB_PORT: cannot listen on {host}:{port} ({error.strerror}); 0 picks a free port"
            ) from None
        self._server.set_app(self._application)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="streamapp-web", daemon=True
        )
        self.port = int(self._server.server_address[1])
        """The port that is listened on."""
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        """Where the status page is."""

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port; answers under way are not waited for."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> "WebServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, as WSGI has it."""
        method = environ["REQUEST_METHOD"]
        if method in ("GET", "HEAD"):
            answer = self._answer(environ)
        else:
            answer = _Answer(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"only GET and HEAD\n", (("Allow", "GET, HEAD"),))
        start_response(
            f"{answer.status.value} {answer.status.phrase}",
            [
                ("Content-Type", answer.content_type),
                ("Content-Length", str(len(answer.body))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
                *answer.headers,
            ],
        )
        return [] if method == "HEAD" else [answer.body]

    def _answer(self, environ: WSGIEnvironment) -> _Answer:
        match environ["PATH_INFO"]:
            case "/":
                return self._page
            case "/healthz":
                return _Answer(HTTPStatus.OK, _TEXT, b"alive\n")
            case "/readyz":
                readiness = self._readiness()
                status = HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE
                return _Answer(status, _JSON, msgspec.json.encode(readiness))
            case "/api/summary":
                return _Answer(HTTPStatus.OK, _JSON, msgspec.json.encode(self._summary()))
            case "/metrics":
                return self._metrics(environ)
        return _Answer(HTTPStatus.NOT_FOUND, _TEXT, b"not found; try / /metrics /api/summary /healthz /readyz\n")

    def _metrics(self, environ: WSGIEnvironment) -> _Answer:
        accepted = environ.get("HTTP_ACCEPT", "")
        encoder, content_type = choose_encoder("" if _ODD_VERSION.search(accepted) else accepted)
        body = encoder(self._registry)
        if not _takes_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")):
            return _Answer(HTTPStatus.OK, content_type, body)
        return _Answer(HTTPStatus.OK, content_type, gzip.compress(body, 1), (("Content-Encoding", "gzip"),))


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without the reverse look-up of our own name that the base class does: it can take seconds."""
        # A worker that starts again finds its port still in TIME_WAIT.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a reader that went away is no news, and a failed answer was a 500 already."""


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Log no requests: scrapes come every few seconds."""


def _takes_gzip(accepted: str) -> bool:
    """Return whether a reader takes gzip: where its quality is 0 it does not."""
    for each in accepted.lower().split(","):
        coding, _, quality = each.partition(";")
        if coding.strip() == "gzip":
            return not re.fullmatch(r"\s*q=0(?:\.0*)?\s*", quality)
    return False


def _policy(page: str) -> str:
    """Return a content security policy that runs this page's own script and style, and nothing else."""

    def digests(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(b.encode()).digest()).decode()}'" for b in blocks)

    return (
        f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
