#!/usr/bin/env bash
# Minari 0.5.4: a data set in its Arrow format cannot be read if an info is an array of numbers.
#
# Expected: what MinariStorage.update_episodes takes and writes, get_episodes reads.
# Happens:  an info with one number per step, given as a NumPy array [T + 1], is written with an
#           empty shape, and reading it raises "invalid literal for int() with base 10: b''". The
#           same numbers as a list are read, and so are arrays [T + 1, n]; HDF5 reads all of them.
# Version:  minari 0.5.4, pyarrow 26.0.1 from PyPI, Python 3.11
# Date:     2026-11-30
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet "minari[hdf5,arrow]==0.5.4" pyarrow==26.0.1 pillow
cd "$folder"
timeout 120 "$folder/venv/bin/python" - <<'PYTHON'
import sys
from pathlib import Path

import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage


def reads(storage, speed):
    """Write one episode with an info, and return whether it can be read."""
    path = Path(f"{storage}-{type(speed).__name__}").resolve()
    made = MinariStorage.new(path, spaces.Box(-1, 1, (2,)), spaces.Discrete(2), data_format=storage)
    made.update_episodes([
        EpisodeBuffer(
            id=0,
            observations=np.zeros((4, 2), np.float32),
            actions=np.zeros(3, np.int64),
            rewards=np.zeros(3),
            terminations=np.zeros(3, bool),
            truncations=np.zeros(3, bool),
            infos={"speed": speed},
        )
    ])
    try:
        (episode,) = MinariStorage.read(path).get_episodes([0])
    except ValueError as error:
        print(f"minari {minari.__version__}, {path.name}: {error}")
        return False
    print(f"minari {minari.__version__}, {path.name}: {episode['infos']['speed']}")
    return True


speed = np.arange(4.0)
found = [reads(*each) for each in (("arrow", speed), ("arrow", list(speed)), ("hdf5", speed))]
sys.exit(0 if found == [False, True, True] else f"expected only the first to fail: {found}")
PYTHON
