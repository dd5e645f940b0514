#!/usr/bin/env python3
"""Evaluate a run: the same as ``rn-rl evaluate``."""

import sys

from rn_rl.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main(["evaluate", *sys.argv[1:]]))
