"""The command ``soulsai``."""
