#!/usr/bin/env python3
"""Film a run: the same as ``rn-rl video``."""

import sys

from rn_rl.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main(["video", *sys.argv[1:]]))
