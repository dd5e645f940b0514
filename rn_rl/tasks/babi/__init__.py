"""Question answering over graphs: bAbI tasks 18 (size) and 19 (path finding)."""
