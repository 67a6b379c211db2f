"""The folder of what can be made again, in the user's own files."""

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return this package's folder among the user's caches; it may not exist yet."""
    caches = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return Path(caches or Path.home() / ".cache") / "soulsai"
