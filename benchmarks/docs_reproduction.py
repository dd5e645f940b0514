"""Tables of the reproduction for a document: every arm on every task, and the main questions."""

from __future__ import annotations

from pathlib import Path

from benchmarks.docs_blocks import replace_block
from rn_rl.analysis.comparison import Comparison
from rn_rl.analysis.tables import markdown_table
from rn_rl.errors import UserError
from rn_rl.experiment.settings.shipped import shipped
from rn_rl.reproduction.protocol import PROTOCOLS, Protocol, paper_and_controls
from rn_rl.reproduction.report import measure_decimals, measured, published
from rn_rl.reproduction.results import Result, compare_arms, in_arms, read_runs

DOCUMENT_TASKS: dict[str, tuple[str, str, Protocol]] = {
    **{what: (what, what, protocol) for what, protocol in PROTOCOLS.items()},
    **{
        f"{what}-recurrent": (f"{what}, LSTM", what, protocol.with_memory())
        for what, protocol in PROTOCOLS.items()
        if protocol.recurrent
    },
    **{
        f"{what}-huber": (f"{what}, SB3's DQN", what, protocol.with_huber())
        for what, protocol in PROTOCOLS.items()
        if protocol.huber
    },
}
"""File names of the results in the document, each with its title, and its task.

The first of a task is the paper's protocol, beside which its own figures stand.
"""


def readme_block(folder: Path) -> str:
    """Return a table of arms by tasks and one of questions by tasks, from CSV files.

    Args:
        folder: holds the CSV files of ``rn-rl reproduce``.

    Raises:
        UserError: the folder has none of them, or one cannot be read.
    """
    cells: dict[str, dict[str, str]] = {}
    answers: dict[str, dict[str, str]] = {}
    columns, told, counts = [], [], {}
    for stem, (task, what, protocol) in DOCUMENT_TASKS.items():
        path = folder / f"{stem}.csv"
        if not path.is_file():
            continue
        study = paper_and_controls(protocol)
        results = in_arms(study, read_runs(path))
        has_paper = stem == what and bool(shipped("paper_results.yml")[what])
        columns += [task, f"{task}, paper"] if has_paper else [task]
        digits = measure_decimals(results, "last")
        for result in results:
            shown, interval = measured(result, "last", digits)
            cells.setdefault(result.arm.name, {})[task] = f"{shown.split()[0]} {interval}"
            if has_paper:
                cells[result.arm.name][f"{task}, paper"] = published(what, result.arm.name)
        told.append(f"{what}{protocol.about}: {length_and_seeds(results)}")
        comparisons = compare_arms(protocol, study, results)
        counts[task] = len(comparisons)
        found = {(each.norm, each.baseline): each for each in comparisons}
        for label, pair in key_questions(protocol).items():
            if pair in found:
                answers.setdefault(label, {})[task] = answer(found[pair])
    if not cells:
        expected = ".csv or ".join(DOCUMENT_TASKS)
        raise UserError(f"{folder}: no {expected}.csv of 'rn-rl reproduce' there")
    parts = [cells_table(["arm", *columns], cells), f"Timesteps and seeds: {'; '.join(told)}."]
    if answers:
        corrected = ", ".join(f"{task} {count}" for task, count in counts.items())
        parts += [
            cells_table(["is it better?", *counts], answers),
            "Each with its probability of improvement; p is corrected for the comparisons of its task "
            f"({corrected}).",
        ]
    return "\n\n".join(parts)


def cells_table(header: list[str], cells: dict[str, dict[str, str]]) -> str:
    """Return a Markdown table of nested dictionaries; missing cells are empty."""
    columns = header[1:]
    rows = [[name, *(row.get(column, "") for column in columns)] for name, row in cells.items()]
    return markdown_table(header, rows)


def length_and_seeds(results: list[Result]) -> str:
    """Return the length of the runs and the number of seeds of an arm, as text."""
    runs = [run for result in results for run in result.runs]
    found = sorted({(run.episodes or run.timesteps, run.episodes is None) for run in runs})
    lengths = [f"{length:,}" if steps else f"{length:,} episodes" for length, steps in found]
    seeds = sorted({len(result.runs) for result in results})
    many = " or ".join(map(str, seeds))
    return f"{' or '.join(lengths)}, {many} seed{'' if many == '1' else 's'}"


def answer(found: Comparison) -> str:
    """Return the verdict of a comparison and its figures, as a cell."""
    hint = "exploratory: " if found.exploratory else ""
    return f"{hint}{found.verdict}, {found.improvement}, p = {found.corrected:.2g}"


def key_questions(protocol: Protocol) -> dict[str, tuple[str, str]]:
    """Return the main comparisons by label: (arm, what it is compared with).

    Does RN help, does it do more than its gain schedule, does LayerNorm do the same, does a ramp do more?
    """
    return {
        "rn than none": ("rn", "none"),
        "ln than none": ("ln", "none"),
        "rn than logt": ("rn", "logt"),
        "rn than gain(5)": ("rn", "gain(5)"),
        "ln+rn than ln": ("ln+rn", "ln"),
        "ln+rn than ln+logt": ("ln+rn", "ln+logt"),
        "ln+rn than ln+yoked": ("ln+rn", "ln+yoked"),
        "ln+ramp than ln+rn": (protocol.ramped, "ln+rn"),
        "ramp than rn": (protocol.plain_ramp, "rn"),
    }


def write_readme(readme: Path, folder: Path) -> None:
    """Write :func:`readme_block` between the ``reproduce`` marks of a document.

    Raises:
        UserError: the document has no marks, or there are no results.
    """
    replace_block(readme, "reproduce", readme_block(folder))
