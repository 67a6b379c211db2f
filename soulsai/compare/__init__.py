"""Compare runs: curves, statistics over seeds, and differing settings."""
