"""``soulsai compare``: learning curves of several runs in one figure."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from soulsai import connect
from soulsai.cli.options import Json, Saves, print_json
from soulsai.errors import ConfigError

AXES = ("env_steps", "wall_time", "episodes")
MIDDLES = ("iqm", "median")
KINDS = ("exploring", "greedy", "all")


def compare(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run ids, latest, or folders.")
    ],
    x: Annotated[str, typer.Option(help="env_steps, wall_time or episodes.")] = "env_steps",
    middle: Annotated[str, typer.Option(help="Middle of several seeds: iqm or median.")] = "iqm",
    kind: Annotated[str, typer.Option(help="Episodes: exploring, greedy or all.")] = "exploring",
    metric: Annotated[str, typer.Option(help="reward, steps, or a recorded info key.")] = (
        "reward"
    ),
    window: Annotated[int, typer.Option(min=1, help="Episodes in a rolling mean.")] = 20,
    out: Annotated[Path, typer.Option(metavar="PNG", help="File of the figure.")] = Path(
        "compare.png"
    ),
    saves: Saves = "saves",
    as_json: Json = False,
) -> None:
    """Draw runs in one figure; list their differences.

    Runs that differ only in their seed are one band.
    """
    connect.need("matplotlib", extra="server")
    from soulsai import runs
    from soulsai.compare import comparison

    asked = {"x": x, "middle": middle, "kind": kind, "metric": metric, "window": window}
    for option, choices in (("x", AXES), ("middle", MIDDLES), ("kind", KINDS)):
        if asked[option] not in choices:
            wanted = ", ".join(choices)
            raise ConfigError(f"--{option}: no {asked[option]!r}; choose one of {wanted}")
    query = msgspec.convert(asked, comparison.CurveQuery)
    folders = list(dict.fromkeys(runs.find(Path(saves), name).resolve() for name in names))
    found = comparison.compare(folders, query, out)
    if as_json:
        print_json(found)
    else:
        comparison.show(found)
