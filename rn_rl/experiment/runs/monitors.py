"""Monitor files of a run (one row an episode), kept in step with its checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rn_rl.errors import UserError
from rn_rl.experiment.runs.checkpoint import open_state, read_plain, state_file
from rn_rl.experiment.runs.console import shell
from rn_rl.experiment.runs.io import atomic_write, complete_lines, sync


def monitor_rows(run_folder: Path) -> dict[str, int]:
    """Return the number of lines in each monitor file of a run, by file name, once they are on disk."""
    rows = {}
    for path in sorted(run_folder.glob("*.monitor.csv")):
        sync(path)
        rows[path.name] = len(complete_lines(path))
    return rows


def trim_monitors(folder: Path) -> None:
    """Cut the monitor files back to the checkpoint; the resumed run writes later episodes again.

    Raises:
        UserError: a monitor file has fewer lines than when the checkpoint was taken.
    """
    rows = read_plain(folder).get("monitor_rows")
    if not isinstance(rows, dict) or not all(
        re.fullmatch(r"\d+\.monitor\.csv", name) and isinstance(count, int)
        for name, count in rows.items()
    ):
        raise UserError(
            f"{state_file(folder)} is damaged (monitor files {str(rows)[:80]}); start another run, with "
            f"{shell('--from', folder.parent)} to begin with its weights"
        )
    found = {name: complete_lines(folder.parent / name) for name in rows}
    for name, count in rows.items():
        if len(found[name]) < count:
            raise UserError(
                f"{folder.parent / name} has {len(found[name])} lines, and {count} when the checkpoint "
                "was taken: episodes are lost; start another run, with "
                f"{shell('--from', folder.parent)} to begin with its weights"
            )
    for name, count in rows.items():
        with atomic_write(folder.parent / name, durable=True) as temporary:
            temporary.write_bytes(b"".join(found[name][:count]))


def episodes_done(plain: Mapping[str, Any]) -> int:
    """Return the number of training episodes that ended before a checkpoint.

    Args:
        plain: its plain data, from :func:`read_plain`.
    """
    header = 2  # lines of a monitor file of SB3
    return sum(max(int(count) - header, 0) for count in plain["monitor_rows"].values())


def has_episodes(folder: Path, episodes: int | None) -> bool:
    """Return True if at least ``episodes`` training episodes ended before the checkpoint.

    False for None, which means that the run is limited by timesteps alone.
    """
    if episodes is None:
        return False
    with open_state(folder) as arrays:
        return episodes_done(json.loads(str(arrays["plain"]))) >= episodes
