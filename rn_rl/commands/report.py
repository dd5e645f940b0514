"""``rn-rl report``: a page about runs on disk, and its sentences on the terminal."""

from __future__ import annotations

from rich.console import Console

from rn_rl.analysis.config import ReportConfig
from rn_rl.analysis.export import data_of
from rn_rl.analysis.latex import write_latex
from rn_rl.analysis.paper import parse_formats, write_paper_figures
from rn_rl.analysis.references import evaluate_agent
from rn_rl.analysis.report import (
    check_baseline,
    check_decision,
    check_page,
    headline,
    print_summary,
    write_report,
)
from rn_rl.analysis.summary import summarize_for
from rn_rl.analysis.tidy import write_parquet
from rn_rl.errors import UserError
from rn_rl.experiment.runs.console import StatusLines, say
from rn_rl.experiment.runs.records import find_runs, read_records


def run_report(config: ReportConfig) -> None:
    """Read, summarize, write, and print the sentences."""
    check_page(config.out, "--out")
    check_decision(config)
    formats = parse_formats(config.figures, tex=config.tex)
    if config.episodes < 1:
        raise UserError(f"--episodes {config.episodes}: expected at least 1")
    if not config.runs:
        raise UserError("RUNS is missing: expected a folder that holds runs, such as runs")
    folders = dict.fromkeys(folder for root in config.runs for folder in find_runs(root))
    records, problems = read_records(folders)
    if not records:
        told = f"; {problems[0].run}: {problems[0].what}" if problems else ""
        raise UserError(
            f"runs {', '.join(map(str, config.runs))}: no finished run among {len(folders)} "
            f"folders{told}"
        )
    baseline = check_baseline(config.baseline, (record.spec.norm for record in records))
    summary = summarize_for(config, records, problems, baseline)
    algos, envs = ([*dict.fromkeys(getattr(t, n) for t in summary.tasks)] for n in ("algo", "env"))
    agents = [
        evaluate_agent(path, algos, envs, config.episodes, trust=config.trust)
        for path in config.agent
    ]
    summary.add_references(agents, zoo=config.zoo)
    write_report(summary, config.out, title=config.title)
    if config.parquet:
        write_parquet(data_of(summary), config.out.with_name(f"{config.out.stem}-data.parquet"))
    console = Console()
    if formats:
        folder = config.out.with_name(f"{config.out.stem}-paper")
        with StatusLines(console, "drawing the figures for a paper"):
            figures = write_paper_figures(summary, folder, formats)
        if config.tex:
            write_latex(summary, figures, folder, config.title or headline(summary))
    print_summary(summary, config.out, console)  # last: who reads it may leave before its end
    if formats:
        say(console, f"figures for a paper: {folder}")
