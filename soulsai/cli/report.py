"""``soulsai report``: a run as one HTML file."""

from pathlib import Path

import click

from soulsai import connect
from soulsai.cli.options import saves_option


@click.command()
@click.argument("run", help="Run id, latest or a folder.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write; by default the run's id with the ending .html.",
)
@saves_option("saves")
def report(run: str, out: Path | None, saves: str) -> None:
    """Write a run's curves, evaluations and video to one file."""
    connect.need("matplotlib", "jinja2", extra="server")
    from soulsai import runs
    from soulsai.report.write import write

    folder = runs.find(Path(saves), run).resolve()
    out = out or Path(f"{folder.name}.html")
    size = write(folder, out)
    shown = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"
    click.echo(f"{out}: {shown}; it needs no other file")
