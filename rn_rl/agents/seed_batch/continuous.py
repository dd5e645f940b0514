"""Parts that the seed batches of SAC, TD3 and their relatives share: actors, critics and noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor, nn
from torch.optim import Optimizer

from rn_rl.agents.seed_batch.distributions import components
from rn_rl.agents.seed_batch.off_policy import OffPolicySeedBatch
from rn_rl.agents.seed_batch.rng import Streams, gaussian
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.engine.trace import TracedFunction
from rn_rl.normalization import unobserved
from rn_rl.policies.divergence import evenly_spaced

Model = TypeVar("Model", bound=OffPolicyAlgorithm)

ACTOR, CRITIC = "actor.", "critic."
"""Prefixes of the trained networks' names, as in the policy of one agent."""


class ContinuousSeedBatch(OffPolicySeedBatch[Model]):
    """Off-policy algorithm with an actor, critics and target networks, for S seeds at once.

    Actions are stored in [-1, 1], as in SB3, whatever the bounds of the environment's are. Before
    learning starts they are uniform.

    Args:
        models: agents that have not learned yet, one for each seed.
        envs: environments of all seeds, one environment each.
        compile: compile the updates with ``torch.compile``, which takes some ten seconds once.
    """

    def __init__(self, models: Sequence[Model], envs: SeedEnvs, compile: bool = False) -> None:
        super().__init__(models, envs, compile)
        self.actor, self.critic = self.parts[ACTOR].stack, self.parts[CRITIC].stack
        self.targets = {
            name: ModuleStack([network(model) for model in models])
            for name, network in self.target_networks().items()
        }
        """Target networks by the prefix of the networks that they follow."""
        count = components(self.model.action_space)
        self.warm_up = Streams(self.seeds, "exploration", (1, count))
        self.sampling = Streams(self.seeds, "actions", (1, count))
        self.noise = Streams(self.seeds, "action_noise", (1, count))
        own = len(self.actor.tensors)
        self._modes = TracedFunction(self._compute_modes, num_static=own, cache_invariants=True)

    @classmethod
    def cannot(cls, model: Any) -> str | None:
        reason = super().cannot(model)
        if reason:
            return reason
        if not isinstance(model.action_space, spaces.Box):
            return f"actions are {model.action_space}, not a Box"
        # of a subclass, the batch would not call what differs
        if type(model.action_noise) not in (NormalActionNoise, type(None)):
            return f"action_noise is {type(model.action_noise).__name__}, not NormalActionNoise"
        if model.policy.share_features_extractor:
            return "share_features_extractor is set"
        return None

    @classmethod
    def network(cls, model: Any) -> nn.Module:
        actor: nn.Module = model.actor
        return actor

    @classmethod
    def trained_networks(cls, model: Any) -> dict[str, tuple[nn.Module, Optimizer]]:
        return {
            ACTOR: (model.actor, model.actor.optimizer),
            CRITIC: (model.critic, model.critic.optimizer),
        }

    @staticmethod
    def target_networks() -> dict[str, Any]:
        """Return a function from an agent to its target network, by the prefix of what it follows."""
        return {CRITIC: lambda model: model.critic_target}

    @staticmethod
    def mode_of(actor: Any, observations: Tensor) -> Tensor:
        """Return the actions in [-1, 1] that one seed's actor prefers, ``(n, components)``."""
        actions: Tensor = actor(observations, True)
        return actions

    def _compute_modes(self, *tensors: Tensor) -> Tensor:
        *own, observations = tensors
        result: Tensor = self.actor.vmap_modules(self.mode_of, own, observations)
        return result

    def predict(
        self, observations: np.ndarray, deterministic: bool = True, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """Return actions within the bounds of the environment, ``(seeds, n, ...)``."""
        if deterministic or noise is None:
            inputs = self.tensor(observations)
            actions = self._modes(*self.actor.tensors, inputs).cpu().numpy()
        else:
            actions = self.sampled(observations, noise)
        return self.env_actions(finite(actions))

    def sampled(self, observations: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Return actions in [-1, 1] as in training, without action noise, ``(seeds, n, components)``.

        Args:
            observations: ``(seeds, n, ...)``.
            uniform: random numbers in [0, 1), ``(seeds, n, components)``.
        """
        found: np.ndarray = (
            self._modes(*self.actor.tensors, self.tensor(observations)).cpu().numpy()
        )
        return found

    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        space: Any = self.model.action_space
        actions = actions.reshape(*actions.shape[:2], *space.shape)
        unscaled: np.ndarray = space.low + 0.5 * (actions + 1.0) * (space.high - space.low)
        return unscaled.astype(space.dtype)

    def act(self, observations: np.ndarray) -> np.ndarray:
        if self.num_timesteps < self.model.learning_starts:
            actions = 2 * self.warm_up.draw() - 1
        else:
            actions = self.sampled(observations, self.sampling.draw())
        added: Any = self.model.action_noise
        if added is not None:
            mean, deviation = added._mu.reshape(-1), added._sigma.reshape(-1)
            noise = mean + deviation * gaussian(self.noise.draw())
            actions = np.clip(actions + noise, -1, 1)
        return finite(actions.astype(np.float32))

    @torch.no_grad()
    def follow(self, prefix: str) -> None:
        """Move the target networks of a part by ``tau``, and copy the state of its normalizers."""
        target, online = self.targets[prefix], self.parts[prefix].stack
        target.weights.lerp_(online.weights, self.model.tau)
        self._copy_state(prefix)

    @torch.no_grad()
    def _copy_state(self, prefix: str) -> None:
        online = self.parts[prefix].stack
        self.targets[prefix].adopt_values(online)
        states = zip(self.targets[prefix].running_state(), online.running_state(), strict=True)
        for target, state in states:
            target.copy_(state)

    def set_training_mode(self, mode: bool) -> None:
        commits = self.stack.training and not mode
        super().set_training_mode(mode)
        if commits:  # as the Norm policies do, so that online and target networks agree
            for prefix in self.targets:
                self._copy_state(prefix)

    def recent_inputs(self, rows: int) -> tuple[Tensor, ...] | None:
        observations = self.recent_observations(rows)
        if observations is None:
            return None
        positions = torch.from_numpy(evenly_spaced(len(self.memory), rows)).to(self.device)
        return observations, self.memory.tensors["actions"].index_select(1, positions)

    def probed(self) -> dict[str, tuple[ModuleStack, Callable[..., Any]]]:
        functions = {ACTOR: lambda actor, x, _: self.mode_of(actor, x), CRITIC: values_of}
        online = {name: (part.stack, functions[name]) for name, part in self.parts.items()}
        targets = {
            f"{name.removesuffix('.')}_target.": (stack, functions[name])
            for name, stack in self.targets.items()
        }
        return {**online, **targets}

    def streams(self) -> list[Streams]:
        return [self.warm_up, self.sampling, self.noise, self.replay]

    def state(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, plain = super().state(seed)
        for prefix, target in self.targets.items():
            for name, tensor in target.unstack(seed).items():
                arrays[f"target/{prefix}{name}"] = tensor.cpu().numpy()
        return arrays, plain

    @torch.no_grad()
    def restore(self, stored: Sequence[tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> None:
        super().restore(stored)
        for prefix, target in self.targets.items():
            for seed, (arrays, _) in enumerate(stored):
                for name, tensor in target.unstack(seed).items():
                    tensor.copy_(torch.from_numpy(arrays[f"target/{prefix}{name}"]))

    @torch.no_grad()
    def silence(self, seed: int) -> None:
        super().silence(seed)
        for target in self.targets.values():
            target.weights[seed] = 0

    def write_back(self, seed: int) -> Model:
        model = super().write_back(seed)
        networks = self.target_networks()
        for prefix, target in self.targets.items():
            target.load_into(seed, networks[prefix](model))
        return model


def finite(actions: np.ndarray) -> np.ndarray:
    """Return actions with 0 for NaN, as a diverged seed has: an environment would keep it or fail."""
    return np.nan_to_num(actions)


def values_of(critic: Any, observations: Tensor, actions: Tensor) -> Tensor:
    """Return the values of all critics of one seed, ``(n, critics)``."""
    return torch.cat(critic(observations, actions), 1)


def values_unobserved(critic: Any, observations: Tensor, actions: Tensor) -> Tensor:
    """Return the values as :func:`values_of` for the actor's update, which normalizers do not observe."""
    with unobserved(critic):
        return values_of(critic, observations, actions)
