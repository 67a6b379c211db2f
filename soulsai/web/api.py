"""The JSON API under ``/api/v1``: what the page, Grafana, scripts and notebooks ask."""

import gzip
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request
from msgspec import Struct
from starlette.responses import FileResponse, Response, StreamingResponse

from soulsai import __version__
from soulsai.web import models, queries, stream
from soulsai.web.commands import Commander, Word
from soulsai.web.journal import Note
from soulsai.web.metrics import known
from soulsai.web.openapi import CSV, SSE, TAR, answer, asks, file, text
from soulsai.web.queries import BadRequest, Wanted, X
from soulsai.web.run_store import LATEST, Folders
from soulsai.web.schemas import (
    ClientRow,
    CommandOutcome,
    EventRow,
    Health,
    Metric,
    Model,
    Row,
    RunComparison,
    RunRow,
    Session,
    VersionRow,
)
from soulsai.web.security import COOKIE, LARGEST_BODY, SESSION_SECONDS, PageAccess
from soulsai.web.series import Kind
from soulsai.web.stream import Bell, StreamHead
from soulsai.web.tables import MOST_VERSIONS
from soulsai.web.tallies import client_rows, version_rows
from soulsai.web.watch import Watcher
from soulsai.web.worker import Busy, Worker

FIGURE = "telemetry.png"
MOST_STREAMS = 64
MOST_EVENTS = 1000
_SMALL = 2048  # bytes that are not worth compressing
_JSON = "application/json"

Run = Annotated[str, Query(description="A run's id, or `latest`.", max_length=255)]
RunPath = Annotated[str, Path(description="A run's id, or `latest`.")]
ModelPath = Annotated[
    str, Path(description="`best_model`, `manual_save` or a checkpoint's number.")
]
Metrics = Annotated[
    list[str], Query(description="Names as in `/metrics`, repeated or with commas between.")
]
Axis = Annotated[X, Query(description="What the rows ascend by.")]
Points = Annotated[int, Query(description="At most so many rows; clamped to 2..5000.")]
Window = Annotated[int, Query(description="Episodes in a rolling mean.")]
Episodes = Annotated[Kind, Query(description="Which episodes.")]
After = Annotated[int, Query(ge=0, description="Only rows beyond this `episode` or `sample`.")]
Time = Annotated[
    str, Query(description="ISO 8601, or Unix seconds or milliseconds.", max_length=64)
]
Format = Annotated[str, Query(pattern="^(json|csv)$", description="`json` or `csv`.")]


class Ask(Struct, frozen=True):
    """A command for the training node."""

    command: Word
    run: str = ""  # refuse if another one is being trained by now
    about: Annotated[str, msgspec.Meta(max_length=64)] = ""  # the client or model, where needed


class Login(Struct, frozen=True):
    """A token that is to open a session."""

    token: str


class Api:
    """Answers requests; what takes long happens in the worker's thread."""

    def __init__(
        self,
        folders: Folders,
        watcher: Watcher,
        commander: Commander,
        access: PageAccess,
        bell: Bell,
    ) -> None:
        self.worker = Worker("page")
        self._commands = Worker("commands", most=4)
        self._folders = folders
        self._watcher = watcher
        self._commander = commander
        self._access = access
        self._bell = bell
        self.streams = 0

    def close(self) -> None:
        """End the threads."""
        self.worker.close()
        self._commands.close()

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(prefix="/api/v1")
        get = router.add_api_route
        get("/series", self.series, **answer(list[Row], CSV))
        get("/runs", self.runs, **answer(list[RunRow]))
        get("/runs/{run}/figure.png", self.figure, **file("image/png"))
        get("/runs/{run}/models/{model}.tar", self.archive, **file(TAR))
        get("/runs/{run}/models/{model}/{name}", self.download, **file("application/octet-stream"))
        get("/clients", self.clients, **answer(list[ClientRow]))
        get("/versions", self.versions, **answer(list[VersionRow]))
        get("/models", self.models, **answer(list[Model]))
        get("/metrics", self.metrics, **answer(list[Metric]))
        get("/config", self.config, **answer(dict[str, Any]))
        get("/compare", self.compare, **answer(RunComparison))
        get("/events", self.events, **answer(list[EventRow]))
        get("/status", self.status, **answer(StreamHead))
        get("/stream", self.stream, **text(SSE))
        get("/session", self.session, **answer(Session))
        post: dict[str, Any] = {"methods": ["POST"]}
        get("/login", self.login, **post, **answer(Session), openapi_extra=asks(Login))
        get("/logout", self.logout, **post, **answer(Session))
        get("/commands", self.command, **post, **answer(CommandOutcome), openapi_extra=asks(Ask))
        return router

    async def series(
        self,
        request: Request,
        run: Run = LATEST,
        metrics: Metrics = ["reward"],  # noqa: B006 - FastAPI copies it
        x: Axis = "env_steps",
        max_points: Points = 1000,
        window: Window = 20,
        kind: Episodes = "all",
        after: After = 0,
        begin: Annotated[Time, Query(alias="from")] = "",
        end: Annotated[Time, Query(alias="to")] = "",
        format: Format = "json",
    ) -> Response:
        """Return series over env steps, episodes or time, thinned out to what a screen shows.

        `reward_mean`, `reward_low` and `reward_high` are the rolling mean of `window` episodes,
        and one standard deviation below and above; so for every metric. Episodes at the same `x`
        are averaged. Metrics of episodes and of the training may be mixed, except over `episode`.
        """
        wanted = Wanted(
            run=run,
            metrics=queries.names(metrics),
            x=x,
            points=max_points,
            window=window,
            kind=kind,
            after=after,
            begin=queries.moment(begin, "from") if begin else -float("inf"),
            end=queries.moment(end, "to") if end else float("inf"),
        )
        return await self.worker.do(_series, self._folders, wanted, format, _zips(request))

    async def runs(self, request: Request) -> Response:
        """Return all runs, newest first; the one that is followed now is `live`."""
        status = self._watcher.seen.status

        def rows() -> Response:
            return _json(
                [
                    self._folders.row(run, status if status and status.run == run else None)
                    for run in self._folders.names()
                ],
                _zips(request),
            )

        return await self.worker.do(rows)

    async def clients(self, run: Run = LATEST) -> Response:
        """Return the clients of a run, as its training node sees them."""
        return await self.worker.do(lambda: _json(self._client_rows(self._folders.find(run))))

    async def versions(
        self,
        request: Request,
        run: Run = LATEST,
        limit: Annotated[int, Query(description="The newest so many; at most 512.")] = 200,
    ) -> Response:
        """Return what came of each version of the weights, exploring and greedy apart."""

        def rows() -> Response:
            episodes = self._folders.episodes(self._folders.find(run))
            found = version_rows(episodes, min(max(limit, 1), MOST_VERSIONS))
            return _json(found, _zips(request))

        return await self.worker.do(rows)

    async def models(self, run: Run = LATEST) -> Response:
        """Return what a run has saved: the best model, a quicksave, checkpoints newest first."""
        folders = self._folders
        return await self.worker.do(lambda: _json(models.models(folders, folders.find(run))))

    async def metrics(self, run: Run = LATEST) -> Response:
        """Return the numbers that can be asked for as series, with their units."""

        def rows() -> Response:
            name = self._folders.find(run)
            samples = self._folders.journal(name).samples
            played = self._folders.episodes(name).table.view()
            return _json(known(played, samples.view(), self._folders.measures(name)))

        return await self.worker.do(rows)

    async def config(self, run: Run = LATEST) -> Response:
        """Return the settings of a run."""
        folders = self._folders
        return await self.worker.do(lambda: _json(folders.config(folders.find(run))))

    async def compare(
        self,
        request: Request,
        runs: Annotated[list[str], Query(description="Ids, repeated or with commas between.")],
        metric: Annotated[str, Query(max_length=255)] = "reward_mean",
        x: Axis = "env_steps",
        max_points: Points = 300,
        window: Window = 20,
        kind: Episodes = "all",
        group: Annotated[bool, Query(description="Runs that differ in their seed as one.")] = True,
    ) -> Response:
        """Return several runs over one grid: quartiles, median and interquartile mean of seeds."""
        wanted = Wanted(metrics=(metric,), x=x, points=max_points, window=window, kind=kind)

        def work() -> Response:
            found = queries.compare(self._folders, queries.names(runs), wanted, grouped=group)
            return _json(found, _zips(request))

        return await self.worker.do(work)

    async def events(
        self,
        run: Run = LATEST,
        after: Annotated[int, Query(ge=0, description="Only events beyond this number.")] = 0,
        limit: Annotated[int, Query(description="The newest so many; at most 1000.")] = 200,
    ) -> Response:
        """Return what happened in a run, newest first."""

        def rows() -> Response:
            notes = self._folders.journal(self._folders.find(run)).after(after)
            newest = list(reversed(notes))[: min(max(limit, 1), MOST_EVENTS)]
            return _json([stream.event_row(note) for note in newest])

        return await self.worker.do(rows)

    async def status(self) -> Response:
        """How far the newest run has come."""
        return await self.worker.do(lambda: _json(self.head()))

    async def stream(self, request: Request, last_event_id: str = "") -> Response:
        """Return news as server-sent events: `head` as `/status`, `log` as one of `/events`.

        A browser that connects again gets the events since the `Last-Event-ID` that it saw.
        """
        if self.streams >= MOST_STREAMS:
            raise Busy("too many pages are open")
        last = request.headers.get("last-event-id", last_event_id)
        headers = {"x-accel-buffering": "no", "cache-control": "no-store"}
        return StreamingResponse(self._counted(last), media_type=SSE, headers=headers)

    async def figure(self, run: RunPath) -> Response:
        """Return the figure that the telemetry node draws of a run."""
        path = self._folders.path(self._folders.find(run)) / FIGURE
        if not path.is_file():
            raise models.UnknownModel("there is no figure yet")
        return FileResponse(path, media_type="image/png")

    async def download(self, run: RunPath, model: ModelPath, name: str) -> Response:
        """Return one file of a saved model, e.g. `policy.onnx`."""
        run = self._folders.find(run)
        path = models.download(self._folders.path(run), model, name)
        return FileResponse(path, media_type="application/octet-stream", filename=f"{run}_{name}")

    async def archive(self, run: RunPath, model: ModelPath) -> Response:
        """Return a saved model with all its files, as a tar archive."""
        run = self._folders.find(run)
        pieces = models.archive(self._folders.path(run), model)
        safe = "".join(
            letter for letter in run if (letter.isalnum() and letter.isascii()) or letter in "-_."
        )
        headers = {"content-disposition": f'attachment; filename="{safe}_{model}.tar"'}
        return StreamingResponse(pieces, media_type=TAR, headers=headers)

    async def session(self, request: Request) -> Response:
        """Return who is asking, as far as rights go."""
        return _json(self._session(request.state.role))

    async def login(self, request: Request) -> Response:
        """Open a session with a token; the browser keeps it as a cookie."""
        role = self._access.role_of((await body(request, Login)).token)
        if not role:
            return _json({"detail": "this token opens nothing"}, status=401)
        response = _json(self._session(role))
        response.set_cookie(
            COOKIE, self._access.session(role), max_age=SESSION_SECONDS, path="/",
            secure=request.headers.get("x-forwarded-proto", request.url.scheme) == "https",
            httponly=True, samesite="strict",
        )  # fmt: skip
        return response

    async def logout(self) -> Response:
        """End the session."""
        response = _json(self._session("" if self._access.token_needed else "operator"))
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    async def command(self, request: Request) -> Response:
        """Ask the training node to do something, and wait for its answer."""
        ask = await body(request, Ask)
        host = request.client.host if request.client else "somewhere"
        who = f"{request.state.role} at {host}"
        outcome = await self._commands.do(
            self._commander.give, ask.command, ask.run, who, ask.about
        )
        return _json(outcome)

    async def health(self) -> Response:
        """Say that the page is served."""
        return _json(Health("ok", self._watcher.seen.status is not None))

    def head(self) -> StreamHead:
        """Return how far the newest run has come."""
        seen = self._watcher.seen.status
        try:
            run = self._folders.find(seen.run if seen else LATEST)
        except LookupError:
            return StreamHead("", live=False)
        status = seen if seen and seen.run == run else None
        clients = status.clients if status else ()
        journal = self._folders.journal(run)
        return StreamHead(
            run=run,
            live=run == self._folders.live,
            episode=self._folders.episodes(run).table.last,
            sample=journal.samples.last,
            event=journal.last,
            best=self._folders.best(run),
            status=msgspec.structs.replace(status, clients=()) if status else None,
            clients=sum(client.state != "lost" for client in clients),
        )

    def _client_rows(self, run: str) -> list[ClientRow]:
        seen = self._watcher.seen.status
        status = seen if seen and seen.run == run else self._folders.status(run)
        return client_rows(status, self._folders.episodes(run)) if status else []

    def _session(self, role: Any) -> Session:
        return Session(role, self._access.token_needed, __version__)

    def _notes(self, run: str, after: int) -> list[Note]:
        return list(self._folders.journal(run).after(after)) if run else []

    async def _counted(self, last: str) -> AsyncIterator[bytes]:
        self.streams += 1
        try:
            async for piece in stream.stream(self._bell, self.head, self._notes, last):
                yield piece
        finally:
            self.streams -= 1


async def body(request: Request, type: Callable[..., Any]) -> Any:
    """Return the JSON body of a request; raise ``BadRequest`` if it is not of that type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _JSON:
        raise BadRequest(f"content-type: send {_JSON}")
    data = await request.body()
    try:
        return msgspec.json.decode(data[:LARGEST_BODY], type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"body: {str(error)[:300]}") from None


def _series(folders: Folders, wanted: Wanted, format: str, zips: bool) -> Response:
    found = queries.columns(folders, wanted)
    if format == "csv":
        headers = {"content-disposition": 'attachment; filename="series.csv"'}
        return Response(queries.as_csv(found), media_type=CSV, headers=headers)
    return _json(queries.rows(found), zips)


def _zips(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")


def _json(value: object, zips: bool = False, status: int = 200) -> Response:
    data = msgspec.json.encode(value)
    headers = {"vary": "accept-encoding"}
    if zips and len(data) > _SMALL:
        data = gzip.compress(data, 3, mtime=0)
        headers["content-encoding"] = "gzip"
    return Response(data, status, headers, _JSON)
