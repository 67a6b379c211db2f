"""Plays ``pywintypes``."""


class error(Exception):
    """An error of Windows."""

    def __init__(self, winerror: int, funcname: str, strerror: str) -> None:
        super().__init__(winerror, funcname, strerror)
        self.winerror, self.strerror = winerror, strerror
