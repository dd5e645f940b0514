"""Domain adaptation: a classifier of digits meets digits of another kind, without their labels."""
