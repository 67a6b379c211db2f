"""The page as an ASGI application, and the thread that serves it."""

import errno
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from soulsai import __version__
from soulsai.config.schema import Config
from soulsai.errors import Unreachable
from soulsai.prometheus import TEXT, Family, TelemetryMetrics
from soulsai.web import openapi, security
from soulsai.web.api import Api, Busy
from soulsai.web.commands import Commander, Conflict, Enroller
from soulsai.web.connections import BoundedProtocol
from soulsai.web.grafana import Grafana
from soulsai.web.metrics import UnknownMetric
from soulsai.web.models import UnknownModel
from soulsai.web.queries import BadRequest
from soulsai.web.run_store import NoSource, RunStore, Source, UnknownRun
from soulsai.web.schemas import Problem
from soulsai.web.stream import Bell
from soulsai.web.watching import Listener, WatcherThread
from soulsai.wire.protocols import TelemetryWire

STATIC = Path(__file__).parent / "static"
AGAIN = 5.0  # seconds before the next try to open a port that is taken
GRACE = 2  # seconds for the remaining answers when the page ends

_log = logging.getLogger(__name__)
_STATUS: dict[type[Exception], int] = {
    UnknownRun: 404,
    UnknownModel: 404,
    UnknownMetric: 422,
    BadRequest: 422,
    Conflict: 409,
    Busy: 429,
}


def documentation() -> bytes:
    """Return the API's OpenAPI document as JSON, without the version of the software."""
    page = PageServer(Config(), NoSource(), _unconnected)
    whole = page.document()
    del whole["info"]["version"]
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"


class PageServer:
    """Serve the page from entering to leaving; its failures never reach the training."""

    def __init__(
        self,
        config: Config,
        source: Source,
        connect: Callable[[], TelemetryWire],
        more: Callable[[], Iterable[Family]] = tuple,
        listeners: Sequence[Listener] = (),
        enroller: Enroller | None = None,
        forget_best: Callable[[], str] | None = None,
    ) -> None:
        """Create the page and its threads.

        Args:
            config: All settings.
            source: The telemetry node's run in progress.
            connect: Opens connections beside the node's own, for the watcher and for commands.
            more: Returns the node's own Prometheus metrics.
            listeners: Receivers of notes and samples.
            enroller: Enrolls and revokes clients, if this node may do that.
            forget_best: Drops the best average of the run in progress.

        Raises:
            ConfigError: The settings of the section ``web`` are unsafe.
        """
        self._access = security.access(config.web)
        self._bind, self._port = config.web.bind, config.web.port
        self._bell = Bell()
        saves = Path(config.run.saves)
        self._watching = WatcherThread(saves, source, connect, listeners, self._bell.ring)
        store, watcher = self._watching.store, self._watching.watcher
        commander = Commander(
            connect, lambda: watcher.seen.status, watcher.note, enroller, forget_best
        )
        self._api = Api(store, watcher, commander, self._access, self._bell)
        self._grafana = Grafana(store, self._api)
        self._metrics = TelemetryMetrics(partial(_families, store, self._api, more))
        self._server: uvicorn.Server | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="page-server")
        self.url = ""  # the page's address, once it is served

    def __enter__(self) -> Self:
        self._watching.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._bell.close()
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join()
        self._watching.__exit__(kind, error, trace)
        self._api.close()

    def document(self) -> dict[str, Any]:
        """Return the API's OpenAPI document."""
        return openapi.document(
            self._operations(),
            title="soulsai",
            description="The progress of a training run, and a few commands for it.",
            version=__version__,
        )

    def application(self) -> Starlette:
        """Return the application without access control."""
        app = Starlette(
            routes=[
                *(operation.route() for operation in self._operations()),
                Route("/api/v1/openapi.json", self._described),
                Route("/healthz", self._healthy),
                Route("/metrics", self._scraped),
            ],
            exception_handlers=dict.fromkeys((*_STATUS, HTTPException), _problem),
        )
        app.router.redirect_slashes = False
        app.router.default = StaticFiles(directory=STATIC, html=True)
        return app

    def _operations(self) -> list[openapi.Operation]:
        return [*self._api.operations(), *self._grafana.operations()]

    def _described(self, request: Request) -> Response:
        del request
        return Response(msgspec.json.encode(self.document()), media_type=openapi.JSON)

    async def _healthy(self, request: Request) -> Response:
        del request
        return await self._api.health()

    def _scraped(self, request: Request) -> Response:
        del request
        return Response(self._metrics.text(), media_type=TEXT)

    def ring(self) -> None:
        """Announce news to all streams; thread-safe."""
        self._bell.ring()

    def _serve(self) -> None:
        listener = self._listener()
        if listener is None:
            return
        with listener:
            app = self._opening(security.SecurityMiddleware(self.application(), self._access))
            settings = uvicorn.Config(
                app, lifespan="off", ws="none", log_config=None, log_level="warning",
                access_log=False, server_header=False, proxy_headers=False,
                http=BoundedProtocol, timeout_graceful_shutdown=GRACE,
            )  # fmt: skip
            self._server = uvicorn.Server(settings)
            self.url = f"http://{_shown(self._bind)}:{listener.getsockname()[1]}"
            _log.info("page url=%s", self.url)
            if not self._stopped.is_set():
                self._server.run(sockets=[listener])
            self._bell.detach()

    def _listener(self) -> socket.socket | None:
        """Return a socket on the port as soon as the port is free."""
        logged = False
        while not self._stopped.is_set():
            try:
                return _listen(self._bind, self._port)
            except OSError as error:
                if not logged:
                    used = error.errno == errno.EADDRINUSE
                    why = "in use, perhaps by another run" if used else error.strerror
                    _log.warning(
                        "the page waits: port %d of %s is %s; web.port=0 takes a free one",
                        self._port, self._bind, why,
                    )  # fmt: skip
                logged = True
                self._stopped.wait(AGAIN)
        return None

    def _opening(self, app: ASGIApp) -> ASGIApp:
        async def _attach(scope: Scope, receive: Receive, send: Send) -> None:
            self._bell.attach()
            await app(scope, receive, send)

        return _attach


def _families(store: RunStore, api: Api, more: Callable[[], Iterable[Family]]) -> Iterator[Family]:
    """Yield the Prometheus metrics of the page."""
    head = api.head()
    yield Family(
        "training_node_seen", "gauge", "1 if a training node is alive.", float(bool(head.status))
    )
    yield Family("page_streams", "gauge", "Open pages.", api.streams)
    if head.run:
        episodes = store.episodes(head.run)
        yield Family("telemetry_episodes", "counter", "Episodes recorded.", episodes.table.last)
        yield Family("telemetry_clients", "gauge", "Clients with episodes.", len(episodes.clients))
        score = head.best.get("score")
        if isinstance(score, int | float):
            yield Family("best_score", "gauge", "Best average so far.", float(score))
    yield from more()


def _unconnected() -> TelemetryWire:
    raise Unreachable("there is no server")


def _listen(bind: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((bind, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _shown(bind: str) -> str:
    try:
        address = ip_address(bind)
    except ValueError:
        return bind
    if address.is_unspecified:
        return socket.gethostname()
    return f"[{bind}]" if address.version == 6 else bind


async def _problem(request: Request, error: Exception) -> Response:
    del request
    headers: Mapping[str, str] | None = None
    if isinstance(error, HTTPException):
        status, detail = error.status_code, str(error.detail)
        headers = error.headers or ({"allow": "GET, HEAD"} if status == 405 else None)
    else:
        status, detail = _STATUS.get(type(error), 500), str(error)
    body = msgspec.json.encode(Problem(detail[:2000]))
    return Response(body, status, headers, media_type="application/json")


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(documentation())
