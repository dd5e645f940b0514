"""Help text of a command: its examples, and its options in sections."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

EXAMPLES: dict[str, tuple[str, ...]] = {
    "train": (
        "train --algo ppo --env CartPole-v1 --norm ln",
        "train --algo dqn --env LunarLander-v3 --norm ln --seeds 20",
        "train --resume runs/ln/ppo/CartPole-v1_1 --timesteps 200000",
    ),
    "evaluate": (
        "evaluate runs/ln/ppo/CartPole-v1_1",
        "evaluate runs/ln/ppo/CartPole-v1_1/best_model.zip --episodes 20 --json",
    ),
    "video": ("video runs/ln/ppo/CartPole-v1_1 --out clip.gif",),
    "export": ("export runs/ln/ppo/CartPole-v1_1 --to ppo-CartPole-v1",),
    "compare": (
        "compare --algo ppo --env CartPole-v1,Acrobot-v1 --norms none,ln,ln+rn --seeds 20",
        "compare --grid study.yml --out runs/study",
    ),
    "tune": (
        "tune --algo ppo --env CartPole-v1 --norms none,ln --trials 50",
        "tune --algo ppo --env CartPole-v1 --norms none,ln --trials 50 --jobs 4",
    ),
    "status": ("status runs",),
    "report": (
        "report runs --out report.html --baseline none",
        "report runs --figures pdf,svg --tex",
    ),
    "reproduce": (
        "reproduce cartpole --quick",
        "reproduce lunarlander --seeds 50",
    ),
    "task": (
        "task imbalanced --toy",
        "task recurrent --seeds 10",
    ),
    "probe": ("probe runs/ln+rn/dqn/CartPole-v1_1 --out probe.html",),
    "zoo": ("zoo", "zoo --export own.yml --algo ppo"),
}
"""Command lines that ``--help`` of a command shows."""


def about(config: type, examples: Sequence[str], *, full: bool) -> str:
    """Return what ``--help`` says about a command.

    Args:
        config: its dataclass of options.
        examples: command lines without the name of the program.
        full: with examples, and with more than the first sentence.
    """
    text = inspect.cleandoc(config.__doc__ or "")
    if not full:
        return text.partition("\n\n")[0]
    lines = "".join(f"\n  rn-rl {example}" for example in examples)
    return f"{text}\n\nExamples:{lines}" if lines else text


def sections_of(config: type) -> dict[str, str]:
    """Return the section of each option of a command, ``{"--timesteps": "training", ...}``.

    It is the ``help_section`` of the base class that has the option first; a command without any
    has one section.
    """
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        title = vars(cls).get("help_section", "")
        for name in inspect.get_annotations(cls) if title else ():
            found.setdefault(flag_of(name), title)
    return found


def flag_of(name: str) -> str:
    """Return the option of a field: ``eval_freq`` is ``--eval-freq``, ``from_agent`` is ``--from``."""
    return "--" + name.removesuffix("_agent").replace("_", "-")


def flags_of(config: type) -> list[str]:
    """Return the options of a command, without the arguments that are given by place."""
    found = ["--help", "--version"]
    for cls in reversed(config.__mro__):
        for name, annotation in inspect.get_annotations(cls).items():
            if "Positional" not in str(annotation) and "ClassVar" not in str(annotation):
                found.append(flag_of(name))
    return list(dict.fromkeys(found))


def in_sections(text: str, sections: dict[str, str]) -> str:
    """Return the help text of a command with a titled rule above each section of its options.

    Args:
        text: what tyro prints, with or without colours.
        sections: section of each option.
    """
    lines = []
    current = None
    for line in text.splitlines(keepends=True):
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip("\n")
        option = re.match("[│ ] (--[a-z-]+)", plain)  # boxes of spaces, where there is no UTF-8
        title = sections.get(option[1]) if option else None
        if title and title != current:
            left, dash, right = "├─┤" if plain.startswith("│") else " - "
            rule = f"{left}{dash} {title} ".ljust(len(plain) - 1, dash) + right
            border = re.match(r"(\x1b\[[0-9;]*m)│(\x1b\[[0-9;]*m)", line)
            lines.append(f"{border[1]}{rule}{border[2]}\n" if border else f"{rule}\n")
            current = title
        lines.append(line)
    return "".join(lines)


class _Held(io.StringIO):
    """Text that was printed, held back; with the colours and characters of the stream it will go to."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream

    def isatty(self) -> bool:
        return self.stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding


def with_version(text: str) -> str:
    """Return the help text of all commands with ``--version``, which tyro does not know."""
    lines = []
    for line in text.splitlines(keepends=True):
        lines.append(line)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip("\n")
        if re.match("[│ ] -h, --help ", plain):
            edge = re.match(r"(?:\x1b\[[0-9;]*m)*[│ ](?:\x1b\[[0-9;]*m)*", line)
            column = plain.index("show")
            row = "--version".ljust(column - 2) + "print the version and exit"
            lines.append(f"{edge[0] if edge else ' '} {row.ljust(len(plain) - 3)}")
            lines.append(f"{edge[0] if edge else ' '}\n")
    return "".join(lines)


@contextlib.contextmanager
def printed_in_sections(config: type | None, *, version: bool = False) -> Iterator[None]:
    """Print a ``--help`` that is made within in the sections of a command; see :func:`in_sections`.

    Args:
        config: dataclass of the command; None: the help is of all commands.
        version: without a command, add ``--version``.
    """
    sections = sections_of(config) if config else {}
    version = version and config is None
    if (not sections and not version) or sys.stdout is None:  # None: a closed one
        yield
        return
    held = _Held(sys.stdout)
    try:
        with contextlib.redirect_stdout(held):
            yield
    finally:
        text = held.getvalue()
        text = with_version(text) if version else in_sections(text, sections)
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))  # bullets
