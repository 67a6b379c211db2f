"""``soulsai compare``: learning curves of several runs in one figure."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from soulsai import connect
from soulsai.cli.options import Json, Saves, print_json

Axis = Literal["env_steps", "wall_time", "episodes"]
Middle = Literal["iqm", "median"]
Kind = Literal["exploring", "greedy", "all"]


def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids, latest or folders.")],
    x: Annotated[Axis, typer.Option(help="Axis of the curves.")] = "env_steps",
    middle: Annotated[Middle, typer.Option(help="Middle of several seeds.")] = "iqm",
    kind: Annotated[Kind, typer.Option(help="Episodes that count.")] = "exploring",
    metric: Annotated[str, typer.Option(help="reward, steps, or an info key.")] = "reward",
    window: Annotated[int, typer.Option(min=1, help="Episodes in a rolling mean.")] = 20,
    out: Annotated[Path, typer.Option(help="File of the figure.")] = Path("compare.png"),
    saves: Saves = "saves",
    as_json: Json = False,
) -> None:
    """Draw runs in one figure; list their differences.

    Runs that differ only in their seed are one band.
    """
    connect.need("matplotlib", extra="server")
    from soulsai import runs
    from soulsai.compare import comparison

    query = comparison.CurveQuery(x, middle, kind, metric, window)
    folders = list(dict.fromkeys(runs.find(Path(saves), name).resolve() for name in names))
    found = comparison.compare(folders, query, out)
    if as_json:
        print_json(found)
    else:
        comparison.show(found)
