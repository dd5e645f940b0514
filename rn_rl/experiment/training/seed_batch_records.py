"""Records of a seed batch in memory, and the files of run folders that are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.io import write_npz
from rn_rl.experiment.runs.scalars import ScalarFile
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.runs.tracking import make_tracker
from rn_rl.experiment.training.growing_array import GrowingArray


class SeedBatchRecords:
    """Gains, sizes of commits, evaluations and logged scalars of all seeds of a batch.

    Args:
        layers: names of the normalizers, in the order of the gains.
        runs: folder of every seed's run.
        specs: description of every seed's run.
        track: service that also gets the scalars; see ``--track``.

    Attributes:
        phases: timesteps at which each phase ended.
        gains: mean gain of each normalizer after each phase, ``(phases, seeds, layers)``.
        commit_kls: KL in nats of each commit that was measured, ``(commits, seeds)``.
        evaluations: timesteps, returns and episode lengths of each evaluation; the last two are
            ``(seeds, episodes)``.
        scalars: timesteps, and by TensorBoard tag one value for each seed; those not yet written.
    """

    def __init__(
        self,
        layers: Sequence[str],
        runs: Sequence[Run],
        specs: Sequence[RunSpec],
        track: str = "tensorboard",
    ) -> None:
        self.layers = list(layers)
        self.phases: list[int] = []
        self.gains = GrowingArray()
        self.commit_kls = GrowingArray()
        self.evaluations: list[tuple[int, np.ndarray, np.ndarray]] = []
        self.scalars: list[tuple[int, dict[str, np.ndarray]]] = []
        self._files = [
            ScalarFile(run.folder, None, spec.shown_settings(), make_tracker(track, run, spec))
            for run, spec in zip(runs, specs, strict=True)
        ]

    def status(self) -> list[str]:
        """Return the last evaluation and gain, averaged over the seeds, as parts of a line."""
        parts = []
        if self.evaluations:
            parts.append(f"evaluation {self.evaluations[-1][1].mean():.2f}")
        if self.phases and np.isfinite(self.gains.array[-1]).all():
            parts.append(f"gain {self.gains.array[-1].mean():.2f}")
        return parts

    def write_evaluations(self, run: Run, seed: int) -> None:
        """Write ``evaluations.npz`` of a seed in SB3's format."""
        write_npz(
            run.evaluations_file,
            timesteps=np.array([t for t, _, _ in self.evaluations]),
            results=np.array([returns[seed] for _, returns, _ in self.evaluations]),
            ep_lengths=np.array([lengths[seed] for _, _, lengths in self.evaluations]),
        )

    def write_code_length(self, run: Run, seed: int, learning_starts: int) -> None:
        """Write ``code_length.npz`` of a seed; see :func:`~.single.write_code_length`."""
        if not self.layers:
            return
        write_npz(
            run.code_length_file,
            layers=np.array(self.layers),
            timesteps=np.array(self.phases),
            gains=self.gains.array[:, seed],
            commit_kl=self.commit_kls.array[:, seed] if len(self.commit_kls) else np.array([]),
            commit_action=np.array([]),
            learning_starts=np.array(learning_starts),
        )

    def write_scalars(self, seed: int) -> None:
        """Append :attr:`scalars` to the TensorBoard events of a seed."""
        self._files[seed].write(
            (
                timesteps,
                {
                    name: float(values[seed])
                    for name, values in row.items()
                    if np.isfinite(values[seed])
                },
            )
            for timesteps, row in self.scalars
        )

    def close(self) -> None:
        """Close the files of all seeds."""
        for file in self._files:
            file.close()

    def keep(self, seeds: Sequence[int]) -> None:
        """Go on with the records of some seeds, given by number."""
        self.gains, self.commit_kls = (
            GrowingArray(rows.array[:, seeds]) if len(rows) else GrowingArray()
            for rows in (self.gains, self.commit_kls)
        )
        self.evaluations = [
            (timesteps, returns[seeds], lengths[seeds])
            for timesteps, returns, lengths in self.evaluations
        ]
        self.scalars = [
            (timesteps, {name: values[seeds] for name, values in row.items()})
            for timesteps, row in self.scalars
        ]
        for seed in set(range(len(self._files))) - set(seeds):
            self._files[seed].close()
        self._files = [self._files[seed] for seed in seeds]

    def arrays(self, seeds: int) -> list[dict[str, np.ndarray]]:
        """Return the arrays that the checkpoint of each of ``seeds`` seeds keeps, without scalars."""
        recorded: dict[str, Sequence[np.ndarray] | np.ndarray] = {
            "gains": self.gains.array,
            "commit_kls": self.commit_kls.array,
            "returns": [returns for _, returns, _ in self.evaluations],
            "lengths": [lengths for _, _, lengths in self.evaluations],
        }
        kept = {n: np.array(rows).swapaxes(0, 1) for n, rows in recorded.items() if len(rows)}
        timesteps = {
            "records/history_timesteps": np.array(self.phases),
            "records/evaluation_timesteps": np.array([t for t, _, _ in self.evaluations]),
        }
        return [
            {**timesteps, **{f"records/{name}": values[seed] for name, values in kept.items()}}
            for seed in range(seeds)
        ]

    def restore(self, stored: Sequence[Mapping[str, np.ndarray]], done: int) -> None:
        """Restore the :meth:`arrays` of every seed, and drop their scalars after ``done`` timesteps."""
        self._files = [
            ScalarFile(file.path.parent, done, tracker=file.tracker) for file in self._files
        ]

        def rows(name: str) -> np.ndarray:
            key = f"records/{name}"
            return np.stack([s[key] for s in stored], 1) if key in stored[0] else np.array([])

        def timesteps(name: str) -> list[int]:
            return [int(t) for t in stored[0][f"records/{name}_timesteps"]]

        self.phases = timesteps("history")
        self.gains = GrowingArray(rows("gains"))
        self.commit_kls = GrowingArray(rows("commit_kls"))
        self.evaluations = list(
            zip(timesteps("evaluation"), rows("returns"), rows("lengths"), strict=True)
        )
