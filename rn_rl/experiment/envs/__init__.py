"""Environments, as trainings and evaluations use them."""
