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
    text = re.sub(rf"({rule}\n(?:.*\n)*?{rule})", _fence, text, flags=re.MULTILINE)
    return re.sub(r"^([ \t]*)Example:[ \t]*$", r"\1Examples:", text, flags=re.MULTILINE)


def _display(found: re.Match[str]) -> str:
    return f"$$\n{' '.join(found[1].split())}\n$$"


def _fence(found: re.Match[str]) -> str:
    return f"```text\n{textwrap.dedent(found[1]).replace('``', '')}\n```"


class Docstrings(griffe.Extension):
    """Apply :func:`markdown` to the docstring of every object."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
