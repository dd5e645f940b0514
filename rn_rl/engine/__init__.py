"""Train many networks of one architecture together: stack, trace, replay, deduplicate."""
