"""Options of ``rn-rl report``: a documented dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from rn_rl.experiment.settings.options import DecisionOptions, shown_as


@dataclass
class ReportConfig(DecisionOptions):
    """Report what runs on disk show, with intervals, and what can be concluded from them."""

    help_section: ClassVar[str] = "page"

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUNS ...")]
    """Folders that hold runs, at any depth."""
    out: Path = Path("report.html")
    """HTML page; the Markdown version and the CSV files of all figures go beside it."""
    title: Annotated[str | None, shown_as("TEXT")] = None
    """Headline of the page."""
    figures: Annotated[str | None, shown_as("FORMAT[,FORMAT]")] = None
    """Also write figures for a paper: pdf, svg, png; one and two columns wide, beside the page."""
    tex: bool = False
    """Also write LaTeX: tables, figures (as pdf) with captions, and a document that shows them."""
    parquet: bool = False
    """Also write the evaluations of all seeds as a Parquet file (extra [data])."""
    zoo: bool = False
    """Show the results that the RL Zoo published beside the arms."""
    agent: Annotated[tuple[Path, ...], shown_as("PATH ...")] = ()
    """SB3 zips, folders of the RL Zoo or runs, to be evaluated and shown beside the arms."""
    episodes: int = 20
    """Number of episodes in which each --agent is evaluated."""
    trust: bool = False
    """Allow --agent to unpickle a foreign zip, which runs the code in it."""
