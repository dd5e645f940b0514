"""Evaluate a trained run: returns with a confidence interval, episode lengths, success rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rn_rl.errors import UserError
from rn_rl.experiment.evaluation.config import EvaluateConfig
from rn_rl.experiment.evaluation.episodes import close_after_use, play_agent
from rn_rl.experiment.runs.folder import find_run
from rn_rl.experiment.runs.weights import saved_timesteps
from rn_rl.experiment.settings.hyperparameters import parse_assignments
from rn_rl.statistics import bootstrap_interval


@dataclass
class Evaluation:
    """Results of one evaluation.

    ``ci_low`` and ``ci_high`` are a 95% bootstrap interval of the mean, None for one episode;
    ``timesteps`` are those after which the evaluated weights were saved.
    """

    run: str
    algo: str
    env: str
    norm: str
    seed: int
    timesteps: int
    episodes: int
    deterministic: bool
    mean_return: float
    std_return: float
    ci_low: float | None
    ci_high: float | None
    mean_length: float
    success_rate: float | None
    returns: list[float]
    lengths: list[int]

    @property
    def interval(self) -> str:
        """The interval of the mean as text."""
        if self.ci_low is None or self.ci_high is None:
            return "-"
        return f"[{self.ci_low:.2f}, {self.ci_high:.2f}]"


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Play episodes with a trained agent; nothing is unpickled, and no file of the run changes.

    Raises:
        UserError: there is no such run, a file is damaged, or a number is less than 1.
    """
    for name, value in (
        ("episodes", config.episodes),
        ("n-envs", config.n_envs),
        ("max-episode-steps", config.max_episode_steps),
    ):
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: expected at least 1")
    run, weights = find_run(config.run)
    spec = run.read_spec()
    n_envs = min(config.n_envs, config.episodes)
    model, env = run.load_agent(
        weights=weights,
        n_envs=n_envs,
        seed=config.seed,
        trust=config.trust,
        env_kwargs=parse_assignments(config.env_kwargs, "--env-kwargs"),
        max_episode_steps=config.max_episode_steps,
        step_timeout=spec.step_timeout if config.step_timeout is None else config.step_timeout,
    )
    returns, lengths = play_agent(model, env, config.episodes, deterministic=not config.stochastic)
    close_after_use(env)
    values = np.asarray(returns)
    low, high = bootstrap_interval(values) if len(values) > 1 else (None, None)
    return Evaluation(
        run=str(config.run),
        algo=spec.algo,
        env=spec.env,
        norm=spec.norm,
        seed=spec.seed,
        timesteps=saved_timesteps(weights or run.policy_file) or spec.timesteps,
        episodes=len(values),
        deterministic=not config.stochastic,
        mean_return=float(values.mean()),
        std_return=float(values.std()),
        ci_low=low,
        ci_high=high,
        mean_length=float(np.mean(lengths)),
        success_rate=float((values > 0).mean()) if spec.is_minigrid else None,
        returns=values.tolist(),
        lengths=np.asarray(lengths).tolist(),
    )
