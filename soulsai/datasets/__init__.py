"""Data sets of episodes: one form in memory, Minari and Parquet on disk."""
