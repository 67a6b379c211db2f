"""The console blocks of README and docs, and the marks before them.

A block is run where its page stands, line by line. Comments before it say otherwise:

- ``<!-- machine: NAME -->``: on another machine than the checkout, by default ``checkout``;
- ``<!-- beside: COMMAND -->``: while this command runs in another terminal;
- ``<!-- elsewhere: REASON; PLACE -->``: not here, but tested at PLACE of the repository;
- ``<!-- elsewhere "COMMAND": REASON; PLACE -->``: the same of one command of the block.
"""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "CONTRIBUTING.md"]
# docs/design: the notes' commands repeat measurements of hours, and a note is not edited.

_BLOCK = re.compile(
    r"(?P<marks>(?:^<!-- [^\n]* -->\n)*)^```(?P<kind>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"^<!-- (\w+)(?: \"(.*)\")?: (.*) -->$", re.MULTILINE)
_COMMAND = re.compile(r"^[$>] ((?:.*\\\n)*.*)$", re.MULTILINE)
_COMMENT = re.compile(r"\s{2,}#\s.*$")


class Command(NamedTuple):
    """One command of a block, as written."""

    text: str
    elsewhere: str = ""  # the reason and the place of its test, if it is not run here

    @property
    def is_interrupted(self) -> bool:
        """Whether its comment says to end it with Ctrl-C."""
        return "Ctrl-C" in self.text

    @property
    def line(self) -> str:
        """The command without its comment."""
        return _COMMENT.sub("", self.text)


class Block(NamedTuple):
    """One console block."""

    page: Path
    number: int  # of its line
    section: str  # the heading above it
    machine: str
    beside: str
    commands: tuple[Command, ...]

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}"


def blocks() -> list[Block]:
    """Return all console blocks of all pages, in order."""
    return [block for page in PAGES for block in _blocks(page)]


def unmarked() -> list[str]:
    """Return blocks without a language, in which a command could hide from the tests."""
    return [
        f"{page.relative_to(ROOT)}: {match['text'].splitlines()[0]}"
        for page in PAGES
        for match in _BLOCK.finditer(page.read_text())
        if match["kind"] in ("", "sh", "bash", "shell")
    ]


def _blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        if match["kind"] != "console":
            continue
        marks = _MARK.findall(match["marks"])
        given = {kind: value for kind, what, value in marks if not what}
        single = {what: value for kind, what, value in marks if kind == "elsewhere" and what}
        commands = tuple(
            Command(line, single.get(_COMMENT.sub("", line), given.get("elsewhere", "")))
            for line in _COMMAND.findall(match["text"])
        )
        headings = re.findall(r"^#+ (.*)$", text[: match.start()], re.MULTILINE)
        found.append(
            Block(
                page,
                text[: match.start("text")].count("\n"),
                headings[-1],
                given.get("machine", "checkout"),
                given.get("beside", ""),
                commands,
            )
        )
    return found
