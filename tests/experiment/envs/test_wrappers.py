"""Wrappers of a config: episodes that they end are recorded; running statistics are refused."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rn_rl.cli import main
from rn_rl.experiment.envs.make import make_env
from tests import odd_envs  # noqa: F401  (registers its environments)

LIMIT = "gymnasium.wrappers.TimeLimit"
SB3 = "stable_baselines3.common.atari_wrappers"


def play(env_id: str, wrappers: Any, steps: int, folder: Path | None = None) -> Any:
    """Act at random; return the true lengths of the agent's episodes, and the infos at their ends."""
    env = make_env(env_id, {"env_wrapper": wrappers}, n_envs=1, seed=0, monitor_dir=folder)
    env.reset()
    rng, lengths, infos, count = np.random.default_rng(0), [], [], 0
    for _ in range(steps):
        _, _, dones, info = env.step(np.array([rng.integers(2)]))
        count += 1
        if dones[0]:
            lengths.append(count)
            infos.append(info[0])
            count = 0
        else:
            assert "episode" not in info[0]
    env.close()
    return lengths, infos


def rows(file: Path) -> list[tuple[float, int]]:
    """Return the return and length of each episode of a monitor file."""
    lines = file.read_text().splitlines()[1:]
    return [(float(row["r"]), int(row["l"])) for row in csv.DictReader(lines)]


def test_episodes_that_a_time_limit_ends_are_recorded(tmp_path: Path) -> None:
    lengths, infos = play("CartPole-v1", {LIMIT: {"max_episode_steps": 15}}, 3000, tmp_path)
    assert len(lengths) == 208 and round(np.mean(lengths), 1) == 14.4
    assert [info["episode"]["l"] for info in infos] == lengths
    assert rows(tmp_path / "0.monitor.csv") == [(float(n), n) for n in lengths]
    truncated = [info["TimeLimit.truncated"] for info in infos]
    assert sum(truncated) > 0 and all(
        n == 15 for n, cut in zip(lengths, truncated, strict=True) if cut
    )


def test_rewards_and_lengths_are_those_of_the_environment() -> None:
    wrappers = [
        f"{SB3}.ClipRewardEnv",
        {f"{SB3}.MaxAndSkipEnv": {"skip": 4}},
        {LIMIT: {"max_episode_steps": 3}},
    ]
    lengths, infos = play("OddFive-v0", wrappers, 30)
    assert lengths == [3] * 10
    assert [(info["episode"]["r"], info["episode"]["l"]) for info in infos] == [(60.0, 12)] * 10


def test_an_episode_goes_on_where_the_reset_does_not_reach_the_environment() -> None:
    lengths, infos = play("OddLives-v0", f"{SB3}.EpisodicLifeEnv", 100)
    assert lengths[:4] == [7, 6, 5, 7]  # a reset at a lost life is one step without action
    recorded = [info["episode"]["l"] for info in infos if "episode" in info]
    assert recorded == [20] * len(recorded) and len(recorded) == len(lengths) // 3


def test_a_reset_within_an_episode_records_nothing(tmp_path: Path) -> None:
    wrapper = {LIMIT: {"max_episode_steps": 15}}
    env = make_env("OddPlain-v0", {"env_wrapper": wrapper}, n_envs=1, seed=0, monitor_dir=tmp_path)
    for steps in (5, 17, 0):
        env.reset()
        for _ in range(steps):
            env.step(np.array([0]))
    env.close()
    assert rows(tmp_path / "0.monitor.csv") == [(15.0, 15)]


def test_info_of_an_environment_that_records_its_own_episodes_is_replaced() -> None:
    lengths, infos = play("OddOwnEpisodes-v0", None, 60)
    assert [info["episode"]["l"] for info in infos] == lengths == [20, 20, 20]


@pytest.mark.parametrize("seeds", [1, 2])
def test_single_runs_and_seed_batches_record_and_evaluate_the_same(
    seeds: int, tmp_path: Path
) -> None:
    wrapper = f"env_wrapper={{{LIMIT}: {{max_episode_steps: 12}}}}"
    typed = (
        f"train --algo ppo --env OddNeverEnds-v0 --timesteps 64 --n-envs 1 --eval-freq 32 --quiet "
        f"--eval-episodes 2 --seeds {seeds} --out {tmp_path} --set n_steps=32 batch_size=16 n_epochs=1"
    )
    assert main([*typed.split(), wrapper]) == 0
    for seed in range(seeds):
        run = tmp_path / f"none/ppo/OddNeverEnds-v0_{seed + 1}"
        assert rows(run / "0.monitor.csv") == [(12.0, 12)] * 5
        assert np.load(run / "evaluations.npz")["ep_lengths"].tolist() == [[12, 12]] * 2
        assert main(["evaluate", str(run), "--episodes", "2", "--json"]) == 0


@pytest.mark.parametrize(
    "wrapper",
    [
        "gymnasium.wrappers.NormalizeObservation",
        "gymnasium.wrappers.NormalizeReward",
        f"[{LIMIT}: {{max_episode_steps: 9}}, gymnasium.wrappers.NormalizeReward: {{gamma: 0.9}}]",
    ],
)
def test_wrappers_with_running_statistics_are_refused(
    wrapper: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = f"train --algo ppo --env Pendulum-v1 --out {tmp_path} --set"
    assert main([*typed.split(), f"env_wrapper={wrapper}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Normalize" in error and "--set normalize=true" in error
    assert not list(tmp_path.iterdir())


def test_statistics_of_an_environment_itself_are_refused() -> None:
    with pytest.raises(ValueError, match="OddStatistics holds running statistics"):
        make_env("OddStatistics-v0", {}, n_envs=1, seed=0)
