"""Benchmarks: ``python -m benchmarks NAME``; no part of the wheel."""
