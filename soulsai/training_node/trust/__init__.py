"""Which clients the training node learns from."""
