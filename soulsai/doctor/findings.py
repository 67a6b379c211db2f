"""What an examination finds."""

from typing import Literal

from msgspec import Struct

State = Literal["ok", "warning", "failure"]


class CheckResult(Struct, frozen=True):
    """One thing that was looked at: how it is, and how to mend it if it is not well."""

    check: str
    state: State
    said: str
    mend: str = ""


def ok(check: str, said: str) -> CheckResult:
    """Return that something is as it should be."""
    return CheckResult(check, "ok", said)


def warning(check: str, said: str, mend: str) -> CheckResult:
    """Return that something works, but not as it should."""
    return CheckResult(check, "warning", said, mend)


def failure(check: str, said: str, mend: str) -> CheckResult:
    """Return that something does not work."""
    return CheckResult(check, "failure", said, mend)


def line(finding: CheckResult) -> str:
    """Return a finding for a person to read."""
    text = f"{finding.state:8} {finding.check:21} {finding.said}"
    return f"{text}\n{'':30} -> {finding.mend}" if finding.mend else text
