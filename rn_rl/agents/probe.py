"""Probe of an agent: a callback for the algorithms of SB3 and sb3-contrib."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from sb3_contrib import ARS, RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor

from rn_rl.agents.callbacks import strided
from rn_rl.normalization.phase import decay_per_phase
from rn_rl.policies.divergence import behaviour, evenly_spaced
from rn_rl.probe import MEASURES as KNOWN
from rn_rl.probe import CodeLengthProbe, ProbeLog, Readings
from rn_rl.probe.arguments import chosen, whole
from rn_rl.probe.records import MOST_ROWS
from rn_rl.probe.sites import observed_by_default

BATCHES = 8
"""Minibatches of a phase that are observed, by default."""

MEASURES = ("code", "moments", "dead", "rank", "step")
"""Measures of agents, by default."""

TARGET_MEASURES = ("code", "moments", "neurons")
"""Measures of target networks, whose units and weights are those of the online ones, some time ago."""

REFERENCE_ROWS = 64
"""Observations on which churn is measured."""

LOGGED = ("code", "residual", "shift", "ratio", "dead", "dormant", "rank", "step", "churn")
"""Measures that are written to TensorBoard."""


class ProbeCallback(BaseCallback):
    """Probe the networks of any agent of SB3 or sb3-contrib while it learns.

    Observed are actor, critics, features and target networks, see :class:`rn_rl.CodeLengthProbe`; a
    phase is what the agent learns between two rollouts. Nothing that the agent computes changes.
    ``RecurrentPPO`` is observed by time step, from the begin of each sequence, without padding. Target
    networks are observed where they compute targets, by code lengths and moments alone. ``ARS`` has no
    gradient phases: its candidates are observed in the episodes that they play. Churn is that of the
    acting network, on at most 64 observations from the first rollout after which the agent learns.

    The hooks are on the agent while it learns from a rollout, and not while it acts. So an exception of
    the environment leaves none behind; one of the update itself does unless the callback is used with
    ``with``, or :meth:`close` is called. An agent that was compiled by ``torch.compile`` before is not
    observed, which is warned of: compile it afterwards.

    TensorBoard shows ``probe/<measure>/<layer>``, and :attr:`log` has all measures.

    Args:
        every: number of phases of which one is observed; None: such that a training has at most 2,000.
        batches: number of forwards of a layer in a phase that are observed; None for all.
        half_life: number of observed phases after which an observation counts half; None never forgets.
        measures: see :data:`rn_rl.probe.MEASURES`.

    Attributes:
        log: the record, whose ``arrays()`` are those of ``probe.npz``.

    Example:
        >>> from stable_baselines3 import DQN
        >>> with ProbeCallback() as probe:
        ...     agent = DQN("MlpPolicy", "CartPole-v1", learning_starts=50, seed=0)
        ...     _ = agent.learn(200, callback=probe)
        >>> probe.log.columns[:2]
        ['q_net.q_net.0', 'q_net.q_net.2']
    """

    def __init__(
        self,
        every: int | None = None,
        batches: int | None = BATCHES,
        half_life: float | None = None,
        measures: Iterable[str] = MEASURES,
    ) -> None:
        super().__init__()
        self.every = None if every is None else whole("every", every)
        decay_per_phase(half_life)  # refuses what is none
        self.arguments: dict[str, Any] = {
            "batches": None if batches is None else whole("batches", batches),
            "half_life": half_life,
            "measures": tuple(sorted(chosen("measures", measures, KNOWN))),
        }
        self.log = ProbeLog()
        self.probes: list[CodeLengthProbe] = []
        self._stored: list[dict[str, Any]] | None = None
        self._reference: Any = None
        self._masks: np.ndarray | None = None
        self._learned = 0
        self._before = 0
        self._agent: Any = None
        self._unlogged: list[Readings] = []

    def _init_callback(self) -> None:
        other = self._agent is not None and self._agent is not self.model
        if self._stored is None and self.probes and not other:  # a second learn()
            self._stored = self.states()
        if other:
            self._reference, self._masks = None, None
        self._agent = self.model
        last = self.log.timesteps[-1] if self.log.timesteps else 0
        # SB3 counts from 0 again, unless reset_num_timesteps=False
        self._before = last if self.model.num_timesteps < last else 0
        self.close()
        every = self.every or max(1, -(-self._phases() // MOST_ROWS))
        given = {**self.arguments, "every": every}
        policy = self.model.policy
        targets = {name for name, _ in policy.named_children() if name.endswith("_target")}
        # ARS evaluates copies of its policy, in whatever mode that is
        candidates = isinstance(self.model, ARS)
        modes = ("train", "eval") if candidates else ("train",)
        online = CodeLengthProbe(
            policy,
            layers=lambda name, module: (
                observed_by_default(module) and name.partition(".")[0] not in targets
            ),
            modes=modes,
            reference=None if candidates else self._evaluate_reference,
            follow_copies=candidates,
            **given,
        )
        self.probes = [online]
        given["measures"] = tuple(name for name in given["measures"] if name in TARGET_MEASURES)
        for name in sorted(targets):
            network = getattr(policy, name)
            if any(True for _ in network.parameters()):
                probe = CodeLengthProbe(network, modes=("eval",), prefix=f"{name}.", **given)
                self.probes.append(probe)
        if self._stored is not None:
            for probe, state in zip(self.probes, self._stored, strict=True):
                probe.restore(state)
            self._stored = None
        if isinstance(self.model, RecurrentPPO):
            self._follow_sequences()
        self._learned = self._updates()
        self._unlogged = []
        if not candidates:
            self._pause()

    def _pause(self) -> None:
        """Take the hooks off the agent while it acts: an exception of the environment leaves none."""
        for probe in self.probes:
            probe.pause()

    def _updates(self) -> int:
        """Number of updates, as the agent counts them."""
        return int(self.model._n_updates)

    def _phases(self) -> int:
        """Number of phases of the training that begins, about."""
        model: Any = self.model
        steps = getattr(model, "n_steps", None)
        if isinstance(model, OffPolicyAlgorithm):
            frequency = model.train_freq
            steps = getattr(frequency, "frequency", None)
            if str(getattr(frequency, "unit", "")).endswith("EPISODE"):
                steps = 200 * (steps or 1)
        return int(model._total_timesteps // max((steps or 1000) * model.n_envs, 1))

    def _follow_sequences(self) -> None:
        """Tell the probe of the sequences of each minibatch that the rollout buffer gives."""
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        give = type(buffer).get

        def get(batch_size: int | None = None) -> Iterator[Any]:
            for minibatch in give(buffer, batch_size):
                sequences = minibatch.lstm_states.pi[0].shape[1]
                self.probes[0].begin_sequences(minibatch.mask.reshape(sequences, -1) > 1e-8)
                yield minibatch

        buffer.get = get

    # phases

    def _on_rollout_start(self) -> None:
        self._end_phase()
        if not isinstance(self.model, OffPolicyAlgorithm):
            self._log_tags()
        if not isinstance(self.model, ARS):
            self._pause()

    def _on_rollout_end(self) -> None:
        # while it is learned from, a rollout buffer has another shape
        rollout = getattr(self.model, "rollout_buffer", None)
        if self._reference is None and rollout is not None:
            self._reference = strided(rollout.observations, REFERENCE_ROWS)
            if hasattr(rollout, "action_masks"):
                self._masks = strided(rollout.action_masks, REFERENCE_ROWS)
        for probe in self.probes:
            probe.resume()

    def _on_training_end(self) -> None:
        self._end_phase()
        # SB3 writes nothing after the last rollout, and of on-policy algorithms the last but one there
        values = dict(tags(self._unlogged))
        for output in self.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                output.write(values, dict.fromkeys(values, ()), self.model.num_timesteps)
        self._unlogged = []
        self.close()

    def _on_step(self) -> bool:
        # SB3 writes the logger's values of off-policy algorithms when an episode ends
        if self._unlogged and np.any(self.locals.get("dones", True)):
            self._log_tags()
        return True

    def _log_tags(self) -> None:
        for tag, value in tags(self._unlogged):
            self.logger.record(tag, value, exclude="stdout")
        self._unlogged = []

    def _end_phase(self) -> None:
        """End the phase of all networks, unless nothing was learned since the last one ended."""
        if not self.probes:
            return
        now, touched = self._updates(), self.probes[0].touched
        if now == self._learned:
            if not touched:
                return
            # an algorithm that does not count its updates is followed by its hooks
            for probe in self.probes:
                probe.stay_attached()
        self._learned = now
        if self._reference is None:
            self._take_reference()
        observed = [probe.end_phase() for probe in self.probes]
        if not observed[0]:
            return
        self._unlogged = [probe.readings() for probe in self.probes]
        steps = self._before + self.model.num_timesteps
        if not self.log.timesteps or steps > self.log.timesteps[-1]:
            self.log.append(steps, *self._unlogged)

    def _take_reference(self) -> None:
        model: Any = self.model
        memory = getattr(model, "replay_buffer", None)
        if memory is not None and memory.size():
            pick = evenly_spaced(memory.size(), REFERENCE_ROWS)
            seen = memory.observations
            chosen = (
                {key: value[pick, 0] for key, value in seen.items()}
                if isinstance(seen, dict)
                else seen[pick, 0]
            )
            normalizer = model.get_vec_normalize_env()
            self._reference = normalizer.normalize_obs(chosen) if normalizer else chosen

    def _evaluate_reference(self) -> None:
        if self._reference is not None:
            observations = obs_as_tensor(self._reference, self.model.device)
            behaviour(self.model.policy, observations, self._masks)

    # end, and exact continuation

    def close(self) -> None:
        """Remove all hooks from the agent; :attr:`log` stays."""
        for probe in self.probes:
            probe.close()
        buffer = getattr(getattr(self, "model", None), "rollout_buffer", None)
        if buffer is not None:
            vars(buffer).pop("get", None)

    def __enter__(self) -> ProbeCallback:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def states(self) -> list[dict[str, Any]]:
        """Return the state of each probe between two phases, for :meth:`continue_from`."""
        return [probe.state() for probe in self.probes]

    def continue_from(self, states: list[dict[str, Any]]) -> None:
        """Continue from :meth:`states` when the training begins."""
        self._stored = states


def tags(readings: Sequence[Readings]) -> Iterator[tuple[str, float]]:
    """TensorBoard tags of one network's readings, such as ``probe/residual/lstm_actor/step_03``."""
    for each in readings:
        for measure in LOGGED:
            for name, value in zip(each.names, each.values.get(measure, [[]])[0], strict=False):
                if np.isfinite(value):
                    yield tag_of(measure, name), float(value)


def tag_of(measure: str, column: str) -> str:
    """TensorBoard tag of a measure of a column."""
    layer, _, step = column.partition("@")
    layer = re.sub(r"[^-\w.]", "_", layer)
    return f"probe/{measure}/{layer}" + (f"/step_{int(step):02d}" if step else "")
