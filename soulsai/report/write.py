"""Writes a run's report: the template filled in, with every text escaped."""

from pathlib import Path

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from soulsai.config.schema import Config
from soulsai.report.content import content

NAME = "report.html"


def html(folder: Path) -> str:
    """Return the report of a run; the same folder gives the same text.

    Args:
        folder: The run's folder.
    """
    environment = Environment(
        loader=PackageLoader("soulsai.report", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    found = content(folder, msgspec.to_builtins(Config()))
    return environment.get_template(NAME).render(msgspec.structs.asdict(found))


def write(folder: Path, out: Path) -> int:
    """Write the report of a run as one file, and return its bytes.

    Args:
        folder: The run's folder.
        out: The file; it is replaced as a whole.
    """
    data = html(folder).encode()
    part = out.with_name(f".{out.name}.part")
    try:
        part.write_bytes(data)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return len(data)
