"""The web page served beside the job service: reads only, asks for the same token, and needs nothing from elsewhere.

``/`` and what belongs to it are the same for everybody. ``/api/…`` needs ``Authorization: Bearer TOKEN``; ``/files/…`` a ticket
from ``/api/jobs/JOB/files``. Whatever a job says or writes is hostile: the page shows it as text, and a file of a run is
opened in a sandbox that has no part in the page's origin.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from deploy.run_directory import to_json
from deploy.service.bounds import kept_from
from deploy.service.doorway import MOST_CONNECTIONS, STRANGER_S, Doorway
from deploy.service.store import Store, UnknownJob
from deploy.service.tickets import Tickets
from deploy.service.views import MOST_LISTED, Cluster, Views
from ps.errors import HogsheadError, UsageError

if TYPE_CHECKING:
    from ps.transport.tls import Tls

MOST_AT_ONCE = 64  # requests that are being answered
READERS = 4  # threads
PIECE_BYTES = 256 << 10
STOP_SECONDS = 1.0  # for what is being sent
HANDSHAKE_SECONDS = 10.0  # for TLS
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A report has its style and script inside. In a sandbox without `allow-same-origin` it can read nothing of the page, nor call it.
_FILE_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Server": "hogshead",
    "Content-Security-Policy": _PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_SHOWN = {
    ".html": "text/html",
    ".txt": "text/plain",
    ".toml": "text/plain",
    ".json": "text/plain",
    ".jsonl": "text/plain",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Web:
    """Serves the page in a thread of its own.

    Args:
      store: the jobs. jobs: the folder of their folders. cluster: whom to ask for nodes.
      bind: address to listen at. port: 0 takes any.
      token: that has to be presented; None: none, which suits a loopback address only.
      tls: certificates of the service; None: plain HTTP.
    """

    def __init__(
        self,
        store: Store,
        jobs: Path,
        cluster: Cluster,
        *,
        bind: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        tls: Tls | None = None,
    ):
        self._bind, self._port, self._token = bind, port, token
        self._context = None if tls is None else _context(tls)
        self._tickets = Tickets()
        self._views = Views(store, jobs, cluster, self._tickets)
        self._page = _page_files()
        self._at_work = 0
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="web")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="web", daemon=True)
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None

    def start(self) -> int:
        """Listen; returns the port.

        Raises:
          UsageError: nobody can listen there.
        """
        self._thread.start()
        try:
            return asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        except OSError as error:
            self.stop()
            raise UsageError(
                f"the web page cannot listen at {self._bind}:{self._port}: {error.strerror or error}; give another --web-port"
            ) from error

    def stop(self) -> None:
        """End, within seconds; may be called twice."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._loop.close()

    async def _listen(self) -> int:
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            logger=_connections,
            handle_signals=False,
            shutdown_timeout=STOP_SECONDS,
            keepalive_timeout=30.0,
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._doorway = Doorway(self._runner.server, MOST_CONNECTIONS, STRANGER_S)
        self._listener = await self._loop.create_server(
            self._doorway,
            self._bind,
            self._port,
            ssl=self._context,
            ssl_handshake_timeout=None if self._context is None else HANDSHAKE_SECONDS,
        )
        return self._listener.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        if self._runner is None:
            return
        if self._listener is not None:
            self._listener.close()
        open_ones = [] if self._runner.server is None else list(self._runner.server.connections)
        transports = [connection.transport for connection in open_ones if connection.transport is not None]
        await self._runner.cleanup()
        for transport in transports:  # one whose reader is slow would wait for it for ever
            transport.abort()
        await asyncio.sleep(0)  # they hear of it in the loop's next turn

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard], client_max_size=1)
        application.router.add_get("/healthz", self._healthy)
        application.router.add_get("/api/jobs", self._jobs)
        for name in ("records", "log", "files"):
            application.router.add_get(f"/api/jobs/{{job}}/{name}", getattr(self, f"_{name}"))
        application.router.add_get("/api/jobs/{job}", self._job)
        application.router.add_get("/files/{job}/{path:.+}", self._file)
        application.router.add_get("/{name:[^/]*}", self._part_of_page)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The rules for every request, and an answer in words for everything that goes wrong."""
        try:
            response = await self._admit(request, handler)
        except (UnknownJob, FileNotFoundError) as error:
            response = _problem(404, str(error))
        except UsageError as error:
            response = _problem(400, str(error))
        except HogsheadError as error:
            response = _problem(503, str(error))
        except web.HTTPException as error:
            response = _problem(error.status, f"{error.reason.lower()}: {request.method} {request.path[:80]}")
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except ConnectionError:  # whoever asked is gone
            raise
        except Exception as error:
            request.app.logger.exception("the web page failed at %s", request.path, exc_info=error)
            response = _problem(500, "fault of the service; see its log")
        if not response.prepared:
            _with_headers(response)
        return response

    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ("GET", "HEAD"))
        # Without a token, another site whose name leads here could read what a browser on this machine may read.
        if self._token is None and not _is_loopback_name(request.host):
            return _problem(403, f"this service has no token, so it is reached by {' or '.join(LOOPBACK_NAMES)} only")
        if request.path.startswith("/api/") and not self._knows_token(request):
            answer = _problem(
                401, "the token is missing or wrong; it is the one that `hogshead serve` was started with"
            )
            answer.headers["WWW-Authenticate"] = 'Bearer realm="hogshead"'
            return answer
        if self._token is None or request.path.startswith("/api/"):
            self._doorway.admit(request.transport)
        if self._at_work >= MOST_AT_ONCE:
            answer = _problem(503, "too many requests at once; try again in a moment")
            answer.headers["Retry-After"] = "2"
            return answer
        self._at_work += 1
        try:
            return await handler(request)
        finally:
            self._at_work -= 1

    def _knows_token(self, request: web.Request) -> bool:
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token.encode())
        return same and scheme.lower() == "bearer"

    async def _healthy(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _part_of_page(self, request: web.Request) -> web.Response:
        part = self._page.get(request.match_info["name"] or "index.html")
        if part is None:
            raise web.HTTPNotFound
        content, kind, etag = part
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        response = web.Response(body=content, content_type=kind, charset="utf-8", headers=headers)
        response.enable_compression()
        return response

    async def _jobs(self, request: web.Request) -> web.Response:
        query = request.query
        limit = _whole_number(query.get("limit", str(MOST_LISTED)), "limit")
        return await self._answer(
            request, lambda: self._views.overview(query.getall("state", []), query.get("before", ""), limit)
        )

    async def _job(self, request: web.Request) -> web.Response:
        return await self._answer(request, lambda: self._views.job(request.match_info["job"]))

    async def _records(self, request: web.Request) -> web.Response:
        return await self._answer(request, lambda: self._views.records(request.match_info["job"]))

    async def _log(self, request: web.Request) -> web.Response:
        offset = request.query.get("offset")
        position = None if offset is None else _whole_number(offset, "offset")
        return await self._answer(request, lambda: self._views.log(request.match_info["job"], position))

    async def _files(self, request: web.Request) -> web.Response:
        return await self._answer(request, lambda: self._views.files(request.match_info["job"]))

    async def _answer(self, request: web.Request, make: Callable[[], Any]) -> web.Response:
        """JSON, or that it is what the asker has already."""

        def made() -> tuple[str, str]:
            text = to_json(make())
            return text, f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'

        text, etag = await self._loop.run_in_executor(self._pool, made)
        headers = {"ETag": etag, "Cache-Control": "no-store"}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        response = web.Response(text=text, content_type="application/json", headers=headers)
        if len(text) > 1024:
            response.enable_compression()
        return response

    async def _file(self, request: web.Request) -> web.StreamResponse:
        job, path = request.match_info["job"], request.match_info["path"]
        if not self._tickets.good(request.query.get("ticket", ""), job, path):
            return _problem(
                403, "this address is no longer good; go back to the page of the job and open the file from there"
            )
        self._doorway.admit(request.transport)
        file = await self._loop.run_in_executor(self._pool, lambda: self._views.open(job, path, inside=""))
        try:
            return await self._send(request, file, path)
        finally:
            file.close()

    async def _send(self, request: web.Request, file: BinaryIO, path: str) -> web.StreamResponse:
        """A file as long as it is now: one that grows meanwhile is cut there."""
        start = kept_from(file.fileno(), 0)  # a log may have lost its beginning
        left = file.seek(0, 2) - start
        file.seek(start)
        name = path.rpartition("/")[2]
        kind = _SHOWN.get(Path(name).suffix)
        response = web.StreamResponse(headers={"Cache-Control": "no-store"})
        response.content_type = kind or "application/octet-stream"
        if kind is not None:
            response.charset = "utf-8"
        place = "attachment" if kind is None or "download" in request.query else "inline"
        response.headers["Content-Disposition"] = f"{place}; filename*=UTF-8''{quote(name, safe='')}"
        response.content_length = left
        _with_headers(response)
        response.headers["Content-Security-Policy"] = _FILE_POLICY
        await response.prepare(request)
        while left > 0 and request.method == "GET":
            piece = await self._loop.run_in_executor(self._pool, file.read, min(left, PIECE_BYTES))
            if not piece:  # became shorter: the connection ends early, which says so
                raise ConnectionResetError(f"{path} became shorter")
            await response.write(piece)
            left -= len(piece)
        return response


def _is_our_fault(record: logging.LogRecord) -> bool:
    """What is logged of a connection tells of more than a request that is no HTTP, which is answered with 400 and is no news."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


_connections = logging.getLogger("hogshead.service.connections")
_connections.addFilter(_is_our_fault)


def _page_files() -> dict[str, tuple[bytes, str, str]]:
    """Content, type and tag of what the page is made of, by name."""
    parts: dict[str, tuple[bytes, str, str]] = {}
    shared = resources.files("deploy") / "page" / "report.css"
    for entry in [*(resources.files("deploy.service") / "page").iterdir(), shared]:
        kind = _TYPES.get(Path(entry.name).suffix)
        if kind is not None:
            content = entry.read_bytes()
            parts[entry.name] = content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return parts


def _context(tls: Tls) -> ssl.SSLContext:
    if tls.cert is None:
        raise UsageError("Tls: a server must have cert and key, got none")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(tls.cert, tls.key)
        if tls.require_client_cert:
            context.load_verify_locations(tls.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the web page cannot use {tls.cert} and {tls.key}: {error}") from error
    return context


def _with_headers(response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def _problem(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status, headers={"Cache-Control": "no-store"})


def _is_loopback_name(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name in LOOPBACK_NAMES


def _whole_number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise UsageError(f"{name} must be a whole number, got {text[:40]!r}")
    return int(text)
