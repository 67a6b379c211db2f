"""The training node: turns fragments into weights through one algorithm."""
