"""Soft actor-critic from replay; see ``learner``."""
