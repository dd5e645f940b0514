"""Saliency priors of an agent's transitions: ``sn(prior=td)``, ``prior=reward`` and ``prior=action``.

The prior s of a transition is a share of the transitions that are learned from together (the minibatch of
DQN, the rollout of PPO), as the class share of the paper is one of a minibatch:

==========  ==========================================================================
``action``  share with the same action
``reward``  share whose reward is at least as far from the mean reward
``td``      share whose absolute TD error (DQN) or advantage (PPO) is at least as large
==========  ==========================================================================

The last two are :func:`~rn_rl.normalization.tail_shares`. ``shuffled=true`` permutes the same numbers
among the transitions: the control in which a prior says nothing about its transition.

A prior is given to the network that is trained, and only for its update: acting, evaluation, target
networks and next observations have none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rn_rl.errors import UserError
from rn_rl.normalization import class_shares, named_priors, prior_terms, tail_shares
from rn_rl.normalization.phase import set_within
from rn_rl.normalization.saliency import GivenPrior
from rn_rl.policies.spec_arguments import normalizer_specs

Permutation = Callable[[int], Tensor]


def permutation(size: int) -> Tensor:
    """Draw a permutation from torch's generator, which checkpoints hold: ``(size,)``, int64."""
    return torch.randperm(size)


class NetworkPriors:
    """The named priors in one network; true if there are any.

    Args:
        network: the network that is trained.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.norms = named_priors(network)

    def __bool__(self) -> bool:
        return bool(self.norms)

    @property
    def names(self) -> set[str]:
        """Names of the priors, without ``shuffled``."""
        return {prior.name for prior in self.norms}

    @property
    def num_shuffled(self) -> int:
        """Number of priors that are shuffled."""
        return sum(prior.shuffled for prior in self.norms)

    def shares(
        self,
        actions: Tensor,
        rewards: Tensor,
        errors: Tensor | None,
        permutations: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """Compute the prior s of every transition, ``(..., batch)`` in (0, 1], for each named prior.

        Args:
            actions: label of each transition's action, ``(..., batch)``.
            rewards: ``(..., batch)``.
            errors: TD errors or advantages, ``(..., batch)``; None if no prior needs them.
            permutations: ``(..., batch)``, one for each prior that is shuffled.
        """
        orders = iter(permutations)
        found = []
        for prior in self.norms:
            if prior.name == "action":
                s = class_shares(actions)
            elif prior.name == "reward":
                s = tail_shares(rewards - rewards.mean(-1, keepdim=True))
            else:
                assert errors is not None
                s = tail_shares(errors)
            found.append(s.gather(-1, next(orders)) if prior.shuffled else s)
        return found

    @contextlib.contextmanager
    def given(self, shares: Sequence[GivenPrior | None]) -> Iterator[None]:
        """Give the network its priors inside this context, in the order of :meth:`shares`."""
        with contextlib.ExitStack() as stack:
            for norms, s in zip(self.norms.values(), shares, strict=True):
                stack.enter_context(set_within(norms, "given_prior", s))
            yield

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """Compute what the acting network does inside this context: evaluation mode, and no prior.

        The mode is set without a commit, which ``eval()`` would cause.
        """
        with (
            set_within(self.network.modules(), "training", False),
            self.given([None] * len(self.norms)),
        ):
            yield


class _WatchedReplay:
    """A replay buffer that calls a function with each minibatch that it returns."""

    def __init__(self, memory: Any, watch: Callable[[Any], None]) -> None:
        self.memory, self.watch = memory, watch

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        minibatch = self.memory.sample(*args, **kwargs)
        self.watch(minibatch)
        return minibatch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.memory, name)


@contextlib.contextmanager
def replay_priors(model: Any) -> Iterator[None]:
    """Give DQN's online network the priors of each minibatch that is sampled inside this context.

    Without a named prior, do nothing. ``prior=td`` takes one more forward of both networks, without
    gradient: its TD errors are those of the networks as they act,
    ``r + gamma * max_a' Q_target(s', a') - Q(s, a)``.

    Args:
        model: DQN, about to train.
    """
    priors = NetworkPriors(model.q_net)
    if not priors:
        yield
        return

    def watch(minibatch: Any) -> None:
        errors = None
        if "td" in priors.names:
            with priors.acting():
                errors = td_errors(model, minibatch)
        size = len(minibatch.rewards)
        orders = [permutation(size).to(model.device) for _ in range(priors.num_shuffled)]
        shares = priors.shares(minibatch.actions[:, 0], minibatch.rewards[:, 0], errors, orders)
        for norms, s in zip(priors.norms.values(), shares, strict=True):
            for norm in norms:
                norm.given_prior = s

    memory = _WatchedReplay(model.replay_buffer, watch)
    # the normalizers are restored by the second context
    with set_within([model], "replay_buffer", memory), priors.given([None] * len(priors.norms)):
        yield


@torch.no_grad()
def td_errors(model: Any, minibatch: Any) -> Tensor:
    """Compute DQN's TD errors of a minibatch, ``(batch,)``."""
    discounts = model.gamma if minibatch.discounts is None else minibatch.discounts
    future = model.q_net_target(minibatch.next_observations).amax(1, keepdim=True)
    targets = minibatch.rewards + (1 - minibatch.dones) * discounts * future
    errors: Tensor = targets - model.q_net(minibatch.observations).gather(
        1, minibatch.actions.long()
    )
    return errors[:, 0]


@contextlib.contextmanager
def rollout_priors(model: Any) -> Iterator[None]:
    """Give PPO's policy the priors of its rollout inside this context.

    Without a named prior, do nothing. Else the rollout's log-probabilities and values are computed again
    under the priors, so that PPO's ratio is 1 at the first minibatch: the loss then compares the policy
    with itself before the update, both with the prior. Advantages and returns stay those of acting.

    Args:
        model: PPO with a buffer of :mod:`rn_rl.agents.rollouts`, about to train.
    """
    priors = NetworkPriors(model.policy)
    if not priors:
        yield
        return
    buffer, device = model.rollout_buffer, model.device
    actions = buffer.swap_and_flatten(buffer.actions)
    rewards, advantages = (
        torch.from_numpy(buffer.swap_and_flatten(each)[:, 0])
        for each in (buffer.rewards, buffer.advantages)
    )
    orders = [permutation(len(actions)) for _ in range(priors.num_shuffled)]
    shares = priors.shares(labels(actions), rewards, advantages, orders)
    shares = [s.to(device) for s in shares]
    with priors.acting():
        evaluate_again(model, priors, shares)
    with priors.given([lambda s=s: s[buffer.last_rows] for s in shares]):  # type: ignore[misc]
        yield


@torch.no_grad()
def evaluate_again(model: Any, priors: NetworkPriors, shares: Sequence[Tensor]) -> None:
    """Compute a rollout's values and log-probabilities under its priors, in place."""
    buffer = model.rollout_buffer
    kept = buffer.observations
    observations = (
        {name: buffer.swap_and_flatten(part) for name, part in kept.items()}
        if isinstance(kept, dict)
        else buffer.swap_and_flatten(kept)
    )
    # as SB3's buffer gives them: MultiBinary actions are stored as int8
    actions = buffer.to_torch(buffer.swap_and_flatten(buffer.actions).astype(np.float32))
    if isinstance(model.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    found = []
    for begin in range(0, len(actions), model.batch_size):
        rows = slice(begin, begin + model.batch_size)
        some = (
            {name: buffer.to_torch(part[rows]) for name, part in observations.items()}
            if isinstance(observations, dict)
            else buffer.to_torch(observations[rows])
        )
        with priors.given([s[rows] for s in shares]):
            values, log_probs, _ = model.policy.evaluate_actions(some, actions[rows])
        found.append((values.flatten().cpu().numpy(), log_probs.cpu().numpy()))
    for kept, parts in zip(
        (buffer.values, buffer.log_probs), zip(*found, strict=True), strict=True
    ):
        steps, envs = kept.shape
        kept[:] = np.concatenate(parts).reshape(envs, steps).T


def labels(actions: np.ndarray) -> Tensor:
    """Number the different actions among ``(rows, components)``: equal numbers for equal rows."""
    _, found = np.unique(actions, axis=0, return_inverse=True)
    return torch.from_numpy(found.reshape(-1))


def priors_in(policy_kwargs: Any) -> list[str]:
    """Return the terms with a named prior in the arguments of a policy, such as ``sn(prior=td)``."""
    return [term for spec in normalizer_specs(policy_kwargs) for term in prior_terms(spec)]


def check_actions(terms: Sequence[str], space: spaces.Space) -> None:
    """Raise :class:`UserError` if a prior is the share of an action and there are infinitely many."""
    for term in terms:
        if "prior=action" in term and isinstance(space, spaces.Box):
            raise UserError(
                f"{term}: the actions are {space}, of which no two are equal; expected a finite action "
                "space, or prior=td or prior=reward"
            )
