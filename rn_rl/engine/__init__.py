"""Many networks of one architecture as one: stacked, traced, replayed, without repeated work."""
