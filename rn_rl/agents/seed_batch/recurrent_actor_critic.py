"""Recurrent actor-critic policies of all seeds: those of sb3-contrib, with one LSTM layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from rn_rl.agents.seed_batch.actor_critic import ActorCritics, PolicyEvaluation
from rn_rl.agents.seed_batch.distributions import (
    distribution_parameters,
    log_probs_and_entropies,
    sample,
)
from rn_rl.agents.seed_batch.introspection import (
    convolutions,
    is_row_wise_before_lstm,
    repeats_observations,
)
from rn_rl.agents.seed_batch.minibatch import Sequences, unflatten
from rn_rl.agents.seed_batch.recurrent_policy import latents, lstm_inputs, sequence_positions
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.rollout import PolicyOutput, SeedRollout
from rn_rl.agents.seed_batch.vector_envs import Masks
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.engine.ops.gather import gather_rows
from rn_rl.normalization.phase import weighted


class RecurrentActorCritics(ActorCritics):
    """The recurrent actor-critic policies of all seeds, and the LSTM state of every environment.

    sb3-contrib cuts a minibatch into sequences where episodes begin and pads them to the longest. Here a
    sequence is the part of a minibatch that comes from one environment, through which the LSTM passes
    once; where an episode begins in it, the state is reset to 0. The losses are the same, and all
    minibatches have one shape, so that one trace serves all of them.

    Args:
        stack: see :class:`ActorCritics`.
        model: see :class:`ActorCritics`.
        seeds: see :class:`ActorCritics`.
        num_envs: see :class:`ActorCritics`.
    """

    def __init__(self, stack: ModuleStack, model: Any, seeds: Sequence[int], num_envs: int) -> None:
        super().__init__(stack, model, seeds, num_envs)
        policy = model.policy
        lstms = 1 + (policy.lstm_critic is not None)
        self.state_size = 2 * lstms * policy.lstm_actor.hidden_size
        shape = self.size, num_envs, self.state_size
        self.lstm_state = np.zeros(shape, np.float32)
        """State before the next step of every environment, laid out as in :func:`latents`."""
        self.states = np.zeros((model.n_steps, *shape), np.float32)
        """State before each step of the current rollout."""
        self.num_inputs = 2 - policy.shared_lstm
        """Number of tensors of :func:`lstm_inputs`."""
        self._inputs = self.traced(self._compute_inputs)

    @staticmethod
    def cannot(model: Any) -> str | None:
        reason = ActorCritics.cannot(model)
        if reason:
            return reason
        policy = model.policy
        if policy.lstm_actor.num_layers != 1 or policy.lstm_kwargs:
            return "its LSTM has several layers or lstm_kwargs"
        return None

    def dedup_arguments(self) -> tuple[Any, ...]:
        # no dense weights: an LSTM has so many that deduplicating positions would not pay
        dedup_rows = is_row_wise_before_lstm(self.model.policy)
        return dedup_rows, [], convolutions(self.stack.module)

    def caches(self) -> bool:
        return self.dedup.dedup_rows and repeats_observations(self.model.observation_space)

    def cached_outputs(self, observations: np.ndarray) -> tuple[np.ndarray, ...]:
        """Compute what :attr:`cache` stores for observations: :func:`lstm_inputs`."""
        found = self._inputs(*self.stack.tensors, self.tensor(observations))
        return tuple(part.cpu().numpy() for part in found)

    def step_tensors(
        self,
        observations: np.ndarray,
        state: np.ndarray,
        starts: np.ndarray,
        use_cache: bool = False,
    ) -> list[Tensor]:
        """Return the tensors that the traced functions take for one step of every environment.

        Args:
            observations: ``(seeds, n, ...)``.
            state: LSTM state before the step, ``(seeds, n, state_size)``.
            starts: 1 where an episode begins, ``(seeds, n)``.
            use_cache: look up the inputs of observations that occurred before in this rollout.
        """
        inputs: Any
        if use_cache and self.cache is not None:
            inputs = [self.tensor(x) for x in self.cache(observations)]
        else:
            inputs = self._inputs(*self.stack.tensors, self.tensor(observations))
        dtype = self.stack.weights.dtype
        keep = 1 - starts.astype(np.float32)
        before = [self.tensor(x).to(dtype) for x in (state, keep)]
        return [*self.stack.tensors, *before, *inputs]

    def act(self, observations: np.ndarray, starts: np.ndarray, t: int) -> PolicyOutput:
        if t == 0 and self.cache is not None:
            self.cache.clear()
        self.states[t] = self.lstm_state
        tensors = self.step_tensors(observations, self.lstm_state, starts, use_cache=True)
        found, after = self._act(*tensors, self.tensor(self.sampling.draw()))
        self.lstm_state = after.cpu().numpy().astype(np.float32)
        return PolicyOutput(*(part.cpu().numpy() for part in found))

    def values(self, observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
        tensors = self.step_tensors(observations, self.lstm_state, starts, use_cache=True)
        return self._values(*tensors).cpu().numpy()

    def predict(self, observations: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Return actions as if each observation began an episode; :meth:`player` keeps the state."""
        state = np.zeros((*observations.shape[:2], self.state_size), np.float32)
        actions, _ = self._step(observations, state, np.ones(observations.shape[:2]), noise)
        return actions

    def player(
        self, noise: Streams | None, masks: Masks | None = None
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        state: np.ndarray | None = None

        def play(observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
            nonlocal state
            if state is None:
                state = np.zeros((*observations.shape[:2], self.state_size), np.float32)
            drawn = None if noise is None else noise.draw()
            actions, state = self._step(observations, state, starts, drawn)
            return actions

        return play

    def _step(
        self,
        observations: np.ndarray,
        state: np.ndarray,
        starts: np.ndarray,
        noise: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return actions, modes if there is no noise to sample with, and the state after the step."""
        tensors = self.step_tensors(observations, state, starts)
        if noise is None:
            actions, after = self._modes(*tensors)
        else:
            (actions, _, _), after = self._act(*tensors, self.tensor(noise))
        return self.within_bounds(actions.cpu().numpy()), after.cpu().numpy()

    def shuffling_streams(self, seeds: Sequence[int]) -> Streams:
        return Streams(seeds, "sequences", (1,))

    def minibatches(self, rollout: SeedRollout) -> Iterator[tuple[np.ndarray, Sequences]]:
        """Iterate over the minibatches of one epoch: rows of the rollout, and their sequences.

        As in sb3-contrib, an epoch goes through the rollout in order, environment by environment, from
        a random row on and round its end.
        """
        batch_size, envs, steps = self.model.batch_size, self.num_envs, self.model.n_steps
        total = steps * envs
        split = (self.shuffling.draw()[:, :1] * total).astype(np.int64)
        seeds = np.arange(self.size)[:, None]
        dtype = self.stack.weights.dtype
        for begin in range(0, total, batch_size):
            count = min(batch_size, total - begin)
            sequence, step, row = sequence_positions(split + begin, count, steps, total)
            shape = self.size, -(-count // steps) + 1, steps
            chosen = np.zeros(shape, np.int64)
            mask = np.zeros(shape, np.float32)
            env, t = np.divmod(row, steps)
            chosen[seeds, sequence, step] = t * envs + env
            mask[seeds, sequence, step] = 1
            first = np.divmod(chosen[:, :, 0], envs)
            states = self.states[first[0], seeds, first[1]]
            starts = rollout.starts[chosen // envs, seeds[:, :, None], chosen % envs]
            arrays = (mask.reshape(self.size, -1), states, 1 - starts)
            sequences = Sequences(*(self.tensor(x).to(dtype) for x in arrays))
            yield chosen.reshape(self.size, -1), sequences

    def evaluate(
        self, own: Sequence[Tensor], actions: Tensor, inputs: Sequence[Tensor]
    ) -> PolicyEvaluation:
        sequences, observed = unflatten(inputs, Sequences)

        def evaluate(
            policy: Any, a: Tensor, mask: Tensor, state: Tensor, keep: Tensor, *observed: Tensor
        ) -> Any:
            x, *others = observed
            patches, repeated = self.dedup.patch_context(policy, x, others)
            with weighted(policy, mask):
                with patches:
                    inputs = lstm_inputs(policy, x)
                inputs = [gather_rows(each, *repeated[:1]) if repeated else each for each in inputs]
                pi, vf, _ = latents(policy, inputs, state, keep)
            distribution = policy._get_action_dist_from_latent(pi)
            return policy.value_net(vf)[:, 0], *log_probs_and_entropies(distribution, a)

        values, log_probs, entropies = self.stack.vmap_modules(
            evaluate, own, actions, *sequences, *observed, training=True
        )
        return PolicyEvaluation(values, log_probs, entropies, sequences.mask)

    # traced functions of the stack's tensors, state, keep, inputs of the LSTMs, then random numbers

    def _one_step(self, then: Callable[..., Any], tensors: Sequence[Tensor]) -> Any:
        """Apply one step of the LSTMs and the hidden layers, then ``then(policy, pi, vf, *rest)``.

        Returns:
            The result of ``then``, and the state after the step.
        """
        count = len(self.stack.tensors)

        def one(policy: Any, state: Tensor, keep: Tensor, *others: Tensor) -> Any:
            inputs, rest = others[: self.num_inputs], others[self.num_inputs :]
            pi, vf, after = latents(policy, inputs, state, keep[:, None])
            return then(policy, pi, vf, *rest), after

        return self.stack.vmap_modules(one, tensors[:count], *tensors[count:])

    def _compute_inputs(self, *tensors: Tensor) -> Any:
        *own, observations = tensors
        return self.stack.vmap_modules(lstm_inputs, own, observations)

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
        """Compute distribution parameters as if each observation began an episode."""
        *own, observations = tensors
        shape = observations.shape[:2]
        state = observations.new_zeros(*shape, self.state_size, dtype=tensors[0].dtype)

        def parameters(policy: Any, pi: Tensor, vf: Tensor) -> tuple[Tensor, ...]:
            return distribution_parameters(policy._get_action_dist_from_latent(pi))

        inputs = self._compute_inputs(*own, observations)
        found, _ = self._one_step(parameters, [*own, state, state[..., 0], *inputs])
        return found

    def state(self, seed: int) -> dict[str, np.ndarray]:
        return {"lstm": self.lstm_state[seed]}

    def restore(self, arrays: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.lstm_state = np.stack([of_seed["lstm"] for of_seed in arrays])
