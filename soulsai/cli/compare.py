"""``soulsai compare``: what is compared is imported when it runs."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from soulsai.errors import ConfigError

AXES = ("env_steps", "wall_time", "episodes")
MIDDLES = ("iqm", "median")
KINDS = ("exploring", "greedy", "all")


def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids, latest, folders.")],
    x: Annotated[str, typer.Option(help="env_steps, wall_time or episodes.")] = "env_steps",
    middle: Annotated[str, typer.Option(help="Of seeds: iqm or median.")] = "iqm",
    kind: Annotated[str, typer.Option(help="Of episodes: exploring, greedy or all.")] = "exploring",
    metric: Annotated[str, typer.Option(help="reward, steps, or an info key that was kept.")] = (
        "reward"
    ),
    window: Annotated[int, typer.Option(min=1, help="Episodes in a rolling mean.")] = 20,
    out: Annotated[Path, typer.Option(metavar="PNG", help="Where the figure goes.")] = Path(
        "compare.png"
    ),
    saves: Annotated[str, typer.Option(metavar="DIR", help="Where run folders are.")] = "saves",
    as_json: Annotated[bool, typer.Option("--json", help="Answer with JSON.")] = False,
) -> None:
    """Draw runs together, those that differ in their seed only as one band; list differences."""
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
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        comparison.show(found)
