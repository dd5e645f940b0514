"""Convolutions of distinct patches compute the same as those of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import minigrid  # noqa: F401  (registers its environments)
import numpy as np
import pytest
import torch
from minigrid.wrappers import ImgObsWrapper
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage
from torch import Tensor, nn

from rn_rl.agents import SeedBatchPPO
from rn_rl.agents.seed_batch.actor_critic import ActorCritics
from rn_rl.agents.seed_batch.introspection import convolutions
from rn_rl.agents.seed_batch.vector_envs import VecSeedEnvs
from rn_rl.engine.dedup.patches import PatchDeduplicator, PatchMode
from rn_rl.engine.dedup.rows import row_ids
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.engine.trace import TracedFunction
from rn_rl.policies import NormActorCriticPolicy
from rn_rl.policies.extractors import NormExtractor
from tests.factories import slow_unless

CPU = torch.device("cpu")
SPACE = gym.spaces.Box(0, 255, (3, 7, 7), np.uint8)


def rooms(rng: np.random.Generator, rows: int, places: int = 3) -> np.ndarray:
    """Images ``(rows, 3, 7, 7)`` with a wall and an object at random places."""
    images = np.zeros((rows, 3, 7, 7), np.uint8)
    for image, wall, place in zip(
        images, rng.integers(0, 7, rows), rng.integers(0, places, (rows, 2)), strict=True
    ):
        image[:, wall] = 2
        image[:, place[0], place[1]] = (4, 1, 0)
    return images


def trunk(seed: int, *layers: tuple[Any, ...]) -> nn.Module:
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for *arguments, bias in layers:
        parts += [nn.Conv2d(*arguments, bias=bias), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten()).double()


SHAPES = {
    "minigrid": ((3, 16, 2, True), (16, 32, 2, True), (32, 64, 2, True)),
    "strides and no bias": ((3, 5, (3, 2), (2, 1), False), (5, 4, (2, 3), (1, 2), True)),
    "one": ((3, 6, 3, 1, True),),
}


@pytest.mark.parametrize("layers", SHAPES.values(), ids=SHAPES)
def test_convolutions_of_patches_have_outputs_and_gradients_of_images(layers: Any):
    alone = [trunk(seed, *layers) for seed in range(3)]
    convs = [part for part in alone[0] if isinstance(part, nn.Conv2d)]
    stack = ModuleStack(alone)
    rng = np.random.default_rng(0)
    images = np.stack([rooms(rng, 400) for _ in alone])
    images[2, :] = images[2, 0]  # one seed has a single image
    ids = row_ids(images)
    assert ids is not None
    patches = PatchDeduplicator(convs, 256, CPU)(images, ids)
    assert patches is not None
    rows = rng.integers(0, 400, (3, 20))
    x = torch.from_numpy(np.take_along_axis(images, rows[:, :, None, None, None], 1))
    row_ids_of_batch = np.take_along_axis(ids, rows, 1)
    images_of_batch = torch.from_numpy(
        np.take_along_axis(patches.images, row_ids_of_batch[..., None], 1)
    )

    def contents(module: nn.Module, x: Tensor, *where: Tensor) -> Tensor:
        with PatchMode(where[:-1], where[-1]):
            output: Tensor = module(x.double())
        return output

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = [t.detach().requires_grad_() for t in tensors[: len(stack.tensors)]]
        y = stack.vmap_modules(contents, leaves, *tensors[len(leaves) :], training=True)
        return y.detach(), *torch.autograd.grad(y.square().sum(), leaves)

    inputs = patches.contents, *patches.windows, images_of_batch
    outputs, *gradients_of_patches = TracedFunction(gradients)(*stack.tensors, *inputs)
    for i, module in enumerate(alone):
        y = module(x[i].double())
        torch.testing.assert_close(outputs[i], y.detach(), rtol=1e-12, atol=1e-12)
        expected = torch.autograd.grad(y.square().sum(), module.parameters())
        for gradient, reference in zip(gradients_of_patches, expected, strict=True):
            torch.testing.assert_close(gradient[i], reference, rtol=1e-11, atol=1e-9)


def test_images_of_noise_are_not_deduplicated():
    layers = convolutions(policy())
    noise = np.random.default_rng(0).integers(0, 255, (1, 64, 3, 7, 7)).astype(np.uint8)
    ids = row_ids(noise)
    assert PatchDeduplicator(layers, 256, CPU)(noise, ids) is None
    often = np.concatenate([noise] * 4, 1)  # few images, but all of their patches differ
    assert PatchDeduplicator(layers, 64, CPU)(often, row_ids(often)) is None


def test_padded_sizes_never_shrink():
    """The update is traced anew after each change of a size."""
    deduplicator = PatchDeduplicator(convolutions(policy()), 256, CPU)
    many = rooms(np.random.default_rng(0), 150, places=7)[None].repeat(4, 1)
    sizes = []
    for images in (np.zeros_like(many), many, many[:, :1].repeat(600, 1)):
        patches = deduplicator(images, row_ids(images))
        assert patches is not None
        assert [
            patches.contents.shape[1],
            *(w.shape[1] for w in patches.windows),
        ] == deduplicator.sizes
        sizes.append(list(deduplicator.sizes))
    assert sizes[0] == [64, 64, 64] and sizes[1] == sizes[2]
    assert sizes[1][2] > 64


def policy(**kwargs: Any) -> NormActorCriticPolicy:
    kwargs = {"features": "minigrid", **kwargs}
    return NormActorCriticPolicy(SPACE, gym.spaces.Discrete(3), lambda _: 1e-3, **kwargs)


def test_only_plain_convolutions_are_deduplicated():
    assert len(convolutions(policy())) == 3
    assert convolutions(policy(features="mlp")) == []
    assert convolutions(policy(trunk_norm="ln")) == []
    assert convolutions(policy(share_features_extractor=False)) == []
    padded = policy()
    padded.features_extractor.trunk[2].padding = (1, 1)
    assert convolutions(padded) == []
    more = policy()
    assert isinstance(more.features_extractor, NormExtractor)
    more.features_extractor.trunk.insert(2, nn.MaxPool2d(2))
    assert convolutions(more) == []


def make_env() -> gym.Env:
    return ImgObsWrapper(gym.make("MiniGrid-RedBlueDoors-6x6-v0"))


def trained(
    norm: str, change: Callable[[Any], None] = lambda _: None, **more: Any
) -> tuple[SeedBatchPPO, set[Any]]:
    """A batch after three rollouts, and the shapes of the inputs of its updates."""
    models, envs = [], []
    for seed in (1, 2, 3):
        env = VecTransposeImage(DummyVecEnv([make_env] * 2))
        env.seed(seed)
        kwargs = {"norm": norm, "net_arch": [8], "features": "minigrid", **more}
        options = {"n_steps": 64, "batch_size": 64, "n_epochs": 2, "device": "cpu"}
        model = PPO(NormActorCriticPolicy, env, seed=seed, policy_kwargs=kwargs, **options)
        model.policy.double()
        model.policy.features_extractor.register_forward_pre_hook(lambda _, x: (x[0].double(),))
        change(model.policy)
        models.append(model)
        envs.append(env)
    batch = SeedBatchPPO(models, VecSeedEnvs(envs))
    shapes = []
    compute = batch._gradients.function

    def counting(*tensors: Tensor) -> Any:
        shapes.append(tensors[len(batch.stack.tensors) + 7].shape[2:])
        return compute(*tensors)

    batch._gradients.function = counting
    batch.learn(384)
    return batch, {tuple(shape) for shape in shapes}


def assert_acts_as_its_agents(batch: SeedBatchPPO) -> None:
    """Compare actions and values of the batch with those of its single agents."""
    seen = np.moveaxis(batch.rollout.observations[:8, :, 0], 1, 0)
    for _ in range(2):
        actions, values, log_probs = batch.act(batch.last_observations, 0)
        for seed in range(batch.size):
            policy = batch.write_back(seed).policy
            inputs = [torch.from_numpy(x[seed]) for x in (batch.last_observations, actions)]
            with torch.no_grad():
                value, log_prob, _ = policy.evaluate_actions(*inputs)
                of_seen = policy.predict_values(torch.from_numpy(seen[seed]))
            np.testing.assert_allclose(values[seed], value[:, 0], atol=1e-9)
            np.testing.assert_allclose(log_probs[seed], log_prob, atol=1e-9)
            np.testing.assert_allclose(batch.values(seen)[seed], of_seen[:, 0], atol=1e-9)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, 2 * self.weight, self.bias)


def replace_layer_class(policy: Any) -> None:
    policy.mlp_extractor.value_net[0].__class__ = Doubled


def hook_before_a_layer(policy: Any) -> None:
    policy.mlp_extractor.policy_net[0].register_forward_pre_hook(lambda _, x: (2 * x[0],))


CASES: dict[str, Any] = {
    "none": {"norm": "none"},
    "ln+rn": {"norm": "ln+rn"},
    "rn-paper, all rows": {"norm": "rn-paper"},
    "one dense layer of another class": {"norm": "rn", "change": replace_layer_class},
    "one dense layer with other inputs": {"norm": "none", "change": hook_before_a_layer},
    "dense layer in the extractor": {
        "norm": "none",
        "features_extractor_kwargs": {"net_arch": [6]},
    },
    "no hidden layer": {"norm": "none", "net_arch": []},
}


QUICK = ("ln+rn",)


@pytest.mark.parametrize("name", slow_unless(QUICK.__contains__, CASES))
def test_a_training_on_patches_equals_one_on_images(name: str, monkeypatch):
    case = CASES[name]
    """Also without deduplication of rows, and without a cache while acting."""
    deduplicated, shapes = trained(**case)
    norm = case["norm"]
    assert shapes == {(3, 2, 2)}
    assert (deduplicated.actor_critics.cache is None) == (norm == "rn-paper")
    monkeypatch.setattr("rn_rl.agents.seed_batch.actor_critic.convolutions", lambda _: [])
    monkeypatch.setattr(ActorCritics, "caches", lambda _: False)
    plain, shapes = trained(**case)
    assert shapes == {(3, 7, 7)} and plain.actor_critics.cache is None
    for batch in (deduplicated, plain):
        assert_acts_as_its_agents(batch)
    for name in ("actions", "rewards"):
        assert np.array_equal(getattr(deduplicated.rollout, name), getattr(plain.rollout, name))
    np.testing.assert_allclose(deduplicated.stack.weights, plain.stack.weights, rtol=0, atol=1e-8)
