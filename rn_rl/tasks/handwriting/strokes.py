"""Pen strokes of words: written from a stroke font, and as sequences of offsets.

A sequence is ``(points, 3)``: the offset (dx, dy) from the point before, y upward, and 1 if the pen is
lifted after this point, else 0. The unit is the font's em until :func:`scaled` divides it.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from rn_rl.errors import UserError

Stroke = np.ndarray
"""Points of a line drawn without lifting the pen, ``(points, 2)``."""

SPACING = 0.08
"""Distance of two points along a stroke, in em."""

JITTER = 0.008
"""Standard deviation of a point's random displacement, in em."""

FONT = "scripts"
EM, BASE_LINE = 21.0, 9.0
"""Height of a capital letter and the base line, in the font's units, y downward."""


def write_lines(count: int, points: int, rng: np.random.Generator) -> np.ndarray:
    """Write lines of random words, each by a writer of its own.

    A writer has a slant from N(0, 0.25), letters 0.8 to 1.3 times as wide as the font's, and a base line
    that waves slowly. Points are :data:`SPACING` apart along the strokes and displaced by :data:`JITTER`.

    Args:
        count: number of lines.
        points: number of points of each; a line is cut there, inside a word.
        rng: source of random numbers.

    Returns:
        ``(count, points, 3)`` of float32, in em.

    Raises:
        UserError: Hershey-Fonts is not installed.
    """
    letters = _letters()
    return np.stack([_line(letters, points, rng) for _ in range(count)])


def _letters() -> dict[str, tuple[list[Stroke], float]]:
    """Load the strokes and the width of each letter, in em, from the stroke font."""
    try:
        from HersheyFonts import HersheyFonts
    except ImportError:
        raise UserError(
            "Hershey-Fonts is not installed, whose strokes this task writes: "
            "pip install 'rn-rl[tasks]', or pass --data with files of your own"
        ) from None
    font = HersheyFonts()
    font.load_default_font(FONT)
    letters = {}
    for letter in string.ascii_lowercase:
        glyph = font.all_glyphs[letter]
        origin = (glyph.left_offset, BASE_LINE)
        strokes = [(np.array(stroke) - origin) * (1, -1) / EM for stroke in glyph.strokes]
        letters[letter] = (strokes, glyph.char_width / EM)
    return letters


def _line(
    letters: dict[str, tuple[list[Stroke], float]], points: int, rng: np.random.Generator
) -> np.ndarray:
    slant, width = rng.normal(0, 0.25), rng.uniform(0.8, 1.3)
    height, frequency, phase = rng.uniform(0, 0.12), rng.uniform(0.5, 1.5), rng.uniform(0, 6.28)
    written: list[Stroke] = []
    x, total = 0.0, 0
    alphabet = list(letters)
    while total <= points:
        for _ in range(rng.integers(3, 8)):
            strokes, advance = letters[alphabet[rng.integers(len(alphabet))]]
            for stroke in strokes:
                drawn = resample(stroke * (width, 1) + (x, 0), SPACING)
                drawn[:, 0] += slant * drawn[:, 1]
                drawn[:, 1] += height * np.sin(frequency * drawn[:, 0] + phase)
                drawn += rng.normal(0, JITTER, drawn.shape)
                written.append(drawn)
                total += len(drawn)
            x += advance * width
        x += 0.6 * width
    return offsets(written)[:points]


def resample(stroke: Stroke, spacing: float) -> Stroke:
    """Place points at equal distances along a stroke, about ``spacing`` apart; its ends are kept."""
    steps = np.hypot(*np.diff(stroke, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    count = max(2, round(along[-1] / spacing) + 1)
    at = np.linspace(0, along[-1], count)
    return np.stack([np.interp(at, along, stroke[:, axis]) for axis in range(2)], 1)


def offsets(strokes: Sequence[Stroke]) -> np.ndarray:
    """Turn strokes into a sequence ``(points - 1, 3)`` of offsets from the first point on, float32."""
    points = np.concatenate(strokes)
    lifted = np.zeros(len(points))
    lifted[np.cumsum([len(stroke) for stroke in strokes]) - 1] = 1
    sequence = np.concatenate([np.diff(points, axis=0), lifted[1:, None]], 1)
    return sequence.astype(np.float32)


def strokes_of(sequence: np.ndarray) -> list[Stroke]:
    """Turn a sequence of offsets back into strokes that start at the origin."""
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(sequence[:, :2], axis=0)])
    ends = np.flatnonzero(sequence[:, 2] > 0.5) + 2
    return [part for part in np.split(points, ends) if len(part)]


def scaled(sequences: np.ndarray, scale: float) -> np.ndarray:
    """Divide the offsets by ``scale``, and leave the pen as it is."""
    return sequences / np.array([scale, scale, 1], dtype=np.float32)
