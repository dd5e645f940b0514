"""Search for hyperparameters with Optuna, with the same number of trials for each normalizer."""
