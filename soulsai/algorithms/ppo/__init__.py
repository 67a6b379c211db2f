"""Proximal policy optimisation; see ``learner``."""
