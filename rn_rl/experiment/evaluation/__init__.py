"""Evaluations, videos and code lengths of trained agents."""
