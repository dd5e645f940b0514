"""Seed batch of DQN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from rn_rl.agents.priors import NetworkPriors
from rn_rl.agents.rndqn import LOSSES
from rn_rl.agents.seed_batch.minibatch import Transitions, unflatten
from rn_rl.agents.seed_batch.off_policy import OffPolicySeedBatch
from rn_rl.agents.seed_batch.rng import Streams, explore
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs, Step
from rn_rl.agents.value_targets import TARGET_ROWS
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.engine.trace import TracedFunction
from rn_rl.normalization import observed_acting
from rn_rl.normalization.phase import set_within
from rn_rl.policies.divergence import evenly_spaced
from rn_rl.policies.q_policies import warn_unbounded_gain


class SeedBatchDQN(OffPolicySeedBatch[DQN]):
    """SB3's DQN for S seeds at once; see :class:`~rn_rl.agents.seed_batch.base.SeedBatch`.

    The networks of all seeds are evaluated by one batched matrix product for each layer. Exploration,
    replay sampling, target updates and schedules are those of SB3's DQN. Subclasses for its variants
    override :attr:`network_name`, :meth:`q_of` and :meth:`compute_losses`.

    Args:
        models: SB3 agents that have not learned yet, one for each seed.
        envs: environments of all seeds, one environment each.
        compile: compile the update with ``torch.compile``, which takes some ten seconds once.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = DQN
    network_name: ClassVar[str] = "q_net"
    """Attribute of an agent and of its policy that holds the online network."""
    gives_priors: ClassVar[bool] = True
    gives_targets: ClassVar[bool] = True
    model: DQN

    def __init__(self, models: Sequence[DQN], envs: SeedEnvs, compile: bool = False) -> None:
        super().__init__(models, envs, compile)
        model = self.model
        self.target = ModuleStack([self.target_network(m) for m in models])
        self.exploration = Streams(self.seeds, "exploration", (2,))
        self.exploration_rates = np.full(self.size, float(model.exploration_rate))
        """Epsilon of each seed: equal for all, unless it decays at the end of each episode."""
        self.exploration_decay: float | None = getattr(model, "exploration_decay", None)
        self.target_observes: bool = getattr(model, "target_observes", False)
        self.loss = LOSSES[getattr(model, "loss", "huber")]
        self.priors = NetworkPriors(self.stack.module)
        shuffled = self.priors.num_shuffled
        self.prior_shuffling = (
            Streams(self.seeds, "priors", (shuffled, model.batch_size)) if shuffled else None
        )
        """Random numbers that permute shuffled priors; None if there are none."""
        self.permutations: Sequence[Tensor] = ()
        """Permutations of the minibatch that is traced, ``(seeds, batch)`` for each shuffled prior."""
        own = len(self.stack.tensors)
        self._q_values = TracedFunction(
            self._compute_q_values, num_static=own, cache_invariants=True
        )
        self._acting_q_values: TracedFunction | None = None
        # acting that is observed changes the normalizers' state in place
        if getattr(model.policy, "acting_observes", False):
            self._acting_q_values = TracedFunction(self._compute_acting_q_values, num_static=own)
        self._gradients = TracedFunction(self._compute_gradients, compile, num_static=2 * own)

    @classmethod
    def network(cls, model: Any) -> nn.Module:
        online: nn.Module = getattr(model, cls.network_name)
        return online

    def learn(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`.SeedBatch.learn`; warns at the beginning of a training if a gain has no bound."""
        if not self.num_timesteps:
            warn_unbounded_gain(
                self.network(self.model), getattr(self.model.policy, "norm", "none")
            )
        super().learn(*args, **kwargs)

    @classmethod
    def target_network(cls, model: Any) -> nn.Module:
        """Return the agent's target network, of the same architecture as :meth:`network`."""
        target: nn.Module = getattr(model, f"{cls.network_name}_target")
        return target

    @staticmethod
    def q_of(network: nn.Module, observations: Tensor) -> Tensor:
        """Return Q-values ``(n, actions)`` of one seed's network for observations ``(n, ...)``."""
        values: Tensor = network(observations)
        return values

    def _compute_q_values(self, *tensors: Tensor) -> Tensor:
        *own, observations = tensors
        result: Tensor = self.stack.vmap_modules(self.q_of, own, observations)
        return result

    def _compute_acting_q_values(self, *tensors: Tensor) -> Tensor:
        with observed_acting(self.stack.module):
            return self._compute_q_values(*tensors)

    def q_values(self, observations: Tensor, tensors: Sequence[Tensor] | None = None) -> Tensor:
        """Return Q-values ``(seeds, n, actions)`` for observations ``(seeds, n, ...)``.

        Args:
            observations: observations of every seed.
            tensors: weights and buffers to use in place of those of the online networks.
        """
        own = self.stack.tensors if tensors is None else tensors
        result: Tensor = self._q_values(*own, observations)
        return result

    def compute_losses(
        self, online: Sequence[Tensor], target: Sequence[Tensor], minibatch: Transitions
    ) -> Tensor:
        """Compute the loss of every seed, ``(seeds,)``; traced, so it must be a pure function.

        The mean over the minibatch of ``loss(Q(s, a), r + gamma * max_a' Q_target(s', a'))``.

        Args:
            online: weights and buffers of the online networks.
            target: weights and buffers of the target networks.
            minibatch: transitions of every seed.
        """
        own = observed_acting(self.target.module) if self.target_observes else nullcontext()
        with torch.no_grad(), own:
            next_q = self.target.vmap_modules(self.q_of, target, minibatch.next_observations)
            future = next_q.amax(2, keepdim=True)
            targets = minibatch.rewards + (1 - minibatch.dones) * self.model.gamma * future
        shares = self.saliency(online, minibatch, targets) if self.priors else []
        q = self.stack.vmap_modules(
            self._salient_q_of, online, minibatch.observations, *shares, training=True
        )
        error = self.loss(q.gather(2, minibatch.actions), targets, reduction="none")
        return error.mean((1, 2))

    def _salient_q_of(self, network: nn.Module, observations: Tensor, *shares: Tensor) -> Tensor:
        with self.priors.given(shares):
            return self.q_of(network, observations)

    @torch.no_grad()
    def saliency(
        self, online: Sequence[Tensor], minibatch: Transitions, targets: Tensor
    ) -> list[Tensor]:
        """Compute the named priors of a minibatch, ``(seeds, batch)`` each; traced.

        Args:
            online: weights and buffers of the online networks.
            minibatch: transitions of every seed.
            targets: ``(seeds, batch, 1)``, of which the TD errors are differences.
        """
        errors = None
        if "td" in self.priors.names:
            q = self.stack.vmap_modules(self.q_of, online, minibatch.observations)
            errors = (targets - q.gather(2, minibatch.actions))[:, :, 0]
        transitions = minibatch.actions[:, :, 0], minibatch.rewards[:, :, 0]
        return self.priors.shares(*transitions, errors, self.permutations)

    def _compute_gradients(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute clipped gradients ``(seeds, P)`` and losses ``(seeds,)``."""
        own = len(self.stack.tensors)
        leaves, online = self.leaves(tensors[:own])
        minibatch, orders = unflatten(tensors[2 * own :], Transitions)
        with set_within([self], "permutations", [x for each in orders for x in each.unbind(1)]):
            losses = self.compute_losses(online, tensors[own : 2 * own], minibatch)
        return self.clipped_gradients(losses, leaves), losses.detach()

    def update(self, minibatch: Transitions) -> None:
        """Take one gradient step of every seed."""
        orders = []
        if self.prior_shuffling is not None:
            orders.append(self.tensor(self.prior_shuffling.draw().argsort(-1)))
        self.stack.weights.grad, loss = self._gradients(
            *self.stack.tensors, *self.target.tensors, *minibatch, *orders
        )
        self.losses["train/loss"] = loss
        self.step_optimizer()

    @torch.no_grad()
    def update_targets(self) -> None:
        """Move the target networks by ``tau``, and copy the running state of the normalizers.

        The state is not copied if the target networks observe for themselves.
        """
        self.target.weights.lerp_(self.stack.weights, self.model.tau)
        if self.target_observes:
            return
        for target, online in zip(
            self.target.running_state(), self.stack.running_state(), strict=True
        ):
            target.copy_(online)

    @torch.no_grad()
    def observe_targets(self) -> None:
        """Give ``r + gamma * max_a Q_target(s', a)`` of replayed rows to layers that scale values."""
        if not self.stack.value_layers:
            return
        rows = evenly_spaced(len(self.memory), TARGET_ROWS)
        replayed = self.scaled(self.memory.at(rows))
        future = self.q_values(replayed.next_observations, self.target.tensors).amax(2)
        going_on = 1 - replayed.dones[..., 0]
        targets = replayed.rewards[..., 0] + self.model.gamma * going_on * future
        self.stack.observe_targets(targets.T)

    def set_training_mode(self, mode: bool) -> None:
        commits = self.stack.training and not mode
        super().set_training_mode(mode)
        if commits:
            self.target.adopt_values(self.stack)

    def policies(self, tensors: Sequence[Tensor], observations: Tensor) -> Distribution:
        """Return ``softmax(Q)``, on which :class:`~rn_rl.agents.NormalizerLogger` measures KL too."""
        return Categorical(logits=self.q_values(observations, tensors), validate_args=False)

    def probed(self) -> dict[str, tuple[ModuleStack, Callable[..., Any]]]:
        name = self.network_name
        return {
            f"{name}.": (self.stack, self.q_of),
            f"{name}_target.": (self.target, self.q_of),
        }

    def predict(
        self, observations: np.ndarray, deterministic: bool = True, noise: np.ndarray | None = None
    ) -> np.ndarray:
        greedy: np.ndarray = self.q_values(self.tensor(observations)).argmax(-1).cpu().numpy()
        if deterministic or noise is None:
            return greedy
        assert isinstance(self.model.action_space, spaces.Discrete)
        rates = self.exploration_rates[:, None]
        return explore(greedy, noise[..., 0], rates, int(self.model.action_space.n))

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Return epsilon-greedy actions, ``(seeds, 1)``; random ones until learning starts.

        If the policy observes acting, the normalizers of the seeds that act greedily observe it.
        """
        chance, choice = self.exploration.draw().T[:, :, None]
        assert isinstance(self.model.action_space, spaces.Discrete)
        random = (choice * self.model.action_space.n).astype(np.int64)
        rate = self.exploration_rates[:, None]
        if self.num_timesteps < self.model.learning_starts or rate.min() >= 1:
            return random
        if self._acting_q_values is None:
            return np.where(chance < rate, random, self.predict(observations))
        before = [state.clone() for state in self.stack.running_state()]
        q_values = self._acting_q_values(*self.stack.tensors, self.tensor(observations))
        # SB3 does not evaluate the network of an agent that explores, so nothing is observed there
        explores = torch.from_numpy((chance < rate)[:, 0].nonzero()[0]).to(self.device)
        self.stack.restore_running_state(before, explores)
        return np.where(chance < rate, random, q_values.argmax(-1).cpu().numpy())

    def after_step(self, step: Step) -> None:
        if self.num_timesteps % max(self.model.target_update_interval, 1) == 0:
            self.update_targets()
        self._set_exploration_rates(step.dones[:, 0])

    def _set_exploration_rates(self, dones: np.ndarray) -> None:
        """Set epsilon by SB3's schedule, or multiply it for each seed whose episode ended."""
        if self.exploration_decay is None:
            self.exploration_rates[:] = self.model.exploration_schedule(self.progress_remaining)
        elif dones.any():
            decayed = np.where(dones, self.exploration_decay, 1.0) * self.exploration_rates
            self.exploration_rates = np.maximum(self.model.exploration_final_eps, decayed)

    def streams(self) -> list[Streams]:
        return [self.exploration, self.replay, *filter(None, [self.prior_shuffling])]

    def state(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, plain = super().state(seed)
        targets = self.target.unstack(seed)
        arrays.update({f"target/{name}": v.cpu().numpy() for name, v in targets.items()})
        return arrays, {**plain, "exploration_rate": float(self.exploration_rates[seed])}

    @torch.no_grad()
    def restore(self, stored: Sequence[tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> None:
        super().restore(stored)
        rates = [each["exploration_rate"] for _, each in stored]
        self.exploration_rates = np.array(rates, dtype=float)
        for seed, (arrays, _) in enumerate(stored):
            for name, tensor in self.target.unstack(seed).items():
                tensor.copy_(torch.from_numpy(arrays[f"target/{name}"]))

    @torch.no_grad()
    def silence(self, seed: int) -> None:
        super().silence(seed)
        self.target.weights[seed] = 0

    def write_back(self, seed: int) -> DQN:
        model = super().write_back(seed)
        self.target.load_into(seed, self.target_network(model))
        model.exploration_rate = float(self.exploration_rates[seed])
        return model
