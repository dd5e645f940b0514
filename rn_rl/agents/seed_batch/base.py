"""Seed batch: agents of one algorithm that differ in their seed, trained together in one process."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.optim import Optimizer

from rn_rl.agents.priors import NetworkPriors
from rn_rl.agents.seed_batch import optimizer as optimizers
from rn_rl.agents.seed_batch.checks import check_together, is_stock, overridden
from rn_rl.agents.seed_batch.introspection import mixing_layer
from rn_rl.agents.seed_batch.optimizer import Part
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.vector_envs import Masks, SeedEnvs
from rn_rl.engine.ensemble import ModuleStack, clip_gradients, to_rows
from rn_rl.engine.host import flush_denormals, raise_mmap_threshold
from rn_rl.engine.trace import TracedFunction
from rn_rl.errors import UserError
from rn_rl.normalization import PhaseNorm, phase_norms
from rn_rl.normalization.popart import popart_layers
from rn_rl.policies.divergence import kl

Model = TypeVar("Model", bound=BaseAlgorithm)

COUNTERS = ("num_timesteps", "num_updates", "progress_remaining")
"""Attributes that a checkpoint stores; they are the same for all seeds."""


class SeedBatch(ABC, Generic[Model]):
    """S agents of one algorithm that differ in their seed, trained together in one process.

    The agents are given as SB3 built them, with their own initial weights. Their networks are stacked
    (:class:`~rn_rl.engine.ensemble.ModuleStack`), and every operation of SB3's ``learn()`` is applied to
    all of them at once. The algorithm is SB3's; the random numbers are not: each seed has a generator
    for each purpose (:class:`~rn_rl.agents.seed_batch.rng.Streams`), so that a seed's run does not
    depend on the other seeds, but for rounding.

    Args:
        models: SB3 agents that have not learned yet, one for each seed, with equal settings.
        envs: environments of all seeds.
        compile: compile the update with ``torch.compile``, which takes some ten seconds once.

    Raises:
        UserError: a setting that a batch does not support, see :meth:`cannot`; agents that differ in more
            than their seed; environments that do not fit them; a seed that is missing or occurs twice.
    """

    algorithm: ClassVar[type[BaseAlgorithm]]
    """Class of the agents."""
    gives_priors: ClassVar[bool] = False
    """True if updates have the priors of :mod:`rn_rl.agents.priors`."""
    gives_targets: ClassVar[bool] = False
    """True if output layers of ``value_norm="popart"`` get the targets of their values."""

    def __init__(self, models: Sequence[Model], envs: SeedEnvs, compile: bool = False) -> None:
        self.models = list(models)
        if not self.models:
            raise UserError("a batch of no seeds: expected at least one agent")
        self.model = self.models[0]
        """First agent, from which the hyperparameters are read."""
        reason = self.cannot(self.model)
        if reason:
            raise UserError(f"seeds cannot be trained together: {reason}")
        check_together(self.models, envs)
        self.envs = envs
        self.seeds = [-1 if model.seed is None else int(model.seed) for model in self.models]
        if len({*self.seeds, -1}) <= len(self.models):
            raise UserError(
                f"seeds {[model.seed for model in self.models]}: expected models with different seeds"
            )
        self.size = len(self.models)
        """Number of seeds."""
        self.device = self.model.device
        self.num_timesteps = 0
        """Timesteps of each seed so far."""
        self.num_updates = 0
        """Gradient steps of DQN, epochs of PPO, as SB3 counts them."""
        self.progress_remaining = 1.0
        """Share of the timesteps that is left, from 1 to 0; schedules are functions of it."""
        self.total_timesteps = 0
        """Timesteps of each seed at the end of :meth:`learn`."""
        self.parts = self._stack_parts()
        """Networks that are trained, by the prefix of their names: "" if there is one."""
        first = next(iter(self.parts.values()))
        self.stack, self.optimizer = first.stack, first.optimizer
        """The networks that act, and their optimizer."""
        self.last_observations: np.ndarray | None = None
        """Observations to act on next, ``(seeds, envs, ...)``; None before :meth:`learn` resets."""
        self.losses: dict[str, Tensor] = {}
        """Losses of the last minibatch, ``(seeds,)`` each, by the names that SB3 logs."""
        tensors = [tensor for part in self.parts.values() for tensor in part.stack.tensors]
        self._gains = TracedFunction(self._mean_gains, num_static=len(tensors))

    @classmethod
    @abstractmethod
    def network(cls, model: Any) -> nn.Module:
        """Return the agent's network that is stacked: the one whose parameters the optimizer updates."""

    @classmethod
    def trained_networks(cls, model: Any) -> dict[str, tuple[nn.Module, Optimizer]]:
        """Return the networks that are stacked, and their optimizers, by the prefix of their names.

        The first is the one that acts.
        """
        return {"": (cls.network(model), model.policy.optimizer)}

    def _stack_parts(self) -> dict[str, Part]:
        """Stack the :meth:`trained_networks` of all agents."""
        by_model = [self.trained_networks(model) for model in self.models]
        parts = {}
        for prefix, (network, optimizer) in by_model[0].items():
            stack = ModuleStack([networks[prefix][0] for networks in by_model])
            stacked = optimizers.stacked_optimizer(stack.weights, optimizer)
            decay = optimizers.decays(network, optimizer)
            parts[prefix] = Part(stack, stacked, decay)
        return parts

    @property
    def norms(self) -> dict[str, PhaseNorm]:
        """Normalizers of the networks that are trained, by name; their states are those of all seeds."""
        return {
            prefix + name: norm
            for prefix, part in self.parts.items()
            for name, norm in part.stack.norms.items()
        }

    @classmethod
    def cannot(cls, model: BaseAlgorithm) -> str | None:
        """Return the reason why agents like this one cannot be trained together, or None."""
        if not isinstance(model, cls.algorithm):
            return f"{type(model).__name__} is not {cls.algorithm.__name__}"
        if getattr(model, "policy", None) is None:
            return "it has no policy yet (_init_setup_model=False)"
        reason = overridden(model)
        if reason:
            return reason
        rollouts = getattr(model, "rollout_buffer", None)
        if rollouts is not None and not is_stock(type(rollouts)):
            return f"its rollout buffer is a {type(rollouts).__name__}"
        for network, optimizer in cls.trained_networks(model).values():
            reason = optimizers.cannot(optimizer)
            if reason:
                return reason
            if (layer := mixing_layer(network)) is not None:
                return f"its network has a {layer}, which is not computed for several seeds at once"
            names = NetworkPriors(network).names
            if names and not cls.gives_priors:
                return f"a normalizer has prior={min(names)}, which {cls.__name__} does not compute"
        if popart_layers(model.policy) and not cls.gives_targets:
            return f"value_norm is popart, whose targets {cls.__name__} does not compute"
        if not isinstance(model.observation_space, spaces.Box):
            return f"observations are {model.observation_space}, not a Box"
        if model.use_sde:
            return "use_sde is set"
        if np.any(getattr(model.action_space, "start", 0)):
            return f"actions are {model.action_space}, which do not count from 0"
        return None

    def step_optimizer(self, prefix: str | None = None) -> None:
        """Update the weights by their gradients.

        A fused optimizer does not increment the weights' version counter, by which a
        :class:`~rn_rl.engine.trace.TracedFunction` knows that a cached result is out of date.

        Args:
            prefix: key of one of :attr:`parts`; None: the first.
        """
        part = self.parts[next(iter(self.parts)) if prefix is None else prefix]
        part.step()
        part.stack.project()
        torch.autograd.graph.increment_version(part.stack.weights)

    def set_learning_rate(self) -> None:
        """Set the learning rate by the schedule, as SB3 does before each :meth:`train`."""
        rate = self.model.lr_schedule(self.progress_remaining)
        for part in self.parts.values():
            set_rate(part.optimizer, rate)

    def set_training_mode(self, mode: bool) -> None:
        """Set the phase of all networks: a change from training to evaluation commits the normalizers."""
        for part in self.parts.values():
            part.stack.set_training_mode(mode)

    def leaves(
        self, tensors: Sequence[Tensor], stack: ModuleStack | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Detach the parameters among a stack's tensors, to take gradients with respect to them.

        Args:
            tensors: parameters and buffers.
            stack: the stack that they belong to; default: that of the networks that act.

        Returns:
            The detached parameters, and all tensors with those in place of the parameters.
        """
        count = (self.stack if stack is None else stack).num_parameters
        leaves = [t.detach().requires_grad_() for t in tensors[:count]]
        return leaves, [*leaves, *tensors[count:]]

    def clipped_gradients(self, losses: Tensor, leaves: Sequence[Tensor]) -> Tensor:
        """Return the gradients of ``(seeds,)`` losses, ``(seeds, P)``, each row clipped by its norm."""
        parts = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
        gradients = to_rows(
            [
                torch.zeros_like(leaf) if part is None else part
                for part, leaf in zip(parts, leaves, strict=True)
            ]
        )
        most: float | None = getattr(self.model, "max_grad_norm", None)
        return clip_gradients(gradients, math.inf if most is None else most)

    def count_step(self) -> None:
        """Count one more step of every environment."""
        self.num_timesteps += self.envs.num_envs
        self.progress_remaining = 1.0 - self.num_timesteps / self.total_timesteps

    def tensor(self, array: np.ndarray) -> Tensor:
        """Return an array as a tensor on the device of the networks."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def learn(
        self,
        total_timesteps: int,
        on_rollout_start: Callable[[], bool | None] = lambda: None,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Train every seed until it has had ``total_timesteps``, those of earlier calls included.

        Args:
            total_timesteps: timesteps of each seed, at which schedules end.
            on_rollout_start: called before each rollout, right after the commit of the normalizers;
                training ends if it returns True.
            on_step: called after each step of all environments.

        Raises:
            UserError: an agent has learned already, outside a batch.
        """
        learned = [m for m in self.models if m.num_timesteps and not self.num_timesteps]
        if learned:
            raise UserError(
                f"seed {learned[0].seed} has learned for {learned[0].num_timesteps} timesteps: a batch "
                "begins with new agents; make them anew, or restore() the state of a batch"
            )
        self.total_timesteps = total_timesteps
        if self.last_observations is None:
            self.last_observations = self.envs.reset()
        raise_mmap_threshold()
        with flush_denormals():
            while self.num_timesteps < total_timesteps:
                self.set_training_mode(False)
                if on_rollout_start():
                    break
                for t in range(self.rollout_length):
                    self.step(t)
                    on_step()
                self.train()
            self.set_training_mode(False)

    def begin_episodes(self) -> None:
        """Discard the last observations, so that :meth:`learn` first resets all environments."""
        self.last_observations = None

    @property
    @abstractmethod
    def rollout_length(self) -> int:
        """Steps of every environment between two calls of :meth:`train`."""

    @abstractmethod
    def step(self, t: int) -> None:
        """Take step t of a rollout in every environment and store it."""

    @abstractmethod
    def train(self) -> None:
        """Take the gradient steps that follow a rollout."""

    @abstractmethod
    def predict(
        self, observations: np.ndarray, deterministic: bool = True, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """Return actions ``(seeds, n, ...)`` for observations ``(seeds, n, ...)``.

        Args:
            observations: observations of every seed.
            deterministic: take the mode of the policy, instead of a sample.
            noise: uniform random numbers to sample with, ``(seeds, n, components)``.
        """

    def player(
        self, noise: Streams | None, masks: Masks | None = None
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Return a function that plays episodes: ``actions = play(observations, starts)``.

        ``starts`` is ``(seeds, n)``, true where an episode begins.

        Args:
            noise: random numbers to sample actions with; None: take the mode of the policy.
            masks: called before each step for the actions that are allowed; only policies with action
                masks use it.
        """

        def play(observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
            return self.predict(
                observations, noise is None, None if noise is None else noise.draw()
            )

        return play

    def _mean_gains(self, *tensors: Tensor) -> Tensor:
        def gains(network: nn.Module) -> Tensor:
            return torch.stack([n.gain.double().mean() for n in phase_norms(network).values()])

        found = []
        for stack, *_ in self.parts.values():
            if stack.norms:
                found.append(stack.vmap_modules(gains, tensors[: len(stack.tensors)]))
            tensors = tensors[len(stack.tensors) :]
        return torch.cat(found, 1)

    def gains(self) -> np.ndarray:
        """Return the current mean gain of each of :attr:`norms` of every seed, ``(seeds, layers)``."""
        tensors = [tensor for part in self.parts.values() for tensor in part.stack.tensors]
        return self._gains(*tensors).cpu().numpy()

    def largest_weights(self) -> list[float]:
        """Return the largest absolute value among the weights of each seed; NaN if one is not finite."""
        each = [part.stack.weights.abs().amax(1) for part in self.parts.values()]
        return torch.stack(each, 1).amax(1).tolist()

    def named_parameters(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        """Iterate over the names and the parameters of one seed's trained networks."""
        for prefix, (stack, *_) in self.parts.items():
            tensors = list(stack.unstack(seed).items())
            yield from ((prefix + name, t) for name, t in tensors[: stack.num_parameters])

    @abstractmethod
    def policies(self, tensors: Sequence[Tensor], observations: Tensor) -> Distribution:
        """Return the action distributions for observations ``(seeds, n, ...)``.

        Args:
            tensors: weights and buffers of the networks, in the order of ``stack.tensors``.
            observations: observations of every seed.
        """

    @abstractmethod
    def recent_observations(self, rows: int) -> Tensor | None:
        """Return at most ``rows`` observations of each seed, evenly spaced in its training data."""

    def recent_inputs(self, rows: int) -> tuple[Tensor, ...] | None:
        """Return what the functions of :meth:`probed` take after a network, or None as above."""
        observations = self.recent_observations(rows)
        return None if observations is None else (observations,)

    @abstractmethod
    def probed(self) -> dict[str, tuple[ModuleStack, Callable[..., Any]]]:
        """Return the networks that a probe observes: stack and function of one seed's network, by prefix.

        With the prefix, the names of layers are those in the policy of a single agent.
        """

    def commit_kl(self, rows: int = 64) -> np.ndarray | None:
        """Measure the last commit as a step of the policy: mean KL(before || after), ``(seeds,)``.

        Args:
            rows: number of observations on which it is measured.

        Returns:
            KL divergences in nats; None if there are no observations yet, or no commit since this batch
            was built.
        """
        observations = self.recent_observations(rows) if self.stack.has_committed else None
        if observations is None:
            return None
        before = self.policies(self.stack.tensors_before_commit(), observations)
        after = self.policies(self.stack.tensors, observations)
        of_rows = kl(before, after).reshape(self.size, len(observations[0]), -1).sum(2)
        return of_rows.mean(1).cpu().numpy()

    def state(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the training state of one seed between two phases: arrays, and plain (JSON) data.

        The state of the environments is not included. Arrays may share memory with the tensors that are
        trained: write or copy them before training continues.
        """
        arrays: dict[str, np.ndarray] = {}
        numbers: dict[str, Any] = {}
        for prefix, (stack, optimizer, _) in self.parts.items():
            for name, tensor in stack.unstack(seed).items():
                arrays[f"{prefix}network/{name}"] = tensor.cpu().numpy()
            moments, steps = optimizers.seed_state(optimizer, seed, sum(stack.sizes))
            arrays.update({prefix + name: moment for name, moment in moments.items()})
            numbers.update({prefix + name: step for name, step in steps.items()})
        if self.last_observations is not None:
            arrays["observations"] = self.last_observations[seed]
        counters = {name: getattr(self, name) for name in COUNTERS}
        random = [stream.state(seed) for stream in self.streams()]
        losses = {name: float(loss[seed]) for name, loss in self.losses.items()}
        rate = float(self.optimizer.param_groups[0]["lr"])
        plain = {"counters": counters, "random": random, "optimizer": numbers}
        return arrays, {**plain, "losses": losses, "learning_rate": rate}

    @torch.no_grad()
    def restore(self, stored: Sequence[tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> None:
        """Load the :meth:`state` of every seed; :meth:`learn` continues from it."""
        plain = stored[0][1]
        for prefix, (stack, optimizer, _) in self.parts.items():
            for seed, (arrays, _) in enumerate(stored):
                for name, tensor in stack.unstack(seed).items():
                    tensor.copy_(torch.from_numpy(arrays[f"{prefix}network/{name}"]))
            optimizers.restore(
                optimizer, [arrays for arrays, _ in stored], plain["optimizer"], prefix
            )
        if "observations" in stored[0][0]:
            self.last_observations = np.stack([arrays["observations"] for arrays, _ in stored])
        for name, value in plain["counters"].items():
            setattr(self, name, value)
        # both are of the last update, until the next; checkpoints of 0.1.0 have neither
        if "learning_rate" in plain:
            for part in self.parts.values():
                set_rate(part.optimizer, plain["learning_rate"])
        self.losses = {
            name: torch.tensor([each["losses"][name] for _, each in stored], device=self.device)
            for name in plain.get("losses", {})
        }
        for i, stream in enumerate(self.streams()):
            stream.restore([each["random"][i] for _, each in stored])

    def only(self, seeds: Sequence[int], compile: bool = False) -> Self:
        """Return a batch of some of the seeds, in their present state, between two phases.

        It has the environments of this batch, which is not used any more; they must have been reduced
        to the same seeds, see :meth:`.SeedEnvs.keep`.

        Args:
            seeds: numbers of the seeds, in ascending order.
            compile: see the class of the algorithm.
        """
        kept = [self.state(seed) for seed in seeds]
        smaller = type(self)([self.models[seed] for seed in seeds], self.envs, compile)
        smaller.restore(kept)
        return smaller

    @abstractmethod
    def streams(self) -> list[Streams]:
        """Return all random number streams of the training, in a fixed order."""

    @torch.no_grad()
    def silence(self, seed: int) -> None:
        """Set the weights and the optimizer's averages of a seed to 0, so that its outputs are finite.

        For a seed that diverged: numbers that are not finite can make an environment fail.
        """
        for stack, optimizer, _ in self.parts.values():
            stack.weights[seed] = 0
            for average in optimizers.state_tensors(optimizer).values():
                if average.shape == stack.weights.shape:
                    average[seed] = 0

    def write_back(self, seed: int) -> Model:
        """Return one seed's SB3 agent, updated to its current weights, states and counters."""
        model = self.models[seed]
        for prefix, (network, optimizer) in self.trained_networks(model).items():
            self.parts[prefix].stack.load_into(seed, network)
            parameters = list(network.parameters())
            optimizers.load_into(self.parts[prefix].optimizer, seed, optimizer, parameters)
        model.num_timesteps = self.num_timesteps
        model._n_updates = self.num_updates
        model._total_timesteps = self.total_timesteps
        model._current_progress_remaining = self.progress_remaining
        return model


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of an optimizer."""
    for group in optimizer.param_groups:
        group["lr"] = rate
