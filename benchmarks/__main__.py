"""Benchmarks: ``train`` (steps per second), ``learning`` (what agents learn), ``layer`` (cost of a
normalizer), ``nonstationary`` (state and changing data), ``seeds`` (speed of many at once),
``equivalence`` (do those learn what SB3 learns), ``report`` (what a page of many runs costs) and
``docs`` (tables of a document)."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from benchmarks.docs import DocsConfig, run_docs
from benchmarks.equivalence import EquivalenceConfig, run_equivalence
from benchmarks.layer_cost import LayerCostConfig, run_layer_cost
from benchmarks.learning import LearningConfig, run_learning
from benchmarks.nonstationary import NonstationaryConfig, run_nonstationary
from benchmarks.report_speed import ReportSpeedConfig, run_report_speed
from benchmarks.seed_batch_speed import SeedSpeedConfig, run_seed_speed
from benchmarks.train_speed import SpeedConfig, run_speed
from rn_rl.cli import run_command

Benchmark = (
    Annotated[SpeedConfig, tyro.conf.subcommand("train", prefix_name=False)]
    | Annotated[LearningConfig, tyro.conf.subcommand("learning", prefix_name=False)]
    | Annotated[LayerCostConfig, tyro.conf.subcommand("layer", prefix_name=False)]
    | Annotated[NonstationaryConfig, tyro.conf.subcommand("nonstationary", prefix_name=False)]
    | Annotated[EquivalenceConfig, tyro.conf.subcommand("equivalence", prefix_name=False)]
    | Annotated[SeedSpeedConfig, tyro.conf.subcommand("seeds", prefix_name=False)]
    | Annotated[ReportSpeedConfig, tyro.conf.subcommand("report", prefix_name=False)]
    | Annotated[DocsConfig, tyro.conf.subcommand("docs", prefix_name=False)]
)
HANDLERS: dict[type, Callable[[Any], None]] = {
    SpeedConfig: run_speed,
    LearningConfig: run_learning,
    LayerCostConfig: run_layer_cost,
    NonstationaryConfig: run_nonstationary,
    EquivalenceConfig: run_equivalence,
    SeedSpeedConfig: run_seed_speed,
    ReportSpeedConfig: run_report_speed,
    DocsConfig: run_docs,
}


def main(arguments: Sequence[str] | None = None, prog: str = "python -m benchmarks") -> int:
    """Run one benchmark; the exit status."""
    return run_command(Benchmark, HANDLERS, prog=prog, arguments=arguments)


if __name__ == "__main__":
    raise SystemExit(main())
