"""Environments of trainings and evaluations."""
