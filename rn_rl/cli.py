"""``rn-rl ...``: its subcommands, and one place for errors."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from typing import Annotated, Any, Protocol, Union, runtime_checkable

import tyro

import rn_rl
from rn_rl.analysis.config import ReportConfig
from rn_rl.commands.completion import PRINT, asks_for_completion, give_completion
from rn_rl.commands.config import NormsConfig, StatusConfig, ZooConfig
from rn_rl.commands.help import EXAMPLES, about, printed_in_sections
from rn_rl.commands.mistakes import NUMBERS, mistake
from rn_rl.commands.repeated import gathered
from rn_rl.errors import (
    TrainingDiverged,
    TrainingStopped,
    UserError,
    first_line,
    printable,
    unknown,
    warning_line,
)
from rn_rl.experiment.evaluation.config import (
    EvaluateConfig,
    ExportConfig,
    ProbeConfig,
    VideoConfig,
)
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.tuning.config import TuneConfig
from rn_rl.own import place_in_own_code
from rn_rl.reproduction.config import ReproduceConfig
from rn_rl.tasks.config import TaskConfig

COMMANDS: dict[str, tuple[type, str]] = {
    "train": (TrainConfig, "rn_rl.commands.train:run_train"),
    "evaluate": (EvaluateConfig, "rn_rl.commands.evaluate:run_evaluate"),
    "video": (VideoConfig, "rn_rl.commands.video:run_video"),
    "export": (ExportConfig, "rn_rl.commands.export:run_export"),
    "compare": (CompareConfig, "rn_rl.commands.compare:run_compare"),
    "tune": (TuneConfig, "rn_rl.commands.tune:run_tune"),
    "status": (StatusConfig, "rn_rl.commands.status:run_status"),
    "report": (ReportConfig, "rn_rl.commands.report:run_report"),
    "reproduce": (ReproduceConfig, "rn_rl.reproduction.run:run_reproduce"),
    "task": (TaskConfig, "rn_rl.tasks.run:run_task"),
    "probe": (ProbeConfig, "rn_rl.commands.probe:run_probe"),
    "norms": (NormsConfig, "rn_rl.commands.norms:run_norms"),
    "zoo": (ZooConfig, "rn_rl.commands.zoo:run_zoo"),
}
"""Each command: its options, and the function that runs it, whose module is imported when it is called.

Modules of options import neither torch nor SB3, so ``--help`` and mistakes are answered at once.
"""


@runtime_checkable
class ChecksArguments(Protocol):
    """Options that refuse some combinations of what was typed."""

    def check_arguments(self, arguments: Sequence[str]) -> None: ...


def subcommands(
    commands: Mapping[str, tuple[type, Any]],
    chosen: str = "",
    examples: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """Return the union type from which tyro makes one subcommand for each entry.

    Args:
        commands: dataclass of options and function, by name.
        chosen: command that is run. Of the others ``--help`` shows the first sentence.
        examples: command lines that its ``--help`` shows, by name.
    """
    return Union[  # noqa: UP007 - made at run time
        tuple(
            Annotated[
                config,
                tyro.conf.subcommand(
                    name,
                    prefix_name=False,
                    description=about(config, (examples or {}).get(name, ()), full=name == chosen),
                ),
            ]
            for name, (config, _) in commands.items()
        )
    ]


def load_and_run(function: str, config: Any) -> None:
    """Import the function of a name such as ``"rn_rl.commands.train:run_train"``, and call it."""
    module, _, name = function.partition(":")
    getattr(importlib.import_module(module), name)(config)


def parse(
    command: Any,
    arguments: Sequence[str],
    prog: str,
    description: str | None,
    chosen: type | None = None,
    others: Mapping[str, type] | None = None,
) -> object:
    """Parse with tyro, and raise its boxed errors as a :class:`UserError` of one line.

    Args:
        command: dataclass of options, or the union of several from :func:`subcommands`.
        arguments: what was typed.
        prog: name of the program in messages.
        description: text at the top of ``--help``.
        chosen: dataclass of the command that is run, whose sections ``--help`` shows.
        others: dataclasses of all commands by name, for messages.
    """
    errors = io.StringIO()
    try:
        with (
            printed_in_sections(chosen, version=others is not None),
            contextlib.redirect_stderr(errors),
            NUMBERS,
        ):
            return tyro.cli(
                command,
                prog=prog,
                description=description,
                args=list(arguments),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise mistake(errors.getvalue(), arguments, chosen, others) from None


@contextlib.contextmanager
def short_warnings(prog: str) -> Iterator[None]:
    """Print warnings as one line each, without the line of code that they come from."""

    def one_line(message: Warning | str, *_: Any, **__: Any) -> str:
        return warning_line(prog, message)

    before = warnings.formatwarning
    warnings.formatwarning = one_line
    try:
        yield
    finally:
        warnings.formatwarning = before


def run_command(
    command: Any,
    handlers: Mapping[type, Callable[[Any], None]],
    prog: str,
    description: str | None = None,
    arguments: Sequence[str] | None = None,
    chosen: type | None = None,
    others: Mapping[str, type] | None = None,
) -> int:
    """Parse the arguments, run the command, and print errors that the user can fix as one line.

    Args:
        command: dataclass of options, or the union of several from :func:`subcommands`.
        handlers: function that runs the command, by dataclass.
        prog: name of the program in messages.
        description: text at the top of ``--help``.
        arguments: default: those of the command line.
        chosen: see :func:`parse`; default: ``command`` itself, if it is a dataclass.
        others: see :func:`parse`.

    Returns:
        The exit status: 0; 1 after a training that diverged; 2 after an error that the user can fix;
        130 after Ctrl-C.
    """
    try:
        typed = list(sys.argv[1:] if arguments is None else arguments)
        if chosen is None and is_dataclass(command):
            chosen = command if isinstance(command, type) else None
        if asks_for_completion(typed):
            give_completion(typed, partial(tyro_script, command, prog))
            return 0
        typed = gathered(typed, chosen)
        if chosen is CompareConfig and any(x.partition("=")[0] == "--grid" for x in typed):
            from rn_rl.experiment.grid.file import with_file

            typed = gathered(with_file(typed), chosen)
        config = parse(command, typed, prog, description, chosen, others)
        if isinstance(config, ChecksArguments):
            config.check_arguments(typed)
        with short_warnings(prog):
            handlers[type(config)](config)
    except UserError as error:
        print(f"{prog}: error: {printable(error)}", file=sys.stderr)
        return 2
    except TrainingDiverged as error:
        print(f"{prog}: {printable(error)}", file=sys.stderr)
        return 1
    except TrainingStopped as stopped:
        print(f"{prog}: {stopped}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print(f"{prog}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that is read-only: not a fault of the program
        where = f"{error.filename}: " if error.filename else ""
        fix = "; make room and run it again: what was finished stays" if is_full(error) else ""
        text = printable(f"{where}{error.strerror or error}{fix}")
        print(f"{prog}: error: {text}", file=sys.stderr)
        return 2
    return 0


def is_full(error: OSError) -> bool:
    """Return True if a disk is full, or one may not use more of it."""
    return error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None))


def run_commands(
    commands: Mapping[str, tuple[type, Callable[[Any], None]]],
    prog: str,
    description: str | None = None,
    arguments: Sequence[str] | None = None,
    examples: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Run the command that the first argument names; see :func:`run_command`.

    Args:
        commands: dataclass of options and function that runs the command, by name.
        prog: name of the program in messages.
        description: text at the top of ``--help``.
        arguments: default: those of the command line.
        examples: see :func:`subcommands`.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if typed and not typed[0].startswith("-") and typed[0] not in commands:
        print(f"{prog}: error: {unknown('command', typed[0], commands)}", file=sys.stderr)
        return 2
    chosen = typed[0] if typed else ""
    options = subcommands(commands, chosen, examples)
    config = commands[chosen][0] if chosen in commands else None
    others = {name: each for name, (each, _) in commands.items()}
    return run_command(options, dict(commands.values()), prog, description, typed, config, others)


def tyro_script(command: Any, prog: str, shell: str) -> str:
    """Return the script of tyro that completes commands and options in a shell."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        parse(command, [PRINT, shell], prog, None)
    return printed.getvalue()


def add_current_folder() -> None:
    """Let ``--env my_env:My-v0`` import ``my_env.py`` of the current folder, after all that is installed.

    ``python -P`` and ``PYTHONSAFEPATH`` prevent it.
    """
    folder = os.getcwd()
    if not sys.flags.safe_path and folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``rn-rl`` with these arguments, by default those of the command line."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    add_current_folder()
    if "--version" in typed:
        print(f"rn-rl {rn_rl.__version__}")
        return 0
    commands = {
        name: (config, partial(load_and_run, function))
        for name, (config, function) in COMMANDS.items()
    }
    what = "Normalizers inside Stable-Baselines3 agents: train, compare, evaluate, film."
    try:
        return run_commands(commands, "rn-rl", what, typed, EXAMPLES)
    except Exception as error:
        place = place_in_own_code(error)
        if place is None:  # a fault of ours, whose traceback is needed
            raise
        reason = f"{place}: {type(error).__name__}: {first_line(error)}"
        print(f"rn-rl: error: {printable(reason)}; fix your code there", file=sys.stderr)
        return 2
