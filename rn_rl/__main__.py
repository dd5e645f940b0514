"""``rn-rl``, also as ``python -m rn_rl``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see :func:`rn_rl.cli.main`, whose libraries take some seconds to load."""
    try:
        from rn_rl.cli import main as loaded
    except KeyboardInterrupt:
        print("rn-rl: stopped", file=sys.stderr)
        return 130
    return loaded(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
