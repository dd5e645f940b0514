"""Grids of trainings: jobs, who does which, and where they run."""
