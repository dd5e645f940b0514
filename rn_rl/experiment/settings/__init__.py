"""Settings: algorithms and their hyperparameters."""
