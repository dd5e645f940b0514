"""Benchmarks: what they print is what was measured, and the README holds what they printed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.equivalence import COLUMNS as EQUIVALENCE_COLUMNS
from benchmarks.equivalence import (
    ENGINES,
    EquivalenceConfig,
    equivalence,
    read,
    run_equivalence,
)
from benchmarks.equivalence import table_rows as equivalence_rows
from benchmarks.learning import (
    COLUMNS,
    LearningConfig,
    read_results,
    run_learning,
    run_one,
    summarize,
    table_rows,
)
from benchmarks.seed_batch_speed import SeedSpeedConfig, run_seed_speed
from benchmarks.train_speed import SpeedConfig, run_speed
from rn_rl.analysis.tables import markdown_table
from rn_rl.errors import UserError
from rn_rl.experiment.runs.io import replace_block

ROOT = Path(__file__).parents[2]


def test_the_docs_have_the_table_of_the_recorded_runs():
    table = markdown_table(
        COLUMNS, table_rows(summarize(read_results(ROOT / "results/learning.jsonl")))
    )
    block = (ROOT / "docs/results/learning.md").read_text().split("<!-- learning -->\n")[1]
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
@pytest.mark.parametrize(
    ("case", "seed"), [("pendulum-sac", 0), *(("pendulum-td3", seed) for seed in (5, 6, 7))]
)
def test_pendulum_is_learned_in_10k_steps(case: str, norm: str, seed: int, tmp_path: Path):
    """TD3 with seeds that were not seen when its setting was chosen."""
    config = LearningConfig(episodes=20, out=tmp_path)
    assert run_one(case, norm, seed, config)["greedy_mean"] > -400


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


def test_equivalence_is_shown_by_an_interval_within_the_margin():
    rng = np.random.default_rng(0)
    theirs, same, other = (
        rng.normal(100, 20, 200),
        rng.normal(100, 20, 200),
        rng.normal(130, 20, 200),
    )
    told = equivalence(same, theirs, 40)
    assert told["p"] < 1e-6 and -40 < told["low"] < told["difference"] < told["high"] < 40
    assert equivalence(other, theirs, 20)["p"] > 0.99
    few = equivalence(same[:3], theirs[:3], 5)  # not different, and not shown to be the same
    assert few["p"] > 0.05 and (few["low"] < -5 or few["high"] > 5)
    for margin in (10.0, 40.0):  # the two ways to say it agree
        told = equivalence(same[:12], theirs[:12], margin)
        assert (told["p"] < 0.05) == (-margin < told["low"] and told["high"] < margin)


def test_the_equivalence_benchmark_trains_what_is_missing(tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    config = EquivalenceConfig(
        cases=("dqn",), seeds=2, timesteps=400, out=tmp_path / "runs", results=results
    )
    run_equivalence(config)
    assert [json.loads(line)["engine"] for line in results.read_text().splitlines()] == list(
        ENGINES
    )
    assert "| dqn | together, envpool | 0 to 1 |" in capsys.readouterr().out
    for row in read(results).values():
        assert len(row) == 2 and (row > 5).all()
    folders = len(list((tmp_path / "runs").glob("*/*/*/*")))
    run_equivalence(config)
    assert folders == 6 == len(list((tmp_path / "runs").glob("*/*/*/*")))


def test_the_docs_have_the_recorded_equivalence():
    found = read(ROOT / "results/equivalence.jsonl")
    table = markdown_table(EQUIVALENCE_COLUMNS, equivalence_rows(found, EquivalenceConfig().margin))
    block = (ROOT / "docs/results/speed.md").read_text().split("<!-- equivalence -->\n")[1]
    assert block.split("<!-- /equivalence -->")[0].strip() == table


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("cartpole", {"jobs": 2, "config": "zoo"}),
        ("redbluedoors", {}),
        ("redbluedoors-lstm", {}),
    ],
)
def test_the_benchmark_of_seeds_gives_ratios_of_one_run(case, options, capsys):
    config = SeedSpeedConfig(cases=(case,), seeds=2, rounds=2, seconds=0.01, json=True, **options)
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    run_seed_speed(config)
    torch.set_num_threads(threads)
    assert os.sched_getaffinity(0) == cores
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    cases = {line["case"].rpartition("/")[2] for line in lines}
    alone = set() if options else {"environments alone"}
    assert cases == {"none", "rn"} | alone  # and sb3/none
    assert {line["options"] for line in lines} == {"--config zoo --jobs 2" if options else ""}
    assert {line["ratio_to"] for line in lines} == {"sb3/none", "none"}
    assert all(line["value"] > 0 and line["ratio"] > 0 for line in lines)


@pytest.mark.parametrize(
    ("block", "said", "row", "times"),
    [
        ("seeds", "one core for each process", "| CartPole-v1/rn --compile |", 1),
        ("seeds-gpu", "one process on one NVIDIA", "| MiniGrid-RedBlueDoors-6x6-v0/sb3/none |", 2),
    ],
)
def test_the_docs_have_the_recorded_speeds(block, said, row, times, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"<!-- {block} -->\n<!-- /{block} -->\n")
    run_seed_speed(SeedSpeedConfig(table=ROOT / f"results/{block}.jsonl", readme=readme))
    assert said in capsys.readouterr().out
    table = readme.read_text()
    assert table in (ROOT / "docs/results/speed.md").read_text()
    assert table.count(row) == times  # the GPU's are of two runs


@pytest.mark.parametrize(
    "text", ["", "{}", '{"benchmark": "seeds", "device": 1}\n{"benchmark": 2}']
)
def test_a_table_of_something_else_is_one_line(text, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match="expected a file of what"):
        run_seed_speed(SeedSpeedConfig(table=path))


@pytest.mark.parametrize(
    "options", [{"jobs": 0}, {"jobs": 2, "profile": True}, {"jobs": 2, "readme": Path("README.md")}]
)
def test_a_benchmark_of_seeds_that_cannot_be_is_one_line(options):
    with pytest.raises(UserError, match=f"--jobs {options['jobs']}: expected at least 1"):
        run_seed_speed(SeedSpeedConfig(cases=("cartpole",), **options))


def test_a_first_seed_below_0_is_one_line(tmp_path):
    config = LearningConfig(first_seed=-1, out=tmp_path, results=tmp_path / "results.jsonl")
    with pytest.raises(UserError, match="--first-seed -1: expected at least 0"):
        run_learning(config)
    assert not list(tmp_path.iterdir())
