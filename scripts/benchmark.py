#!/usr/bin/env python3
"""Benchmarks: the same as ``python -m benchmarks``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main(prog="benchmark.py"))
