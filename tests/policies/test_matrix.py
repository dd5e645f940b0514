"""Every normalizer in every unmodified SB3 algorithm: one short training for each pair."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.logger import Logger

from rn_rl import policies
from rn_rl.normalization import REGISTRY, PhaseNorm, phase_norms
from tests.factories import slow_unless

SMALL = {"net_arch": [8, 8]}


@dataclass
class Case:
    """One algorithm with settings that make a training of a few hundred steps meaningful."""

    cls: Any
    policy: Any
    env: Any = "CartPole-v1"
    steps: int = 96
    policy_kwargs: dict[str, Any] = field(default_factory=lambda: dict(SMALL))
    kwargs: dict[str, Any] = field(default_factory=dict)


REPLAY = {"learning_starts": 16, "train_freq": 8, "batch_size": 8, "buffer_size": 200}
ROLLOUT = {"n_steps": 32, "batch_size": 16}
TARGET_EVERY_STEP = {**REPLAY, "target_update_interval": 1}
CONTINUOUS = {**REPLAY, "gradient_steps": 2}
ALGORITHMS = {
    "dqn": Case(DQN, policies.NormDQNPolicy, kwargs=TARGET_EVERY_STEP),
    "qrdqn": Case(
        QRDQN,
        policies.NormQRDQNPolicy,
        policy_kwargs={**SMALL, "n_quantiles": 5},
        kwargs=TARGET_EVERY_STEP,
    ),
    "ppo": Case(PPO, policies.NormActorCriticPolicy, kwargs={**ROLLOUT, "n_epochs": 2}),
    "a2c": Case(A2C, policies.NormActorCriticPolicy, kwargs={"n_steps": 16}),
    "trpo": Case(TRPO, policies.NormActorCriticPolicy, kwargs={**ROLLOUT, "n_critic_updates": 2}),
    "ppo_mask": Case(
        MaskablePPO,
        policies.NormMaskableActorCriticPolicy,
        env=lambda: InvalidActionEnvDiscrete(dim=5, n_invalid_actions=2),
        kwargs={**ROLLOUT, "n_epochs": 2},
    ),
    "ppo_lstm": Case(
        RecurrentPPO,
        policies.NormRecurrentActorCriticPolicy,
        policy_kwargs={**SMALL, "lstm_hidden_size": 4},
        kwargs={**ROLLOUT, "n_epochs": 2},
    ),
    "sac": Case(SAC, policies.NormSACPolicy, "Pendulum-v1", kwargs=CONTINUOUS),
    "td3": Case(TD3, policies.NormTD3Policy, "Pendulum-v1", kwargs=CONTINUOUS),
    "ddpg": Case(DDPG, policies.NormTD3Policy, "Pendulum-v1", kwargs=CONTINUOUS),
    "tqc": Case(TQC, policies.NormTQCPolicy, "Pendulum-v1", kwargs=CONTINUOUS),
    "crossq": Case(CrossQ, policies.NormCrossQPolicy, "Pendulum-v1", kwargs=CONTINUOUS),
    "ars": Case(ARS, policies.NormARSPolicy, kwargs={"n_delta": 1}),
}
SPECS = [
    *(name for name in REGISTRY if name != "yoked"),  # which needs a recording, see below
    "ln+rn",
    "wn+rn",
    "rn(half_life=5)",
]


PAIRS = [
    pair
    for pair in itertools.product(ALGORITHMS, SPECS)
    if pair != ("ars", "nap")  # no gradient steps, after which weights are scaled back
]


def build(algo: str, norm: str) -> Any:
    """An untrained agent."""
    case = ALGORITHMS[algo]
    env = case.env() if callable(case.env) else case.env
    kwargs = {**case.policy_kwargs, "norm": norm}
    return case.cls(case.policy, env, policy_kwargs=kwargs, seed=1, device="cpu", **case.kwargs)


def online_norms(policy: Any) -> dict[str, PhaseNorm]:
    """Normalizers with state, without those of target networks."""
    return {name: m for name, m in phase_norms(policy).items() if "_target." not in name}


def obeys(norm: str) -> bool:
    """True if every term obeys the phase rule."""
    return not norm.endswith("-paper")


def observations(model: Any, count: int = 16) -> np.ndarray:
    """Inputs like the environment's."""
    model.observation_space.seed(0)
    return np.clip(np.array([model.observation_space.sample() for _ in range(count)]), -2, 2)


def outputs(policy: Any, x: np.ndarray) -> np.ndarray:
    """Deterministic outputs of the policy."""
    return np.asarray(policy.predict(x, deterministic=True)[0])


KINDS = {"ln", "rn", "brn", "spectral"}
"""Normalizers without state, with state, with state that moves in a forward, and on weights."""


def is_quick(algo: str, norm: str) -> bool:
    return algo == "ppo" or norm in KINDS


@pytest.mark.parametrize(("algo", "norm"), slow_unless(is_quick, PAIRS))
def test_training(algo: str, norm: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """State changes only at commits, targets agree, losses are finite, and the agent can be saved."""
    model = build(algo, norm)
    seen = {id(m): m.running_state.clone() for m in online_norms(model.policy).values()}
    commits = dict.fromkeys(seen, 0)
    plain_commit = PhaseNorm.commit

    def commit(self: PhaseNorm) -> None:
        if id(self) in seen and obeys(norm):
            assert torch.equal(self.running_state, seen[id(self)]), "moved inside a phase"
        plain_commit(self)
        if id(self) in seen:
            seen[id(self)] = self.running_state.clone()
            commits[id(self)] += 1

    monkeypatch.setattr(PhaseNorm, "commit", commit)
    logged: dict[str, float] = {}
    plain_record = Logger.record

    def record(self: Logger, key: str, value: Any, exclude: Any = None) -> None:
        logged[key] = value
        plain_record(self, key, value, exclude)

    monkeypatch.setattr(Logger, "record", record)
    masking = {"use_masking": True} if algo == "ppo_mask" else {}
    model.learn(ALGORITHMS[algo].steps, **masking)

    trained = {k: float(v) for k, v in logged.items() if k.startswith("train/")}
    assert trained
    # with two rewards alike CartPole gives ARS no spread, which it divides by its own 1e-6
    assert all(np.isfinite(v) for k, v in trained.items()), trained
    assert all(torch.isfinite(p).all() for p in model.policy.state_dict().values())

    if algo != "ars":
        assert all(count >= 2 for count in commits.values())
        check_targets(model, norm)
        check_optimizers(model)
    x = observations(model)
    check_purity(model, x)
    check_copies(model, x, tmp_path)


def check_targets(model: Any, norm: str) -> None:
    """Targets have the online state: right after a target update, and with ours, after a commit."""
    policy = model.policy
    if not obeys(norm):
        return
    names = [
        n for n in ("q_net", "quantile_net", "actor", "critic") if hasattr(policy, f"{n}_target")
    ]
    for when in ("after the last update", "after the commit"):
        for name in names:
            if when == "after the commit" and name in ("q_net", "quantile_net"):
                continue  # whose weights wait for the target update too
            online = phase_norms(getattr(policy, name))
            target = phase_norms(getattr(policy, f"{name}_target"))
            assert online.keys() == target.keys()
            for key in online:
                assert torch.equal(online[key].running_state, target[key].running_state), (
                    when,
                    key,
                )
                assert not target[key].training
        policy.set_training_mode(False)


def check_optimizers(model: Any) -> None:
    """They hold every learnable parameter of the online networks, and nothing else."""
    policy = model.policy
    holders = [policy] if hasattr(policy, "optimizer") else [policy.actor, policy.critic]
    held = [id(p) for h in holders for group in h.optimizer.param_groups for p in group["params"]]
    learnable = {id(p) for name, p in policy.named_parameters() if "_target." not in name}
    assert len(held) == len(set(held)) and set(held) == learnable


def check_purity(model: Any, x: np.ndarray) -> None:
    """After a commit, acting changes no state, and outputs do not depend on the rest of the batch."""
    outputs(model.policy, x)
    before = {k: v.clone() for k, v in model.policy.state_dict().items()}
    together = outputs(model.policy, x)
    alone = np.concatenate([outputs(model.policy, x[i : i + 1]) for i in range(len(x))])
    for key, value in model.policy.state_dict().items():
        assert torch.equal(value, before[key]), key
    if all(getattr(m, "commit_on", "phase") == "phase" for m in phase_norms(model.policy).values()):
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def check_copies(model: Any, x: np.ndarray, folder: Any) -> None:
    """Saving and loading, deep copies and casts give the same agent."""
    expected = outputs(model.policy, x)
    model.save(folder / "agent.zip")
    loaded = type(model).load(folder / "agent.zip", device="cpu")
    stored = loaded.policy.state_dict()
    assert stored.keys() == model.policy.state_dict().keys()
    for key, value in model.policy.state_dict().items():
        assert torch.equal(stored[key], value), key
    np.testing.assert_array_equal(outputs(loaded.policy, x), expected)
    duplicate = copy.deepcopy(model.policy)
    np.testing.assert_array_equal(outputs(duplicate, x), expected)
    np.testing.assert_array_equal(outputs(duplicate.to("cpu"), x), expected)
    kept = {k: v.dtype for k, v in duplicate.state_dict().items() if "running_state" in k}
    duplicate.half()
    assert {k: duplicate.state_dict()[k].dtype for k in kept} == kept
    duplicate.to("meta")
    assert all(t.device.type == "meta" for t in duplicate.state_dict().values())
