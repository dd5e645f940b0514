"""``rn-rl export``: a trained run as a folder to share."""

from __future__ import annotations

from rich.console import Console

from rn_rl.experiment.evaluation.config import ExportConfig
from rn_rl.experiment.evaluation.share import export


def run_export(config: ExportConfig) -> None:
    """Export and say where the folder is."""
    Console().print(f"{export(config)}", soft_wrap=True, highlight=False)
