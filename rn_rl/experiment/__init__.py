"""Experiments: train, evaluate, film; runs on disk."""
