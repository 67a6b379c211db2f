"""Writes the pages that are made from the code: ``reference/commands.md``."""

from collections.abc import Iterator
from pathlib import Path

import click

from soulsai.cli.app import app

PAGE = Path(__file__).with_name("reference") / "commands.md"
HEAD = """\
# Commands

Written by `make docs` from the commands themselves. All exit with 0 if all went well, 2 for a
mistake in the settings or on the command line, 3 where client and server speak different
versions of the protocol, 4 where another process has taken over, 5 where the server refuses the
password or the invite, 130 and 143 after Ctrl-C and SIGTERM, and 1 for everything else; an error is
one line on stderr.
"""


def text() -> str:
    """Return the page of commands."""
    return "\n".join([HEAD, *_sections("soulsai", app)])


def _sections(name: str, command: click.Command) -> Iterator[str]:
    """Yield what each command says of itself, those of groups included."""
    if isinstance(command, click.Group):
        for below, each in command.commands.items():
            yield from _sections(f"{name} {below}", each)
        return
    context = command.make_context(name, [], resilient_parsing=True, terminal_width=90)
    yield f"## {name}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text())
