"""The telemetry node: keeps the record of episodes, draws it, and says what was best."""
