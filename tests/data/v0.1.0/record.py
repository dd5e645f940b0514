# ruff: noqa: E501
"""Record what version 0.1.0 saves: run folders, SB3 zips of every policy family, and trained weights.

Run with a checkout of version 0.1.0 on PYTHONPATH, in an empty folder: ``python record.py``. It writes
``runs_of/`` (run folders, with the evaluation of each in ``evaluations.json``), ``half/`` and ``resumed/``
(see :func:`record_resumed`), and ``zips/`` with the values that each agent gives for fixed observations.
"""

import contextlib
import io
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import torch
from sb3_contrib import QRDQN, TQC, TRPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

import rn_rl.policies as policies
from rn_rl.cli import main

SMALL = ["--eval-episodes", "1", "--quiet", "--out", "runs_of"]
NET = "policy_kwargs.net_arch=[8,8]"
ON_POLICY = ["n_steps=32", "batch_size=32", "n_epochs=2", NET]
OFF_POLICY = ["learning_starts=40", "buffer_size=200", "batch_size=16", NET]
RUNS = {
    "rn/dqn/CartPole-v1_1": ["--algo", "dqn", "--env", "CartPole-v1", "--norm", "rn", "--set", *OFF_POLICY],
    "ln+rn/ppo/CartPole-v1_1": ["--algo", "ppo", "--env", "CartPole-v1", "--norm", "ln+rn", "--n-envs", "2",
                                "--set", "normalize=true", *ON_POLICY],
    "rn/ppo_lstm/CartPole-v1_1": ["--algo", "ppo_lstm", "--env", "CartPole-v1", "--norm", "rn", "--n-envs", "1",
                                  "--set", "policy_kwargs.lstm_hidden_size=8", "policy_kwargs.enable_critic_lstm=true",
                                  *ON_POLICY],
    "ln/sac/Pendulum-v1_1": ["--algo", "sac", "--env", "Pendulum-v1", "--norm", "ln", "--set", *OFF_POLICY],
    "rln/dqn/CartPole-v1_1": ["--algo", "dqn", "--env", "CartPole-v1", "--norm", "rln", "--seeds", "3",
                              "--engine", "batch", "--vector-env", "gymnasium", "--set", *OFF_POLICY],
}  # fmt: skip
ZIPS = {
    "policy_kwargs-dqn": (DQN, "MlpPolicy", "CartPole-v1"),
    "policy_kwargs-qrdqn": (QRDQN, "MlpPolicy", "CartPole-v1"),
    "policy_kwargs-ppo": (PPO, "MlpPolicy", "CartPole-v1"),
    "policy_kwargs-a2c": (A2C, "MlpPolicy", "CartPole-v1"),
    "policy_kwargs-trpo": (TRPO, "MlpPolicy", "CartPole-v1"),
    "norm-dqn": (DQN, "NormDQNPolicy", "CartPole-v1"),
    "norm-qrdqn": (QRDQN, "NormQRDQNPolicy", "CartPole-v1"),
    "norm-ppo": (PPO, "NormActorCriticPolicy", "CartPole-v1"),
    "norm-sac": (SAC, "NormSACPolicy", "Pendulum-v1"),
    "norm-td3": (TD3, "NormTD3Policy", "Pendulum-v1"),
    "norm-ddpg": (DDPG, "NormTD3Policy", "Pendulum-v1"),
    "norm-tqc": (TQC, "NormTQCPolicy", "Pendulum-v1"),
}


def agent_of(name):
    """A small agent that has learned for a few updates, so that its normalizers have a state."""
    cls, policy, env = ZIPS[name]
    if policy == "MlpPolicy":
        kwargs = policies.policy_kwargs("ln+rn", net_arch=[8, 8])
    else:
        policy, kwargs = getattr(policies, policy), {"norm": "ln+rn", "net_arch": [8, 8]}
    options = (
        {"n_steps": 16} if cls in (PPO, A2C, TRPO) else {"buffer_size": 100, "learning_starts": 20}
    )
    options |= {"batch_size": 16} if cls is not A2C else {}
    torch.manual_seed(0)
    agent = cls(policy, env, policy_kwargs=kwargs, seed=0, device="cpu", **options)
    agent.learn(64)
    agent.policy.set_training_mode(False)
    return agent


def values_of(agent, observations):
    """Q-values, quantiles, or the mean of the actions and the state values, as an array."""
    with torch.no_grad():
        x = torch.as_tensor(observations)
        for part in ("q_net", "quantile_net", "actor"):
            if hasattr(agent.policy, part) and getattr(agent.policy, part) is not None:
                net = getattr(agent.policy, part)
                return (
                    net(x, deterministic=True)
                    if part == "actor" and hasattr(net, "log_std")
                    else net(x)
                ).numpy()
        distribution = agent.policy.get_distribution(x).distribution
        return torch.cat([distribution.logits, agent.policy.predict_values(x)], 1).numpy()


def record_resumed():
    """Continue every run to 512 timesteps, and record a run that was stopped half-way.

    The policies that the old code then has are in ``resumed/``; ``half.safetensors`` is that of a run of
    512 timesteps that was never stopped, ``half/`` the run that was.
    """
    Path("resumed").mkdir()
    shutil.copytree("runs_of", "continued")
    for spec in sorted(Path("continued").rglob("run.yaml")):
        main(["train", "--resume", str(spec.parent), "--timesteps", "512", "--quiet"])
    for policy in sorted(Path("continued").rglob("policy.safetensors")):
        name = "-".join(policy.parent.relative_to("continued").parts)
        shutil.copy(policy, f"resumed/{name}.safetensors")
    shutil.rmtree("continued")
    arguments = RUNS["rn/dqn/CartPole-v1_1"]
    steps = ["--timesteps", "512", "--eval-freq", "80", "--eval-episodes", "1", "--quiet"]
    main(["train", *steps, "--out", "whole", *arguments])
    shutil.copy("whole/rn/dqn/CartPole-v1_1/policy.safetensors", "resumed/half.safetensors")
    shutil.rmtree("whole")
    update = DQN.train

    def stopping(self, *args, **kwargs):
        update(self, *args, **kwargs)
        if self.num_timesteps >= 200:
            signal.raise_signal(signal.SIGINT)

    DQN.train = stopping
    main(["train", *steps, "--out", "half", *arguments])
    DQN.train = update


if __name__ == "__main__":
    torch.set_num_threads(1)
    from rn_rl.experiment import train as training  # as version 0.1.0 has it

    training.command_line = lambda: "rn-rl train"
    for arguments in RUNS.values():
        main(
            [
                "train",
                "--timesteps",
                "160",
                "--eval-freq",
                "80",
                *arguments[:6],
                *SMALL,
                *arguments[6:],
            ]
        )
    record_resumed()
    for events in [*Path("runs_of").rglob("events*"), *Path("half").rglob("events*")]:
        events.unlink()
    Path("zips").mkdir()
    for name in ZIPS:
        agent = agent_of(name)
        observations = np.random.default_rng(0).normal(size=(8, *agent.observation_space.shape))
        observations = observations.astype(np.float32)
        agent.save(f"zips/{name}.zip")
        np.savez(
            f"zips/{name}.npz", observations=observations, values=values_of(agent, observations)
        )
    found = {}
    for run in sorted(Path("runs_of").rglob("run.yaml")):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            main(["evaluate", str(run.parent), "--episodes", "3", "--json"])
        found[str(run.parent.relative_to("runs_of"))] = json.loads(out.getvalue())["returns"]
    Path("evaluations.json").write_text(json.dumps(found, indent=1) + "\n")
    shutil.rmtree("__pycache__", ignore_errors=True)
