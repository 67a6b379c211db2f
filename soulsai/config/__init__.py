"""Settings: their schema, where they come from, and the YAML they are written in."""
