"""Reader of pen strokes in the XML files of the IAM On-Line Handwriting Database."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

import numpy as np

from rn_rl.errors import UserError
from rn_rl.tasks.digest import digest
from rn_rl.tasks.handwriting.strokes import Stroke, offsets

MOST_BYTES = 20_000_000
"""Largest file that is read; a line of the database has about 50 kB."""


@dataclass(frozen=True)
class Lines:
    """Sequences of the lines of text of some files.

    Attributes:
        sequences: ``(sequences, points, 3)`` of float32, in the order of the files' names.
        files: number of the file of each sequence, ``(sequences,)``; files without any are not counted.
        source: their number, the folder's name and the digest of what was read, for the page.
    """

    sequences: np.ndarray
    files: np.ndarray
    source: str


@functools.lru_cache(maxsize=1)
def read_lines(folder: Path, points: int) -> Lines:
    """Read every line of text below a folder that has enough points, each scaled to height 1.

    Args:
        folder: a folder such as ``lineStrokes``, with XML files in it or in folders of it; or one file.
        points: number of points of each sequence; a line that has fewer is left out, and of a longer one,
            as many whole sequences as fit are taken.

    Raises:
        UserError: no such folder, no file with enough points, or a file that is no stroke file.
    """
    files = sorted(folder.rglob("*.xml")) if folder.is_dir() else [folder]
    found = []
    for file in files:
        line = offsets(_scaled_to_height(read_strokes(file)))
        whole = len(line) // points
        if whole:
            found.append(line[: whole * points].reshape(whole, points, 3))
    if not found:
        raise UserError(f"{folder}: no .xml file with {points} points of strokes in it")
    of_file = np.repeat(np.arange(len(found)), [len(each) for each in found])
    sequences = np.concatenate(found)
    counts = f"{len(sequences):,} sequences of {len(found):,} file{'s' * (len(found) > 1)}"
    source = f"{counts}, {folder.name}, digest {digest([sequences, of_file])}"
    return Lines(sequences, of_file, source)


def read_strokes(path: Path) -> list[Stroke]:
    """Read the strokes of one file, y upward.

    The parser reads ``Stroke`` and the attributes x and y of ``Point``. A document type is refused, so
    that no entity is expanded and no other file or address is opened.

    Raises:
        UserError: the file cannot be read, is no XML, declares a document type, or has a point without
            numbers, or no stroke.
    """
    strokes: list[list[tuple[float, float]]] = []
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "Stroke":
            strokes.append([])
        elif name == "Point":
            place = f"{path}, line {parser.CurrentLineNumber}"
            if not strokes:
                raise UserError(
                    f"{place}: a Point outside a Stroke; expected a file of IAM strokes"
                )
            try:
                x, y = (float(attributes[axis]) for axis in "xy")
            except (KeyError, ValueError):
                x = y = float("nan")
            if not abs(x) + abs(y) < 1e9:
                raise UserError(f"{place}: a Point with {attributes}; expected numbers x and y")
            strokes[-1].append((x, -y))

    def refuse(name: str, *_: object) -> None:
        raise UserError(f"{path}: it declares the document type {name[:40]!r}; expected none")

    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(
                f"{path}: more than {MOST_BYTES:,} bytes; expected a file of IAM strokes"
            )
        parser.Parse(path.read_bytes(), True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a file of IAM strokes") from None
    except (expat.ExpatError, ValueError, LookupError) as error:  # an encoding that nobody knows
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: {error}; expected a whole XML file of IAM strokes") from None
    found = [np.array(stroke) for stroke in strokes if stroke]
    if not found:
        raise UserError(f"{path}: no Stroke with a Point in it; expected a file of IAM strokes")
    return found


def _scaled_to_height(strokes: list[Stroke]) -> list[Stroke]:
    """Divide by the height of the line, so that lines of different sizes are alike."""
    height = float(np.ptp(np.concatenate(strokes)[:, 1])) or 1.0
    return [stroke / height for stroke in strokes]
