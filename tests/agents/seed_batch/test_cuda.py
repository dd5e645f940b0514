"""Seed batches on a GPU equal those on the CPU, which the other tests compare with SB3."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import minigrid  # noqa: F401  (registers its environments)
import numpy as np
import pytest
import torch
from minigrid.wrappers import ImgObsWrapper
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage
from torch import Tensor, nn

from rn_rl.agents import SeedBatchDQN, SeedBatchPPO, SeedBatchRecurrentPPO
from rn_rl.agents.seed_batch.vector_envs import VecSeedEnvs
from rn_rl.engine.cuda_graph import CudaGraphed
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.normalization import REGISTRY
from rn_rl.policies import (
    NormActorCriticPolicy,
    NormDQNPolicy,
    NormRecurrentActorCriticPolicy,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SPECS = [*REGISTRY, "ln+rn", "rn(half_life=5)"]
SEEDS = (3, 5, 8)
ALGOS = {
    "dqn": (DQN, NormDQNPolicy, SeedBatchDQN),
    "ppo": (PPO, NormActorCriticPolicy, SeedBatchPPO),
    "ppo_lstm": (RecurrentPPO, NormRecurrentActorCriticPolicy, SeedBatchRecurrentPPO),
}
# advantages are normalized in float32, whose rounding differs between CPU and GPU
ON_POLICY = {"batch_size": 16, "n_steps": 32, "n_epochs": 2, "normalize_advantage": False}
OPTIONS = {
    "dqn": {"batch_size": 16, "buffer_size": 300, "learning_starts": 20, "tau": 0.3},
    "ppo": ON_POLICY,
    "ppo_lstm": ON_POLICY,
}


def make_env(env_id: str) -> Any:
    if "MiniGrid" not in env_id:
        return DummyVecEnv([lambda: gym.make(env_id)])
    return VecTransposeImage(DummyVecEnv([lambda: ImgObsWrapper(gym.make(env_id))]))


def batch_of(
    algo: str,
    spec: str,
    device: str,
    env_id: str = "CartPole-v1",
    double: bool = True,
    **kwargs: Any,
) -> Any:
    agent, policy, batch = ALGOS[algo]
    features = {"features": "minigrid"} if "MiniGrid" in env_id else {}
    kwargs = {**OPTIONS[algo], "learning_rate": 1e-2, "max_grad_norm": 0.05, **kwargs}
    # with the default eps, Adam amplifies the rounding errors of gradients that are 0
    optimizer = {"optimizer_kwargs": {"eps": 1e-3}}
    memory = {"lstm_hidden_size": 8} if algo == "ppo_lstm" else {}
    policy_kwargs = {"norm": spec, "net_arch": [8, 8], **memory, **features, **optimizer}
    models, envs = [], []
    for seed in SEEDS:
        envs.append(make_env(env_id))
        envs[-1].seed(seed)
        models.append(
            agent(policy, envs[-1], seed=seed, device=device, policy_kwargs=policy_kwargs, **kwargs)
        )
        targets = [models[-1].q_net_target] if algo == "dqn" else []
        for network in (models[-1].q_net, *targets) if targets else (models[-1].policy,):
            for name, parameter in network.named_parameters():
                # so that no empty patch is at ReLU's kink, where gradients differ
                if name.endswith("bias"):
                    parameter.data += 0.1
            if double:
                network.double()
                network.features_extractor.register_forward_pre_hook(
                    lambda _, given: (given[0].double(),)
                )
    return batch(models, VecSeedEnvs(envs))


@pytest.mark.parametrize(
    ("algo", "spec"),
    [
        *((algo, spec) for algo in ("dqn", "ppo") for spec in SPECS),
        *(("ppo_lstm", spec) for spec in ("none", "ln+rn", "rln", "rsn", "rn-paper", "brn")),
    ],
    indirect=["spec"],
)
def test_training_on_a_gpu_equals_training_on_the_cpu(algo: str, spec: str):
    """About 90 updates and as many commits, all but the first replayed from a CUDA graph."""
    there, here = (batch_of(algo, spec, device) for device in ("cuda", "cpu"))
    for batch in (there, here):
        batch.learn(400)
    assert np.array_equal(there.last_observations, here.last_observations)
    for name, mine, theirs in zip(
        here.stack.names, there.stack.tensors, here.stack.tensors, strict=True
    ):
        torch.testing.assert_close(
            mine.cpu(), theirs, rtol=1e-6, atol=1e-8, msg=lambda why, name=name: f"{name}: {why}"
        )


@pytest.mark.parametrize("algo", ALGOS)
def test_training_on_images_on_a_gpu_equals_training_on_the_cpu(algo: str):
    """On a GPU convolutions are matrix products, and nothing is deduplicated."""
    env_id = "MiniGrid-RedBlueDoors-6x6-v0"
    there, here = (
        batch_of(algo, "ln+rn", device, env_id, learning_rate=1e-3) for device in ("cuda", "cpu")
    )
    for batch in (there, here):
        batch.learn(200)
    for mine, theirs in zip(there.stack.tensors, here.stack.tensors, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("algo", ALGOS)
def test_a_batch_on_a_gpu_is_restored_and_its_agents_load_on_a_cpu(algo: str, tmp_path):
    whole, again = (batch_of(algo, "rn", "cuda", double=False) for _ in range(2))
    stored: list[Any] = []

    def keep() -> None:
        if whole.num_timesteps == 128:
            stored.extend(whole.state(seed) for seed in range(len(SEEDS)))
            again.envs = copy.deepcopy(whole.envs)

    whole.learn(256, on_rollout_start=keep)
    again.restore(stored)
    again.learn(256)
    for mine, theirs in zip(again.stack.tensors, whole.stack.tensors, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    whole.write_back(1).save(tmp_path / "seed.zip")
    loaded = ALGOS[algo][0].load(tmp_path / "seed.zip", device="cpu")
    seen = whole.last_observations
    expected = whole.predict(seen)[1]
    assert np.array_equal(loaded.predict(seen[1], deterministic=True)[0], expected)
    loaded.set_env(make_env("CartPole-v1"))
    loaded.learn(64)


def test_tensors_at_other_addresses_bypass_the_cuda_graph():
    table = torch.arange(4.0, device="cuda")

    def run(state: Tensor, x: Tensor) -> Tensor:
        state.add_(x)
        return state * 2

    captured = CudaGraphed(run, 1)
    for i in range(1, 4):
        assert torch.equal(captured(table, table.new_ones(4)), 2 * (torch.arange(4.0).cuda() + i))
    other = torch.zeros(4, device="cuda")
    assert torch.equal(captured(other, table.new_ones(4)), torch.full((4,), 2.0).cuda())
    assert torch.equal(captured(table, table.new_ones(4)), 2 * (torch.arange(4.0).cuda() + 4))


@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), ((3, 2), (2, 1))])
def test_gradients_of_convolutions_on_a_gpu(kernel: Any, stride: Any):
    alone = [nn.Conv2d(3, 5, kernel, stride).cuda().double() for _ in SEEDS]
    stack = ModuleStack(alone)
    x = torch.randn(len(SEEDS), 6, 3, 7, 8, device="cuda", dtype=torch.float64)
    leaves = [t.detach().requires_grad_() for t in stack.tensors]
    y = stack.vmap_modules(lambda module, x: module(x), leaves, x, training=True)
    parts = torch.autograd.grad(y.square().sum(), leaves)
    for seed, module in enumerate(alone):
        expected = module(x[seed])
        torch.testing.assert_close(y[seed], expected, rtol=0, atol=1e-10)
        wanted = torch.autograd.grad(expected.square().sum(), list(module.parameters()))
        for mine, theirs in zip(parts, wanted, strict=True):
            torch.testing.assert_close(mine[seed], theirs, rtol=0, atol=1e-9)
