"""Benchmarks: the printed results are the measured ones, and the docs contain them."""

import json
import os
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import against
from benchmarks.__main__ import main
from benchmarks.docs_blocks import replace_block
from benchmarks.equivalence import (
    ENGINES,
    EQUIVALENCE_COLUMNS,
    EquivalenceConfig,
    equivalence,
    equivalence_rows,
    read_late_returns,
    run_equivalence,
)
from benchmarks.harness import append_line, interleave, read_lines
from benchmarks.layer_cost import LayerCostConfig
from benchmarks.learning import (
    LEARNING_COLUMNS,
    LearningConfig,
    learning_lines,
    learning_rows,
    run_learning,
    run_one,
)
from benchmarks.report_speed import ReportSpeedConfig, run_report_speed
from benchmarks.seed_batch_speed import SeedSpeedConfig, run_seed_speed
from benchmarks.train_speed import SpeedConfig, run_speed
from rn_rl.analysis.tables import markdown_table
from rn_rl.errors import UserError

ROOT = Path(__file__).parents[2]


def test_the_docs_have_the_table_of_the_recorded_runs():
    table = markdown_table(
        LEARNING_COLUMNS,
        learning_rows(learning_lines(read_lines(ROOT / "results/learning.jsonl"))),
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
    assert len(read_lines(config.results)) == 4
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
    """Train TD3 with seeds other than those with which its settings were chosen."""
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
    for margin in (10.0, 40.0):  # p value and interval agree
        told = equivalence(same[:12], theirs[:12], margin)
        assert (told["p"] < 0.05) == (-margin < told["low"] and told["high"] < margin)


@pytest.mark.slow
def test_the_equivalence_benchmark_trains_what_is_missing(tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    readme = tmp_path / "README.md"
    readme.write_text("<!-- equivalence -->\n<!-- /equivalence -->\n")
    config = EquivalenceConfig(
        cases=("dqn",),
        seeds=2,
        timesteps=400,
        out=tmp_path / "runs",
        results=results,
        readme=readme,
    )
    run_equivalence(config)
    assert [json.loads(line)["engine"] for line in results.read_text().splitlines()] == list(
        ENGINES
    )
    assert "| dqn | together, envpool | 0 to 1 |" in readme.read_text()
    assert "together, envpool" in capsys.readouterr().out
    for row in read_late_returns(results).values():
        assert len(row) == 2 and (row > 5).all()
    folders = len(list((tmp_path / "runs").glob("*/*/*/*")))
    run_equivalence(config)
    assert folders == 6 == len(list((tmp_path / "runs").glob("*/*/*/*")))


def test_the_docs_have_the_recorded_equivalence():
    found = read_late_returns(ROOT / "results/equivalence.jsonl")
    table = markdown_table(EQUIVALENCE_COLUMNS, equivalence_rows(found, EquivalenceConfig().margin))
    block = (ROOT / "docs/results/speed.md").read_text().split("<!-- equivalence -->\n")[1]
    assert block.split("<!-- /equivalence -->")[0].strip() == table


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("cartpole", {}),
        pytest.param("cartpole", {"jobs": 2, "config": "zoo"}, marks=pytest.mark.slow),
        pytest.param("redbluedoors", {}, marks=pytest.mark.slow),
        pytest.param("redbluedoors-lstm", {}, marks=pytest.mark.slow),
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
    assert table.count(row) == times  # the GPU's table has two runs


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


def test_every_measurement_is_taken_once_in_each_round():
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return len(calls)

    names = ["a", "b", "c"]
    values = interleave({name: partial(measure, name) for name in names}, 20)
    rounds = [tuple(calls[i : i + 3]) for i in range(0, 60, 3)]
    assert all(sorted(order) == names for order in rounds)
    assert len(set(rounds)) > 1  # not always in the same order
    for name in names:
        assert values[name].tolist() == [i + 1 for i, each in enumerate(calls) if each == name]


def test_results_that_were_appended_are_read_back(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    assert read_lines(path) == []
    for value in (1, 2):
        append_line(path, {"value": value})
    assert read_lines(path) == [{"value": 1}, {"value": 2}]


@pytest.fixture
def checkouts(monkeypatch):
    """Replace processes by made-up values: this checkout takes half the time of the other one."""
    ran = []

    def run_benchmark(checkout, arguments):
        ran.append((checkout, tuple(arguments)))
        time = (1.0 if checkout == against.HERE else 2.0) * len(ran)
        lines = {"a": {"case": "a", "value": time, "unit": "us"}}
        lines["b"] = {"case": "b", "value": 100 / time, "unit": "steps/s"}
        if checkout == against.HERE:
            lines["new"] = {"case": "new", "value": 1.0, "unit": "us"}
        return lines

    monkeypatch.setattr(against, "run_benchmark", run_benchmark)
    monkeypatch.setattr(against, "check_checkout", lambda checkout: None)
    return ran


def test_two_checkouts_are_measured_in_turns(checkouts, tmp_path, capsys):
    options = ["--norms", "ln", "rn", "--rounds", "3", "--pairs", "8", "--json"]
    assert main(["layer", *options, "--against", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["case"] for line in lines] == ["a", "b"]  # without the case of one checkout alone
    for line in lines:
        assert len(line["each"]) == 8 and 1 <= line["low"] <= line["ratio"] <= line["high"] <= 4
        assert line["ratio"] == np.median(line["each"]) and line["ratio_to"] == str(tmp_path)
    turns = [[checkout for checkout, _ in checkouts[i : i + 2]] for i in range(0, 16, 2)]
    assert all(set(turn) == {against.HERE, tmp_path} for turn in turns)
    assert len({turn[0] for turn in turns}) == 2  # each of them is the first in some turns
    [given] = {arguments for _, arguments in checkouts}
    expected = "layer --norms ln rn --batch 256 --features 256 --rounds 3 --repeats 10 --json"
    assert " ".join(given) == expected


def test_the_flags_for_another_checkout_are_those_of_the_command():
    config = SeedSpeedConfig(cases=("cartpole",), compile=True, against=Path("."), json=True)
    flags = against.flags_of(config)
    assert flags[:2] == ["--cases", "cartpole"] and "--compile" in flags
    assert not {"--against", "--pairs", "--json", "--profile", "--readme"} & set(flags)


@pytest.mark.slow
def test_this_checkout_is_one_and_its_lines_are_read():
    against.check_checkout(against.HERE)
    arguments = ["layer", "--norms", "rn", "--rounds", "1", "--repeats", "1", "--json"]
    lines = against.run_benchmark(against.HERE, arguments)
    assert list(lines) == ["rn/256x256"] and lines["rn/256x256"]["value"] > 0


@pytest.mark.slow
def test_a_benchmark_that_fails_elsewhere_is_one_line():
    with pytest.raises(
        UserError, match=r"layer --rounds 0 failed: .*--rounds 0: expected at least"
    ):
        against.run_benchmark(against.HERE, ["layer", "--rounds", "0"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 0}, "--pairs 0: expected at least 1"),
        ({"readme": Path("README.md")}, "--against --readme: expected one of them"),
        ({}, "expected a checkout of rn-rl"),
    ],
)
def test_a_comparison_that_cannot_be_is_one_line(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        against.compare_checkouts("layer", LayerCostConfig(against=tmp_path, **options))


def test_the_median_of_few_turns_has_no_interval():
    assert against.median_interval(np.arange(5.0)) == (None, None)
    assert against.median_interval(np.arange(10.0)) == (1.0, 8.0)  # binomial: 2nd and 9th of ten


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no resource module")
def test_the_report_benchmark_measures_time_memory_and_size(capsys):
    run_report_speed(ReportSpeedConfig(runs=20, evaluations=2, json=True))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["unit"] for line in lines} == {"s", "GB", "MB page"}
    assert all(line["value"] > 0 for line in lines)
    assert {line["case"] for line in lines} == {"20 runs x 2 evaluations"}


def test_the_worked_example_of_a_new_benchmark_runs(capsys):
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## A new benchmark")[1]
    module = types.ModuleType("commit_cost")
    sys.modules["commit_cost"] = module  # dataclass looks its module up
    try:
        exec(text.split("```python\n")[1].split("```")[0], module.__dict__)
        config = module.CommitCostConfig(norms=("rn", "rln"), rounds=2, json=True)
        module.run_commit_cost(config)
    finally:
        del sys.modules["commit_cost"]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["case"] for line in lines] == ["rn", "rln"] and lines[0]["ratio"] == 1
    assert all(line["value"] > 0 for line in lines)


@pytest.mark.slow
def test_the_probe_of_the_digits_has_a_column_for_each_time_step(tmp_path, capsys):
    out = tmp_path / "digits"
    command = [
        "digits",
        "--toy",
        "--norms",
        "none,rn",
        "--seeds",
        "2",
        "--jobs",
        "1",
        "--every",
        "1",
    ]
    assert main([*command, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "rn same/after/step, 2 seeds" in shown and "cell.cell@4" in shown
    page = (out / "probe.html").read_text()
    assert "Code length and residual of recurrent layers by time step." in page
    records = sorted(out.glob("toy-rn-*.npz"))
    assert len(records) == 2 and len(np.load(records[0])["timesteps"]) == 4
    before = records[0].stat().st_mtime_ns
    assert main([*command, "--out", str(out)]) == 0
    assert records[0].stat().st_mtime_ns == before  # it is not trained again
    assert main(["digits", "--seeds", "0"]) == 2
    assert "--seeds 0: expected at least 1" in capsys.readouterr().err
