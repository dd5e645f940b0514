#!/usr/bin/env python3
"""Train an agent: the same as ``rn-rl train``."""

import sys

from rn_rl.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
