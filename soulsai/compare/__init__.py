"""Runs side by side: their curves, what seeds have in common, and where their settings differ."""
