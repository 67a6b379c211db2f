"""The evaluator: a process beside the run that plays its saved models on fixed seeds."""
