"""Weights from elsewhere: another run, or anybody's SB3 zip."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm

from rn_rl.errors import UserError
from rn_rl.experiment.runs.folder import RunSpec, adopt_policy, find_run, load_policy
from rn_rl.experiment.settings.algorithms import algorithm


def load_weights(path: Path, spec: RunSpec, model: BaseAlgorithm, *, trust: bool) -> None:
    """Start a fresh agent from another's weights and normalizer state.

    A run of ours, or a zip inside one, loads without unpickling. So do the weights of any other SB3
    zip if its network is the same; ``trust`` additionally opens one whose network is described only
    by the pickle in it.
    """
    run, weights = find_run(path)
    if weights is None:
        run.read_spec()
        load_policy(model, run.policy_file)
    elif trust and not run.spec_file.is_file():
        model.policy.load_state_dict(load_trusted(path, spec.algo).policy.state_dict())
        adopt_policy(model)
    else:
        load_policy(model, weights)


def load_trusted(path: Path, algo: str) -> BaseAlgorithm:
    """Any SB3 zip, by SB3's own loader, which unpickles: only for files that one trusts."""
    if not path.is_file():
        raise UserError(f"agent {path}: no such file")
    try:
        return algorithm(algo).cls.load(path, device="cpu")
    except Exception as error:  # whatever a foreign file holds
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged or not a {algo} agent: {reason}") from None
