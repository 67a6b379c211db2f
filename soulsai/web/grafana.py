"""The JSON data source of Grafana 10 and 11, under ``/grafana``; newer ones use the API itself.

The contract is that of the plugin ``simpod-json-datasource`` and of its predecessor
``simple-json``.
"""

from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from soulsai.web import queries
from soulsai.web.api import Api, body
from soulsai.web.metrics import known
from soulsai.web.openapi import Content, Handler, Operation
from soulsai.web.queries import BadRequest, Wanted
from soulsai.web.run_store import LATEST, RunStore
from soulsai.web.tables import TIME

MOST_TARGETS = 20
Label = dict[str, Any]

_SELECTS = {
    "x": ("time", "env_steps", "episode"),
    "kind": ("all", "exploring", "greedy", "intervened"),
    "window": ("1", "20", "100", "500"),
}


class Span(Struct, frozen=True):
    """A time range, ISO 8601."""

    begin: str = msgspec.field(default="", name="from")
    end: str = msgspec.field(default="", name="to")


class SeriesTarget(Struct, frozen=True):
    """One series of a panel; the payload holds run, axis, kind and window."""

    target: str = ""
    refId: str = ""
    payload: dict[str, Any] | str | None = None
    hide: bool = False


class Question(Struct, frozen=True):
    """The request of a panel; other fields are ignored."""

    targets: list[SeriesTarget] = []
    range: Span | None = None
    maxDataPoints: int | float | None = None


class Choice(Struct, frozen=True):
    """A request of the panel editor."""

    metric: str = ""
    name: str = ""
    key: str = ""
    target: str = ""
    payload: dict[str, Any] | str | None = None


class Grafana:
    """Answer the data source's requests in the API's worker."""

    def __init__(self, store: RunStore, api: Api) -> None:
        self._store = store
        self._do = api.worker.do

    def operations(self) -> list[Operation]:
        """Return the routes."""

        def post(path: str, handler: Handler, type: Any, body: Any = Choice) -> Operation:
            return Operation(f"/grafana{path}", handler, [Content(type=type)], body)

        return [
            Operation("/grafana", self.health, [Content(type=Label)]),
            Operation("/grafana/", self.health, [Content(type=Label)]),
            post("/search", self.search, list[str]),
            post("/metrics", self.metrics, list[Label]),
            post("/metric-payload-options", self.options, list[Label]),
            post("/variable", self.variable, list[Label]),
            post("/tag-keys", self.tag_keys, list[Label]),
            post("/tag-values", self.tag_values, list[Label]),
            post("/query", self.query, list[Label], Question),
        ]

    async def health(self) -> Response:
        """Confirm that the data source works."""
        return _json({"status": "ok"})

    async def search(self, request: Request) -> Response:
        """Return the names of all metrics."""
        await body(request, Choice)
        return _json(await self._do(self._names))

    async def metrics(self, request: Request) -> Response:
        """Return all metrics with the options of each."""
        await body(request, Choice)
        runs = await self._do(self._runs)
        payloads = [_select("run", [LATEST, *runs])]
        payloads += [_select(name, list(values)) for name, values in _SELECTS.items()]
        names = await self._do(self._names)
        return _json([{"label": name, "value": name, "payloads": payloads} for name in names])

    async def options(self, request: Request) -> Response:
        """Return the values of one option."""
        asked = await body(request, Choice)
        if asked.name == "run":
            return _json(_labels([LATEST, *await self._do(self._runs)]))
        return _json(_labels(list(_SELECTS.get(asked.name, ()))))

    async def variable(self, request: Request) -> Response:
        """Return the values of a dashboard's variable: `runs` or `metrics`."""
        asked = await body(request, Choice)
        payload = asked.payload if isinstance(asked.payload, dict) else {}
        wanted = str(payload.get("target") or asked.target or asked.payload or "runs")
        values = await self._do(self._names if wanted == "metrics" else self._runs)
        if wanted != "metrics":
            values = [LATEST, *values]
        return _json([{"__text": value, "__value": value} for value in values])

    async def tag_keys(self, request: Request) -> Response:
        """Return the keys of ad-hoc filters."""
        await body(request, Choice)
        return _json([{"type": "string", "text": "run"}])

    async def tag_values(self, request: Request) -> Response:
        """Return the values of an ad-hoc filter."""
        asked = await body(request, Choice)
        runs = [LATEST, *await self._do(self._runs)] if asked.key == "run" else []
        return _json([{"text": run} for run in runs])

    async def query(self, request: Request) -> Response:
        """Return the series of a panel."""
        asked = await body(request, Question)
        if len(asked.targets) > MOST_TARGETS:
            raise BadRequest(f"targets: at most {MOST_TARGETS}")
        return _json(await self._do(self._answer, asked))

    def _answer(self, asked: Question) -> list[Label]:
        wanted = [target for target in asked.targets if target.target and not target.hide]
        return [_series(self._store, target, asked) for target in wanted]

    def _runs(self) -> list[str]:
        return self._store.names()

    def _names(self) -> list[str]:
        try:
            run = self._store.find(LATEST)
        except LookupError:
            return []
        samples = self._store.journal(run).samples
        found = known(self._store.episodes(run).table.view(), samples.view())
        return [name for metric in found for name in (metric.name, f"{metric.name}_mean")]


def _series(store: RunStore, target: SeriesTarget, asked: Question) -> Label:
    payload = target.payload if isinstance(target.payload, dict) else {}
    x = _one_of("x", payload, _SELECTS["x"])
    span = asked.range if x == TIME and asked.range else Span()
    points = asked.maxDataPoints or 1000
    wanted = Wanted(
        run=str(payload.get("run") or LATEST),
        metrics=(target.target,),
        x=x,
        points=int(min(max(points, 1), 5000)),
        window=_whole("window", payload, 20),
        kind=_one_of("kind", payload, _SELECTS["kind"]),
        begin=queries.moment(span.begin, "range.from") if span.begin else -float("inf"),
        end=queries.moment(span.end, "range.to") if span.end else float("inf"),
    )
    found = queries.columns(store, wanted)
    values = [None if value != value else value for value in found[target.target].tolist()]
    if x == TIME:
        times = [round(1000 * time) for time in found[TIME].tolist()]
        points_ = [list(pair) for pair in zip(values, times, strict=True)]
        return {"target": target.target, "refId": target.refId, "datapoints": points_}
    places = [int(place) for place in found[x].tolist()]
    return {
        "type": "table",
        "refId": target.refId,
        "columns": [{"text": x, "type": "number"}, {"text": target.target, "type": "number"}],
        "rows": [list(pair) for pair in zip(places, values, strict=True)],
    }


def _one_of(name: str, payload: Label, allowed: tuple[str, ...]) -> Any:
    value = payload.get(name) or allowed[0]
    if value not in allowed:
        raise BadRequest(f"payload.{name}: choose one of {', '.join(allowed)}")
    return value


def _whole(name: str, payload: Label, default: int) -> int:
    value = payload.get(name) or default
    if isinstance(value, int | str) and str(value).isdecimal() and len(str(value)) < 10:
        return int(value)
    raise BadRequest(f"payload.{name}: want a whole number")


def _select(name: str, values: list[str]) -> Label:
    return {"name": name, "label": name, "type": "select", "options": _labels(values)}


def _labels(values: list[str]) -> list[Label]:
    return [{"label": value, "value": value} for value in values]


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
