"""Evaluation, films and code lengths of trained agents."""
