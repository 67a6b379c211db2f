"""Evaluations of saved models: their record, their intervals, and the choice of the best."""
