"""The entry of the client's bundle: ``soulsai``, and a Python for the processes that it starts.

A client starts processes as ``sys.executable -P -m MODULE``; in a bundle, that is itself.
"""

import multiprocessing
import runpy
import sys


def main() -> None:
    """Run a module, or the command line."""
    multiprocessing.freeze_support()
    words = sys.argv[1:]
    if words[:1] == ["-P"]:
        words = words[1:]
    if words[:1] == ["-m"] and words[1:2] and words[1].startswith("soulsai."):
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    from soulsai.__main__ import main as command

    command()


if __name__ == "__main__":
    main()
