"""MkDocs hooks: pages made from files elsewhere in the repository, and formulas as MathML."""

from __future__ import annotations

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
SHOWN = {".md", ".csv", ".svg", ".gif", ".html", ".jsonl"}
"""Suffixes of the files in ``results/`` that the site has."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add ``results/``, the changelog and the engine's README to the site, so that nothing is copied.

    ``results/x.html`` goes to ``results/reports/x.html``, since the page made from ``results/x.md``
    has the name ``results/x.html``.
    """
    for path in sorted((ROOT / "results").rglob("*")):
        if path.suffix in SHOWN:
            uri = path.relative_to(ROOT).as_posix()
            if path.suffix == ".html":
                uri = f"results/reports/{path.name}"
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    pages = {"changelog.md": "CHANGELOG.md", "design/engine.md": "rn_rl/engine/README.md"}
    for uri, source in pages.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapt links that hold in the repository to the site, where ``docs/`` is the root."""
    if Path(page.file.abs_src_path or "").is_relative_to(ROOT / "results"):
        return markdown.replace("](../docs/", "](../")
    depth = page.file.src_uri.count("/")
    home = "../" * depth + "results/"
    root = "](" + "../" * (depth + 1)
    markdown = markdown.replace(f"{root}results/", f"]({home}")
    markdown = markdown.replace(f"{root}docs/", "](" + "../" * depth)
    return re.sub(rf"\]\({re.escape(home)}([\w-]+\.html)\)", rf"]({home}reports/\1)", markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    r"""Convert ``\(...\)`` and ``\[...\]`` to MathML, which browsers draw without scripts."""

    def mathml(found: re.Match[str]) -> str:
        formula = html.unescape(found[3])
        return convert(formula, display="block" if found[2] == r"\[" else "inline")

    pattern = r'<(span|div) class="arithmatex">(\\[(\[])(.*?)\\[)\]]</\1>'
    return re.sub(pattern, mathml, content, flags=re.DOTALL)
