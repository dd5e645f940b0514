"""Tables of a document that are made from the registry and from results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from benchmarks.docs_blocks import replace_block
from benchmarks.docs_reproduction import write_readme
from rn_rl.analysis.tables import markdown_table
from rn_rl.commands.norms import NORM_COLUMNS, norm_rows

PAGES = {
    "norms": Path("docs/concepts/normalizers.md"),
    "reproduction": Path("docs/results/reproduction.md"),
}


@dataclass
class DocsConfig:
    """Write a generated table into a document, between its marks."""

    what: Annotated[tyro.conf.Positional[Literal["norms", "reproduction"]], tyro.conf.arg()]
    """norms (the registry with its costs) or reproduction (the protocol's tasks)."""
    readme: Path | None = None
    """Document with the marks; default: the page of the docs that has this table."""
    results: Path = Path("results")
    """Folder of the CSV files of 'rn-rl reproduce'."""


def run_docs(config: DocsConfig) -> None:
    """Write the table of ``config.what`` into the document."""
    page = config.readme or PAGES[config.what]
    if config.what == "norms":
        replace_block(page, "norms", markdown_table(NORM_COLUMNS, norm_rows()))
    else:
        write_readme(page, config.results)
