"""Plays ``win32api``."""

from collections.abc import Callable

handlers: list[Callable[[int], bool]] = []


def SetConsoleCtrlHandler(handler: Callable[[int], bool], add: bool, /) -> None:
    """Add or remove a handler of the console's events."""
    (handlers.append if add else handlers.remove)(handler)


def GetCurrentProcess() -> int:
    """Return the handle that stands for this process."""
    return -1
