#!/usr/bin/env python3
"""Run the paper's protocol with controls: the same as ``rn-rl reproduce``."""

import sys

from rn_rl.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main(["reproduce", *sys.argv[1:]]))
