"""The benchmark against JAX: equal settings, and errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from benchmarks.peers import PROGRAM, PeersConfig, run_peers, settings
from benchmarks.seed_batch_speed import SeedSpeedConfig, build
from rn_rl.errors import UserError

JAX = Path(__file__).parents[2] / ".venv-jax" / "bin" / "python"
needs_jax = pytest.mark.skipif(not JAX.exists(), reason="make .venv-jax/ready")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jax": Path("no/such/python")}, r"--jax no/such/python: expected a Python .* makes one"),
        ({"jax": Path(sys.executable)}, r"--jax .*: expected a Python that imports jax"),
        ({"cases": ("dnq",)}, "unknown case \"dnq\"|unknown case 'dnq'"),
        ({"seeds": (0,)}, r"--seeds \(0,\): expected at least 1"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message) as error:
        run_peers(PeersConfig(**options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("case", "config", "expected"),
    [
        (
            "cartpole",
            "paper",
            {"net_arch": [64, 64], "batch_size": 50, "train_freq": 4, "tau": 1e-3},
        ),
        ("cartpole", "zoo", {"net_arch": [256, 256], "train_freq": 256, "gradient_steps": 128}),
        ("cartpole-ppo", "zoo", {"net_arch": [64, 64], "n_envs": 8, "n_steps": 32, "n_epochs": 20}),
    ],
)
def test_the_opponent_has_the_settings_of_the_agents(
    case: str, config: str, expected: dict[str, Any]
):
    batch, _ = build(case, "none", SeedSpeedConfig(config=config, seeds=2))
    given = json.loads(json.dumps(settings(batch.model, 2)))
    batch.envs.close()
    assert given["seeds"] == 2 and expected.items() <= given.items()


@needs_jax
def test_the_opponents_environment_is_gymnasiums():
    env: Any = gym.make("CartPole-v1").unwrapped
    rng = np.random.default_rng(0)
    states, actions, expected = rng.uniform(-0.2, 0.2, (20, 4)), rng.integers(0, 2, 20), []
    for state, action in zip(states, actions, strict=True):
        env.reset()
        env.state = state
        observation, _, terminated, _, _ = env.step(int(action))
        expected.append([*observation.tolist(), float(terminated)])
    program = f"""
import json, sys
sys.path.insert(0, {str(PROGRAM.parent)!r})
import jax, jax.numpy as jnp, jax_peer
states, actions = jnp.array({states.tolist()}), jnp.array({actions.tolist()})
_, _, following, ended, _ = jax_peer.step(states, jnp.zeros(20, int), actions, jax.random.key(0))
print(json.dumps(jnp.concatenate([following, ended[:, None]], 1).tolist()))
"""
    out = subprocess.run([str(JAX), "-c", program], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(out.stdout), expected, rtol=1e-5, atol=1e-6)


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("case", ["dqn", "ppo"])
def test_the_opponent_learns_and_is_measured(case: str, capsys: pytest.CaptureFixture[str]):
    run_peers(PeersConfig(cases=(case,), seeds=(2,), rounds=1, seconds=0.1, jax=JAX, json=True))
    line = json.loads(capsys.readouterr().out)
    assert line["ratio"] == pytest.approx(line["value"] / line["peer"]) and line["value"] > 0
    algo, config = {"dqn": ("cartpole", "paper"), "ppo": ("cartpole-ppo", "zoo")}[case]
    batch, _ = build(algo, "none", SeedSpeedConfig(config=config, seeds=8))
    batch.envs.close()
    given = json.dumps(settings(batch.model, 8))
    cycles = {"dqn": 7000, "ppo": 60}[case]
    out = subprocess.run(
        [str(JAX), str(PROGRAM), given],
        input=f"{cycles}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(out.stdout)[1] > 100  # the longest of the present episodes; random: 20
