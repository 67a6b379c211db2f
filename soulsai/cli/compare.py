"""``soulsai compare``: learning curves of several runs in one figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import click

from soulsai import connect
from soulsai.cli.options import (
    json_option,
    print_json,
    saves_option,
)

Axis = Literal["env_steps", "wall_time", "episodes"]
Middle = Literal["iqm", "median"]
Kind = Literal["exploring", "greedy", "all"]


@click.command()
@click.argument("names", metavar="RUN...", nargs=-1, required=True, help="Ids, latest or folders.")
@click.option(
    "--x",
    type=click.Choice(get_args(Axis)),
    default="env_steps",
    show_default=True,
    help="Axis of the curves.",
)
@click.option(
    "--middle",
    type=click.Choice(get_args(Middle)),
    default="iqm",
    show_default=True,
    help="Middle of several seeds.",
)
@click.option(
    "--kind",
    type=click.Choice(get_args(Kind)),
    default="exploring",
    show_default=True,
    help="Episodes that count.",
)
@click.option(
    "--metric", default="reward", show_default=True, help="reward, steps, or an info key."
)
@click.option(
    "--window",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Episodes in a rolling mean.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("compare.png"),
    show_default=True,
    help="File of the figure.",
)
@saves_option("saves")
@json_option
def compare(
    names: Sequence[str],
    x: Axis,
    middle: Middle,
    kind: Kind,
    metric: str,
    window: int,
    out: Path,
    saves: str,
    as_json: bool,
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
