"""``rn-rl ...``: its subcommands, and one place for errors."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from rn_rl.analysis.report import ReportConfig, run_report
from rn_rl.commands.compare import run_compare
from rn_rl.commands.tables import NormsConfig, ZooConfig, run_norms, run_zoo
from rn_rl.commands.train import run_train
from rn_rl.errors import UserError
from rn_rl.experiment.evaluation.code_length import ProbeConfig, run_probe
from rn_rl.experiment.evaluation.evaluate import EvaluateConfig, run_evaluate
from rn_rl.experiment.evaluation.video import VideoConfig, run_video
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.interrupts import TrainingStopped
from rn_rl.reproduction.run import ReproduceConfig, run_reproduce

Command = (
    Annotated[TrainConfig, tyro.conf.subcommand("train", prefix_name=False)]
    | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate", prefix_name=False)]
    | Annotated[VideoConfig, tyro.conf.subcommand("video", prefix_name=False)]
    | Annotated[CompareConfig, tyro.conf.subcommand("compare", prefix_name=False)]
    | Annotated[ReportConfig, tyro.conf.subcommand("report", prefix_name=False)]
    | Annotated[ReproduceConfig, tyro.conf.subcommand("reproduce", prefix_name=False)]
    | Annotated[ProbeConfig, tyro.conf.subcommand("probe", prefix_name=False)]
    | Annotated[NormsConfig, tyro.conf.subcommand("norms", prefix_name=False)]
    | Annotated[ZooConfig, tyro.conf.subcommand("zoo", prefix_name=False)]
)


HANDLERS: dict[type, Callable[[Any], None]] = {
    TrainConfig: run_train,
    EvaluateConfig: run_evaluate,
    VideoConfig: run_video,
    CompareConfig: run_compare,
    ReportConfig: run_report,
    ReproduceConfig: run_reproduce,
    ProbeConfig: run_probe,
    NormsConfig: run_norms,
    ZooConfig: run_zoo,
}


def parse(command: Any, arguments: Sequence[str], prog: str, description: str | None) -> object:
    """tyro's parse, with its boxed errors as one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
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
        plain = re.sub(r"\x1b\[[0-9;]*m", "", errors.getvalue())
        line = " ".join(re.sub(r"[╭╮╰╯│─]+|-{3,}", " ", plain).split())
        # the title of a box, which is said again in it, and how tyro reads what is left over
        line = re.sub(r"^(Value error|Required options|Unrecognized options) (?=[A-Z])", "", line)
        line = re.sub(r" \(applied to [^)]*\)| Arguments are applied to [^.]*\.", "", line)
        # keep what is wrong; the help that follows it is what --help is for
        raise UserError(re.split(r" Argument helptext:| For full helptext", line)[0]) from None


def run_command(
    command: Any,
    handlers: dict[type, Callable[[Any], None]],
    prog: str,
    description: str | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse, run, and turn what a user can fix into one line.

    Returns:
        0; 2 for what the user can fix; 130 after Ctrl-C.
    """
    try:
        config = parse(command, sys.argv[1:] if arguments is None else arguments, prog, description)
        handlers[type(config)](config)
    except UserError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except TrainingStopped as stopped:
        print(f"{prog}: {stopped}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print(f"{prog}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see :func:`run_command`."""
    about = "Regularity-normalized agents: train, compare, evaluate, film."
    return run_command(Command, HANDLERS, "rn-rl", about, arguments)
