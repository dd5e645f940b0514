"""TRPO, MaskablePPO, RecurrentPPO and PPO: which samples are observed; first ratios are 1."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import A2C, PPO
from torch import nn

from rn_rl.errors import UserError
from rn_rl.normalization import observation_weights, phase_norms
from rn_rl.normalization.functional import ELEMENTS
from rn_rl.policies import (
    NormActorCriticPolicy,
    NormMaskableActorCriticPolicy,
    NormRecurrentActorCriticPolicy,
    policy_kwargs,
)
from rn_rl.policies.on_policy import real_rows
from tests.factories import slow_unless

ROLLOUT = {"n_steps": 64, "batch_size": 32, "seed": 0}


def pending(module: nn.Module) -> list[int]:
    """Elements that each normalizer has observed since its last commit."""
    return [int(norm.pending_sums[ELEMENTS, 0]) for norm in phase_norms(module).values()]


def recurrent(
    norm: str, env: Any = "CartPole-v1", lstm_norm: str = "none", **kwargs: Any
) -> RecurrentPPO:
    sizes = {"net_arch": [8], "lstm_hidden_size": 6}
    return RecurrentPPO(
        NormRecurrentActorCriticPolicy,
        env,
        policy_kwargs={"norm": norm, "lstm_norm": lstm_norm, **sizes},
        **{**ROLLOUT, **kwargs},
    )


def test_trpo_observes_each_sample_once_and_no_point_of_its_line_search() -> None:
    kwargs = {"norm": "rn", "net_arch": {"pi": [8], "vf": [4]}}
    model = TRPO(NormActorCriticPolicy, "CartPole-v1", policy_kwargs=kwargs, **ROLLOUT)
    tried = []
    plain = model.policy.get_distribution

    def count(obs: Any) -> Any:
        tried.append(torch.is_grad_enabled())
        return plain(obs)

    model.policy.get_distribution = count
    model.learn(64)
    assert len(tried) >= 3 and sum(tried) == 1  # the old policy and the line search ask without
    assert pending(model.policy.mlp_extractor.policy_net) == [64 * 8]
    assert pending(model.policy.mlp_extractor.value_net) == [64 * 4 * model.n_critic_updates]


def test_trpo_with_policy_kwargs_observes_no_point_of_its_line_search_either() -> None:
    kwargs = policy_kwargs("rn", net_arch=[8], share_trunk=False)
    model = TRPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, **ROLLOUT).learn(64)
    assert pending(model.policy.pi_features_extractor) == [64 * 8]
    assert pending(model.policy.vf_features_extractor) == [64 * 8 * model.n_critic_updates]


def test_padding_of_recurrent_sequences_is_not_observed() -> None:
    model = recurrent("rn", n_epochs=2)
    real, rows = 0, 0
    plain = model.rollout_buffer._get_samples

    def watch(*args: Any) -> Any:
        nonlocal real, rows
        batch = plain(*args)
        n_seq = batch.lstm_states.pi[0].shape[1]
        found = real_rows(batch.observations, batch.actions, batch.episode_starts, n_seq)
        assert torch.equal(found, batch.mask.double())
        real, rows = real + int(batch.mask.sum()), rows + len(batch.mask)
        return batch

    model.rollout_buffer._get_samples = watch
    model.learn(64)
    assert real == 2 * 64 < rows  # there was padding to leave out
    assert pending(model.policy.mlp_extractor.policy_net) == [real * 6, real * 8]
    assert pending(model.policy.mlp_extractor.value_net) == [real * 6, real * 8]


def test_padding_is_not_observed_inside_the_lstm_either() -> None:
    model = recurrent("none", n_epochs=2, lstm_norm="rn").learn(64)
    for lstm in (model.policy.lstm_actor, model.policy.lstm_critic):
        assert pending(lstm) == [2 * 64 * 6]


@pytest.mark.parametrize("lstm_norm", ["none", "rn"])
def test_weights_from_outside_multiply_those_of_padding(lstm_norm: str) -> None:
    policy = recurrent("rn", lstm_norm=lstm_norm).policy
    policy.set_training_mode(True)
    obs, starts, state = torch.ones(6, 4), torch.zeros(6), torch.zeros(1, 2, 6)
    obs[5] = 0  # padding of the second sequence of three
    given = torch.tensor([0.5, 0, 0, 2, 0, 8])
    with observation_weights(policy, lambda: given):
        states = RNNStates((state, state), (state, state))
        policy.evaluate_actions(obs, torch.zeros(6), states, starts)
    norms = phase_norms(policy).values()
    assert {norm.pending_sums[ELEMENTS, 0].item() for norm in norms} == {2.5 * 6, 2.5 * 8}
    assert all(norm.observation_weight is None for norm in norms)
    wrong = "observation weights of shape (4,): expected (6,)"
    with observation_weights(policy, torch.ones(4)), pytest.raises(UserError) as error:
        policy.evaluate_actions(obs, torch.zeros(6), states, starts)
    assert wrong in str(error.value)


def test_rows_of_zeros_inside_a_sequence_are_real() -> None:
    obs = torch.tensor([0.0, 0, 3, 0, 0, 0, 0, 0])[:, None]
    actions = torch.tensor([0, 0, 0, 1, 0, 0, 0, 0])
    expected = [1.0, 1, 1, 1, 1, 0, 0, 0]
    assert real_rows({"a": obs}, actions, torch.zeros(8), 2).tolist() == expected


class Ratios:
    """The largest distance of a ratio from 1, over all minibatches, padding left out."""

    def __init__(self, model: Any) -> None:
        self.worst, self.count = 0.0, 0
        self.evaluate, self.get = model.policy.evaluate_actions, model.rollout_buffer.get
        model.policy.evaluate_actions, model.rollout_buffer.get = self.watch, self.batches

    def batches(self, size: int) -> Any:
        for batch in self.get(size):
            self.batch = batch
            yield batch

    def watch(self, *args: Any, **kwargs: Any) -> Any:
        values, log_prob, entropy = self.evaluate(*args, **kwargs)
        error = ((log_prob - self.batch.old_log_prob).exp() - 1).abs()
        mask = getattr(self.batch, "mask", torch.ones_like(error)) > 0
        self.worst = max(self.worst, error[mask].max().item())
        self.count += 1
        return values, log_prob, entropy


NORMS = ("rn", "rln", "rsn", "ln+rn", "bn", "brn", "uan", "hs", "spectral")


@pytest.mark.parametrize(
    ("algo", "norm"),
    slow_unless(
        lambda algo, norm: norm in ("rn", "brn", "spectral"),
        itertools.product(("ppo_mask", "ppo_lstm", "ppo"), NORMS),
    ),
)
def test_ratio_is_1_before_any_gradient_step(algo: str, norm: str) -> None:
    kwargs: dict[str, Any] = {**ROLLOUT, "learning_rate": 0.0, "n_epochs": 2}
    if algo == "ppo_lstm":
        inside = "rn" if norm == "rn" else "none"
        model: Any = recurrent(norm, lstm_norm=inside, learning_rate=0.0, n_epochs=2)
    elif algo == "ppo_mask":
        env = InvalidActionEnvDiscrete(dim=5, n_invalid_actions=2)
        model = MaskablePPO(
            NormMaskableActorCriticPolicy, env, policy_kwargs={"norm": norm}, **kwargs
        )
    else:
        model = PPO(NormActorCriticPolicy, "CartPole-v1", policy_kwargs={"norm": norm}, **kwargs)
    ratios = Ratios(model)
    before = [m.running_state.clone() for m in phase_norms(model.policy).values()]
    model.learn(64 * 4)
    after = [m.running_state for m in phase_norms(model.policy).values()]
    assert ratios.count >= 16
    assert ratios.worst < 1e-5
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved and (all(moved) or norm == "spectral")  # whose vector has converged at the start


IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
VECTOR = spaces.Box(-1, 1, (3,), np.float32)
SPACES = {
    "image": (IMAGE, spaces.Discrete(3)),
    "dict": (spaces.Dict({"image": IMAGE, "vector": VECTOR}), spaces.Box(-1, 1, (2,), np.float32)),
    "multidiscrete": (spaces.MultiDiscrete([3, 4]), spaces.MultiDiscrete([2, 3])),
    "multibinary": (spaces.MultiBinary(5), spaces.MultiBinary(2)),
    "discrete": (spaces.Discrete(6), spaces.Discrete(3)),
}
ON_POLICY = {
    "ppo": (PPO, NormActorCriticPolicy, {"n_steps": 32, "batch_size": 16, "n_epochs": 1}),
    "a2c": (A2C, NormActorCriticPolicy, {"n_steps": 16}),
    "trpo": (TRPO, NormActorCriticPolicy, {"n_steps": 32, "batch_size": 16}),
    "ppo_lstm": (
        RecurrentPPO,
        NormRecurrentActorCriticPolicy,
        {"n_steps": 32, "batch_size": 16, "n_epochs": 1},
    ),
}


PAIRS = [(algo, kind) for algo in ON_POLICY for kind in SPACES]
PAIRS.remove(("ppo_lstm", "multibinary"))  # sb3-contrib's own policy fails there: int8 actions


@pytest.mark.parametrize(("algo", "kind"), PAIRS)
def test_every_kind_of_observation_and_action(algo: str, kind: str, noise: Any) -> None:
    cls, policy, kwargs = ON_POLICY[algo]
    options: dict[str, Any] = {"norm": "ln+rn", "net_arch": [8]}
    if kind == "image":
        options["trunk_norm"] = "rn"
    if algo == "ppo_lstm":
        options["lstm_hidden_size"] = 4
    model = cls(policy, noise(*SPACES[kind]), policy_kwargs=options, seed=0, **kwargs).learn(96)
    model.predict(SPACES[kind][0].sample())
    gains = [float(m.gain.mean()) for m in phase_norms(model.policy).values()]
    expected = (4 if algo == "ppo_lstm" else 2) + (3 if kind == "image" else 0)
    assert len(gains) == expected
    assert all(abs(gain - 1) > 0.01 for gain in gains)


@pytest.mark.parametrize("norm", ["none", "rn", "wn", "wn+ln"])
@pytest.mark.parametrize("how", ["policy_kwargs", "NormActorCriticPolicy"])
def test_orthogonal_initialization_reaches_reparametrized_layers(how: str, norm: str) -> None:
    if how == "policy_kwargs":
        kwargs = policy_kwargs(norm, net_arch=[16, 16])
        model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, seed=0)
        layer = model.policy.features_extractor.head[0]
    else:
        kwargs = {"norm": norm, "net_arch": [16, 16]}
        model = PPO(NormActorCriticPolicy, "CartPole-v1", policy_kwargs=kwargs, seed=0)
        layer = model.policy.mlp_extractor.policy_net[0]
    gram = layer.weight.T @ layer.weight
    torch.testing.assert_close(gram, 2 * torch.eye(4), rtol=0, atol=1e-5)  # of gain sqrt(2)
