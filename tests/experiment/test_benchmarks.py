"""Benchmarks: what they print is what was measured, and the README holds what they printed."""

import json
from pathlib import Path

import pytest

from rn_rl.errors import UserError
from rn_rl.experiment.files import markdown_table, replace_block
from rn_rl.experiment.learning import (
    COLUMNS,
    LearningConfig,
    read_results,
    run_learning,
    run_one,
    summarize,
    table_rows,
)
from rn_rl.experiment.speed import SpeedConfig, run_speed

ROOT = Path(__file__).parents[2]


def test_the_readme_has_the_table_of_the_recorded_runs():
    table = markdown_table(
        COLUMNS, table_rows(summarize(read_results(ROOT / "results/learning.jsonl")))
    )
    block = (ROOT / "README.md").read_text().split("<!-- learning -->\n")[1]
    assert block.split("\n<!-- /learning -->")[0] == table


def test_a_stopped_benchmark_runs_only_what_is_missing(tmp_path, capsys):
    config = LearningConfig(
        cases=("cartpole",),
        norms=("none", "rn"),
        seeds=1,
        jobs=1,
        episodes=2,
        timesteps=400,
        out=tmp_path / "runs",
        results=tmp_path / "results" / "learning.jsonl",
        json=True,
    )
    run_learning(config)
    first = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(line["case"], line["norm"]) for line in first} == {
        ("cartpole", "none"),
        ("cartpole", "rn"),
    }
    config.seeds = 2
    run_learning(config)
    assert len(read_results(config.results)) == 4
    assert len(list((tmp_path / "runs").glob("*/dqn/*"))) == 4
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(
        len(line["each"]) == 2 and line["low"] <= line["value"] <= line["high"] for line in lines
    )


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "ln", "ln+rn"])
@pytest.mark.parametrize("case", ["pendulum-sac", "pendulum-td3"])
def test_pendulum_is_learned_in_10k_steps(case: str, norm: str, tmp_path: Path):
    config = LearningConfig(episodes=20, out=tmp_path)
    assert run_one(case, norm, 0, config)["greedy_mean"] > -400


def test_the_speed_benchmark_gives_ratios_of_one_run(capsys):
    run_speed(SpeedConfig(norms=("none", "rn"), steps=60, rounds=3, json=True))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["case"] for line in lines] == ["CartPole-v1/none", "CartPole-v1/rn"]
    assert lines[0]["ratio"] == 1.0 and 0 < lines[1]["ratio"] < 10
    assert all(
        line["unit"] == "steps/s" and line["ratio_to"] == "CartPole-v1/none" for line in lines
    )


def test_a_document_without_the_marks_is_one_line(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("nothing here\n")
    with pytest.raises(UserError, match="expected the lines <!-- speed -->"):
        replace_block(path, "speed", "text")
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_is_replaced_and_nothing_else(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n")
    replace_block(path, "speed", "new\n")
    replace_block(path, "speed", "newer")
    assert path.read_text() == "before\n<!-- speed -->\nnewer\n<!-- /speed -->\nafter\n"
