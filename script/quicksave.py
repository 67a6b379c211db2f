"""Saves a running training node now, under ``manual_save``: ``soulsai quicksave`` by file name.

Takes the same options, as in ``python script/quicksave.py --redis redis://server:6379``.
"""

import sys

from soulsai.__main__ import run

if __name__ == "__main__":
    sys.exit(run(["quicksave", *sys.argv[1:]]))
