"""SAC, TD3, DDPG, TQC, CrossQ: Q is nonlinear in the action; data that actor and critic observe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import DDPG, SAC, TD3
from torch import nn

from rn_rl.errors import UserError
from rn_rl.normalization import phase_norms
from rn_rl.normalization.functional import ELEMENTS, SUM, SUM_SQUARES
from rn_rl.policies import (
    NormCrossQPolicy,
    NormSACPolicy,
    NormTD3Policy,
    NormTQCPolicy,
    policy_kwargs,
)

ALGORITHMS = {
    "sac": (SAC, NormSACPolicy),
    "td3": (TD3, NormTD3Policy),
    "ddpg": (DDPG, NormTD3Policy),
    "tqc": (TQC, NormTQCPolicy),
    "crossq": (CrossQ, NormCrossQPolicy),
}
BATCH = 32


def agent(algo: str, norm: str, env: Any = "Pendulum-v1", **kwargs: Any) -> Any:
    """An agent with a filled replay memory, before its first update."""
    cls, policy = ALGORITHMS[algo]
    kwargs = {"norm": norm, "net_arch": [16, 16], **kwargs}
    if algo == "crossq":
        kwargs["batch_norm"] = False
    model = cls(policy, env, policy_kwargs=kwargs, seed=0, batch_size=BATCH, learning_starts=60)
    return model.learn(60)


def mixed_derivative(critic: Any) -> float:
    """Largest absolute second derivative of Q by state and action."""
    torch.manual_seed(0)
    worst = 0.0
    for _ in range(8):
        state, action = torch.randn(3), torch.randn(1)

        def q(s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
            out = critic(s[None], a[None])
            return (out[0] if isinstance(out, tuple) else out).sum()

        _, rows = torch.autograd.functional.hessian(q, (state, action))
        worst = max(worst, float(rows[0].abs().max()))
    return worst


@pytest.mark.parametrize("norm", ["none", "ln", "rn", "rsn", "ln+rn", "brn", "uan"])
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_q_is_a_nonlinear_function_of_state_and_action_together(algo: str, norm: str) -> None:
    model = agent(algo, norm, activation_fn="tanh")
    assert mixed_derivative(model.critic.eval()) > 1e-4


def test_through_policy_kwargs_it_would_be_linear_in_the_action() -> None:
    """This is why ``policy_kwargs`` refuses: here its refusal is taken out."""
    kwargs = policy_kwargs("ln", net_arch=[16, 16], activation_fn="tanh") | {"net_arch": []}
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, seed=0)
    assert mixed_derivative(model.critic.eval()) == 0


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_actor_and_critic_observe_what_each_learns_from_and_nothing_else(algo: str) -> None:
    model = agent(algo, "rn")
    model.policy.set_training_mode(False)
    weights = {
        name: (layer.weight.detach().double(), layer.bias.detach().double())
        for name, layer in (("actor", first(model.actor)), ("critic", model.critic.qf0[0]))
    }
    drawn = []
    sample = model.replay_buffer.sample

    def remember(*args: Any, **kwargs: Any) -> Any:
        drawn.append(sample(*args, **kwargs))
        return drawn[-1]

    model.replay_buffer.sample = remember
    next_actions = []
    if algo == "crossq":  # learns from the next pairs too, in one batch with the present ones
        ask = model.actor.action_log_prob

        def asked(obs: Any) -> Any:
            actions, log_prob = ask(obs)
            if not torch.is_grad_enabled():
                next_actions.append(actions)
            return actions, log_prob

        model.actor.action_log_prob = asked
    model._n_updates = 2  # so that TD3 and CrossQ update their actors in the next step but one
    model.policy_delay = 1
    model.train(gradient_steps=1, batch_size=BATCH)

    (batch,) = drawn
    pairs = torch.cat([batch.observations, batch.actions], 1)
    if algo == "crossq":
        after = torch.cat([batch.next_observations, next_actions[0]], 1)
        pairs = torch.cat([pairs, after])
    for name, inputs in (("actor", batch.observations), ("critic", pairs)):
        norm = next(iter(phase_norms(getattr(model, name)).values()))
        weight, bias = weights[name]
        expected = inputs.double() @ weight.T + bias
        pending = norm.pending_sums[:, 0]
        assert pending[ELEMENTS] == expected.numel(), name
        assert pending[SUM].item() == pytest.approx(expected.sum().item(), rel=1e-4, abs=1e-3)
        assert pending[SUM_SQUARES].item() == pytest.approx(
            expected.square().sum().item(), rel=1e-4
        )


def first(actor: Any) -> nn.Linear:
    """First hidden layer of a network."""
    return next(m for m in actor.modules() if isinstance(m, nn.Linear))


@pytest.mark.parametrize("algo", ["sac", "td3", "ddpg", "tqc"])
def test_targets_have_the_online_state_right_after_a_commit(algo: str) -> None:
    model = agent(algo, "rln")
    for _ in range(3):
        model.train(gradient_steps=2, batch_size=BATCH)
        model.policy.set_training_mode(False)
        for name in ("critic", "actor"):
            target = getattr(model.policy, f"{name}_target", None)
            if target is None:
                continue
            online = phase_norms(getattr(model.policy, name))
            for key, norm in phase_norms(target).items():
                assert torch.equal(norm.running_state, online[key].running_state)
                assert not norm.pending_sums.any()
                assert norm.gain.mean() > 0


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_hidden_layer_is_normalized_and_no_output(algo: str) -> None:
    model = agent(algo, "ln+rn", net_arch={"pi": [16, 8], "qf": [32, 32, 8]})
    sizes = [m.num_features for m in phase_norms(model.actor).values()]
    assert sizes == [16, 8]
    assert [m.num_features for m in phase_norms(model.critic).values()][:3] == [32, 32, 8]
    assert [type(m) for m in model.critic.qf0][-1] is nn.Linear
    assert type(model.critic.qf0[-2]) is nn.ReLU


ACTIONS = spaces.Box(-1, 1, (2,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
VECTOR = spaces.Box(-1, 1, (3,), np.float32)


@pytest.mark.parametrize(
    "space", [IMAGE, spaces.Dict({"image": IMAGE, "vector": VECTOR}), spaces.MultiDiscrete([3, 4])]
)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_image_dict_and_multi_discrete_observations(
    algo: str, space: spaces.Space, noise: Any
) -> None:
    cls, policy = ALGORITHMS[algo]
    if algo == "crossq" and isinstance(space, spaces.Dict):
        with pytest.raises(UserError, match="cannot join dicts; use SAC"):
            cls(policy, noise(space, ACTIONS), buffer_size=50)
        return
    trunk = {"trunk_norm": "rn"} if space is IMAGE else {}
    model = cls(
        policy,
        noise(space, ACTIONS),
        policy_kwargs={"norm": "ln+rn", "net_arch": [8], **trunk},
        seed=0,
        batch_size=4,
        learning_starts=10,
        buffer_size=50,
    ).learn(30)
    model.predict(space.sample())
    gains = [float(m.gain.mean()) for m in phase_norms(model.actor).values()]
    assert len(gains) == (4 if trunk else 1)
    assert all(abs(gain - 1) > 0.05 for gain in gains)
