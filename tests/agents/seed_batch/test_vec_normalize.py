"""VecNormalize in off-policy seed batches: memory and minibatches are those of SB3, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from rn_rl.agents import SeedBatchDQN, SeedBatchSAC, ValueTargets, VecSeedEnvs
from rn_rl.agents.seed_batch.rng import gaussian
from rn_rl.agents.value_targets import TARGET_ROWS
from rn_rl.normalization.popart import popart_layers
from rn_rl.policies import NormDQNPolicy, NormSACPolicy

SEEDS = (3, 5)
STEPS = 230


def normalized(env: str, seed: int, **kwargs: Any) -> VecNormalize:
    return VecNormalize(make_vec_env(env, seed=seed), **kwargs)


def build(kind: str, **kwargs: Any) -> tuple[list[Any], Any]:
    """Return agents of two seeds, and a batch of the same agents."""
    cls, policy, env, batch = {
        "dqn": (DQN, NormDQNPolicy, "CartPole-v1", SeedBatchDQN),
        "sac": (SAC, NormSACPolicy, "Pendulum-v1", SeedBatchSAC),
    }[kind]
    options = {
        "learning_starts": 10_000,
        "buffer_size": 1000,
        "batch_size": 8,
        "train_freq": 1,
        "policy_kwargs": {"norm": "ln", "net_arch": [8, 8], "value_norm": "popart"},
    }
    single, mine = (
        [cls(policy, normalized(env, s, **kwargs), seed=s, device="cpu", **options) for s in SEEDS]
        for _ in range(2)
    )
    return single, batch(mine, VecSeedEnvs([normalized(env, s, **kwargs) for s in SEEDS]))


@pytest.mark.parametrize("kind", ["dqn", "sac"])
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"norm_reward": False}, {"norm_obs": False}, {"clip_obs": 0.5, "clip_reward": 0.1}],
)
def test_what_is_learned_from_is_that_of_sb3(
    kind: str, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    single, batch = build(kind, **kwargs)
    rng = np.random.default_rng(0)
    if kind == "dqn":
        actions = rng.integers(0, 2, (STEPS, len(SEEDS), 1))
    else:
        actions = rng.uniform(-1, 1, (STEPS, len(SEEDS), 1, 1)).astype(np.float32)
    for i, model in enumerate(single):
        turn = iter(actions[:, i])

        def chosen(*args: Any, turn: Any = turn, model: Any = model) -> Any:
            action = next(turn)
            return action if kind == "dqn" else model.policy.unscale_action(action), action

        model._sample_action = chosen
        model.learn(STEPS)
    turn = iter(actions)
    batch.act = lambda observations: next(turn)
    batch.learn(STEPS)
    drawn = rng.uniform(size=(len(SEEDS), 8))
    minibatch = batch.normalize.scaled_minibatch(batch.memory.sample(drawn))
    for i, model in enumerate(single):
        theirs, memory = model.replay_buffer, batch.memory
        assert memory.position == theirs.pos == STEPS
        if kind == "dqn":
            assert theirs.dones[:STEPS].sum() > 3
        for name in ("observations", "next_observations", "rewards", "dones"):
            stored = getattr(theirs, name)[:STEPS].reshape(STEPS, -1)
            timeouts = theirs.timeouts[:STEPS] if name == "dones" else 0
            assert np.array_equal(memory.tensors[name][i, :STEPS].numpy(), stored - timeouts), name
        positions = (drawn[i] * STEPS).astype(int)
        one = theirs._get_samples(positions, env=model.get_vec_normalize_env())
        for name in ("observations", "next_observations", "rewards", "dones"):
            mine = getattr(minibatch, name)[i]
            assert mine.dtype == torch.float32
            assert torch.equal(mine, getattr(one, name)), name
        assert np.array_equal(batch.last_observations[i], model._last_obs)
    targets_are_those_of_single_agents(batch, single, monkeypatch)


def targets_are_those_of_single_agents(batch: Any, single: list[Any], monkeypatch: Any) -> None:
    """The targets of values, which PopArt's statistics are of, come from the same replayed rows."""
    if isinstance(batch, SeedBatchSAC):  # actions are sampled
        drawn = torch.zeros(0)
        numbers = np.random.default_rng(1).uniform(size=(len(SEEDS), TARGET_ROWS, 1))
        batch.target_noise.draw = lambda: numbers
        monkeypatch.setattr(
            torch.distributions.Normal,
            "rsample",
            lambda self, shape=(): self.loc + self.scale * drawn[:STEPS],
        )
    batch.observe_targets()
    layer = next(layer for part in batch.parts.values() for layer in part.stack.value_layers)
    assert layer.pending_sums[0, :, 0].tolist() == [STEPS, STEPS]
    for i, model in enumerate(single):
        callback = ValueTargets()
        callback.init_callback(model)
        model.learning_starts = 0
        if isinstance(batch, SeedBatchSAC):
            drawn = torch.from_numpy(gaussian(numbers[i])).float()
        callback.on_rollout_end()
        own = next(layer for layer in popart_layers(model.policy) if not layer.frozen)
        mine = layer.pending_sums[:, i]
        torch.testing.assert_close(mine, own.pending_sums, rtol=1e-5, atol=1e-6)
