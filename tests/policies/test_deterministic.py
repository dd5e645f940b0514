"""Deterministic actions as a module: those of ``predict``, exported by ``torch.export`` and to ONNX.

The page docs/how-to/onnx.md is run by each ``make test``.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3

from rn_rl.errors import UserError
from rn_rl.policies import (
    DeterministicPolicy,
    NormActorCriticPolicy,
    NormARSPolicy,
    NormCrossQPolicy,
    NormDQNPolicy,
    NormMaskableActorCriticPolicy,
    NormQRDQNPolicy,
    NormRecurrentActorCriticPolicy,
    NormSACPolicy,
    NormTD3Policy,
    NormTQCPolicy,
)
from tests.factories import slow_unless

ON_POLICY: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 1}
REPLAY: dict[str, Any] = {"learning_starts": 20, "buffer_size": 200, "batch_size": 8}
AGENTS = {
    "dqn": (DQN, NormDQNPolicy, "CartPole-v1", REPLAY),
    "qrdqn": (QRDQN, NormQRDQNPolicy, "CartPole-v1", REPLAY),
    "ppo": (PPO, NormActorCriticPolicy, "CartPole-v1", ON_POLICY),
    "ppo, Box": (PPO, NormActorCriticPolicy, "Pendulum-v1", ON_POLICY),
    "ppo, gSDE": (PPO, NormActorCriticPolicy, "Pendulum-v1", {**ON_POLICY, "use_sde": True}),
    "a2c": (A2C, NormActorCriticPolicy, "CartPole-v1", {"n_steps": 16}),
    "ppo_mask": (MaskablePPO, NormMaskableActorCriticPolicy, "CartPole-v1", ON_POLICY),
    "sac": (SAC, NormSACPolicy, "Pendulum-v1", REPLAY),
    "td3": (TD3, NormTD3Policy, "Pendulum-v1", REPLAY),
    "tqc": (TQC, NormTQCPolicy, "Pendulum-v1", REPLAY),
    "crossq": (CrossQ, NormCrossQPolicy, "Pendulum-v1", REPLAY),
    "ars": (ARS, NormARSPolicy, "Pendulum-v1", {"n_delta": 1}),
}


def trained(name: str, norm: str, net: str = "mlp") -> Any:
    cls, policy, env, options = AGENTS[name]
    kwargs: dict[str, Any] = {"norm": norm}
    if name != "ars":
        kwargs |= {"net": net, "net_arch": [8] if net == "mlp" else "small"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = cls(policy, env, policy_kwargs=kwargs, device="cpu", seed=0, **options)
        return model.learn(64, **({"use_masking": False} if name == "ppo_mask" else {}))


def observations(model: Any, count: int = 9) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, *model.observation_space.shape)).astype(np.float32)


@pytest.mark.parametrize(
    "name", slow_unless(lambda name: name in ("dqn", "ppo", "ppo, gSDE", "sac", "td3"), AGENTS)
)
def test_its_actions_are_those_of_predict(name):
    model = trained(name, "none" if name == "ars" else "ln+rn")
    x = observations(model)
    found = DeterministicPolicy(model.policy)(torch.from_numpy(x)).detach().numpy()
    expected, _ = model.predict(x, deterministic=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.Box(-3, 1, (2,))]
)
def test_other_actions(space):
    class Odd(gym.Env[Any, Any]):
        observation_space = spaces.Box(-1, 1, (4,))
        action_space = space

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return np.zeros(4, np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(4, np.float32), 0.0, False, False, {}

    kwargs = {"norm": "rn", "net_arch": [8]}
    model = PPO(NormActorCriticPolicy, Odd(), policy_kwargs=kwargs, device="cpu")
    x = 20 * observations(model)
    found = DeterministicPolicy(model.policy)(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, model.predict(x, deterministic=True)[0], rtol=0, atol=1e-6)


CASES = [
    *((name, "ln+rn", "mlp") for name in AGENTS if name != "ars"),
    *(("ppo", norm, "mlp") for norm in ("rn", "rln", "rsn", "uan", "bn", "hs", "wn", "spectral")),
    *((name, "rn", net) for name in ("ppo", "sac") for net in ("simba", "simbav2", "bronet")),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm", "net"), CASES)
def test_onnx_runtime_computes_the_actions_of_predict(name, norm, net, tmp_path: Path):
    model = trained(name, norm, net)
    x = torch.from_numpy(observations(model, 5))
    file = tmp_path / "agent.onnx"
    torch.onnx.export(
        DeterministicPolicy(model.policy),
        (x,),
        file,
        input_names=["observation"],
        output_names=["action"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    y = observations(model, 3)  # another number of rows
    [found] = session.run(None, {"observation": y})
    expected, _ = model.predict(y, deterministic=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_recurrent_policy_is_refused():
    kwargs = {"norm": "ln", "net_arch": [8], "lstm_hidden_size": 4}
    model = RecurrentPPO(NormRecurrentActorCriticPolicy, "CartPole-v1", policy_kwargs=kwargs)
    with pytest.raises(UserError, match="NormRecurrentActorCriticPolicy has a recurrent state"):
        DeterministicPolicy(model.policy)
