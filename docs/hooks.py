"""MkDocs hooks: pages from notebooks and from files outside ``docs/``, and formulas as MathML."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
SHOWN = {".md", ".csv", ".svg", ".gif", ".html", ".jsonl"}
"""Suffixes of the files in ``results/`` that the site has."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add ``results/``, the changelog, the engine's README and a page for each notebook to the site.

    ``results/x.html`` goes to ``results/reports/x.html``, since the page made from ``results/x.md``
    has the name ``results/x.html``.
    """
    for path in sorted((ROOT / "results").rglob("*")):
        if path.suffix in SHOWN:
            uri = path.relative_to(ROOT).as_posix()
            if path.suffix == ".html":
                uri = f"results/reports/{path.relative_to(ROOT / 'results').as_posix()}"
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    pages = {"changelog.md": "CHANGELOG.md", "design/engine.md": "rn_rl/engine/README.md"}
    for uri, source in pages.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    for path in sorted((ROOT / "docs").rglob("*.ipynb")):
        uri = path.relative_to(ROOT / "docs").with_suffix(".md").as_posix()
        files.append(File.generated(config, uri, content=notebook_page(path)))
    return files


def notebook_page(path: Path) -> str:
    """Return the cells of an executed notebook, with their saved outputs, as Markdown."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            language = "" if source.startswith("!") else "python"  # "!" runs a command
            source = f"```{language}\n{source.lstrip('!')}\n```"
        parts.append(source)
        parts += [_output(output) for output in cell.get("outputs", [])]
    # HTML, since the link must lead to the notebook and not to this page
    parts.append(f'<a href="{path.name}" download>Download this page as a notebook</a>')
    return "\n\n".join(parts)


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        png = "".join(data["image/png"]).replace("\n", "")
        return f'<img alt="The figure of the code above" src="data:image/png;base64,{png}">'
    text = "".join(output.get("text") or data["text/plain"]).rstrip()
    return f'<div class="output" markdown>\n```text\n{text}\n```\n</div>'


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapt links that hold in the repository to the site, where ``docs/`` is the root.

    A page with a wide table gets the room of the table of contents.
    """
    if max((line.count("|") for line in markdown.splitlines()), default=0) > 7:
        page.meta.setdefault("hide", ["toc"])
    markdown = re.sub(r"(\]\([\w/.-]+)\.ipynb([)#])", r"\1.md\2", markdown)
    source = Path(page.file.abs_src_path or "")
    if source.is_relative_to(ROOT / "results"):
        return markdown.replace("](../docs/", "](../")
    if source.parent == ROOT:
        return markdown.replace("](docs/", "](")
    depth = page.file.src_uri.count("/")
    home = "../" * depth + "results/"
    root = "](" + "../" * (depth + 1)
    markdown = markdown.replace(f"{root}results/", f"]({home}")
    markdown = markdown.replace(f"{root}docs/", "](" + "../" * depth)
    return re.sub(rf"\]\({re.escape(home)}([\w/-]+\.html)\)", rf"]({home}reports/\1)", markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    r"""Convert ``\(...\)`` and ``\[...\]`` to MathML, which browsers draw without scripts."""

    def mathml(found: re.Match[str]) -> str:
        formula = html.unescape(found[3])
        return convert(formula, display="block" if found[2] == r"\[" else "inline")

    pattern = r'<(span|div) class="arithmatex">(\\[(\[])(.*?)\\[)\]]</\1>'
    return re.sub(pattern, mathml, content, flags=re.DOTALL)
