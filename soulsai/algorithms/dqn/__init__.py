"""Deep Q-learning from replay; see ``learner``."""
