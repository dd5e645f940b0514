"""Read what the finished runs of a reproduction returned, and play their last policies where asked."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from rn_rl import statistics
from rn_rl.experiment.evaluation.config import EvaluateConfig
from rn_rl.experiment.evaluation.evaluate import evaluate
from rn_rl.experiment.grid.cells import Cell
from rn_rl.experiment.grid.disk import FoundRun, find_cell_runs
from rn_rl.experiment.grid.state import Grid
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.io import DAMAGE, write_json
from rn_rl.experiment.runs.records import read_episodes, read_evaluations, read_final, read_seconds
from rn_rl.reproduction.protocol import Protocol, Study, Whole
from rn_rl.reproduction.results import LAST_EPISODES, PARTS, Trained


def read_arm(
    grid: Grid, name: str, cells: list[Cell], protocol: Protocol, study: Study
) -> list[Trained]:
    """Read the results of an arm's finished runs.

    Args:
        grid: the grid that trained them.
        name: name of the arm.
        cells: its trainings.
        protocol: the task; says whether the last policies are played in whole episodes too.
        study: the study; says whether the evaluations during training are of interest.
    """
    runs = []
    for cell in cells:
        found = find_cell_runs(grid.config.out, cell.specs[0])
        for key in cell.keys:
            if key in found and found[key].trained:
                runs.append(read_trained(name, found[key], protocol, study))
    return runs


def read_trained(name: str, found: FoundRun, protocol: Protocol, study: Study) -> Trained:
    """Read the results of one finished run; see :func:`read_arm`."""
    run, spec = found.run, found.spec
    ended, returns = read_episodes(run)
    ended, returns = ended[: spec.episodes], returns[: spec.episodes]
    took = read_seconds(run, len(spec.together) or 1)
    parts = (
        curve(ended, returns, spec.timesteps)
        if spec.episodes is None
        else curve(np.arange(len(returns)), returns, spec.episodes)
    )
    more = {}
    if study.measures != ("last",):
        steps, means, _ = read_evaluations(run, [])
        if run.divergence is not None:  # it has no policy any more; 0 is the lowest return
            steps = np.append(steps, [run.divergence.timesteps, spec.timesteps])
            means = np.append(means, [0, 0])
            more["final"] = 0.0
        elif (final := read_final(run, [])) is not None:
            more["final"] = final.mean_return
        if len(steps) > 1:
            more["area"] = float(statistics.area_under_curve(steps, means))
    if protocol.whole is not None and run.divergence is not None:
        more["solved"] = 0.0
    elif protocol.whole is not None:
        played = np.array(whole_returns(run, protocol.whole))
        more["whole"] = float(played.mean())
        more["solved"] = float((played >= protocol.whole.solved).mean())
    return Trained(
        arm=name,
        seed=spec.seed,
        timesteps=spec.timesteps if spec.episodes is None else int(ended[-1]),
        episodes=spec.episodes,
        last=float(returns[-LAST_EPISODES:].mean()),
        seconds=np.nan if took is None else took,
        command=spec.command,
        parts=tuple(parts),
        **more,
    )


def whole_returns(run: Run, whole: Whole) -> list[float]:
    """Return the returns of a run's last policy in whole episodes.

    They are played once, and kept in ``whole.json`` of the run, which has the form of
    ``rn-rl evaluate --json``.
    """
    path = run.folder / "whole.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        same = stored["timesteps"] == run.read_spec().timesteps  # else it was trained further since
        if same and len(stored["returns"]) == whole.episodes:
            return [float(value) for value in stored["returns"]]
    except DAMAGE:  # not played yet, or damaged
        pass
    config = EvaluateConfig(
        run.folder,
        episodes=whole.episodes,
        n_envs=whole.episodes,
        env_kwargs=(f"max_episode_steps={whole.steps}",),
        trust=True,  # the settings of the run are those of the command, which the user typed
    )
    result = evaluate(config)
    write_json(path, asdict(result))
    return result.returns


def curve(ended: np.ndarray, returns: np.ndarray, length: int) -> np.ndarray:
    """Return the mean return of the episodes that ended in each part of a run, ``(PARTS,)``.

    Args:
        ended: position in the run at which each episode ended, in timesteps or episodes.
        returns: return of each episode.
        length: length of the run, in the same unit.
    """
    place = np.minimum(ended * PARTS // length, PARTS - 1).astype(int)
    count = np.bincount(place, minlength=PARTS)
    total = np.bincount(place, weights=returns, minlength=PARTS)
    return np.divide(total, count, out=np.full(PARTS, np.nan), where=count > 0)
