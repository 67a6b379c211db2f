"""The processor of this machine, as far as the speed and the code of updates depend on it."""

import platform
from collections.abc import Iterable
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
LINES = ("vendor_id", "cpu family", "model", "model name", "flags", "Features")


def processor() -> Iterable[bytes]:
    """Yield a text of the machine, then texts of its maker, its model and its instructions."""
    yield platform.machine().encode()
    try:
        first, _, _ = CPUINFO.read_text(encoding="utf-8").partition("\n\n")
    except OSError:  # not Linux
        yield platform.processor().encode()
    else:
        for line in first.splitlines():
            if line.partition("\t")[0].strip().partition(":")[0] in LINES:
                yield line.encode()
