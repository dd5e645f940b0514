"""Probe of the networks of all seeds of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rn_rl.agents.probe import LOGGED, MEASURES, REFERENCE_ROWS, TARGET_MEASURES, tag_of
from rn_rl.agents.seed_batch import SeedBatch, SeedBatchRecurrentPPO
from rn_rl.agents.seed_batch.recurrent_policy import latents, lstm_inputs
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.normalization import phase_norms
from rn_rl.probe import CodeLengthProbe, ProbeLog, Readings
from rn_rl.probe.sites import layer_of, physical


class SeedBatchProbe:
    """Probe the networks of all seeds of a batch, every seed by itself and all in one call.

    The update of a seed batch is a recorded list of operations, which calls no layers. So the networks
    are evaluated once more for each observed phase, in evaluation mode and under ``vmap``, on at most 64
    recent observations of each seed: those of the replay memory, or of the rollout. Of recurrent
    policies they are the first steps of the last rollout, in order, with a sample of each environment
    for a time step: dead and dormant units and the rank of a step are those of so few samples.

    Gain, step and churn are those of a single run, with one difference: churn is measured where
    :class:`ProbeCallback` measures it, but on all networks, since all of them are evaluated here.

    Args:
        batch: the seed batch.
        every: number of phases of which one is observed.
        half_life: number of observed phases after which an observation counts half; None: never forget.
        measures: see :data:`rn_rl.probe.MEASURES`.

    Attributes:
        log: the record of all seeds.
    """

    def __init__(
        self,
        batch: SeedBatch[Any],
        every: int = 1,
        half_life: float | None = None,
        measures: Iterable[str] = MEASURES,
    ) -> None:
        self.batch = batch
        self.log = ProbeLog()
        self.arguments: dict[str, Any] = {
            "every": every,
            "half_life": half_life,
            "measures": tuple(measures),
        }
        given: dict[str, Any] = {
            "every": every,
            "half_life": half_life,
            "modes": ("eval",),
        }
        online = tuple(n for n in self.arguments["measures"] if n != "step")
        target = tuple(n for n in online if n in TARGET_MEASURES)
        self.probes = [
            CodeLengthProbe(
                stack.module,
                prefix=prefix,
                measures=target if prefix.endswith("_target.") else online,
                **given,
            )
            for prefix, (stack, _) in batch.probed().items()
        ]
        for probe in self.probes:
            probe.pause()
        self._learned = batch.num_updates
        self._reference: Any = None
        self._outputs: list[dict[str, Tensor]] = [{} for _ in self.probes]
        self._weights: dict[str, Tensor] = {}
        self._last: list[Readings] = []
        self._keep_weights()

    @torch.no_grad()
    def after_phase(self) -> None:
        """End a phase; call it when a rollout begins. Nothing is done if nothing was learned since."""
        if self.batch.num_updates == self._learned:
            return
        self._learned = self.batch.num_updates
        if not self.probes[0].observing:
            for probe in self.probes:
                probe.end_phase()
            return
        self._evaluate()
        churn = self._measure_churn()
        for probe in self.probes:
            probe.end_phase()
        readings = [probe.readings() for probe in self.probes]
        for i, (prefix, each) in enumerate(zip(self.batch.probed(), readings, strict=True)):
            self._add(each, "gain", self._gains(prefix), whole=True)
            self._add(each, "step", self._steps(prefix))
            self._add(each, "churn", churn[i])
        self._keep_weights()
        self._last = readings
        self.log.append(self.batch.num_timesteps, *readings)

    def scalars(self) -> dict[str, np.ndarray]:
        """Return the last readings by TensorBoard tag, one value for each seed, see :func:`tags`."""
        found = {}
        for each in self._last:
            for measure in LOGGED:
                if measure not in each.values:
                    continue
                table = each.values[measure]
                for i, name in enumerate(each.names):
                    if np.isfinite(table[:, i]).any():
                        found[tag_of(measure, name)] = table[:, i].copy()
        return found

    def _add(
        self, readings: Readings, measure: str, found: dict[str, Tensor], *, whole: bool = False
    ) -> None:
        """Add a measure ``(seeds,)`` of some layers to the readings.

        Args:
            readings: readings of one probe.
            measure: name of the measure.
            found: values by layer.
            whole: they are of columns, not of layers.
        """
        if not found or not readings.names:
            return
        layers = {site.name for probe in self.probes for site in probe.sites}
        names = readings.names if whole else [layer_of(name, layers) for name in readings.names]
        known = {name: value.double().cpu().numpy() for name, value in found.items()}
        nothing = np.full(self.batch.size, np.nan)
        readings.add(measure, np.stack([known.get(name, nothing) for name in names], 1))

    def _gains(self, prefix: str) -> dict[str, Tensor]:
        """Mean gain of each normalizer of the seeds' networks, by the column of its output."""
        stack, _ = self.batch.probed()[prefix]
        if not stack.norms:
            return {}

        def gains(network: nn.Module) -> Tensor:
            return torch.stack([n.gain.double().mean() for n in phase_norms(network).values()])

        each = stack.vmap_modules(gains, stack.tensors).unbind(1)
        names = [f"{prefix}{name}.out" for name in stack.norms]
        return dict(zip(names, each, strict=True))

    def _trained(self) -> dict[str, ModuleStack]:
        """Stacks whose weights an optimizer updates, by the prefix of their columns."""
        stacks = [part.stack for part in self.batch.parts.values()]
        return {
            prefix: stack
            for prefix, (stack, _) in self.batch.probed().items()
            if any(stack is each for each in stacks)
        }

    def _keep_weights(self) -> None:
        if "step" in self.arguments["measures"]:
            self._weights = {prefix: s.weights.clone() for prefix, s in self._trained().items()}

    def _steps(self, prefix: str) -> dict[str, Tensor]:
        """``|w - w_before| / |w_before|`` of each layer and seed."""
        before = self._weights.get(prefix)
        if before is None:
            return {}
        stack = self._trained()[prefix]
        change = stack.weights - before
        found = {}
        for name, module in stack.module.named_modules():
            own = [f"{name}.{n}" if name else n for n, _ in module.named_parameters()]
            if not own or f"{prefix}{name}" not in self._layers(prefix):
                continue

            def norm(rows: Tensor, names: list[str] = own, of: ModuleStack = stack) -> Tensor:
                views = [of.parameter_view(rows, each).flatten(1) for each in names]
                return torch.cat(views, 1).norm(dim=1)

            found[f"{prefix}{name}"] = norm(change) / norm(before)
        return found

    def _layers(self, prefix: str) -> set[str]:
        """Names of the layers that a probe observes."""
        position = list(self.batch.probed()).index(prefix)
        return {site.name for site in self.probes[position].sites}

    def _measure_churn(self) -> list[dict[str, Tensor]]:
        """Compare each layer's outputs on fixed observations with those of the last time."""
        nothing: list[dict[str, Tensor]] = [{} for _ in self.probes]
        if self._reference is None:
            if isinstance(self.batch, SeedBatchRecurrentPPO):
                self._reference = self._sequences(self.batch)
            else:
                self._reference = self.batch.recent_inputs(REFERENCE_ROWS)
            if self._reference is None:
                return nothing
            self._reference = tuple(x.clone() for x in self._reference)
        before, self._outputs = self._outputs, []
        for probe, (stack, function) in zip(self.probes, self._functions(), strict=True):
            with probe.taking() as outputs:
                stack.vmap_modules(function, stack.tensors, *self._reference)
            self._outputs.append(outputs)
        return [
            {name: churns(old[name], value) for name, value in new.items() if name in old}
            for old, new in zip(before, self._outputs, strict=True)
        ]

    def _functions(self) -> list[tuple[ModuleStack, Callable[..., Any]]]:
        """Stack and function of each probed network."""
        if isinstance(self.batch, SeedBatchRecurrentPPO):
            return [(self.batch.stack, evaluate_sequences)]
        return list(self.batch.probed().values())

    def _evaluate(self) -> None:
        if isinstance(self.batch, SeedBatchRecurrentPPO):
            return self._evaluate_sequences(self.batch)
        inputs = self.batch.recent_inputs(REFERENCE_ROWS)
        if inputs is None:
            return None
        for probe, (stack, function) in zip(self.probes, self._functions(), strict=True):
            with probe.resumed():
                stack.vmap_modules(function, stack.tensors, *inputs)
        return None

    def _evaluate_sequences(self, batch: SeedBatchRecurrentPPO) -> None:
        """Evaluate the first steps of the last rollout; the LSTM's outputs are inputs of the heads."""
        probe, stack = self.probes[0], batch.stack
        inputs = self._sequences(batch)
        envs, steps = inputs[2].shape[1:]
        policy: Any = stack.module
        outputs: dict[str, Tensor] = {}

        def take(name: str) -> Any:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                outputs[name] = physical(inputs[0])[0]

            return hook

        heads = policy.mlp_extractor
        named = {"lstm_actor": heads.policy_net}
        if policy.lstm_critic is not None:
            named["lstm_critic"] = heads.value_net
        handles = [m.register_forward_pre_hook(take(name)) for name, m in named.items()]

        try:
            with probe.resumed():
                stack.vmap_modules(evaluate_sequences, stack.tensors, *inputs)
                for name, values in outputs.items():
                    by_step = values.unflatten(1, (envs, steps)).transpose(1, 2)
                    probe.observe_steps(name, by_step)
        finally:
            for handle in handles:
                handle.remove()

    def _sequences(self, batch: SeedBatchRecurrentPPO) -> tuple[Tensor, Tensor, Tensor]:
        """Return observations, LSTM states and what is kept of these, of a rollout's first steps."""
        rollout, critics = batch.rollout, batch.actor_critics
        steps = min(self.probes[0].max_steps, batch.model.n_steps)
        envs = rollout.starts.shape[2]
        seen = rollout.observations[:steps].swapaxes(0, 2).swapaxes(0, 1)  # seeds, envs, steps
        observations = batch.tensor(seen.reshape(batch.size, envs * steps, *seen.shape[3:]))
        keep = batch.tensor(1 - rollout.starts[:steps].transpose(1, 2, 0))
        state = batch.tensor(critics.states[0])
        dtype = batch.stack.weights.dtype
        return observations, state.to(dtype), keep.to(dtype)

    def only(self, batch: SeedBatch[Any], seeds: Sequence[int]) -> SeedBatchProbe:
        """Return the probe of a batch of some of the seeds, which continues this one."""
        smaller = SeedBatchProbe(batch, **self.arguments)
        smaller.restore(
            [self.log.state(seed) for seed in seeds],
            [[probe.state(seed) for probe in self.probes] for seed in seeds],
        )
        self.close()
        return smaller

    def restore(
        self, logs: Sequence[dict[str, Any]], states: Sequence[Sequence[dict[str, Any]]]
    ) -> None:
        """Continue from the states of the log and of the probes of each seed."""
        self._learned = self.batch.num_updates
        self._keep_weights()
        self.log.restore(*logs)
        for i, probe in enumerate(self.probes):
            probe.restore(*(each[i] for each in states))

    def close(self) -> None:
        """Remove all hooks."""
        for probe in self.probes:
            probe.close()


def evaluate_sequences(policy: Any, x: Tensor, before: Tensor, kept: Tensor) -> Tensor:
    """Compute all outputs of one seed's recurrent policy on sequences."""
    pi, vf, _ = latents(policy, lstm_inputs(policy, x), before, kept)
    found: Tensor = policy.value_net(vf).sum() + policy.action_net(pi).sum()
    return found


def churns(before: Tensor, now: Tensor) -> Tensor:
    """:func:`rn_rl.probe.network.churn_of` of each seed, ``(seeds,)``."""
    old, new = before.double(), now.double()
    spread = (old - old.mean(1, keepdim=True)).flatten(1).norm(dim=1)
    change = (new - old).flatten(1).norm(dim=1)
    return torch.where(spread > 0, change / spread, torch.nan)
