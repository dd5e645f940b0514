"""Training of one seed, or of many in one process."""
