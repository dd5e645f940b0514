"""What ``make demo`` runs: train, evaluate, film, and set the result beside the published one."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.table import Table

from rn_rl.experiment.config import TrainConfig
from rn_rl.experiment.evaluate import EvaluateConfig, evaluate
from rn_rl.experiment.train import train
from rn_rl.experiment.video import VideoConfig, video
from rn_rl.experiment.zoo import baseline


def run_demo(config: TrainConfig, norms: list[str], episodes: int = 100) -> None:
    """Train once with each normalizer, evaluate, film the first one.

    Args:
        config: algorithm, environment and where the runs go.
        norms: normalizers, the one to film first.
        episodes: of each evaluation.
    """
    console = Console()
    table = Table(title=f"{config.algo} on {config.env}, {episodes} greedy episodes, one seed each")
    table.add_column("agent")
    table.add_column("return, mean ± std", justify="right")
    table.add_column("95% interval", justify="right")
    runs = []
    for norm in norms:
        run = train(replace(config, norm=norm), console)
        runs.append(run)
        result = evaluate(EvaluateConfig(run.folder, episodes))
        table.add_row(
            f"ours, {norm}",
            f"{result.mean_return:.1f} ± {result.std_return:.1f}",
            f"[{result.ci_low:.1f}, {result.ci_high:.1f}]",
        )
    assert config.algo is not None and config.env is not None
    published = baseline(config.algo, config.env)
    if published is not None:
        score = f"{published['mean']:.1f} ± {published['std']:.1f}"
        table.add_row("published (RL Zoo)", score, "")
    clip = video(VideoConfig(runs[0].folder))
    console.print(table)
    console.print("One seed says little: DQN on CartPole varies much from seed to seed.")
    console.print(f"film: {clip}", soft_wrap=True, highlight=False)
