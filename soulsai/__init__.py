"""Train one agent from many slow, remote, fragile environments."""

import os

__version__ = "0.1.0"

# ONNX Runtime reports to its maker unless this is set before its import. Children inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
