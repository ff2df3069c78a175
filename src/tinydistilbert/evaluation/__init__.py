"""Scores of task models: predictions, metrics, intervals."""
