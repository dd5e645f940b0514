"""What a report of many runs costs: runs with made-up returns are written, then read and reported."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from rn_rl.errors import UserError
from rn_rl.experiment.runs.folder import Run, new_run
from rn_rl.experiment.runs.io import write_npz, write_yaml
from rn_rl.experiment.runs.spec import RunSpec


@dataclass
class ReportSpeedConfig:
    """Report on runs with made-up returns, in a process of its own: seconds and peak memory."""

    runs: int = 1000
    """How many, of ten normalizers on two environments."""
    evaluations: int = 50
    """Of each run."""
    json: bool = False
    """One object a line instead of a sentence."""


def made_up_run(
    root: Path,
    norm: str,
    seed: int,
    returns: np.ndarray,
    *,
    env: str = "CartPole-v1",
    algo: str = "dqn",
    timesteps: int = 50_000,
) -> Run:
    """A run folder with the evaluations given, ``(evaluations, episodes)``, and a rising gain.

    For benchmarks and tests of what reads runs; nothing was trained.
    """
    spec = RunSpec(
        algo=algo,
        env=env,
        norm=norm,
        seed=seed,
        timesteps=timesteps,
        n_envs=1,
        eval_freq=timesteps // len(returns),
        eval_episodes=returns.shape[1],
        device="cpu",
        threads=1,
        config="zoo",
        hyperparameters={"learning_rate": 1e-3, "policy_kwargs": {"net_arch": [64, 64]}},
        command="made up",
    )
    run = new_run(root, spec)
    write_yaml(run.spec_file, vars(spec))
    steps = spec.eval_freq * np.arange(1, len(returns) + 1)
    lengths = np.full(returns.shape, 100)
    write_npz(run.evaluations_file, timesteps=steps, results=returns, ep_lengths=lengths)
    if norm != "none":
        phases = np.arange(0, timesteps, 64)
        gains = np.log(np.stack([phases + np.e, phases + np.e], 1))
        layers = np.array(["q_net.1", "q_net.4"])
        write_npz(run.code_length_file, layers=layers, timesteps=phases, gains=gains)
    rows = "".join(f"{x},100,{9.0 * i}\n" for i, x in enumerate(returns.mean(1)))
    (run.folder / "0.monitor.csv").write_text(f'#{{"t_start": 0}}\nr,l,t\n{rows}')
    return run


def run_report_speed(config: ReportSpeedConfig) -> None:
    """Write, report in another process, and print what that took."""
    arms, envs = 10, ("CartPole-v1", "LunarLander-v3")
    seeds = config.runs // (arms * len(envs))
    if seeds < 1 or config.evaluations < 1:
        raise UserError(
            f"--runs {config.runs} --evaluations {config.evaluations}: expected at least "
            f"{arms * len(envs)} and 1"
        )
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for env in envs:
            for arm in range(arms):
                for seed in range(seeds):
                    returns = rng.normal(100 + arm, 20, (config.evaluations, 5)).cumsum(0) / 10
                    norm = "none" if arm == 0 else f"gain({arm})"
                    made_up_run(root, norm, seed, returns, env=env)
        command = [sys.executable, "-m", "rn_rl", "report", str(root), "--out", f"{root}/page.html"]
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begun
        gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
        size = (root / "page.html").stat().st_size / 1e6
    case = f"{seeds * arms * len(envs)} runs x {config.evaluations} evaluations"
    if config.json:
        for value, unit in ((seconds, "s"), (gigabytes, "GB"), (size, "MB page")):
            print(json.dumps({"benchmark": "report", "case": case, "value": value, "unit": unit}))
        return
    Console().print(f"{case}: {seconds:.1f} s, peak {gigabytes:.2f} GB, a page of {size:.1f} MB")
