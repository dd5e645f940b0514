"""Readers of bAbI's files: text and graphs, and one line for each way in which they are wrong."""

from __future__ import annotations

import pytest

from rn_rl.errors import UserError
from rn_rl.tasks.babi.files import find_files, read_stories
from rn_rl.tasks.babi.stories import PATH, SIZE, Question, Story

SIZES = """\
1 The box of chocolates fits inside the chest.
2 The box is bigger than the chest.
3 Does the box fit in the box of chocolates?\tno\t1 2
4 Is the box bigger than the box of chocolates?\tyes\t2 1
1 The suitcase is bigger than the chocolate.
2 The box is bigger than the suitcase.
3 Does the chocolate fit in the box?\tyes\t1 2
"""

PATHS = """\
1 The garden is west of the bathroom.
2 The bedroom is north of the hallway.
3 The bathroom is north of the bedroom.
4 How do you go from the bathroom to the hallway?\ts,s\t3 2
"""

GRAPHS = """\
1 1 2
1 2 3
4 2 1
5 2 4
? 1 5 1 1 1

6 4 4
1 4 6
? 1 1 4 4 4
"""


def test_text_of_sizes(tmp_path):
    (tmp_path / "qa18.txt").write_text(SIZES)
    first, second = read_stories(tmp_path / "qa18.txt", SIZE)
    # chest 0, box of chocolates 1, box 2
    assert first.facts == ((0, 0, 1), (2, 0, 0))
    assert first.questions == (Question(1, 2, (0,)), Question(2, 1, (1,)))
    assert second == Story(((0, 0, 1), (2, 0, 0)), (Question(2, 1, (1,)),))


def test_text_of_paths(tmp_path):
    (tmp_path / "qa19.txt").write_text(PATHS)
    (story,) = read_stories(tmp_path / "qa19.txt", PATH)
    # bathroom 0, garden 1, hallway 2, bedroom 3; a fact is a step from its second room to its first
    assert story.facts == ((0, 3, 1), (2, 0, 3), (3, 0, 0))
    assert story.questions == (Question(0, 2, (1, 1)),)


def test_graphs(tmp_path):
    (tmp_path / "19_graphs.txt").write_text(GRAPHS)
    first, second = read_stories(tmp_path / "19_graphs.txt", PATH)
    assert first.facts == ((0, 0, 1), (0, 1, 2), (3, 1, 0), (4, 1, 3))
    assert first.questions == (Question(4, 0, (0, 0)),)
    assert second.questions == (Question(0, 3, (3, 3)),)


@pytest.mark.parametrize(
    ("text", "task", "says"),
    [
        ("", SIZE, "no question"),
        ("1 The box is bigger than the chest.\n", SIZE, "no question"),
        (SIZES.replace("fits inside", "eats"), SIZE, "line 1: .*expected a fact of bAbI task 18"),
        (SIZES.replace("no\t", "maybe\t"), SIZE, "line 3: .*expected 1 of no, yes"),
        (SIZES, PATH, "line 1: .*expected a fact of bAbI task 19"),
        (PATHS.replace("s,s", "s"), PATH, "line 4: .*expected 2 of n, s, e, w"),
        (PATHS[: PATHS.index("How") + 20], PATH, "line 4: .*expected a fact"),
        (PATHS.replace("1 The", "The"), PATH, "line 1: .*starts with its number"),
        (GRAPHS.replace("? 1 5 1 1 1", "? 1 5 1 1"), PATH, "line 5: .*2 labels 1 to 4"),
        (GRAPHS.replace("? 1 5 1 1 1", "? 1 5 1 1 9"), PATH, "line 5: .*2 labels 1 to 4"),
        (GRAPHS.replace("? 1 5 1 1 1", "? 1 5 5 1 1"), PATH, "line 5"),
        (GRAPHS.replace("4 2 1", "4 5 1"), PATH, "line 3: .*types 1 to 4"),
        (GRAPHS.replace("4 2 1", "4 2 7"), PATH, "line 3: .*nodes 1 to 6"),
        (GRAPHS.replace("4 2 1", "4 2"), PATH, "line 3"),
        (GRAPHS.replace("4 2 1", "4 2 99999999999999"), PATH, "line 3"),
        ("1 1 2\n? 1 2 3 3\n", SIZE, "line 2: .*1 label 1 to 2"),
        ("1 1 2\n? 1 2 ¹ 1\n", SIZE, "line 2"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, text, task, says):
    path = tmp_path / "file.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says) as error:
        read_stories(path, task)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_stories(tmp_path / "none.txt", SIZE)
    with pytest.raises(UserError, match="Is a directory"):
        read_stories(tmp_path, SIZE)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not text in UTF-8"):
        read_stories(tmp_path / "binary.txt", SIZE)


def test_folds_are_chosen_by_the_seed(tmp_path):
    for fold in (1, 2, 10):
        for part in ("train", "test"):
            folder = tmp_path / f"processed_{fold}" / part
            folder.mkdir(parents=True)
            (folder / "19_graphs.txt").write_text(GRAPHS)
    found = [find_files(tmp_path, PATH, seed)[0].parts[-3] for seed in range(4)]
    assert found == ["processed_1", "processed_2", "processed_10", "processed_1"]
    assert find_files(tmp_path, PATH, 1)[1] == tmp_path / "processed_2/test/19_graphs.txt"
    with pytest.raises(UserError, match="expected a folder with qa18"):
        find_files(tmp_path, SIZE, 0)


def test_text_files_are_found(tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"qa18_size-reasoning_{part}.txt").write_text(SIZES)
    train, test = find_files(tmp_path, SIZE, 3)
    assert (train.name, test.name) == (
        "qa18_size-reasoning_train.txt",
        "qa18_size-reasoning_test.txt",
    )
