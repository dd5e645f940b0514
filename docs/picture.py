"""Make one SVG of a report's first two figures: ``python docs/picture.py REPORT.html PICTURE.svg``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

FONT = "font-family: 'DejaVu Sans', Verdana, sans-serif !important"


def picture(report: str) -> str:
    """Put the last returns (left) beside the learning curves (right), in the report's light colours.

    Args:
        report: HTML of a report that ``rn-rl report`` wrote, with one task.

    Returns:
        A self-contained SVG with a white background.
    """
    curves, last = re.findall(r"<svg.*?</svg>", report, re.DOTALL)[:2]
    colours = re.search(r":root \{(.*?)\}", report, re.DOTALL)
    assert colours
    height = max(map(float, re.findall(r'viewBox="0 0 \S+ (\S+)"', curves + last)))
    size = f'width="403" height="{height:g}"'
    right = curves.replace("<svg ", f'<svg x="403" {size} ', 1)
    light = dict(re.findall(r"--(\w+): ([^;]+);", colours[1]))
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 806 {height:g}">\n'
        f'<rect width="806" height="{height:g}" fill="#ffffff"/>\n'
        f"<style>text {{ {FONT} }}</style>\n"
        f"{last.replace('<svg ', f'<svg {size} ', 1)}\n{right}\n</svg>\n"
    )
    # literal colours: programs other than browsers do not know CSS variables
    return re.sub(r"var\(--(\w+)\)", lambda found: light[found[1]], drawn)


if __name__ == "__main__":
    source, target = sys.argv[1:]
    Path(target).write_text(picture(Path(source).read_text()))
