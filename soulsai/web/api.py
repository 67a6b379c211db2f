"""The JSON API under ``/api/v1`` for the page, Grafana, scripts and notebooks."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from soulsai import __version__
from soulsai.web import comparison, contributors, evaluations, models, queries, stream
from soulsai.web.commands import Commander, Word
from soulsai.web.journal import Note
from soulsai.web.metrics import known
from soulsai.web.openapi import CSV, JSON, SSE, TAR, Content, Handler, Operation
from soulsai.web.queries import BadRequest, Wanted, X
from soulsai.web.run_store import LATEST, RunStore
from soulsai.web.schemas import (
    ClientRow,
    CommandOutcome,
    ContributorRow,
    EvaluationRow,
    EventRow,
    Health,
    Metric,
    Model,
    RecordingRow,
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
from soulsai.web.watching import Watcher

FIGURE = "telemetry.png"
MOST_STREAMS = 64
MOST_EVENTS = 1000
MOST_WAITING = 64  # requests in front of one worker
_SMALL = 2048  # bytes below which compression does not pay
_BINARY = "application/octet-stream"

Run = Annotated[str, Meta(description="A run's id, or `latest`.", max_length=255)]
RunPath = Annotated[str, Meta(description="A run's id, or `latest`.")]
ModelPath = Annotated[
    str, Meta(description="`best_model`, `manual_save` or a checkpoint's number.")
]
EvaluatedPath = Annotated[str, Meta(description="A model's name, as in `/evaluations`.")]
Metrics = Annotated[
    list[str], Meta(description="Names as in `/metrics`, repeated or with commas between.")
]
Axis = Annotated[X, Meta(description="The ascending axis of the rows.")]
Points = Annotated[int, Meta(description="At most so many rows; clamped to 2..5000.")]
Window = Annotated[int, Meta(description="Episodes in a rolling mean.")]
Episodes = Annotated[Kind, Meta(description="Which episodes.")]
After = Annotated[int, Meta(ge=0, description="Only rows beyond this `episode` or `sample`.")]
Time = Annotated[str, Meta(description="ISO 8601, or Unix seconds or milliseconds.", max_length=64)]
Format = Annotated[str, Meta(pattern="^(json|csv)$", description="`json` or `csv`.")]
P = ParamSpec("P")
T = TypeVar("T")


class CommandRequest(Struct, frozen=True):
    """A command for the training node."""

    command: Word
    run: str = ""  # refused if another run is in progress
    about: Annotated[str, msgspec.Meta(max_length=64)] = ""  # the client or model, where needed


class Login(Struct, frozen=True):
    """A token that opens a session."""

    token: str


class Busy(Exception):
    """Too many requests wait."""


class Worker:
    """Run slow work in one thread, so that the page never takes two cores from the training."""

    def __init__(self, name: str, most: int = MOST_WAITING) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._most = most
        self._waiting = 0

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of ``work``; raise ``Busy`` if too many calls wait already."""
        if self._waiting >= self._most:
            raise Busy("too many requests wait; try again in a moment")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, lambda: work(*args, **kwargs))
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Finish the running work and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


class Api:
    """Answer requests; slow work runs in worker threads, never in the event loop."""

    def __init__(
        self,
        store: RunStore,
        watcher: Watcher,
        commander: Commander,
        access: PageAccess,
        bell: Bell,
    ) -> None:
        self.worker = Worker("page")
        self._commands = Worker("commands", most=4)
        self._stream_reader = Worker("page-streams", most=MOST_STREAMS)
        self._store = store
        self._watcher = watcher
        self._commander = commander
        self._access = access
        self._bell = bell
        self.streams = 0

    def close(self) -> None:
        """End the threads."""
        for worker in (self.worker, self._commands, self._stream_reader):
            worker.close()

    def operations(self) -> list[Operation]:
        """Return the routes."""

        def json(
            path: str, handler: Handler, type: Any, *others: str, body: Any = None
        ) -> Operation:
            answers = [Content(JSON, type), *map(Content, others)]
            return Operation(f"/api/v1{path}", handler, answers, body)

        def file(path: str, handler: Handler, media: str) -> Operation:
            return Operation(f"/api/v1{path}", handler, [Content(media, binary=True)])

        return [
            json("/series", self._series, list[Row], CSV),
            json("/runs", self.runs, list[RunRow]),
            file("/runs/{run}/figure.png", self.figure, "image/png"),
            file("/runs/{run}/models/{model}.tar", self.archive, TAR),
            file("/runs/{run}/models/{model}/{name}", self._download, _BINARY),
            json("/clients", self.clients, list[ClientRow]),
            json("/versions", self._versions, list[VersionRow]),
            json("/models", self.models, list[Model]),
            json("/evaluations", self._evaluations, list[EvaluationRow]),
            json("/contributors", self._contributors, list[ContributorRow], CSV),
            json("/recordings", self.recordings, list[RecordingRow]),
            file("/runs/{run}/recordings/{model}/{name}", self._recording, _BINARY),
            json("/metrics", self.metrics, list[Metric]),
            json("/config", self.config, dict[str, Any]),
            json("/compare", self._compare, RunComparison),
            json("/events", self._events, list[EventRow]),
            json("/status", self.status, StreamHead),
            Operation("/api/v1/stream", self.stream, [Content(SSE)]),
            json("/session", self.session, Session),
            json("/login", self.login, Session, body=Login),
            json("/logout", self.logout, Session).posts(),
            json("/commands", self.command, CommandOutcome, body=CommandRequest),
        ]

    async def _series(
        self,
        request: Request,
        run: Run = LATEST,
        metrics: Metrics = ["reward"],  # noqa: B006 - it is copied
        x: Axis = "env_steps",
        max_points: Points = 1000,
        window: Window = 20,
        kind: Episodes = "all",
        after: After = 0,
        begin: Time = "",
        end: Time = "",
        format: Format = "json",
    ) -> Response:
        """Return series over env steps, episodes or time, thinned out for a screen.

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

        def work() -> Response:
            found = queries.columns(self._store, wanted)
            if format == "csv":
                headers = {"content-disposition": 'attachment; filename="series.csv"'}
                return Response(queries.as_csv(found), media_type=CSV, headers=headers)
            return _json(queries.rows(found), request)

        return await self.worker.do(work)

    async def runs(self, request: Request) -> Response:
        """Return all runs, newest first; the run in progress is `live`."""
        status = self._watcher.seen.status

        def rows() -> list[RunRow]:
            return [
                self._store.row(run, status if status and status.run == run else None)
                for run in self._store.names()
            ]

        return await self._answer(rows, request)

    async def clients(self, run: Run = LATEST) -> Response:
        """Return the clients of a run in its training node."""

        def rows() -> list[ClientRow]:
            name, status = self._store.find(run), self._watcher.seen.status
            if status is None or status.run != name:
                status = self._store.status(name)
            return queries.client_rows(status, self._store.episodes(name)) if status else []

        return await self._answer(rows)

    async def _versions(
        self,
        request: Request,
        run: Run = LATEST,
        limit: Annotated[int, Meta(description="The newest so many; at most 512.")] = 200,
    ) -> Response:
        """Return the results of each version of the weights, exploring and greedy apart."""

        def rows() -> list[VersionRow]:
            episodes = self._store.episodes(self._store.find(run))
            return queries.version_rows(episodes, _within(limit, MOST_VERSIONS))

        return await self._answer(rows, request)

    async def models(self, run: Run = LATEST) -> Response:
        """Return the best model, the quicksave, and the checkpoints, newest first."""
        return await self._answer(lambda: models.models(self._store, self._store.find(run)))

    async def _evaluations(
        self, request: Request, run: Run = LATEST, max_points: Points = 1000
    ) -> Response:
        """Return the evaluations of a run's models, in the order of their env steps."""

        def rows() -> list[EvaluationRow]:
            found = self._store.evaluations(self._store.find(run))
            return evaluations.evaluation_rows(found, max_points)

        return await self._answer(rows, request)

    async def _contributors(
        self,
        request: Request,
        run: Run = LATEST,
        scope: Annotated[
            Literal["run", "all"], Meta(description="This run, or all runs together.")
        ] = "run",
        format: Format = "json",
    ) -> Response:
        """Return the board of contributors; whoever has played most env steps comes first."""

        def work() -> Response:
            found = (
                self._store.all_contributions()
                if scope == "all"
                else self._store.contributions(self._store.find(run))
            )
            rows = contributors.contributor_rows(found)
            if format == "csv":
                headers = {"content-disposition": 'attachment; filename="contributors.csv"'}
                table = contributors.csv_rows(rows)
                return Response(queries.table_csv(table), media_type=CSV, headers=headers)
            return _json(rows, request)

        return await self.worker.do(work)

    async def recordings(self, request: Request, run: Run = LATEST) -> Response:
        """Return the recorded episodes of a run's models, the newest first."""

        def rows() -> list[RecordingRow]:
            name = self._store.find(run)
            return evaluations.recording_rows(self._store.path(name), self._store.evaluations(name))

        return await self._answer(rows, request)

    async def _recording(self, run: RunPath, model: EvaluatedPath, name: str) -> Response:
        """Return the video or the trace of a recorded episode."""
        run = await self.worker.do(self._store.find, run)
        path = await self.worker.do(evaluations.recording, self._store.path(run), model, name)
        media = "video/webm" if path.suffix == evaluations.VIDEO else JSON
        return FileResponse(path, media_type=media)

    async def metrics(self, run: Run = LATEST) -> Response:
        """Return the metrics of `/series` with their units."""

        def rows() -> list[Metric]:
            name = self._store.find(run)
            samples = self._store.journal(name).samples
            played = self._store.episodes(name).table.view()
            return known(played, samples.view(), self._store.measures(name))

        return await self._answer(rows)

    async def config(self, run: Run = LATEST) -> Response:
        """Return the settings of a run."""
        return await self._answer(lambda: self._store.config(self._store.find(run)))

    async def _compare(
        self,
        request: Request,
        runs: Annotated[list[str], Meta(description="Ids, repeated or with commas between.")],
        metric: Annotated[str, Meta(max_length=255)] = "reward_mean",
        x: Axis = "env_steps",
        max_points: Points = 300,
        window: Window = 20,
        kind: Episodes = "all",
        group: Annotated[bool, Meta(description="Runs that differ in their seed as one.")] = True,
    ) -> Response:
        """Return several runs over one grid: quartiles, median and interquartile mean of seeds."""
        wanted = Wanted(metrics=(metric,), x=x, points=max_points, window=window, kind=kind)
        some = queries.names(runs)
        return await self._answer(
            lambda: comparison.compare(self._store, some, wanted, grouped=group), request
        )

    async def _events(
        self,
        run: Run = LATEST,
        after: Annotated[int, Meta(ge=0, description="Only events beyond this number.")] = 0,
        limit: Annotated[int, Meta(description="The newest so many; at most 1000.")] = 200,
    ) -> Response:
        """Return the events of a run, newest first."""

        def rows() -> list[EventRow]:
            notes = self._store.journal(self._store.find(run)).after(after)
            return [stream.event_row(note) for note in notes[::-1]][: _within(limit, MOST_EVENTS)]

        return await self._answer(rows)

    async def status(self) -> Response:
        """Return the progress of the newest run."""
        return await self._answer(self.head)

    async def stream(self, request: Request, last_event_id: str = "") -> Response:
        """Return news as server-sent events: `head` as `/status`, `log` as one of `/events`.

        A browser that reconnects gets the events after its `Last-Event-ID`.
        """
        if self.streams >= MOST_STREAMS:
            raise Busy("too many pages are open")
        last = request.headers.get("last-event-id", last_event_id)
        headers = {"x-accel-buffering": "no", "cache-control": "no-store"}
        return StreamingResponse(self._stream(last), media_type=SSE, headers=headers)

    async def figure(self, run: RunPath) -> Response:
        """Return the figure that the telemetry node draws of a run."""

        def find() -> PathLike[str]:
            path = self._store.path(self._store.find(run)) / FIGURE
            if not path.is_file():
                raise models.UnknownModel("there is no figure yet")
            return path

        return FileResponse(await self.worker.do(find), media_type="image/png")

    async def _download(self, run: RunPath, model: ModelPath, name: str) -> Response:
        """Return one file of a saved model, e.g. `policy.onnx`."""
        run = await self.worker.do(self._store.find, run)
        path = await self.worker.do(models.download, self._store.path(run), model, name)
        return FileResponse(path, media_type=_BINARY, filename=f"{run}_{name}")

    async def archive(self, run: RunPath, model: ModelPath) -> Response:
        """Return a saved model with all its files, as a tar archive."""
        run = await self.worker.do(self._store.find, run)
        pieces = await self.worker.do(models.archive, self._store.path(run), model)
        safe = "".join(
            letter for letter in run if (letter.isalnum() and letter.isascii()) or letter in "-_."
        )
        headers = {"content-disposition": f'attachment; filename="{safe}_{model}.tar"'}
        return StreamingResponse(pieces, media_type=TAR, headers=headers)

    async def session(self, request: Request) -> Response:
        """Return the rights of the request."""
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
        """Send a command to the training node and wait for its answer."""
        ask = await body(request, CommandRequest)
        host = request.client.host if request.client else "somewhere"
        who = f"{request.state.role} at {host}"
        give = self._commander.give
        return _json(await self._commands.do(give, ask.command, ask.run, who, ask.about))

    async def health(self) -> Response:
        """Confirm that the page is served."""
        return _json(Health("ok", self._watcher.seen.status is not None))

    def head(self) -> StreamHead:
        """Return the progress of the newest run; reads files."""
        seen = self._watcher.seen.status
        try:
            run = self._store.find(seen.run if seen else LATEST)
        except LookupError:
            return StreamHead("", live=False)
        status = seen if seen and seen.run == run else None
        clients = status.clients if status else ()
        journal = self._store.journal(run)
        return StreamHead(
            run=run,
            live=run == self._store.live,
            episode=self._store.episodes(run).table.last,
            sample=journal.samples.last,
            event=journal.last,
            best=self._store.best(run),
            status=msgspec.structs.replace(status, clients=()) if status else None,
            clients=sum(client.state != "lost" for client in clients),
        )

    def _session(self, role: Any) -> Session:
        return Session(role, self._access.token_needed, self._commander.enrolls, __version__)

    async def _answer(self, read: Callable[[], object], request: Request | None = None) -> Response:
        return await self.worker.do(lambda: _json(read(), request))

    async def _stream(self, last: str) -> AsyncIterator[bytes]:
        def read(last: str) -> tuple[StreamHead, list[Note]]:
            head = self.head()
            number = stream.resumed(last, head.run)
            notes = [] if number is None else self._store.journal(head.run).after(number)
            return head, notes if head.run else []

        self.streams += 1
        try:
            async for piece in stream.stream(
                self._bell, lambda last: self._stream_reader.do(read, last), last
            ):
                yield piece
        finally:
            self.streams -= 1


async def body(request: Request, type: Callable[..., Any]) -> Any:
    """Return the JSON body of a request; raise ``BadRequest`` if it is not of that type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise BadRequest(f"content-type: send {JSON}")
    data = await request.body()
    try:
        return msgspec.json.decode(data[:LARGEST_BODY], type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"body: {str(error)[:300]}") from None


def _within(limit: int, most: int) -> int:
    return min(max(limit, 1), most)


def _json(value: object, request: Request | None = None, status: int = 200) -> Response:
    """Return an answer in JSON, compressed if the request accepts that."""
    data = msgspec.json.encode(value)
    headers = {"vary": "accept-encoding"}
    if request and len(data) > _SMALL and "gzip" in request.headers.get("accept-encoding", ""):
        data = gzip.compress(data, 3, mtime=0)
        headers["content-encoding"] = "gzip"
    return Response(data, status, headers, JSON)
