"""Readers of bAbI's files: text and graphs, and one line for each way in which they are wrong."""

from __future__ import annotations

import pytest

from rn_rl.errors import UserError
from rn_rl.tasks.babi.files import find_files, read_stories
from rn_rl.tasks.babi.stories import PATH, SIZE, Question, Story
from rn_rl.tasks.registry import find_task

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
        # the second story has lost its first line
        (
            SIZES.replace("1 The suitcase is bigger than the chocolate.\n", ""),
            SIZE,
            "line 5: '2 The box is bigger than the suitcase.'; expected number 5 of its story, or 1",
        ),
        (SIZES.replace("2 The box is", "3 The box is", 1), SIZE, "line 2: .*expected number 2 of"),
        (SIZES.replace("1 The box of", "2 The box of"), SIZE, "line 1: .*expected number 1, or 1"),
        (SIZES.replace("2 The box is", "1000000 The box is", 1), SIZE, "line 2: .*number 2 of"),
        (
            SIZES.replace("2 The box is bigger than the chest", "2 The box is bigger than the box"),
            SIZE,
            "line 2: .*expected two different nodes",
        ),
        (
            SIZES.replace(
                "Is the box bigger than the box of chocolates", "Is the box bigger than the box"
            ),
            SIZE,
            "line 4: .*expected two different nodes",
        ),
        (
            PATHS.replace("to the hallway?", "to the bathroom?"),
            PATH,
            "line 4: .*two different nodes",
        ),
        (GRAPHS.replace("4 2 1", "2 2 2"), PATH, "line 3: .*two different nodes 1 to 6"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, text, task, says):
    path = tmp_path / "file.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says) as error:
        read_stories(path, task)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_question_is_about_the_facts_before_it(tmp_path):
    text = (
        "1 The box is bigger than the chest.\n"
        "2 Is the chest bigger than the suitcase?\tyes\t1\n"
        "3 The chest is bigger than the suitcase.\n"
        "4 Is the box bigger than the suitcase?\tyes\t1 3\n"
        "5 Does the box fit in the suitcase?\tno\t1 3\n"
    )
    (tmp_path / "qa18.txt").write_text(text)
    # box 0, chest 1, suitcase 2
    first, second = ((0, 0, 1),), ((0, 0, 1), (1, 0, 2))
    assert read_stories(tmp_path / "qa18.txt", SIZE) == [
        Story(first, (Question(1, 2, (1,)),)),
        Story(second, (Question(0, 2, (1,)), Question(2, 0, (0,)))),
    ]
    (tmp_path / "18_graphs.txt").write_text("1 1 2\n? 1 2 3 2\n2 1 3\n? 1 1 3 2\n? 1 3 1 1\n")
    assert read_stories(tmp_path / "18_graphs.txt", SIZE) == read_stories(
        tmp_path / "qa18.txt", SIZE
    )


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


def text_folder(folder, text=SIZES):
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        (folder / f"qa18_size-reasoning_{part}.txt").write_text(text)
    return folder


def test_languages_are_no_folds(tmp_path):
    for name in ("en", "en-10k", "hn"):
        text_folder(tmp_path / name)
    told = "3 files that train task 18, such as .*; expected one, so give the folder of one, such"
    for seed in (0, 1):
        with pytest.raises(UserError, match=told) as error:
            find_files(tmp_path, SIZE, seed)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=told):
        find_task("babi").protocol(tmp_path, toy=False)
    assert find_files(tmp_path / "en", SIZE, 1)[0].parent == tmp_path / "en"
    (tmp_path / "en/train").mkdir()
    (tmp_path / "en/test").mkdir()
    for part in ("train", "test"):
        (tmp_path / f"en/{part}/18_graphs.txt").write_text("1 1 2\n? 1 1 2 2\n")
    with pytest.raises(UserError, match="2 files that train task 18"):
        find_files(tmp_path / "en", SIZE, 0)


def test_every_fold_is_read_before_the_first_run(tmp_path):
    for fold in (1, 2):
        for part in ("train", "test"):
            folder = tmp_path / f"processed_{fold}" / part
            folder.mkdir(parents=True)
            (folder / "19_graphs.txt").write_text(GRAPHS)
    told = find_task("babi").protocol(tmp_path, toy=False)
    assert (
        "task 19: 4 training and 4 test stories in 2 folds, of which the seed chooses one" in told
    )
    (folder / "19_graphs.txt").write_text(GRAPHS.replace("4 2 1", "4 2"))
    with pytest.raises(UserError, match=r"processed_2/test/19_graphs\.txt, line 3"):
        find_task("babi").protocol(tmp_path, toy=False)


def test_the_protocol_tells_files_by_content_not_by_the_folder(tmp_path):
    other = SIZES.replace("is bigger than the chest", "is bigger than the crate")
    texts = {
        "a": SIZES,
        "b": SIZES,
        "c": other.replace("fits inside the chest", "fits inside the box"),
    }
    ours, moved, others = (
        find_task("babi").protocol(text_folder(tmp_path / name / "en", text), toy=False)
        for name, text in texts.items()
    )
    assert ours == moved != others
    assert "files (task 18: 2 training and 2 test stories; en, digest " in ours
    assert "questions of at most 500 test stories" in ours


def test_text_files_are_found(tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"qa18_size-reasoning_{part}.txt").write_text(SIZES)
    train, test = find_files(tmp_path, SIZE, 3)
    assert (train.name, test.name) == (
        "qa18_size-reasoning_train.txt",
        "qa18_size-reasoning_test.txt",
    )
