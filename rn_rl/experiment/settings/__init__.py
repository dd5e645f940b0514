"""Algorithms, their hyperparameters, and options of commands."""
