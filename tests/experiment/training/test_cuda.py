"""Seeds trained together on a GPU, from the command's options to run folders that a CPU reads."""

import numpy as np
import pytest
import torch
from rich.console import Console

from rn_rl.commands.evaluate import run_evaluate
from rn_rl.experiment.evaluation.config import EvaluateConfig
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import train_seeds

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("algo", ["dqn", "ppo"])
def test_seeds_on_a_gpu_leave_runs_that_go_on(algo, tmp_path, capsys):
    config = TrainConfig(
        algo=algo,
        env="CartPole-v1",
        config="paper" if algo == "dqn" else "zoo",
        norm="rn",
        seeds=3,
        timesteps=600,
        eval_freq=300,
        device="cuda",
        out=tmp_path,
    )
    console = Console()
    runs = train_seeds(config, console)
    assert "GB free" in capsys.readouterr().out
    for run in runs:
        assert run.evaluations_file.is_file() and run.checkpoint.is_dir()
        gains = np.load(run.code_length_file)["gains"]
        assert np.isfinite(gains).all() and len(gains) > 1
    again = train_seeds(TrainConfig(resume=runs[0].folder, timesteps=1200), console)
    assert [run.folder for run in again] == [run.folder for run in runs]
    run_evaluate(EvaluateConfig(run=runs[1].folder, episodes=3))
    assert "CartPole" in capsys.readouterr().out
