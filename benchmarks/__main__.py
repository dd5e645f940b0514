"""``python -m benchmarks NAME``: benchmarks of speed and learning, and generated parts of documents."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.checkpoint_cost import CheckpointCostConfig, run_checkpoint_cost
from benchmarks.docs import DocsConfig, run_docs
from benchmarks.equivalence import EquivalenceConfig, run_equivalence
from benchmarks.layer_cost import LayerCostConfig, run_layer_cost
from benchmarks.learning import LearningConfig, run_learning
from benchmarks.networks import NetworksConfig, run_networks
from benchmarks.nonstationary import NonstationaryConfig, run_nonstationary
from benchmarks.peers import PeersConfig, run_peers
from benchmarks.probe_cost import ProbeCostConfig, run_probe_cost
from benchmarks.probe_digits import ProbeDigitsConfig, run_probe_digits
from benchmarks.report_speed import ReportSpeedConfig, run_report_speed
from benchmarks.seed_batch_speed import SeedSpeedConfig, run_seed_speed
from benchmarks.train_speed import SpeedConfig, run_speed
from rn_rl.cli import run_commands

BENCHMARKS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "train": (SpeedConfig, run_speed),
    "learning": (LearningConfig, run_learning),
    "layer": (LayerCostConfig, run_layer_cost),
    "networks": (NetworksConfig, run_networks),
    "nonstationary": (NonstationaryConfig, run_nonstationary),
    "equivalence": (EquivalenceConfig, run_equivalence),
    "seeds": (SeedSpeedConfig, run_seed_speed),
    "peers": (PeersConfig, run_peers),
    "checkpoints": (CheckpointCostConfig, run_checkpoint_cost),
    "probe": (ProbeCostConfig, run_probe_cost),
    "digits": (ProbeDigitsConfig, run_probe_digits),
    "report": (ReportSpeedConfig, run_report_speed),
    "docs": (DocsConfig, run_docs),
}
"""Each benchmark: its options, and the function that runs it."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m benchmarks") -> int:
    """Run one benchmark, and return the exit status."""
    return run_commands(BENCHMARKS, prog, arguments=arguments)


if __name__ == "__main__":
    raise SystemExit(main())
