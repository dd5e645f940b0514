"""``python -m rn_rl`` is ``rn-rl``."""

from rn_rl.cli import main

raise SystemExit(main())
