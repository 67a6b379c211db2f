"""Updates compiled ahead of time, and the parts they are made of."""
