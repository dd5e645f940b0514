"""Run folders: what is in them, and how it is written and read."""
