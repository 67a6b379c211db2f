"""Wrappers for games that a plain network cannot observe as they are."""
