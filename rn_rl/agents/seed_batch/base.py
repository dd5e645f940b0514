"""What training many seeds in one process has in common for all algorithms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.distributions import Distribution

from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.engine.host import flush_denormals, raise_mmap_threshold
from rn_rl.engine.trace import TracedFunction
from rn_rl.errors import UserError
from rn_rl.normalization import phase_norms
from rn_rl.policies.divergence import kl

Model = TypeVar("Model", bound=BaseAlgorithm)

ELEMENTWISE = ("Adam", "AdamW", "RMSprop", "RMSpropTFLike", "SGD", "NAdam", "RAdam", "Adamax")
"""Optimizers that treat every weight by itself, so that a stack of weights is one parameter."""


COUNTERS = ("num_timesteps", "num_updates", "progress_remaining")
"""What all seeds carry from one phase to the next."""


class SeedBatch(ABC, Generic[Model]):
    """S agents that differ in their seed, trained together in one process.

    The agents are given as SB3 made them, with their own weights. Their networks are stacked, see
    :class:`~rn_rl.engine.ensemble.ModuleStack`; whatever SB3 does in ``learn()`` is then done to all of
    them at once: the same algorithm, not the same random numbers. Those belong to a seed and a
    purpose (:class:`~rn_rl.agents.seed_batch.rng.Streams`), so a seed's run does
    not depend on the others.

    Args:
        models: SB3 agents that have not learned yet, one for each seed, alike but for ``seed``.
        envs: their environments.

    Raises:
        UserError: a setting that only single runs have, see :meth:`cannot`; two equal seeds.
    """

    def __init__(self, models: Sequence[Model], envs: SeedEnvs) -> None:
        self.models = list(models)
        self.model = self.models[0]
        """Where hyperparameters are read, which are the same for all."""
        reason = self.cannot(self.model)
        if reason:
            raise UserError(f"seeds cannot be trained together: {reason}")
        self.envs = envs
        self.seeds = [-1 if model.seed is None else int(model.seed) for model in self.models]
        if len({*self.seeds, -1}) <= len(self.models):
            raise UserError(
                f"seeds {[model.seed for model in self.models]}: expected models with different seeds"
            )
        self.size = len(self.models)
        self.device = self.model.device
        self.num_timesteps = 0
        """Of each seed."""
        self.num_updates = 0
        self.progress_remaining = 1.0
        self.total_timesteps = 0
        self.stack = ModuleStack([self.network(model) for model in self.models])
        self.optimizer = self._make_optimizer()
        self.last_observations: np.ndarray | None = None
        self.losses: dict[str, Tensor] = {}
        """Of the last minibatch, ``(seeds,)`` each, by the names that SB3 logs."""
        self._gains = TracedFunction(self._mean_gains, num_static=len(self.stack.tensors))

    @staticmethod
    @abstractmethod
    def network(model: Any) -> nn.Module:
        """What is stacked: the network whose parameters the optimizer has."""

    @classmethod
    def cannot(cls, model: BaseAlgorithm) -> str | None:
        """Why agents like this one cannot be trained together; None if they can."""
        optimizer: Any = model.policy.optimizer
        if type(optimizer).__name__ not in ELEMENTWISE or len(optimizer.param_groups) != 1:
            return (
                f"the optimizer {type(optimizer).__name__} is not one of {', '.join(ELEMENTWISE)}"
            )
        if not isinstance(model.observation_space, spaces.Box):
            return f"observations are {model.observation_space}, not a Box"
        if model.use_sde:
            return "use_sde is set"
        return None

    def _make_optimizer(self) -> torch.optim.Optimizer:
        like: Any = self.model.policy.optimizer
        options = {**like.defaults, "lr": like.param_groups[0]["lr"]}
        if isinstance(like, torch.optim.Adam) and not options.get("capturable"):
            options.update(fused=True, foreach=False)
        return type(like)([self.stack.weights], **options)

    def step_optimizer(self) -> None:
        """Move the weights by their gradients, and have it known: a fused optimizer does not tell.

        What a :class:`~rn_rl.engine.trace.TracedFunction` keeps goes by the tensors' versions.
        """
        self.optimizer.step()
        torch.autograd.graph.increment_version(self.stack.weights)

    def set_learning_rate(self) -> None:
        """By the schedule, as SB3 does at the beginning of every update."""
        rate = self.model.lr_schedule(self.progress_remaining)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def count_step(self) -> None:
        """One more timestep in every environment."""
        self.num_timesteps += self.envs.num_envs
        self.progress_remaining = 1.0 - self.num_timesteps / self.total_timesteps

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array on the device of the networks."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def learn(
        self,
        total_timesteps: int,
        on_rollout_start: Callable[[], bool | None] = lambda: None,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Train every seed up to so many timesteps, counted from its beginning.

        Args:
            total_timesteps: of each seed; schedules end there.
            on_rollout_start: called before each rollout, right after the normalizers' commit; training
                ends where it returns True.
            on_step: called after each step of all environments.
        """
        self.total_timesteps = total_timesteps
        if self.last_observations is None:
            self.last_observations = self.envs.reset()
        raise_mmap_threshold()
        with flush_denormals():
            while self.num_timesteps < total_timesteps:
                self.stack.set_training_mode(False)
                if on_rollout_start():
                    break
                for t in range(self.rollout_length):
                    self.step(t)
                    on_step()
                self.train()
            self.stack.set_training_mode(False)

    @property
    @abstractmethod
    def rollout_length(self) -> int:
        """Steps of all environments between two updates."""

    @abstractmethod
    def step(self, t: int) -> None:
        """Step t of a rollout, in every environment."""

    @abstractmethod
    def train(self) -> None:
        """The gradient steps after a rollout."""

    @abstractmethod
    def predict(
        self, observations: np.ndarray, deterministic: bool = True, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """Actions for ``(seeds, n, ...)`` observations, ``(seeds, n, ...)``.

        Args:
            observations: of every seed.
            deterministic: the likeliest action, or a sampled one.
            noise: uniform random numbers to sample with, ``(seeds, n)``.
        """

    def player(self, noise: Streams | None) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """How to play: from observations, and where they begin an episode, to actions.

        Args:
            noise: random numbers of stochastic actions; None: the likeliest action.
        """

        def play(observations: np.ndarray, begins: np.ndarray) -> np.ndarray:
            return self.predict(
                observations, noise is None, None if noise is None else noise.draw()
            )

        return play

    def _mean_gains(self, *tensors: Tensor) -> Tensor:
        def gains(network: nn.Module) -> Tensor:
            return torch.stack([n.gain.double().mean() for n in phase_norms(network).values()])

        result: Tensor = self.stack.vmap_modules(gains, tensors)
        return result

    def gains(self) -> np.ndarray:
        """Mean gain of every normalizer of every seed now, ``(seeds, layers)``."""
        return self._gains(*self.stack.tensors).cpu().numpy()

    @abstractmethod
    def policies(self, tensors: Sequence[Tensor], observations: Tensor) -> Distribution:
        """What networks of these tensors do with ``(seeds, n, ...)`` observations."""

    @abstractmethod
    def seen(self, rows: int) -> Tensor | None:
        """At most so many observations of each seed, spread over what it last learned from."""

    def commit_kl(self, rows: int = 64) -> np.ndarray | None:
        """Mean KL(before || after) of the last commit as a step of the policy, ``(seeds,)``.

        Args:
            rows: observations on which it is measured.

        Returns:
            None if there are none yet, or there has been no commit since this batch was made.
        """
        observations = self.seen(rows) if self.stack.has_committed else None
        if observations is None:
            return None
        before = self.policies(self.stack.tensors_before_commit(), observations)
        after = self.policies(self.stack.tensors, observations)
        return (
            kl(before, after)
            .reshape(self.size, len(observations[0]), -1)
            .sum(2)
            .mean(1)
            .cpu()
            .numpy()
        )

    def state(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All that one seed's training goes on from, between two phases: arrays, and plain data.

        The environments are not in it. Arrays may be views of what trains: write or copy them before
        it goes on.
        """
        arrays = {f"network/{k}": v.cpu().numpy() for k, v in self.stack.unstack(seed).items()}
        numbers = {}
        for name, value in self._optimizer_state().items():
            if value.dim():
                arrays[f"optimizer/{name}"] = value[seed].cpu().numpy()
            else:
                numbers[name] = float(value)
        if self.last_observations is not None:
            arrays["observations"] = self.last_observations[seed]
        counters = {name: getattr(self, name) for name in COUNTERS}
        random = [stream.state(seed) for stream in self.streams()]
        return arrays, {"counters": counters, "random": random, "optimizer": numbers}

    @torch.no_grad()
    def restore(self, stored: Sequence[tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> None:
        """Go on from one :meth:`state` for each seed; ``learn()`` then takes ``last_observations``."""
        for seed, (arrays, _) in enumerate(stored):
            for name, tensor in self.stack.unstack(seed).items():
                tensor.copy_(torch.from_numpy(arrays[f"network/{name}"]))
        plain = stored[0][1]
        names = [n for n in stored[0][0] if n.startswith("optimizer/")]
        state: dict[str, Any] = {
            name.removeprefix("optimizer/"): torch.stack(
                [torch.from_numpy(arrays[name]) for arrays, _ in stored]
            )
            for name in names
        }
        state.update({name: torch.tensor(value) for name, value in plain["optimizer"].items()})
        if state:
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": {0: state}, "param_groups": groups})
        if "observations" in stored[0][0]:
            self.last_observations = np.stack([arrays["observations"] for arrays, _ in stored])
        for name, value in plain["counters"].items():
            setattr(self, name, value)
        for i, stream in enumerate(self.streams()):
            stream.restore([each["random"][i] for _, each in stored])

    @abstractmethod
    def streams(self) -> list[Streams]:
        """All random numbers of the training."""

    def _optimizer_state(self) -> dict[str, Tensor]:
        stored = self.optimizer.state_dict()["state"].get(0, {})
        return {name: value for name, value in stored.items() if isinstance(value, Tensor)}

    def write_back(self, seed: int) -> Model:
        """The SB3 agent of one seed, with the weights, states and counters that it has now."""
        model = self.models[seed]
        self.stack.load_into(seed, self.network(model))
        self._load_optimizer_into(seed, model.policy)
        model.num_timesteps = self.num_timesteps
        model._n_updates = self.num_updates
        model._total_timesteps = self.total_timesteps
        model._current_progress_remaining = self.progress_remaining
        return model

    def _load_optimizer_into(self, seed: int, policy: BasePolicy) -> None:
        stored = self._optimizer_state()
        if not stored:
            return
        given: Any = policy.optimizer.param_groups[0]["params"]
        sizes = [p.numel() for p in given]
        state: dict[int, dict[str, Any]] = {i: {} for i in range(len(given))}
        for name, value in stored.items():
            parts = value[seed].split(sizes) if value.dim() else [value] * len(given)
            for entry, part, parameter in zip(state.values(), parts, given, strict=True):
                entry[name] = part.view_as(parameter if part.dim() else part).clone()
        groups = policy.optimizer.state_dict()["param_groups"]
        groups[0]["lr"] = self.optimizer.param_groups[0]["lr"]
        policy.optimizer.load_state_dict({"state": state, "param_groups": groups})
