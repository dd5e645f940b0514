"""Seed batch of RecurrentPPO: equal to sb3-contrib, although it cuts sequences differently."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import minigrid  # noqa: F401  (registers its environments)
import numpy as np
import pytest
import torch
from minigrid.wrappers import ImgObsWrapper
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage
from torch import Tensor, nn

from rn_rl.agents import SeedBatchRecurrentPPO
from rn_rl.agents.seed_batch.recurrent_policy import sequence_positions
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.vector_envs import VecSeedEnvs
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.engine.ops.lstm import lstm_sequences
from rn_rl.engine.trace import TracedFunction
from rn_rl.policies import NormRecurrentActorCriticPolicy
from tests.factories import slow_unless

SEEDS = (3, 5, 8)
SPECS = [
    "none",
    "ln",
    "rn",
    "rln",
    "rsn",
    "rn-paper",
    "rln-paper",
    "bn",
    "brn",
    "wn",
    "yoked",
    "uan",
    "hs",
]
"""One normalizer of each kind; :mod:`test_seed_batch` tests all."""
LSTMS = {
    "own": {},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "actor's alone": {"enable_critic_lstm": False},
    "normalized": {"lstm_norm": "ln+rn(half_life=5)"},
    "normalized, shared": {
        "lstm_norm": "rln",
        "shared_lstm": True,
        "enable_critic_lstm": False,
    },
}
IMAGES = "MiniGrid-RedBlueDoors-6x6-v0"


def make_env(env_id: str) -> Any:
    if env_id != IMAGES:
        return DummyVecEnv([lambda: gym.make(env_id)] * 2)
    return VecTransposeImage(DummyVecEnv([lambda: ImgObsWrapper(gym.make(env_id))] * 2))


def agent(
    spec: str,
    seed: int,
    env_id: str = "CartPole-v1",
    lstm: str = "own",
    trunk: str = "none",
    **kwargs: Any,
) -> Any:
    features = {"features": "minigrid", "trunk_norm": trunk} if env_id == IMAGES else {}
    policy_kwargs = {
        "norm": spec,
        "net_arch": [8],
        "lstm_hidden_size": 6,
        **features,
        **LSTMS[lstm],
    }
    options = {"n_steps": 16, "batch_size": 12, "n_epochs": 2, "learning_rate": 1e-2, **kwargs}
    env = make_env(env_id)
    env.seed(seed)
    return RecurrentPPO(
        NormRecurrentActorCriticPolicy,
        env,
        seed=seed,
        device="cpu",
        max_grad_norm=0.05,
        ent_coef=0.01,
        policy_kwargs=policy_kwargs,
        **options,
    )


def to_double(model: Any) -> None:
    model.policy.double()
    model.policy.features_extractor.register_forward_pre_hook(lambda _, x: (x[0].double(),))


def batch_of(models: list[Any]) -> SeedBatchRecurrentPPO:
    return SeedBatchRecurrentPPO(models, VecSeedEnvs([model.get_env() for model in models]))


def fill(buffer: Any, batch: SeedBatchRecurrentPPO, seed: int) -> None:
    """Copy the rollout of one seed of a batch into sb3-contrib's buffer, in float64."""
    advantages, returns = batch.advantages()
    buffer.reset()
    size = batch.model.policy.lstm_actor.hidden_size
    states = batch.actor_critics.states[:, seed, None].astype(float)  # (time, 1, envs, size)
    parts = np.split(states, states.shape[-1] // size, 3)
    critic = parts[2:] or parts[:2]
    arrays = {
        "observations": batch.rollout.observations[:, seed],
        "actions": batch.rollout.actions[:, seed, :, None].astype(np.float32),
        "values": batch.rollout.values[:, seed].astype(float),
        "log_probs": batch.rollout.log_probs[:, seed].astype(float),
        "episode_starts": batch.rollout.starts[:, seed],
        "advantages": advantages[:, seed].astype(float),
        "returns": returns[:, seed].astype(float),
        **dict(zip(("hidden_states_pi", "cell_states_pi"), parts, strict=False)),
        **dict(zip(("hidden_states_vf", "cell_states_vf"), critic, strict=False)),
    }
    for name, array in arrays.items():
        assert getattr(buffer, name).shape == array.shape, name
        setattr(buffer, name, array)
    buffer.full = True


CASES = [
    *((spec, "CartPole-v1", "own", "none") for spec in SPECS),
    *(("ln+rn", env_id, lstm, "none") for env_id in ("CartPole-v1", IMAGES) for lstm in LSTMS),
    *(("ln", IMAGES, "own", trunk) for trunk in ("rn", "brn")),
]


def is_quick(spec: str, env_id: str, lstm: str, trunk: str) -> bool:
    quick = ("shared", "normalized")
    return trunk == "rn" if env_id == IMAGES else spec == "ln+rn" and lstm in quick


@pytest.mark.parametrize(
    ("spec", "env_id", "lstm", "trunk"), slow_unless(is_quick, CASES), indirect=["spec"]
)
def test_updates_are_those_of_sb3_contrib(
    spec: str, env_id: str, lstm: str, trunk: str, monkeypatch
):
    """Two rollouts of two environments, in minibatches that begin and end within sequences."""
    steps = {"n_steps": 48, "batch_size": 60} if env_id == IMAGES else {}
    theirs, mine = ([agent(spec, s, env_id, lstm, trunk, **steps) for s in SEEDS] for _ in range(2))
    for model in (*theirs, *mine):
        to_double(model)
        model._setup_learn(1000)
    batch = batch_of(mine)
    batch.total_timesteps = 1000
    batch.last_observations = batch.envs.reset()
    drawn = Streams(SEEDS, "sequences", (1,))  # the numbers that the batch will draw
    begun = 0
    for _ in range(2):
        batch.stack.set_training_mode(False)
        for t in range(batch.rollout_length):
            batch.step(t)
        begun += int(batch.rollout.starts[1:].sum())
        total = batch.rollout_length * 2
        splits = [(drawn.draw()[:, 0] * total).astype(int) for _ in range(2)]  # two epochs
        for i, model in enumerate(theirs):
            fill(model.rollout_buffer, batch, i)
            given = iter(splits)
            with monkeypatch.context() as patch:
                patch.setattr(np.random, "randint", lambda _, i=i, given=given: next(given)[i])
                model.policy.set_training_mode(False)
                model._current_progress_remaining = batch.progress_remaining
                model.train()
                model.policy.set_training_mode(False)
        batch.train()
        batch.stack.set_training_mode(False)
        for i, model in enumerate(theirs):
            expected = model.policy.state_dict()
            for name, value in batch.write_back(i).policy.state_dict().items():
                torch.testing.assert_close(
                    value, expected[name], rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
                )
    assert begun > 3 or env_id == IMAGES  # episodes that began inside a rollout


@pytest.mark.parametrize("lstm", LSTMS)
def test_a_batch_acts_as_sb3_contrib_does(lstm: str):
    """States, values, log probabilities and the value after a time limit, step by step."""
    theirs, mine = ([agent("ln+rn", s, lstm=lstm) for s in SEEDS] for _ in range(2))
    batch = batch_of(mine)
    batch.total_timesteps = 1000
    batch.last_observations = batch.envs.reset()
    for t in range(16):
        batch.step(t)
    for i, model in enumerate(theirs):
        fill(model.rollout_buffer, batch, i)
        [whole] = model.rollout_buffer.get(None)
        real = whole.mask > 0
        policy = model.policy.double()
        policy.features_extractor.register_forward_pre_hook(lambda _, x: (x[0].double(),))
        with torch.no_grad():
            values, log_prob, _ = policy.evaluate_actions(
                whole.observations,
                whole.actions.long().flatten(),
                whole.lstm_states,
                whole.episode_starts,
            )
        for found, kept in ((values[:, 0], whole.old_values), (log_prob, whole.old_log_prob)):
            torch.testing.assert_close(found[real], kept[real], rtol=0, atol=1e-5)
    last = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    future = batch.values(last)
    for i, model in enumerate(theirs):
        size = batch.actor_critics.state_size
        state = torch.from_numpy(batch.actor_critics.lstm_state[i]).double()
        parts = state.chunk(size // 6, 1)
        h, c = parts[2:4] if len(parts) > 2 else parts
        found = model.policy.predict_values(
            torch.from_numpy(last[i]), (h[None], c[None]), torch.zeros(2)
        )
        np.testing.assert_allclose(future[i], found[:, 0].detach(), rtol=0, atol=1e-5)


def test_lstm_sequences_equal_torchs_lstm_step_by_step():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstms = nn.ModuleList([nn.LSTM(5, 7), nn.LSTM(5, 7)])

    alone = [Both().double() for _ in SEEDS]
    stack = ModuleStack(alone)
    x, h, c = (torch.randn(3, *rest).double() for rest in ((4, 6, 5), (2, 4, 7), (2, 4, 7)))
    keep = (torch.rand(3, 4, 6) > 0.3).double()
    count = len(stack.tensors)

    def one(module: Any, x: Tensor, h: Tensor, c: Tensor, keep: Tensor) -> Any:
        inputs = [
            nn.functional.linear(x, lstm.weight_ih_l0, lstm.bias_ih_l0 + lstm.bias_hh_l0)
            for lstm in module.lstms
        ]
        return lstm_sequences(module.lstms, torch.stack(inputs), h, c, keep)

    def run(*tensors: Tensor) -> Any:
        leaves = [t.detach().requires_grad_() for t in tensors[:count]]
        states, last = stack.vmap_modules(one, leaves, *tensors[count:], training=True)
        return states.detach(), last.detach(), *torch.autograd.grad((states**2).sum(), leaves)

    for program in (run, TracedFunction(run, num_static=count)):
        states, last, *gradients = program(*stack.tensors, x, h, c, keep)
        for i, module in enumerate(alone):
            expected = []
            for j, lstm in enumerate(module.lstms):
                state, outputs = (h[i, j][None], c[i, j][None]), []
                for t in range(6):
                    k = keep[i][None, :, t, None]
                    output, state = lstm(x[i, :, t][None], (state[0] * k, state[1] * k))
                    outputs.append(output[0])
                expected.append(torch.stack(outputs, 1))
                torch.testing.assert_close(states[i, j], expected[j], rtol=0, atol=1e-12)
                torch.testing.assert_close(last[i, j], state[1][0], rtol=0, atol=1e-12)
            loss = torch.stack(expected).square().sum()
            theirs = torch.autograd.grad(loss, list(module.parameters()))
            for ours, their in zip(gradients, theirs, strict=True):
                torch.testing.assert_close(ours[i], their, rtol=0, atol=1e-12)


def test_minibatches_are_cut_where_an_environment_begins():
    sequence, step, row = sequence_positions(np.array([[6], [10]]), 8, 4, 12)
    assert row.tolist() == [[6, 7, 8, 9, 10, 11, 0, 1], [10, 11, 0, 1, 2, 3, 4, 5]]
    assert sequence.tolist() == [[0, 0, 1, 1, 1, 1, 2, 2], [0, 0, 1, 1, 1, 1, 2, 2]]
    assert step.tolist() == [[0, 1, 0, 1, 2, 3, 0, 1], [0, 1, 0, 1, 2, 3, 0, 1]]


@pytest.mark.slow
def test_the_cache_of_lstm_inputs_is_cleared_when_the_networks_change():
    models = [agent("ln+rn", seed, IMAGES, n_steps=32, batch_size=32) for seed in SEEDS]
    batch = batch_of(models)
    batch.learn(64)  # one rollout, after which the last observation is cached, and its updates
    begins = batch.last_observations
    policies = batch.actor_critics
    before = policies.cache(begins)
    batch.step(0)
    recalled, asked = policies.cache(begins), policies.cached_outputs(begins)
    for old, found, expected in zip(before, recalled, asked, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert np.abs(old - expected).max() > 1e-3


def test_training_restoring_and_playing_keep_the_lstm_state():
    models = [agent("rn", seed, env_id=IMAGES, n_steps=32, batch_size=40) for seed in SEEDS]
    batch = batch_of(models)
    batch.learn(128)
    assert np.isfinite(batch.gains()).all() and batch.commit_kl().shape == (3,)
    assert torch.isfinite(batch.stack.weights).all()
    stored = [batch.state(seed) for seed in range(3)]
    again = batch_of(
        [agent("rn", seed + 10, env_id=IMAGES, n_steps=32, batch_size=40) for seed in SEEDS]
    )
    again.restore(stored)
    mine, theirs = (b.actor_critics.lstm_state for b in (again, batch))
    assert np.array_equal(mine, theirs) and mine.any()
    observations = np.repeat(batch.last_observations[:, :1], 2, 1)
    act = again.player(None)
    seen = []
    model = batch.write_back(1)
    state, begins = None, np.ones(2, bool)
    for _ in range(5):
        mine = act(observations, np.broadcast_to(begins, (3, 2)))
        theirs, state = model.predict(observations[1], state, begins, deterministic=True)
        assert np.array_equal(mine[1], theirs)
        begins = np.array([False, True])  # resets the state of the second environment
        seen.append(mine)
    sampled = again.player(Streams(SEEDS, "evaluation", (2, 1)))(
        observations, np.ones((3, 2), bool)
    )
    assert sampled.shape == (3, 2)


@pytest.mark.parametrize(
    ("spec", "kwargs", "said"),
    [
        ("rn", {"layer": nn.BatchNorm1d(8)}, "its network has a BatchNorm1d"),
        ("rn", {"layer": nn.Dropout()}, "its network has a Dropout"),
        ("rn", {"target_kl": 0.1}, "target_kl"),
        ("rn", {"lstm_kwargs": {"dropout": 0.5}}, "lstm_kwargs"),
    ],
)
@pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning")
def test_unsupported_settings_are_named(spec: str, kwargs: dict[str, Any], said: str):
    model = agent(spec, 0)
    if "lstm_kwargs" in kwargs:
        model.policy.lstm_kwargs = kwargs["lstm_kwargs"]
    model.target_kl = kwargs.get("target_kl")
    model.policy.mlp_extractor.policy_net.append(kwargs.get("layer", nn.Identity()))
    assert said in (SeedBatchRecurrentPPO.cannot(model) or "")
