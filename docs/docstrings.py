"""Griffe extension: render the reStructuredText of our docstrings as Markdown."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe


def markdown(text: str) -> str:
    """Rewrite roles, formulas, tables and the heading ``Example:`` of a docstring."""
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r":\w+:`~(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    text = re.sub(r":\w+:`([^`]*)`", r"`\1`", text)
    text = re.sub(r"\.\. math::\s*(.*?)(?=\n[ \t]*\n|\Z)", _display, text, flags=re.DOTALL)
    rule = r"^[ \t]*=+  +=+[ \t]*$"
    text = re.sub(rf"({rule}\n(?:.*\n)*?{rule})", _listed, text, flags=re.MULTILINE)
    return re.sub(r"^([ \t]*)Example:[ \t]*$", r"\1Examples:", text, flags=re.MULTILINE)


def _display(found: re.Match[str]) -> str:
    return f"$$\n{' '.join(found[1].split())}\n$$"


def _listed(found: re.Match[str]) -> str:
    """Rewrite a table of two columns as a list, which also fits a phone."""
    rule, *rows, _ = textwrap.dedent(found[1]).splitlines()
    start = rule.rindex(" ") + 1
    items: list[str] = []
    for row in rows:
        first, second = row[:start].strip().replace("``", ""), row[start:].strip()
        if first:
            items.append(f"- `{first}`: {second}")
        else:  # the second column goes on
            items[-1] += f" {second}"
    return "\n" + "\n".join(items) + "\n"


class Docstrings(griffe.Extension):
    """Apply :func:`markdown` to the docstring of every object."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
