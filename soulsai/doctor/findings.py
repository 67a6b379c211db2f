"""What an examination finds."""

from typing import Literal

from msgspec import Struct

State = Literal["ok", "warning", "failure"]


class Finding(Struct, frozen=True):
    """One thing that was looked at: how it is, and how to mend it if it is not well."""

    check: str
    state: State
    said: str
    mend: str = ""


def ok(check: str, said: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(check, "ok", said)


def warning(check: str, said: str, mend: str) -> Finding:
    """Return that something works, but not as it should."""
    return Finding(check, "warning", said, mend)


def failure(check: str, said: str, mend: str) -> Finding:
    """Return that something does not work."""
    return Finding(check, "failure", said, mend)


def line(finding: Finding) -> str:
    """Return a finding for a person to read."""
    text = f"{finding.state:8} {finding.check:21} {finding.said}"
    return f"{text}\n{'':30} -> {finding.mend}" if finding.mend else text
