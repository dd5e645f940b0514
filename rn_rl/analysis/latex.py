"""Tables of a report in LaTeX, its figures with captions, and a document that shows both."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from rn_rl.analysis.comparison import ENDPOINTS, Comparison
from rn_rl.analysis.paper import WIDTHS, PaperFigure
from rn_rl.analysis.summary import Summary, Task
from rn_rl.analysis.tables import Estimate, counted, number
from rn_rl.experiment.runs.io import write_text

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "τ": r"$\tau$",
    "\u2013": "--",
    "\u2014": "---",
}
"""Characters that mean something to LaTeX, and how they are printed."""

FIGURES = ("last return, IQM", "worst run", "area under curve, IQM", "steps to threshold, median")
"""Figures of an arm in the table; one that no arm has, such as a threshold never reached, is left out."""

DOCUMENT = r"""% Compile with pdflatex. \input{tables} and \input{figures} also work in your own document,
% of one column or two, with \usepackage{booktabs,graphicx}.
\documentclass{article}
\usepackage[margin=1in]{geometry}
\usepackage{booktabs,graphicx}
\title{TITLE}
\author{}
\date{}
\begin{document}
\maketitle
\input{tables}
\input{figures}
\end{document}
"""


def write_latex(summary: Summary, figures: Sequence[PaperFigure], folder: Path, title: str) -> None:
    """Write ``tables.tex``, ``figures.tex`` and ``paper.tex``, a document that shows both.

    Args:
        summary: content of the report.
        figures: figures whose PDF files are in the folder.
        folder: where the files are written.
        title: title of the document.
    """
    write_text(folder / "tables.tex", tables(summary))
    shown = [figure for figure in figures if not figure.name.startswith("curves-")]
    write_text(folder / "figures.tex", "\n".join(map(figure_block, shown)))
    write_text(folder / "paper.tex", DOCUMENT.replace("TITLE", escape(title)))


LETTERS = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿ"
"""Characters beyond ASCII that pdflatex prints with its own fonts."""


def escape(text: str) -> str:
    """Return text that LaTeX prints as it is; characters that its fonts lack become their escapes."""
    known = (
        c if c in SPECIAL or c in LETTERS else c.encode("ascii", "backslashreplace").decode()
        for c in text
    )
    return "".join(SPECIAL.get(c, c) for c in "".join(known))


def figure_block(figure: PaperFigure) -> str:
    """Return the environment of a figure, with its caption and label."""
    kind = "figure" if figure.column == "single" else "figure*"
    width = "\\linewidth"
    if figure.column == "single":  # also where the document has one wide column
        width = f"\\ifdim\\linewidth>4in {WIDTHS['single']}in\\else\\linewidth\\fi"
    return (
        f"\\begin{{{kind}}}[htbp]\n\\centering\n"
        f"\\includegraphics[width={width}]{{{figure.name}-{figure.column}}}\n"
        f"\\caption{{{escape(figure.caption)}}}\n\\label{{fig:{figure.name}}}\n\\end{{{kind}}}\n"
    )


def tables(summary: Summary) -> str:
    """Return the table of all arms with their comparisons, and that of the scores over all tasks."""
    shown = [
        name
        for name in FIGURES
        if any(
            math.isfinite(arm.figures[name].value)
            for task in summary.tasks
            for arm in task.arms.values()
        )
    ]
    head = ["normalizer", "seeds", *shown, f"P(better than {summary.baseline})", "$p$", "verdict"]
    body: list[str] = []
    for task in summary.tasks:
        if body:
            body.append("\\midrule")
        body.append(f"\\multicolumn{{{len(head)}}}{{l}}{{\\textit{{{escape(task.name)}}}}} \\\\")
        body += arm_lines(summary, task, shown)
    about = (
        "Return of the last policy, interquartile mean (IQM), and other figures with 95% intervals "
        f"over seeds. P(better than {summary.baseline}): probability that a run is better than a run of "
        f"{summary.baseline}, by the {ENDPOINTS[summary.endpoint]}; p: two-sided Mann-Whitney test after "
        f"Holm's correction for {counted(len(summary.comparisons), 'comparison')}. Bold: better than "
        f"{summary.baseline}."
    )
    margins = {each.margin for each in summary.comparisons if each.margin is not None}
    if margins:
        about += (
            f" Equivalent: the means differ by less than {number(margins.pop())}, by two one-sided Welch "
            "tests (TOST), p below 0.05 after Holm's correction."
        )
    found = table("table*", about, "results", head, body)
    scores = summary.overall() if len(summary.tasks) > 1 else {}
    if scores:
        names = list(dict.fromkeys(name for figures in scores.values() for name in figures))
        lines = [
            row([escape(norm), *(cell(figures.get(name)) for name in names)])
            for norm, figures in scores.items()
        ]
        about = "Scores (0: random policy, 1: full score) over "
        about += f"{counted(len(summary.scored), 'task')}, with 95% stratified bootstrap intervals "
        about += "over runs."
        found += "\n" + table("table*", about, "scores", ["normalizer", *names], lines)
    return found


def arm_lines(summary: Summary, task: Task, shown: Sequence[str]) -> list[str]:
    """Return the lines of a task's arms."""
    compared = {each.norm: each for each in summary.comparisons if each.task == task.name}
    lines = []
    for norm, arm in task.arms.items():
        each = compared.get(norm)
        name = escape(norm)
        if each is not None and each.verdict == "better":
            name = f"\\textbf{{{name}}}"
        cells = [name, str(len(arm.runs)), *(cell(arm.figures[f]) for f in shown)]
        lines.append(row([*cells, *comparison_cells(each)]))
    return lines


def comparison_cells(each: Comparison | None) -> list[str]:
    """Return the cells of a comparison; empty ones for the baseline."""
    if each is None:
        return ["", "", ""]
    return [cell(each.improvement), p_value(each.corrected), each.verdict]


def table(kind: str, caption: str, label: str, head: Sequence[str], body: Sequence[str]) -> str:
    """Return the environment of a table, for the package booktabs."""
    columns = "l" + "r" * (len(head) - 1)
    titles = row([text if text.startswith("$") else escape(text) for text in head])
    return "\n".join(
        [
            f"\\begin{{{kind}}}[htbp]",
            "\\centering",
            "\\footnotesize",
            "\\setlength{\\tabcolsep}{4pt}",
            f"\\caption{{{escape(caption)}}}",
            f"\\label{{tab:{label}}}",
            # a table that is too wide for the page is made smaller
            "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            titles,
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}}",
            f"\\end{{{kind}}}",
            "",
        ]
    )


def row(cells: Sequence[str]) -> str:
    """Return a line of a table."""
    return " & ".join(cells) + r" \\"


def cell(found: Estimate | None) -> str:
    """Return a figure and its interval with typographic minus signs; a dash where it is missing."""
    if found is None or math.isnan(found.value):
        return "--"
    return re.sub(r"-(?=\d)", "$-$", str(found))


def p_value(p: float) -> str:
    """Return a p value with two digits."""
    if math.isnan(p):
        return "--"
    return "$<$0.001" if p < 0.001 else f"{p:.2g}"
