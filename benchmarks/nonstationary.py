"""State on changing data: a jump of the input's distribution, and a replay memory that lags."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from benchmarks.harness import Line, Output, ResultTable, append_line, emit, read_lines
from rn_rl.agents import AgeWeightedReplayBuffer
from rn_rl.analysis.tables import markdown_table
from rn_rl.errors import UserError
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.resolve import resolve
from rn_rl.normalization import RegularityNorm, make_normalizers
from rn_rl.normalization.functional import MEAN, VAR
from rn_rl.statistics import bootstrap_interval

JUMPS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "mean up": ((1, 1), (10, 1)),
    "mean down": ((10, 1), (1, 1)),
    "scale up": ((1, 1), (1, 10)),
    "scale down": ((1, 10), (1, 1)),
}
"""Mean and standard deviation of the input before and after each jump."""

JUMPING = ("rn", "rln", "rsn")
HALF_LIVES: tuple[float | None, ...] = (20, 50, 200, None)
ROWS, FEATURES = 64, 32
SPAN = 200
"""Number of phases used as half-life where a normalizer has none."""

SHADOWS: dict[str, tuple[float | None, float | None]] = {
    "plain": (None, None),
    "half_life=50": (50, None),
    "half_life=200": (200, None),
    "half_life=1000": (1000, None),
    "age_half_life=1000": (None, 1000),
    "age_half_life=10000": (None, 10_000),
    "half_life=200, age_half_life=1000": (200, 1000),
}
"""Variants: half-life of the state in phases, and of the weights of replayed samples in timesteps."""

AGE_UNIT = 1000.0
"""Half-life of the weights that the replay memory computes, in timesteps; others are powers of them."""


@dataclass
class NonstationaryConfig(Output):
    """Measure how the state of a normalizer follows a jump of its input, and a DQN's current policy.

    Seeds in the results file are not repeated: a stopped benchmark continues, and more seeds add to it.
    """

    seeds: int = 5
    """Number of seeds 0, 1, ... of the trainings."""
    timesteps: int = 15_000
    """Timesteps of each training: DQN with rn on LunarLander-v3, tuned settings, 64-64 units."""
    episodes: int = 20
    """Number of new episodes of each final agent."""
    results: Path = Path("results/nonstationary.jsonl")
    """Results file: one line for each training and each jump."""
    table: bool = False
    """Train nothing, and print the tables of the results file."""


def steady_gain(half_life: float | None, phases: int) -> float:
    """Return the gain on stationary data: ``-log(1 - 2**(-1/half_life))``.

    Without a half-life it is the ramp ``log(t + e - 1)``, t being the number of commits after the first.
    """
    if half_life is None:
        return math.log(phases - 2 + math.e)
    return -math.log(-math.expm1(-math.log(2) / half_life))


def jump(norm: str, half_life: float | None, case: str) -> Line:
    """Measure the gain of a normalizer around a jump of its input's distribution.

    Ten half-lives before the jump and five after it, one batch of 64 x 32 in each phase. A gain is the
    mean of output / input; for ``rsn`` that averages over samples.
    """
    span = int(half_life or SPAN)
    [module] = make_normalizers(f"{norm}(half_life={half_life})", FEATURES)
    generator = torch.Generator().manual_seed(0)
    gains = []
    for phase in range(15 * span + 1):
        mean, std = JUMPS[case][phase >= 10 * span]
        x = mean + std * torch.randn(ROWS, FEATURES, generator=generator)
        gains.append(float((module.train()(x) / x).mean()))
        module.eval()
    return {
        "part": "jump",
        "case": case,
        "norm": norm,
        "half_life": half_life,
        "before": gains[10 * span - 1],
        "first": gains[10 * span],
        "second": gains[10 * span + 1],
        "after": gains[-1],
        "steady": steady_gain(half_life, 15 * span),
    }


def attach_shadows(norm: RegularityNorm, memory: AgeWeightedReplayBuffer) -> nn.ModuleDict:
    """Add one normalizer of each variant, which observes the inputs of ``norm`` and changes nothing.

    They are children of ``norm``, so that they change mode and commit together with it.
    """
    shadows = nn.ModuleDict()
    for name, (half_life, age_half_life) in SHADOWS.items():
        assert norm.num_features is not None
        shadow = RegularityNorm(norm.num_features, norm.axis, half_life)
        if age_half_life is not None:
            shadow.observation_weight = partial(age_weights, memory, age_half_life)
        shadows[name] = shadow
    norm.add_module("shadows", shadows)

    def observe(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if norm.training and norm.observing:
            with torch.no_grad():
                for shadow in shadows.values():
                    shadow(inputs[0])

    norm.register_forward_pre_hook(observe)
    return shadows


def age_weights(memory: AgeWeightedReplayBuffer, half_life: float) -> Tensor:
    """Return the memory's weights of the last minibatch for another half-life, ``(batch,)``, mean 1."""
    weights = memory.weights()
    assert weights is not None
    weights = weights ** (AGE_UNIT / half_life)
    return weights / weights.mean()


def watched_agent(seed: int, timesteps: int) -> tuple[DQN, list[RegularityNorm]]:
    """Train SB3's DQN with ``rn``; return it and its normalizers, with their shadows."""
    spec = resolve(
        TrainConfig(
            algo="dqn",
            env="LunarLander-v3",
            norm="rn",
            seed=seed,
            timesteps=timesteps,
            set=("policy_kwargs.net_arch=[64,64]",),
        )
    )
    model = spec.make_model(
        spec.make_env(),
        replay_buffer_class=AgeWeightedReplayBuffer,  # samples as SB3's own does
        replay_buffer_kwargs={"half_life_steps": AGE_UNIT},
    )
    assert isinstance(model, DQN) and isinstance(model.replay_buffer, AgeWeightedReplayBuffer)
    norms = [m for m in model.q_net.modules() if isinstance(m, RegularityNorm)]
    for norm in norms:
        attach_shadows(norm, model.replay_buffer)
    model.learn(timesteps)
    model.policy.set_training_mode(False)  # commits what the last phase observed
    return model, norms


def tracking(seed: int, timesteps: int, episodes: int) -> Line:
    """Train one agent, and measure how far each variant's state is from the final policy's data.

    The distance is KL(current || state) in nats between two Gaussians: the layer's pre-activations in
    new greedy episodes, and the variant's state of that layer. One number for each layer.
    """
    model, norms = watched_agent(seed, timesteps)
    seen: list[list[Tensor]] = [[] for _ in norms]
    for norm, inputs in zip(norms, seen, strict=True):
        norm.register_forward_pre_hook(lambda _, x, into=inputs: into.append(x[0].detach()))
    assert model.env is not None
    env = model.env
    env.seed(seed + 1000)
    returns, _ = evaluate_policy(model, env, episodes, return_episode_rewards=True)
    env.close()
    distances: dict[str, list[float]] = {name: [] for name in SHADOWS}
    for norm, inputs in zip(norms, seen, strict=True):
        x = torch.cat(inputs).double()
        current = Normal(x.mean(), x.std(correction=0))
        for name, shadow in norm.get_submodule("shadows").named_children():
            state = shadow.get_buffer("running_state")
            held = Normal(state[MEAN, 0], state[VAR, 0].sqrt())
            distances[name].append(float(kl_divergence(current, held)))
    return {
        "part": "tracking",
        "seed": seed,
        "timesteps": timesteps,
        "episodes": episodes,
        "return": float(np.mean(returns)),
        "kl": distances,
    }


def run_nonstationary(config: NonstationaryConfig) -> None:
    """Run what the results file lacks, then print the tables."""
    for name in ("seeds", "timesteps", "episodes"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name} {getattr(config, name)}: expected at least 1")
    console = Console(stderr=config.json)
    if not config.table:
        torch.set_num_threads(1)
        run_missing(config, console)
    rows = read_lines(config.results)
    jumps = [row for row in rows if row["part"] == "jump"]
    variants = summarize_tracking(rows)
    emit(
        config,
        [*map(jump_line, jumps), *variants],
        ResultTable(JUMP_TITLE, JUMP_COLUMNS, jump_cells(jumps)),
        ResultTable(tracking_title(rows), TRACKING_COLUMNS, tracking_cells(variants)),
        block="nonstationary",
        text=readme_text(rows),
    )
    console.print(verdict(variants))


def run_missing(config: NonstationaryConfig, console: Console) -> None:
    """Add the missing jumps and trainings to the results file."""
    rows = read_lines(config.results)
    done = {(r["norm"], r["half_life"], r["case"]) for r in rows if r["part"] == "jump"}
    seeds = {r["seed"] for r in rows if r["part"] == "tracking"}
    for norm in JUMPING:
        for half_life in HALF_LIVES:
            for case in JUMPS:
                if (norm, half_life, case) not in done:
                    append_line(config.results, jump(norm, half_life, case))
    for seed in range(config.seeds):
        if seed not in seeds:
            row = tracking(seed, config.timesteps, config.episodes)
            append_line(config.results, row)
            console.print(f"seed {seed}: return {row['return']:.1f}")


JUMP_TITLE = "gain around a tenfold jump of the input, and 5 half-lives later"
JUMP_COLUMNS = ["normalizer", "jump", "before", "1st phase", "2nd", "later", "steady"]
GAINS = ("before", "first", "second", "after", "steady")


def jump_cells(rows: list[Line]) -> list[list[str]]:
    """Return the rows of :func:`jump` as text."""
    return [[named(row), row["case"], *(f"{row[key]:.2f}" for key in GAINS)] for row in rows]


def named(row: Line) -> str:
    """Return the spec of a jump's normalizer."""
    half_life = row["half_life"]
    return row["norm"] if half_life is None else f"{row['norm']}(half_life={half_life})"


def jump_line(row: Line) -> Line:
    """Return a jump as a line of JSON; its value is the gain five half-lives later."""
    return {
        "benchmark": "nonstationary",
        "case": f"jump/{row['case']}/{named(row)}",
        "value": row["after"],
        "unit": "gain",
        "ratio": row["after"] / row["steady"],
        "ratio_to": "steady",
        **{key: row[key] for key in GAINS},
    }


def summarize_tracking(rows: list[Line]) -> list[Line]:
    """Return one line for each variant: mean distance, and its paired difference from ``plain``."""
    runs = sorted((r for r in rows if r["part"] == "tracking"), key=lambda r: r["seed"])
    lines = []
    for name in runs[0]["kl"] if runs else ():
        layers = np.array([run["kl"][name] for run in runs])
        each = layers.mean(1)
        difference = each - np.array([run["kl"]["plain"] for run in runs]).mean(1)
        low, high = bootstrap_interval(each)
        difference_low, difference_high = bootstrap_interval(difference)
        lines.append(
            {
                "benchmark": "nonstationary",
                "case": f"tracking/{name}",
                "value": float(each.mean()),
                "low": low,
                "high": high,
                "unit": "nats",
                "layers": layers.mean(0).tolist(),
                "each": each.tolist(),
                "difference": float(difference.mean()),
                "difference_low": difference_low,
                "difference_high": difference_high,
            }
        )
    return lines


TRACKING_COLUMNS = ["state", "layer 1", "layer 2", "KL, mean [95%]", "less plain [95%]"]


def tracking_cells(lines: list[Line]) -> list[list[str]]:
    """Return the lines of :func:`summarize_tracking` as text."""
    return [
        [
            line["case"].partition("/")[2],
            *(f"{value:.3f}" for value in line["layers"]),
            f"{line['value']:.3f} [{line['low']:.3f}, {line['high']:.3f}]",
            f"{line['difference']:+.3f} "
            f"[{line['difference_low']:+.3f}, {line['difference_high']:+.3f}]",
        ]
        for line in lines
    ]


def tracking_title(rows: list[Line]) -> str:
    """Return the title of the tracking table: unit, environment, timesteps and seeds."""
    runs = [row for row in rows if row["part"] == "tracking"]
    seeds = ", ".join(str(seed) for seed in sorted(row["seed"] for row in runs))
    steps = ", ".join(f"{n:,}" for n in sorted({row["timesteps"] for row in runs}))
    return f"KL(current policy || state) in nats, LunarLander-v3, {steps} timesteps, seeds {seeds}"


def verdict(lines: list[Line]) -> str:
    """Return a sentence: which variants are closer to the current policy than the plain state."""
    others = [line for line in lines if not line["case"].endswith("/plain")]
    kinds = {
        "closer than the plain state": [r for r in others if r["difference_high"] < 0],
        "farther than the plain state": [r for r in others if r["difference_low"] > 0],
        "not told apart from it": [
            r for r in others if r["difference_low"] <= 0 <= r["difference_high"]
        ],
    }
    return "; ".join(
        f"{kind}: {', '.join(r['case'].partition('/')[2] for r in members) or 'none'}"
        for kind, members in kinds.items()
    )


README_JUMP_COLUMNS = ["half-life", "steady gain", "peak rn", "rln", "rsn", "5 half-lives on, all"]


def readme_jump_cells(rows: list[Line]) -> list[list[str]]:
    """Return one row for each half-life, over all jumps."""
    cells = []
    for half_life in dict.fromkeys(row["half_life"] for row in rows):
        mine = [row for row in rows if row["half_life"] == half_life]
        peaks = {n: [max(r["first"], r["second"]) for r in mine if r["norm"] == n] for n in JUMPING}
        after = [row["after"] for row in mine]
        cells.append(
            [
                "none" if half_life is None else f"{half_life}",
                f"{mine[0]['steady']:.2f}",
                *(f"{max(peak):.1f}" for peak in peaks.values()),
                f"{min(after):.2f} to {max(after):.2f}",
            ]
        )
    return cells


def readme_text(rows: list[Line]) -> str:
    """Return the text of the document: both tables, and the verdict in a sentence."""
    variants = summarize_tracking(rows)
    jumps = [row for row in rows if row["part"] == "jump"]
    return "\n\n".join(
        (
            markdown_table(README_JUMP_COLUMNS, readme_jump_cells(jumps)),
            f"{tracking_title(rows)}:",
            markdown_table(TRACKING_COLUMNS, tracking_cells(variants)),
            "By these intervals over few trainings, not corrected for the number of variants: "
            f"{verdict(variants)}.",
        )
    )
