"""Train one agent from many slow, remote, fragile environments."""

__version__ = "0.1.0"
