"""Breaks a whole training system on purpose, and counts what was lost."""
