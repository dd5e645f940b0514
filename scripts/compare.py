#!/usr/bin/env python3
"""Compare normalizers over many seeds: the same as ``rn-rl compare``."""

import sys

from rn_rl.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main(["compare", *sys.argv[1:]]))
