"""Files of a single run: the agent and its records first, the checkpoint that counts them last."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback

from rn_rl.agents import NormalizerLogger
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.io import write_npz
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.training.probe import RunProbe
from rn_rl.experiment.training.state import save_training


def save_run(
    run: Run,
    spec: RunSpec,
    model: BaseAlgorithm,
    evaluation: EvalCallback,
    log: NormalizerLogger,
    probe: RunProbe | None = None,
    **state: Any,
) -> None:
    """Write the agent of a run between two phases, its records, and then its checkpoint.

    A process that is killed in between leaves the checkpoint before, from which all of it is written
    again. So a run whose checkpoint is complete has the policy of its last timestep.

    Args:
        run: the run.
        spec: its description.
        model: its agent.
        evaluation: callback of the evaluations during training.
        log: callback that records gains.
        probe: callback that probes the layers, if the run has one.
        state: further arguments of :func:`~rn_rl.experiment.training.state.save_training`.
    """
    save_agent(run, spec, model, log, probe)
    save_training(run.checkpoint, model, evaluation, log, probe=probe, **state)


def save_agent(
    run: Run,
    spec: RunSpec,
    model: BaseAlgorithm,
    log: NormalizerLogger,
    probe: RunProbe | None = None,
) -> None:
    """Write the agent of a run, its gains, and the record of its probe."""
    run.save_agent(spec, model)
    write_code_length(run, log, model)
    if probe is not None:
        probe.write()


def write_code_length(run: Run, log: NormalizerLogger, model: BaseAlgorithm) -> None:
    """Write ``code_length.npz``: the mean gain of every layer at every rollout, and commit sizes.

    A commit's size is a KL in nats (``commit_kl``), or for TD3 and DDPG the mean absolute change
    of the action (``commit_action``). Rollouts up to ``learning_starts`` had no commit.
    """
    if log.layer_names:
        write_npz(
            run.code_length_file,
            layers=np.array(log.layer_names),
            timesteps=np.array([t for t, _ in log.history]),
            gains=np.array([g for _, g in log.history]),
            commit_kl=np.array(log.commit_kls),
            commit_action=np.array(log.commit_actions),
            learning_starts=np.array(getattr(model, "learning_starts", 0)),
        )
