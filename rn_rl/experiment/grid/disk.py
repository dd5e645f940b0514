"""Runs of a grid on disk: how far each is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rn_rl.errors import UserError
from rn_rl.experiment.grid.cells import key_of
from rn_rl.experiment.runs import checkpoint, monitors
from rn_rl.experiment.runs.folder import Run, parent_folder
from rn_rl.experiment.runs.records import Final, read_final
from rn_rl.experiment.runs.spec import RunSpec, file_name


@dataclass
class FoundRun:
    """A run of a cell on disk."""

    run: Run
    spec: RunSpec
    timesteps: int
    """Timesteps of its checkpoint; -1 without one."""
    final: Final | None
    """Evaluation of its last policy, if there is one."""

    @property
    def trained(self) -> bool:
        """True if nothing is left to train and the last policy is there."""
        if self.run.divergence is not None:
            return True
        if self.timesteps < 0 or not self.run.policy_file.is_file():
            return False
        if monitors.has_episodes(self.run.checkpoint, self.spec.episodes):
            return True  # in a seed batch the policy can be older than the checkpoint
        return self.timesteps >= self.spec.timesteps and self.run.has_policy_of(self.timesteps)

    def is_done(self, episodes: int) -> bool:
        """Return True if the run is trained and its last policy evaluated in ``episodes`` or more.

        The policy of a training that diverged is not evaluated.
        """
        return self.run.divergence is not None or (
            self.final is not None
            and self.final.episodes >= episodes
            and self.final.timesteps >= self.spec.timesteps
        )


def run_folders(root: Path, spec: RunSpec) -> list[Path]:
    """Return the run folders of a cell in ``root``, whatever their state."""
    return sorted(parent_folder(root, spec).glob(f"{file_name(spec.env)}_*"))


def is_readable(folder: Path) -> bool:
    """Return True if a run folder has a readable ``run.yaml``."""
    try:
        Run(folder).read_spec()
    except UserError:
        return False
    return True


def find_cell_runs(root: Path, spec: RunSpec) -> dict[str, FoundRun]:
    """Return the readable runs of a cell by key; of several with one key, the one with most timesteps.

    Args:
        root: folder of runs.
        spec: description of a run of the cell.
    """
    found: dict[str, FoundRun] = {}
    for folder in run_folders(root, spec):
        run = Run(folder)
        try:
            its = run.read_spec()
        except UserError:
            continue  # the report names it
        final = read_final(run, [])
        if final is not None and final.timesteps >= its.timesteps:
            steps = its.timesteps
        else:
            try:
                steps = checkpoint.timesteps_done(run.checkpoint)
            except UserError:  # no checkpoint, or a damaged one
                steps = -1
        key = key_of(its)
        if key not in found or found[key].timesteps < steps:
            found[key] = FoundRun(run, its, steps, final)
    return found


def done_keys(root: Path, spec: RunSpec, episodes: int) -> set[str]:
    """Return the keys of a cell's runs that are trained and evaluated in ``episodes`` or more."""
    return {key for key, found in find_cell_runs(root, spec).items() if found.is_done(episodes)}
