"""Settings: the schema, the layers they come from, and the YAML they are written in."""

from soulsai.config.layers import load
from soulsai.config.schema import Config

__all__ = ["Config", "load"]
