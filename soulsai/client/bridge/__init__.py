"""The bridge: a game that has only a socket plays for a run, through a client beside it."""
