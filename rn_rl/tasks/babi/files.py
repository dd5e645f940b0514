"""Readers of bAbI's own files: the text of tasks 18 and 19, and graphs that were made from it."""

from __future__ import annotations

import re
from pathlib import Path

from rn_rl.errors import UserError
from rn_rl.tasks.babi.stories import LABELS, NODES, PATH, SIZE, Question, Story
from rn_rl.tasks.digest import digest

MOST_BYTES = 50_000_000
"""Largest file that is read; bAbI's own have up to 5 MB."""

FACTS = {
    SIZE: (
        re.compile(r"the (?P<a>[a-z ]+?) is bigger than the (?P<b>[a-z ]+)"),
        re.compile(r"the (?P<b>[a-z ]+?) fits inside the (?P<a>[a-z ]+)"),
    ),
    PATH: (
        re.compile(r"the (?P<b>[a-z ]+?) is (?P<type>north|south|east|west) of the (?P<a>[a-z ]+)"),
    ),
}
"""Facts as text. ``a`` is the source of the edge, ``b`` its target."""

QUESTIONS = {
    SIZE: (
        re.compile(r"is the (?P<a>[a-z ]+?) bigger than the (?P<b>[a-z ]+)"),
        re.compile(r"does the (?P<b>[a-z ]+?) fit in the (?P<a>[a-z ]+)"),
    ),
    PATH: (re.compile(r"how do you go from the (?P<a>[a-z ]+?) to the (?P<b>[a-z ]+)"),),
}

ANSWERS = {SIZE: {"no": 0, "yes": 1}, PATH: {"n": 0, "s": 1, "e": 2, "w": 3}}
TYPES = {"north": 0, "south": 1, "east": 2, "west": 3}


def read_stories(path: Path, task: int) -> list[Story]:
    """Read the stories of one file, text or graphs.

    Args:
        path: ``qa18_..._train.txt`` of bAbI, or ``18_graphs.txt`` of the preprocessed graphs, in which
            a fact is ``source type target``, a question is ``? kind first second label [label]``, a
            story ends with an empty line, and all numbers start at 1.
        task: 18 or 19.

    Returns:
        The stories, at least one. A question is about the facts before it: where facts follow a question,
        the questions after them are another story, which has the earlier facts too.

    Raises:
        UserError: the file is missing, cannot be read, or has a line that is neither a fact nor a
            question of the task, or has not the next number in its story; the message has the number of
            the line in the file.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: it has more than {MOST_BYTES:,} bytes, expected a bAbI file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise UserError(f"{path}: {reason}; expected a file of bAbI task {task}") from None
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    graphs = bool(re.fullmatch(r"(\?\s+)?[\d\s]+", first))
    stories = _from_graphs(path, task, lines) if graphs else _from_text(path, task, lines)
    if not stories:
        raise UserError(f"{path}: no question in it; expected a file of bAbI task {task}")
    return stories


def find_files(folder: Path, task: int, seed: int) -> tuple[Path, Path]:
    """Find the files of a task for training and testing below a folder.

    Those are ``qaTASK_*_train.txt`` and ``qaTASK_*_test.txt`` of bAbI, or ``train/TASK_graphs.txt``,
    ``test/TASK_graphs.txt``. Of several folders with a pair of graphs (the folds of the preprocessed
    graphs), the seed chooses one, in the order of their names.

    Raises:
        UserError: no pair of files is there, or several of which one is text (languages, sizes).
    """
    pairs = find_pairs(folder, task)
    if not pairs:
        raise UserError(
            f"--data {folder}: expected a folder with qa{task}_..._train.txt and qa{task}_..._test.txt, "
            f"or train/{task}_graphs.txt and test/{task}_graphs.txt"
        )
    return pairs[seed % len(pairs)]


def describe(folder: Path) -> str:
    """Read all files below a folder; return their numbers of stories and their digest, for the page.

    Raises:
        UserError: no task has files, or some cannot be read.
    """
    told, read = [], []
    tasks = [task for task in (SIZE, PATH) if find_pairs(folder, task)]
    for task in tasks or [SIZE]:
        find_files(folder, task, 0)  # says what is missing
        pairs = find_pairs(folder, task)
        stories = [[read_stories(path, task) for path in pair] for pair in pairs]
        read.append(repr(stories))
        train, test = (sum(len(part) for part in parts) for parts in zip(*stories, strict=True))
        folds = f" in {len(pairs)} folds, of which the seed chooses one" if len(pairs) > 1 else ""
        told.append(f"task {task}: {train:,} training and {test:,} test stories{folds}")
    return f"files ({'; '.join(told)}; {folder.name}, digest {digest(read)})"


def find_pairs(folder: Path, task: int) -> list[tuple[Path, Path]]:
    """Find all pairs of files of a task, in the order of their names; none: an empty list.

    Raises:
        UserError: there are several, and one of them is text.
    """
    graphs = [
        (train, train.parent.parent / "test" / train.name)
        for train in folder.rglob(f"train/{task}_graphs.txt")
    ]
    texts = [
        (train, train.with_name(train.name.replace("_train.txt", "_test.txt")))
        for train in folder.rglob(f"qa{task}_*_train.txt")
    ]
    pairs = sorted((pair for pair in (*graphs, *texts) if pair[1].is_file()), key=_natural)
    if len(pairs) > 1 and not all(pair in graphs for pair in pairs):
        names = [str(train.relative_to(folder)) for train, _ in pairs]
        raise UserError(
            f"--data {folder}: {len(names)} files that train task {task}, such as {names[0]} and "
            f"{names[1]}; expected one, so give the folder of one, such as {pairs[0][0].parent}"
        )
    return pairs


def _natural(pair: tuple[Path, Path]) -> list[tuple[bool, int, str]]:
    """Sort key of names with numbers in them: fold 2 before fold 10."""
    parts = re.split(r"(\d+)", pair[0].as_posix())
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts]


def _wrong(path: Path, number: int, line: str, expected: str) -> UserError:
    return UserError(f"{path}, line {number}: {line.strip()[:80]!r}; expected {expected}")


def _from_graphs(path: Path, task: int, lines: list[str]) -> list[Story]:
    stories: list[Story] = []
    facts: list[tuple[int, int, int]] = []
    questions: list[Question] = []
    types, classes = (1, 2) if task == SIZE else (4, 4)
    fact = f"'source type target' with two different nodes 1 to {NODES} and types 1 to {types}"
    labels = f"{LABELS[task]} label{'s' * (LABELS[task] > 1)} 1 to {classes}"
    question = f"'? kind first second' and {labels}"
    for number, line in enumerate([*lines, ""], start=1):
        words = line.split()
        if not words:
            _end(stories, facts, questions)
            facts = []
            continue
        asks = words[0] == "?"
        if not all(re.fullmatch(r"\d{1,3}", word) for word in words[asks:]):
            raise _wrong(path, number, line, question if asks else fact)
        numbers = [int(word) - 1 for word in words[asks:]]
        if asks:
            if len(numbers) != 3 + LABELS[task]:
                raise _wrong(path, number, line, question)
            _, first, second, *answer = numbers
            nodes = all(0 <= node < NODES for node in (first, second)) and first != second
            if not nodes or not all(0 <= label < classes for label in answer):
                raise _wrong(path, number, line, question)
            questions.append(Question(first, second, tuple(answer)))
        else:
            known = len(numbers) == 3 and 0 <= numbers[1] < types and numbers[0] != numbers[2]
            if not known or not all(0 <= node < NODES for node in numbers[::2]):
                raise _wrong(path, number, line, fact)
            source, kind, target = numbers
            _end(stories, facts, questions)
            facts.append((source, kind, target))
    return stories


def _from_text(path: Path, task: int, lines: list[str]) -> list[Story]:
    stories: list[Story] = []
    nodes: dict[str, int] = {}
    facts: list[tuple[int, int, int]] = []
    questions: list[Question] = []
    answers = ANSWERS[task]
    before = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        numbered = re.fullmatch(r"(\d+) (.*)", line.strip(), re.ASCII)
        if numbered is None:
            raise _wrong(path, number, line, "a line that starts with its number in the story")
        place = int(numbered[1])
        if place not in (1, before + 1):
            told = f"number {before + 1} of its story" if before else "number 1"
            raise _wrong(path, number, line, f"{told}, or 1 for a new one; a line may be lost")
        before = place
        if place == 1:
            _end(stories, facts, questions)
            nodes, facts = {}, []
        sentence, *rest = numbered[2].lower().split("\t")
        sentence = sentence.strip().rstrip(".?").strip()
        found = _match(QUESTIONS[task] if rest else FACTS[task], sentence)
        if found is None:
            kind = "question" if rest else "fact"
            raise _wrong(path, number, line, f"a {kind} of bAbI task {task}")
        pair = [nodes.setdefault(found[name].strip(), len(nodes)) for name in "ab"]
        if max(pair) >= NODES:
            raise _wrong(path, number, line, f"at most {NODES} different nodes in a story")
        if pair[0] == pair[1]:
            raise _wrong(path, number, line, "two different nodes")
        if rest:
            given = rest[0].strip().split(",")
            if len(given) != LABELS[task] or not set(given) <= set(answers):
                expected = f"{LABELS[task]} of {', '.join(answers)} as the answer"
                raise _wrong(path, number, line, expected)
            labels = tuple(answers[word] for word in given)
            questions.append(Question(pair[0], pair[1], labels))
        else:
            _end(stories, facts, questions)
            facts.append((pair[0], TYPES[found["type"]] if task == PATH else 0, pair[1]))
    _end(stories, facts, questions)
    return stories


def _end(
    stories: list[Story], facts: list[tuple[int, int, int]], questions: list[Question]
) -> None:
    """Add the story of the questions so far, if there are any, and empty their list."""
    if questions:
        stories.append(Story(tuple(facts), tuple(questions)))
        questions.clear()


def _match(patterns: tuple[re.Pattern[str], ...], sentence: str) -> re.Match[str] | None:
    return next((found for p in patterns if (found := p.fullmatch(sentence))), None)
