#!/usr/bin/env bash
# From mujoco 3.12.0 on, an enumerator equals a number of NumPy in one order only, and
# gymnasium-robotics 1.4.2, which compares in the other, cannot make its Fetch environments.
#
# Expected: mjtJoint.mjJNT_HINGE == model.jnt_type[i] and model.jnt_type[i] == mjtJoint.mjJNT_HINGE
#           give the same, as up to 3.11.0; gymnasium-robotics, which asks for mujoco >= 2.2.0,
#           makes FetchReach-v4.
# Happens:  the first is False from 3.12.0 on, and so is `value in (mjJNT_HINGE, ...)`; making
#           FetchReach-v4 fails with an AssertionError without a text.
# Version:  mujoco 3.11.0 and 3.12.0 (4.0.0 does the same), gymnasium-robotics 1.4.2, gymnasium 1.4.0,
#           numpy 2.4.6 from PyPI, Python 3.11
# Date:     2026-11-30
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
"$python" -m pip install --quiet gymnasium-robotics==1.4.2 gymnasium==1.4.0 numpy==2.4.6 mujoco==3.11.0
found=""
for version in 3.11.0 3.12.0; do
    "$python" -m pip install --quiet "mujoco==$version"
    found+=$("$python" - <<'PYTHON'
import gymnasium
import gymnasium_robotics
import mujoco
import numpy as np

gymnasium.register_envs(gymnasium_robotics)
hinge, value = mujoco.mjtJoint.mjJNT_HINGE, np.array([3], np.int32)[0]
try:
    gymnasium.make("FetchReach-v4").reset(seed=1)
    made = "made"
except Exception as error:
    made = f"{type(error).__name__}({error})"
print(f"mujoco {mujoco.__version__}: {hinge == value} {value == hinge} FetchReach-v4: {made}")
PYTHON
)$'\n'
done
echo "$found"
expected="mujoco 3.11.0: True True FetchReach-v4: made
mujoco 3.12.0: False True FetchReach-v4: AssertionError()
"
if [ "$found" = "$expected" ]; then
    echo "as described"
else
    echo "this has changed" >&2
    exit 1
fi
