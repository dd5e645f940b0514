"""PPO with an LSTM, for many seeds in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor
from torch.distributions import Categorical
from torch.nn import functional as F  # noqa: N812

from rn_rl.agents.seed_batch.actor_critic import sample
from rn_rl.agents.seed_batch.introspection import looks_at_all_rows
from rn_rl.agents.seed_batch.ppo import SeedBatchPPO
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs
from rn_rl.engine.ops.gather import gather_rows
from rn_rl.engine.ops.lstm import along
from rn_rl.engine.trace import TracedFunction
from rn_rl.normalization import observation_weights, phase_norms


def inputs_of(policy: Any, observations: Tensor) -> list[Tensor]:
    """What an observation brings to an LSTM, whatever was before it, ``(rows, ...)`` each.

    That is input weights times features, and biases; of the actor, then of the critic, or what the
    critic makes of its features if it has no LSTM; of the actor alone where they share one.
    """
    features = policy.extract_features(observations)
    of_actor, of_critic = (
        (features, features) if policy.share_features_extractor else (features[0], features[1])
    )
    lstms = [(policy.lstm_actor, of_actor)]
    if policy.lstm_critic is not None:
        lstms.append((policy.lstm_critic, of_critic))
    inputs = [F.linear(x, m.weight_ih_l0, m.bias_ih_l0 + m.bias_hh_l0) for m, x in lstms]
    if policy.lstm_critic is None and not policy.shared_lstm:
        inputs.append(policy.critic(of_critic))
    return inputs


def latents(
    policy: Any, inputs: Sequence[Tensor], state: Tensor, keep: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What comes out of the hidden layers of actor and critic, and the state after the sequences.

    Args:
        policy: sb3-contrib's ``RecurrentActorCriticPolicy``, of one seed.
        inputs: of :func:`inputs_of`, for the rows of the sequences, one sequence after the other.
        state: before the first step, ``(sequences, size)``: h and c of the actor's LSTM, then of the
            critic's, if it has its own.
        keep: ``(sequences, steps)``, 0 where an episode begins.
    """
    lstms = [m for m in (policy.lstm_actor, policy.lstm_critic) if m is not None]
    hidden, cell = state.unflatten(1, (len(lstms), 2, -1)).permute(2, 1, 0, 3).unbind()
    by_sequence = torch.stack(list(inputs[: len(lstms)])).unflatten(1, keep.shape)
    states, cell = along(lstms, by_sequence, hidden, cell, keep)
    after = torch.stack((states[:, :, -1], cell), 1).permute(2, 0, 1, 3).flatten(1)
    latent_pi, *latent_vf = states.flatten(1, 2)
    if policy.shared_lstm:
        latent_vf = [latent_pi.detach()]
    elif not latent_vf:
        latent_vf = [inputs[1]]
    heads = policy.mlp_extractor
    return heads.forward_actor(latent_pi), heads.forward_critic(*latent_vf), after


class SeedBatchRecurrentPPO(SeedBatchPPO):
    """sb3-contrib's RecurrentPPO for S seeds at once; see :class:`~rn_rl.agents.SeedBatch`.

    sb3-contrib cuts a minibatch into sequences where episodes begin and pads them to the longest. Here
    a sequence is what the minibatch has of one environment, through which the LSTM goes once; where an
    episode begins in it, the state is 0. The numbers are the same, and all minibatches have one shape.

    Args:
        models: see :class:`~rn_rl.agents.SeedBatchPPO`.
        envs: see :class:`~rn_rl.agents.SeedBatchPPO`.
        compile: see :class:`~rn_rl.agents.SeedBatchPPO`.
    """

    model: Any

    def __init__(
        self, models: Sequence[RecurrentPPO], envs: SeedEnvs, compile: bool = False
    ) -> None:
        super().__init__(models, envs, compile)  # type: ignore[arg-type]
        own = len(self.stack.tensors)
        policy = self.model.policy
        networks = 1 + (policy.lstm_critic is not None)
        self.state_size = 2 * networks * policy.lstm_actor.hidden_size
        shape = self.size, envs.num_envs, self.state_size
        self.lstm_state = np.zeros(shape, np.float32)
        """Of every environment, as :func:`latents` has it."""
        self.states = np.zeros((self.model.n_steps, *shape), np.float32)
        """The same before each step of the current rollout."""
        self.shuffling = Streams(self.seeds, "sequences", (1,))
        self.number_inputs = 2 - policy.shared_lstm
        """See :func:`inputs_of`."""
        self._inputs = TracedFunction(self._compute_inputs, constant=own, values=True)
        self._modes = TracedFunction(self._compute_modes, constant=own, values=True)

    @classmethod
    def cannot(cls, model: BaseAlgorithm) -> str | None:
        reason = super(SeedBatchPPO, cls).cannot(model)
        if reason or not isinstance(model, RecurrentPPO):
            return reason or f"{type(model).__name__} is not RecurrentPPO"
        reason = cls.cannot_act(model)
        if reason:
            return reason
        policy: Any = model.policy
        if policy.lstm_actor.num_layers != 1 or policy.lstm_kwargs:
            return "its LSTM has several layers or lstm_kwargs"
        if looks_at_all_rows(policy):
            return (
                "its batch normalization or dropout would look at the padding of sequences, of which a "
                "batch has another"
            )
        return None

    def readers(self, policy: Any) -> list[str]:
        return []  # an LSTM reads them, with so many weights that it gains nothing

    def by_row(self, policy: Any) -> bool:
        # what comes before an LSTM; rows asked about once would not say which of them are padding
        return not phase_norms(policy.pi_features_extractor)

    def _repeats(self) -> bool:
        return self.asking.by_row and np.issubdtype(self.model.observation_space.dtype, np.integer)

    def _ask(self, observations: np.ndarray) -> tuple[np.ndarray, ...]:
        given = self._inputs(*self.stack.tensors, self.tensor(observations))
        return tuple(part.cpu().numpy() for part in given)

    def mean(self, x: Tensor, given: Sequence[Tensor]) -> Tensor:
        real, *_ = given  # 1 for each row of minibatches() that is not padding
        return (x * real).sum(1) / real.sum(1)

    def gather_rows(self, x: Tensor, given: Sequence[Tensor]) -> Any:
        return given[0].sum(1)

    def evaluate(self, own: Sequence[Tensor], actions: Tensor, *given: Tensor) -> Any:
        def evaluate(
            policy: Any, a: Tensor, real: Tensor, state: Tensor, keep: Tensor, *asked: Tensor
        ) -> Any:
            x, *others = asked
            patches, repeated = self.asking.over_patches(policy, x, others)
            with observation_weights(policy, real):
                with patches:
                    inputs = inputs_of(policy, x)
                inputs = [gather_rows(each, *repeated[:1]) if repeated else each for each in inputs]
                pi, vf, _ = latents(policy, inputs, state, keep)
            distribution = policy._get_action_dist_from_latent(pi)
            log_prob, entropy = distribution.log_prob(a), distribution.entropy()
            values = policy.value_net(vf)[:, 0]
            return values, log_prob, -log_prob if entropy is None else entropy

        return self.stack.over_seeds(evaluate, own, actions, *given, training=True)

    def _one_step(self, then: Callable[..., Any], tensors: Sequence[Tensor]) -> Any:
        """``then(policy, latent_pi, latent_vf, ...)`` after one step of every environment; the state."""
        own, given = tensors[: len(self.stack.tensors)], tensors[len(self.stack.tensors) :]

        def one(policy: Any, s: Tensor, k: Tensor, *given: Tensor) -> Any:
            inputs, more = given[: self.number_inputs], given[self.number_inputs :]
            pi, vf, after = latents(policy, inputs, s, k[:, None])
            return then(policy, pi, vf, *more), after

        return self.stack.over_seeds(one, own, *given)

    def _compute_inputs(self, *tensors: Tensor) -> Any:
        *own, observations = tensors
        return self.stack.over_seeds(inputs_of, own, observations)

    def _compute_act(self, *tensors: Tensor) -> Any:
        def act(policy: Any, pi: Tensor, vf: Tensor, uniform: Tensor) -> Any:
            distribution = policy._get_action_dist_from_latent(pi)
            actions = sample(distribution, uniform)
            return actions, policy.value_net(vf)[:, 0], distribution.log_prob(actions)

        return self._one_step(act, tensors)

    def _compute_modes(self, *tensors: Tensor) -> Any:
        def mode(policy: Any, pi: Tensor, vf: Tensor) -> Tensor:
            return policy._get_action_dist_from_latent(pi).mode()

        return self._one_step(mode, tensors)

    def _compute_values(self, *tensors: Tensor) -> Tensor:
        def values(policy: Any, pi: Tensor, vf: Tensor) -> Tensor:
            return policy.value_net(vf)[:, 0]

        found: Tensor = self._one_step(values, tensors)[0]
        return found

    def _compute_parameters(self, *tensors: Tensor) -> Any:
        """As if each observation began an episode."""
        *own, observations = tensors
        shape = observations.shape[:2]
        state = observations.new_zeros(*shape, self.state_size, dtype=tensors[0].dtype)

        def parameters(policy: Any, pi: Tensor, vf: Tensor) -> tuple[Tensor, ...]:
            given = policy._get_action_dist_from_latent(pi).distribution
            if isinstance(given, Categorical):
                return (given.logits,)
            return given.mean, given.stddev

        inputs = self._compute_inputs(*own, observations)
        found, _ = self._one_step(parameters, [*own, state, state[..., 0], *inputs])
        return found

    def asked_step(
        self, observations: np.ndarray, state: np.ndarray, begins: np.ndarray, recall: bool = False
    ) -> list[Tensor]:
        """One step of every environment, as the programs take it.

        Args:
            observations: ``(seeds, n, ...)``.
            state: ``(seeds, n, state_size)``.
            begins: ``(seeds, n)``, 1 where an episode begins.
            recall: what observations of this rollout have brought already need not be computed.
        """
        keep = 1 - begins.astype(np.float32)
        given: Any
        if recall and self.memo is not None:
            given = [self.tensor(x) for x in self.memo(observations)]
        else:
            given = self._inputs(*self.stack.tensors, self.tensor(observations))
        dtype = self.stack.weights.dtype
        before = [self.tensor(x).to(dtype) for x in (state, keep)]
        return [*self.stack.tensors, *before, *given]

    def act(self, observations: np.ndarray, t: int) -> tuple[np.ndarray, ...]:
        if t == 0 and self.memo is not None:
            self.memo.forget()
        self.states[t] = self.lstm_state
        given = self.asked_step(observations, self.lstm_state, self.starts, recall=True)
        found, after = self._act(*given, self.tensor(self.sampling.draw()))
        self.lstm_state = after.cpu().numpy().astype(np.float32)
        return tuple(part.cpu().numpy() for part in found)

    def values(self, observations: np.ndarray) -> np.ndarray:
        """V of observations that follow on the present state."""
        return self._values_after(observations, np.zeros_like(self.starts))

    def last_values(self) -> np.ndarray:
        assert self.last_observations is not None
        return self._values_after(self.last_observations, self.starts)

    def _values_after(self, observations: np.ndarray, begins: np.ndarray) -> np.ndarray:
        given = self.asked_step(observations, self.lstm_state, begins, recall=True)
        return self._values(*given).cpu().numpy()

    def player(self, noise: Streams | None) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        state: np.ndarray | None = None

        def play(observations: np.ndarray, begins: np.ndarray) -> np.ndarray:
            nonlocal state
            if state is None:
                state = np.zeros((*observations.shape[:2], self.state_size), np.float32)
            given = self.asked_step(observations, state, begins)
            if noise is None:
                actions, after = self._modes(*given)
            else:
                (actions, _, _), after = self._act(*given, self.tensor(noise.draw()))
            state = after.cpu().numpy()
            return self.within_bounds(actions.cpu().numpy())

        return play

    def predict(
        self, observations: np.ndarray, deterministic: bool = True, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """Actions as if each observation began an episode; :meth:`player` remembers."""
        state = np.zeros((*observations.shape[:2], self.state_size), np.float32)
        given = self.asked_step(observations, state, np.ones(observations.shape[:2]))
        if deterministic:
            actions, _ = self._modes(*given)
        else:
            assert noise is not None
            (actions, _, _), _ = self._act(*given, self.tensor(noise))
        return self.within_bounds(actions.cpu().numpy())

    def minibatches(self) -> Iterator[tuple[np.ndarray, Sequence[Tensor]]]:
        model, envs = self.model, self.envs.num_envs
        steps = model.n_steps
        total = steps * envs
        split = (self.shuffling.draw()[:, :1] * total).astype(np.int64)
        seeds = np.arange(self.size)[:, None]
        dtype = self.stack.weights.dtype
        for begin in range(0, total, model.batch_size):
            count = min(model.batch_size, total - begin)
            sequence, step, row = sequences(split + begin, count, steps, total)
            shape = self.size, -(-count // steps) + 1, steps
            chosen = np.zeros(shape, np.int64)
            real = np.zeros(shape, np.float32)
            env, t = np.divmod(row, steps)
            chosen[seeds, sequence, step] = t * envs + env
            real[seeds, sequence, step] = 1
            first = np.divmod(chosen[:, :, 0], envs)
            states = self.states[first[0], seeds, first[1]]
            begins = self.rollout["starts"][chosen // envs, seeds[:, :, None], chosen % envs]
            given = (real.reshape(self.size, -1), states, 1 - begins)
            yield chosen.reshape(self.size, -1), [self.tensor(x).to(dtype) for x in given]

    def state(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, plain = super().state(seed)
        return {**arrays, "lstm": self.lstm_state[seed]}, plain

    def restore(self, stored: Sequence[tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> None:
        super().restore(stored)
        self.lstm_state = np.stack([arrays["lstm"] for arrays, _ in stored])


def sequences(
    begin: np.ndarray, count: int, steps: int, total: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """So many rows of a rollout from ``begin`` on, round its end, cut where an environment begins.

    Args:
        begin: ``(seeds, 1)``.
        count: rows.
        steps: of each environment, one environment after the other.
        total: rows of the rollout.

    Returns:
        For each row its sequence, its step within that, and its place in the rollout,
        ``(seeds, count)``.
    """
    along = np.arange(count)
    row = (begin + along) % total
    new = row % steps == 0
    new[:, 0] = True
    first = np.maximum.accumulate(np.where(new, along, 0), 1)
    return new.cumsum(1) - 1, along - first, row
