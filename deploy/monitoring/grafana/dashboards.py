"""Grafana's dashboards, as code: ``python deploy/monitoring/grafana/dashboards.py FOLDER``.

They need two data sources, by uid: ``soulsai-telemetry`` (the plugin Infinity with the page's
address as its base URL) and ``prometheus``. The panels are Grafana's own, but for the dashboard
``soulsai-plotly``, which draws with the plugin ``nline-plotlyjs-panel``.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

Json = dict[str, Any]

TELEMETRY: Json = {"type": "yesoreyeram-infinity-datasource", "uid": "soulsai-telemetry"}
PROMETHEUS: Json = {"type": "prometheus", "uid": "prometheus"}
WIDTH = 24
SCHEMA = 39  # of Grafana 10 and 11, which newer ones migrate


LINES: Json = {"lineWidth": 2, "fillOpacity": 0, "spanNulls": True, "showPoints": "never"}
# Gives each trace of a panel the field of its name, over env steps.
PLOTLY_SCRIPT = """
const fields = data.series.length ? data.series[0].fields : [];
const column = (name) => Array.from(fields.find((field) => field.name === name)?.values ?? []);
const x = column("env steps");
return { data: options.data.map((trace) => ({ ...trace, x, y: column(trace.name) })) };
"""
Size = tuple[int, int]
Queries = tuple[tuple[str, str], ...]  # of Prometheus, each with its legend


class Column(Struct, frozen=True):
    """A field of an answer's rows, and its name in a panel."""

    selector: str
    text: str
    type: str = "number"


CLIENTS = (
    Column("client", "client", "string"),
    Column("state", "state", "string"),
    Column("steps_per_second", "env steps/s"),
    Column("admitted", "env steps"),
    Column("episodes", "episodes"),
    Column("reward_mean", "mean reward"),
    Column("lag", "lag"),
    Column("queued", "queued"),
    Column("rejected", "rejected"),
    Column("dropped", "dropped"),
    Column("lost", "lost"),
    Column("seen", "silent for s"),
)
MODELS = (
    Column("model", "model", "string"),
    Column("time", "saved", "timestamp"),
    Column("env_steps", "env steps"),
    Column("updates", "updates"),
    Column("score", "score"),
    Column("bytes", "bytes"),
    Column("fault", "fault", "string"),
)
CLIENT_STATES = (
    Column("client", "client", "string"),
    Column("state", "state", "string"),
    Column("seen", "silent for s"),
    Column("trouble", "last trouble", "string"),
)
UP, DOWN, KEPT_OUT = ("up", "green"), ("down", "red"), ("kept out", "orange")
STATES = {"active": UP, "waiting": UP, "lost": DOWN, "quarantine": KEPT_OUT}
EVENTS = (
    Column("time", "time", "timestamp"),
    Column("kind", "kind", "string"),
    Column("text", "event", "string"),
    Column("who", "who", "string"),
)


def rate(name: str, by: str = "") -> str:
    """Return a counter's growth per second as PromQL."""
    growth = f"rate(soulsai_{name}[$__rate_interval])"
    return f"sum by ({by}) ({growth})" if by else growth


def quantile(share: float, name: str) -> str:
    """Return a histogram's quantile as PromQL."""
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', 'le')})"


DURATION, AGE = "model_update_duration_seconds", "sample_age_versions"
NODES: tuple[tuple[str, str, Queries], ...] = (
    (
        "Up (1) or down (0)",
        "none",
        (('up{job=~"training_node|telemetry_node"}', "{{job}}"), ("redis_up", "redis")),
    ),
    ("Env steps per second", "none", ((rate("env_steps_total"), "admitted"),)),
    ("Clients", "none", (("soulsai_clients", "{{state}}"),)),
    (
        "Duration of an update",
        "s",
        ((quantile(0.5, DURATION), "median"), (quantile(0.99, DURATION), "99 %")),
    ),
    (
        "Age of samples in versions",
        "none",
        ((quantile(0.5, AGE), "median"), (quantile(0.95, AGE), "95 %")),
    ),
    (
        "Samples per second",
        "none",
        (
            (rate("samples_received_total"), "received"),
            (rate("samples_rejected_total", "reason"), "rejected: {{reason}}"),
        ),
    ),
    ("Updates per second", "none", ((rate("model_updates_total"), "updates"),)),
    ("Messages waiting", "none", (("soulsai_stream_backlog_messages", "{{instance}}"),)),
    ("Weights published", "Bps", ((rate("weights_publish_bytes_total"), "bytes"),)),
    ("Mean reward", "none", (("soulsai_episode_reward_mean", "mean"),)),
    (
        "Evaluation: mean and 95 % interval",
        "none",
        (
            ('soulsai_evaluation_mean{model="newest"}', "newest"),
            ('soulsai_evaluation_low{model="newest"}', "newest, low"),
            ('soulsai_evaluation_high{model="newest"}', "newest, high"),
            ('soulsai_evaluation_mean{model="best"}', "best"),
        ),
    ),
    ("Episodes of an evaluation", "none", (("soulsai_evaluation_episodes", "{{model}}"),)),
    ("Episodes per second", "none", ((rate("episodes_total", "outcome"), "{{outcome}}"),)),
    (
        "Faults of environments per hour",
        "none",
        (
            ("3600 * " + rate("environment_restarts_total"), "restarts"),
            ("3600 * " + rate("environment_faults_total", "kind"), "{{kind}}"),
        ),
    ),
)


def rows(path: str, columns: Sequence[Column], format: str = "table", **params: str) -> Json:
    """Return a target with rows of the API.

    Args:
        path: The path of the request.
        columns: The fields of the rows.
        format: ``table`` or ``timeseries``.
        params: More parameters of the request.
    """
    return {
        "refId": "A",
        "datasource": TELEMETRY,
        "type": "json",
        "source": "url",
        "parser": "backend",
        "format": format,
        "root_selector": "",
        "url": f"/api/v1/{path}",
        "url_options": {
            "method": "GET",
            "params": [
                {"key": key, "value": value}
                for key, value in ({"run": "${run}"} | params).items()
                if value
            ],
        },
        "columns": [msgspec.structs.asdict(column) for column in columns],
        "filters": [],
    }


def curves(metrics: dict[str, str], **params: str) -> Json:
    """Return a target with several metrics over env steps, as the one frame of a Trend panel."""
    columns = [Column("env_steps", "env steps")]
    columns += [Column(metric, text) for metric, text in metrics.items()]
    return rows(
        "series", columns, metrics=",".join(metrics), x="env_steps", max_points="1000", **params
    )


def times(metrics: dict[str, str], **params: str) -> Json:
    """Return a target with several metrics over time."""
    columns = [Column("time", "time", "timestamp")]
    columns += [Column(metric, text) for metric, text in metrics.items()]
    span = {"from": "${__timeFrom}", "to": "${__timeTo}"}
    return rows(
        "series",
        columns,
        "timeseries",
        metrics=",".join(metrics),
        x="time",
        max_points="1000",
        **span,
        **params,
    )


def promql(*queries: tuple[str, str]) -> list[Json]:
    """Return targets with queries of Prometheus and their legends."""
    return [
        {"refId": chr(ord("A") + i), "datasource": PROMETHEUS, "expr": expr, "legendFormat": legend}
        for i, (expr, legend) in enumerate(queries)
    ]


def panel(kind: str, title: str, targets: Sequence[Json], size: Size, **more: Any) -> Json:
    """Return a panel without a place.

    Args:
        kind: The type of the panel.
        title: Its title.
        targets: Its queries, of one data source.
        size: Width and height in cells of the grid.
        more: ``options``, ``unit``, and the ``custom`` style.
    """
    options: Json = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}}
    if kind != "table":
        options["tooltip"] = {"mode": "multi", "sort": "none"}
    options |= more.pop("options", {})
    defaults = {"unit": more.pop("unit", "none"), "custom": more}
    return {
        "type": kind,
        "title": title,
        "datasource": targets[0]["datasource"],
        "targets": list(targets),
        "gridPos": {"w": size[0], "h": size[1]},
        "options": options,
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }


def trend(title: str, target: Json, size: Size = (8, 8)) -> Json:
    """Return a panel of curves over env steps.

    Args:
        title: Its title.
        target: A target of ``curves``.
        size: Width and height in cells of the grid.
    """
    return panel("trend", title, [target], size, options={"xField": "env steps"}, **LINES)


def series(title: str, *targets: Json, unit: str = "none") -> Json:
    """Return curves over time."""
    return panel("timeseries", title, targets, (12, 8), unit=unit, **LINES)


def stat(title: str, metric: str, **params: str) -> Json:
    """Return a panel with one large number."""
    reduce = {"calcs": ["lastNotNull"], "fields": f"/^{title}$/", "values": False}
    options = {"reduceOptions": reduce, "graphMode": "area", "colorMode": "none"}
    return panel("stat", title, [curves({metric: title}, **params)], (6, 4), options=options)


def table(title: str, target: Json) -> Json:
    """Return a panel with rows."""
    return panel("table", title, [target], (WIDTH, 8), options={"showHeader": True})


def run_dashboard() -> Json:
    """Return the dashboard of one run, with the content of the page."""
    mean = {"reward_mean": "mean", "reward_low": "low", "reward_high": "high"}
    rates = {"env_steps_per_second": "env steps/s", "updates_per_second": "updates/s"}
    panels = [
        stat("Mean reward", "reward_mean", window="100"),
        stat("Env steps per second", "env_steps_per_second"),
        stat("Lag", "lag"),
        stat("Clients", "clients"),
        trend("Reward: mean and one deviation", curves(mean, window="100"), (WIDTH, 11)),
        trend("Reward of greedy episodes", curves(mean, window="20", kind="greedy"), (12, 8)),
        trend("Episode length", curves({"steps_mean": "env steps taken"}, window="100"), (12, 8)),
        trend("Throughput", curves(rates)),
        trend("Lag", curves({"lag": "versions"})),
        trend("Replay ratio", curves({"replay_ratio": "updates per env step"})),
        series("Reward over time", times({"reward_mean": "mean"}, window="100")),
        series("Clients over time", times({"clients": "clients", "queued": "queued messages"})),
        table("Clients", rows("clients", CLIENTS)),
        table("Saved models", rows("models", MODELS)),
        table("Events", rows("events", EVENTS, limit="100")),
    ]
    return dashboard("soulsai-run", "soulsai: a run", panels, [_run_variable()])


def clients_up(size: Size) -> Json:
    """Return a panel that shows whether each client of the newest run is up."""
    built = panel(
        "table", "Clients up or down", [rows("clients", CLIENT_STATES, run="latest")], size
    )
    shown = {
        state: {"text": text, "color": color, "index": i}
        for i, (state, (text, color)) in enumerate(STATES.items())
    }
    built["fieldConfig"]["defaults"] |= {
        "mappings": [{"type": "value", "options": shown}],
        "custom": {"cellOptions": {"type": "color-text"}},
    }
    return built


def nodes_dashboard() -> Json:
    """Return the dashboard of the nodes, from the metrics in Prometheus."""
    panels = [series(title, *promql(*queries), unit=unit) for title, unit, queries in NODES]
    panels.insert(1, clients_up((12, 8)))
    return dashboard("soulsai-nodes", "soulsai: nodes", panels, [])


def plotly(title: str, target: Json, traces: Sequence[Json], size: Size) -> Json:
    """Return a panel of curves over env steps that Plotly draws.

    Args:
        title: Its title.
        target: A target of ``curves``.
        traces: Plotly's traces; the ``name`` of each is the field it shows.
        size: Width and height in cells of the grid.
    """
    layout = {"xaxis": {"title": {"text": "env steps"}}, "margin": {"t": 10, "r": 10}}
    return {
        "type": "nline-plotlyjs-panel",
        "title": title,
        "datasource": target["datasource"],
        "targets": [target],
        "gridPos": {"w": size[0], "h": size[1]},
        "options": {
            "script": PLOTLY_SCRIPT,
            "data": list(traces),
            "layout": layout,
            "config": {"displayModeBar": False},
        },
        "fieldConfig": {"defaults": {}, "overrides": []},
    }


def plotly_dashboard() -> Json:
    """Return the dashboard of one run, drawn by Plotly."""
    line: Json = {"type": "scatter", "mode": "lines"}
    thin: Json = line | {"line": {"width": 0}, "showlegend": False}
    band = [
        thin | {"name": "low"},
        thin | {"name": "high", "fill": "tonexty"},
        line | {"name": "mean"},
    ]
    mean = {"reward_mean": "mean", "reward_low": "low", "reward_high": "high"}
    greedy = curves({"reward_mean": "greedy"}, window="20", kind="greedy")
    panels = [
        plotly("Reward: mean and one deviation", curves(mean, window="100"), band, (WIDTH, 12)),
        plotly("Reward of greedy episodes", greedy, [line | {"name": "greedy"}], (12, 10)),
        plotly("Lag", curves({"lag": "versions"}), [line | {"name": "versions"}], (12, 10)),
    ]
    return dashboard("soulsai-plotly", "soulsai: a run, by Plotly", panels, [_run_variable()])


def dashboard(uid: str, title: str, panels: Sequence[Json], variables: list[Json]) -> Json:
    """Return a dashboard with its panels in rows, left to right.

    Args:
        uid: Its id.
        title: Its title.
        panels: Its panels.
        variables: Its variables.
    """
    return {
        "uid": uid,
        "title": title,
        "tags": ["soulsai"],
        "schemaVersion": SCHEMA,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables},
        "annotations": {"list": []},
        "panels": [{"id": i, **panel} for i, panel in enumerate(_placed(panels), 1)],
    }


def write(folder: Path) -> None:
    """Write all dashboards into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for built in (run_dashboard(), nodes_dashboard(), plotly_dashboard()):
        data = msgspec.json.format(msgspec.json.encode(built), indent=2)
        (folder / f"{built['uid']}.json").write_bytes(data + b"\n")


def _placed(panels: Sequence[Json]) -> Iterator[Json]:
    x = y = height = 0
    for panel in panels:
        place = panel["gridPos"]
        if x + place["w"] > WIDTH:
            x, y, height = 0, y + height, 0
        yield {**panel, "gridPos": {**place, "x": x, "y": y}}
        x, height = x + place["w"], max(height, place["h"])


def _run_variable() -> Json:
    query = rows("runs", [Column("run", "run", "string")], run="")
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": TELEMETRY,
        "query": {"queryType": "infinity", "infinityQuery": query},
        "current": {"text": "latest", "value": "latest"},
        "refresh": 2,  # whenever the time range changes
        "includeAll": False,
        "multi": False,
    }


if __name__ == "__main__":
    write(Path(sys.argv[1]))
