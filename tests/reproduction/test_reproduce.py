"""The paper's protocol at toy size: every arm trains, and the tables agree with the runs."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.__main__ import main as benchmark
from benchmarks.docs_reproduction import readme_block
from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.records import find_runs, read_episodes, read_seconds
from rn_rl.reproduction import run as reproduce
from rn_rl.reproduction.config import ReproduceConfig
from rn_rl.reproduction.protocol import (
    PROTOCOLS,
    PUBLISHED,
    RATES,
    STUDIES,
    Arm,
    find_arm,
    find_arms,
    learning_rates,
    paper_and_controls,
    preregistered,
)
from rn_rl.reproduction.report import Reproduction, costs, table_of, write_reproduction
from rn_rl.reproduction.results import MEASURES, PARTS, Result, Trained, read_runs, write_runs
from rn_rl.reproduction.trained import curve

RESULTS = Path(__file__).parents[2] / "results"


def toy(out, what, *arguments, timesteps=700):
    shape = ["--timesteps", str(timesteps), "--jobs", "1", "--quiet", "--out", str(out)]
    return main(["reproduce", what, *shape, *arguments])


@pytest.mark.slow
def test_every_arm_of_the_paper_and_every_control(tmp_path):
    what = "cartpole"
    assert toy(tmp_path, what, "--seeds", "2") == 0
    rows = list(csv.DictReader((tmp_path / f"{what}.csv").read_text().splitlines()))
    study = paper_and_controls(PROTOCOLS[what])
    arms = [arm.name for arm in study.arms]
    assert len(arms) == 22 and set(PUBLISHED) < set(arms)
    assert [row["arm"] for row in rows] == [arm for arm in arms for _ in range(2)]
    page = (tmp_path / f"{what}.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("| ln+rn-paper "))
    assert line.endswith("| 207.0 ± 10.0 |")
    assert page.count("\n- ") == len(study.questions)
    assert "after correction for 31 comparisons" in page
    assert "Cost: 44 trainings took" in page and "The published code would need" in page
    assert "<svg" in (tmp_path / f"{what}.svg").read_text() and f"]({what}.svg)" in page
    for row in rows:  # the figures are those of SB3's own monitor files
        if row["arm"] == "ln+rn":
            runs = [
                Run(f)
                for f in find_runs(tmp_path)
                if Run(f).read_spec().norm == "ln+rn"
                and str(Run(f).read_spec().seed) == row["seed"]
            ]
            lines = (runs[0].folder / "0.monitor.csv").read_text().splitlines()[2:]
            returns = [float(line.split(",")[0]) for line in lines]
            assert float(row["last_50_episodes"]) == pytest.approx(np.mean(returns[-50:]))
    donors = {}
    for spec in specs(tmp_path):
        if recording := re.fullmatch(r"(.*)yoked\((.*)\)", spec.norm):
            donor = Run(Path(recording[2])).read_spec()
            assert donor.norm == f"{recording[1]}rn"
            donors[recording[1], spec.seed] = donor.seed
    # the first donor, which is none of the seeds compared, serves the first five of 50 seeds
    assert donors == {(norm, i): 1_000_000 for norm in ("", "ln+") for i in range(2)}
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("policy.safetensors")}
    assert toy(tmp_path, what, "--seeds", "2") == 0  # nothing is trained twice
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("policy.safetensors")}


@pytest.mark.slow
def test_lunarlander_is_cut_at_a_hundred_steps(tmp_path):
    assert toy(tmp_path, "lunarlander", "--seeds", "2", "--arms", "none,ln+rn-paper") == 0
    page = (tmp_path / "lunarlander.md").read_text()
    assert "| 43.4 ± 1.3 |" in page and "| 58.9 ± 1.1 |" in page
    # the last policies are played on whole episodes too, once
    assert "| whole episodes | solved |" in page and "at most 1,000 steps" in page
    runs = {(run.arm, run.seed): run for run in read_runs(tmp_path / "lunarlander.csv")}
    for folder in find_runs(tmp_path):
        played = json.loads((folder / "whole.json").read_text())
        run = runs[played["norm"], played["seed"]]
        assert len(played["returns"]) == 20 and max(played["lengths"]) > 100
        assert run.whole == pytest.approx(np.mean(played["returns"]))
        assert run.solved == np.mean(np.array(played["returns"]) >= 200)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("whole.json")}
    assert toy(tmp_path, "lunarlander", "--seeds", "2", "--arms", "none,ln+rn-paper") == 0
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("whole.json")}
    for folder in find_runs(tmp_path):
        lines = (folder / "0.monitor.csv").read_text().splitlines()[2:]
        assert max(int(line.split(",")[1]) for line in lines) <= 100


@pytest.mark.slow
def test_redbluedoors_and_some_arms(tmp_path):
    arguments = ["--seeds", "1", "--arms", "none,rn", "--results", str(tmp_path / "results")]
    assert toy(tmp_path / "runs", "redbluedoors", *arguments, timesteps=4096) == 0
    page = (tmp_path / "results" / "redbluedoors.md").read_text()
    assert "| none |" in page and "| rn |" in page and "One seed is an anecdote" in page
    # returns of at most 1 have two digits; the last column is the time, if its first env ended an episode
    assert re.search(r"\| none \| 1 \| 0\.\d\d \| .* \| 0\.\d\d, .* \| \d* \|\n", page)
    rows = readme_block(tmp_path / "results").splitlines()
    assert rows[0] == "| arm | redbluedoors |"  # the paper has no number
    assert re.fullmatch(r"\| none \| 0\.\d\d \[.*\] \|", rows[2])
    assert "Timesteps and seeds: redbluedoors, without memory: 4,096, 1 seed." in rows
    assert any(row.startswith("| rn than none | exploratory: cannot tell, ") for row in rows)


def test_quick_says_that_it_is_rough(tmp_path):
    assert toy(tmp_path, "cartpole", "--quick", "--arms", "none,logt") == 0
    page = (tmp_path / "cartpole-quick.md").read_text()
    assert "Rough: --quick, runs of 300 episodes" in page and "Exploratory" in page
    rows = list(csv.reader((tmp_path / "cartpole-quick.csv").read_text().splitlines()))
    assert len(rows) == 1 + 2 * 4
    assert not (tmp_path / "cartpole.md").exists()  # where the results of a whole run would be


def test_episodes_of_several_environments_are_put_in_the_order_in_which_they_ended(tmp_path):
    head = '#{"t_start": 0}\nr,l,t\n'
    (tmp_path / "0.monitor.csv").write_text(f"{head}1,10,0\n3,20,0\n")
    (tmp_path / "1.monitor.csv").write_text(f"{head}2,15,0\n")
    (tmp_path / "2.monitor.csv").write_text(head)
    ended, returns = read_episodes(Run(tmp_path))
    assert ended.tolist() == [30, 45, 90] and returns.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cartpol"], "unknown task 'cartpol'. Did you mean 'cartpole'"),
        (["cartpole", "--arms", "none,lm"], "unknown normalizer 'lm'"),
        (["cartpole", "--seeds", "-1"], "--seeds -1: expected at least 1"),
        (["cartpole", "--timesteps", "-1"], "--timesteps -1: expected at least 1"),
        (["cartpole", "--arms", ","], "--arms ',': expected some"),
        (["cartpole", "--engine", "batches"], "--engine batches: expected one of"),
        (["cartpole", "--jobs", "0"], "--jobs 0: expected at least 1"),
        (
            ["cartpole", "--recurrent"],
            "--recurrent: CartPole-v1 needs no memory; expected redbluedoors",
        ),
        (["cartpole", "--warm-up", "--as-published"], "expected one study at a time"),
        (["redbluedoors", "--as-published"], "the paper gives no number"),
        (["cartpole", "--preregistered"], "--preregistered on CartPole-v1: expected redbluedoors"),
        (["cartpole", "--arms", "ln+yoked,rn(half_life=None),rn"], "two of them are the same"),
        (["cartpole", "--arms", "ln+yoked,lm"], "unknown normalizer 'lm'"),
    ],
)
def test_bad_input(arguments, message, tmp_path, capsys):
    assert main(["reproduce", *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("what", PROTOCOLS)
@pytest.mark.parametrize("make", [paper_and_controls, *STUDIES.values()])
def test_questions_are_of_arms_that_there_are(what, make):
    if make is STUDIES["preregistered" if PROTOCOLS[what].episodes else "as-published"]:
        return  # of other tasks
    study = make(PROTOCOLS[what])
    assert all(find_arm(study, arm.name) is arm for arm in study.arms)
    arms = [arm.name for arm in study.arms]
    assert len(set(arms)) == len(arms)
    assert len(set(study.questions)) == len(study.questions)
    assert {name for pair in study.questions for name in pair} == set(arms)


def specs(root):
    return [Run(folder).read_spec() for folder in find_runs(root)]


@pytest.mark.slow
def test_as_published_only_the_first_run_explores(tmp_path):
    arms = [*PUBLISHED, "logt"]
    given = ",".join(arms)
    assert toy(tmp_path, "cartpole", "--seeds", "3", "--as-published", "--arms", given) == 0
    page = (tmp_path / "cartpole-as-published.md").read_text()
    assert page.count("\n- ") == 5 and "| 207.0 ± 10.0 |" in page
    found = specs(tmp_path)
    assert len(found) == 3 * len(arms)  # logt is under the same confounds
    for spec in found:
        begins = spec.hyperparameters.get("exploration_initial_eps", 1.0)
        assert begins == (1.0 if spec.seed == 0 else 0.01)
        observes = spec.hyperparameters["policy_kwargs"].get("acting_observes", False)
        assert observes == ("paper" in spec.norm)
        assert spec.hyperparameters.get("target_observes", False) == ("paper" in spec.norm)
        assert spec.together  # three of a kind are one batch, the first one by itself another


@pytest.mark.slow
def test_warm_up_rises_as_the_ramp_does(tmp_path):
    arms = "ln with warm-up,ln,ln+ramp(5, 5000)"
    assert toy(tmp_path, "cartpole", "--seeds", "2", "--warm-up", "--arms", arms) == 0
    page = (tmp_path / "cartpole-warm-up.md").read_text()
    assert page.count("\n- ") == 2 and "| ln with warm-up |" in page
    rates = {(spec.norm, spec.hyperparameters["learning_rate"]) for spec in specs(tmp_path)}
    ramped = "ln+ramp"  # of these values, its own
    # 700 of the ramp's 20,000 timesteps
    assert rates == {("ln", "lin_1e-4_0.0002715_1"), ("ln", 1e-3), (ramped, 1e-3)}
    whole = STUDIES["warm-up"](PROTOCOLS["lunarlander"])
    assert find_arm(whole, "ln with warm-up").set == ("learning_rate=lin_1e-4_0.005_0.1",)


@pytest.mark.slow
def test_learning_rates_share_the_runs_of_the_protocol(tmp_path):
    assert toy(tmp_path, "cartpole", "--seeds", "1", "--arms", "ln,ln+rn") == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("policy.safetensors")}
    arms = "ln at 1e-3,ln at 1e-2,ln+rn at 1e-3"
    assert toy(tmp_path, "cartpole", "--seeds", "1", "--learning-rates", "--arms", arms) == 0
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("policy.safetensors")}
    assert len(before) == 2 and len(after) == 3 and before.items() < after.items()


def test_runs_of_several_machines_make_one_table(tmp_path, monkeypatch):
    """--add trains the arms and seeds that a table lacks, here in separate folders of runs."""
    results, adding = tmp_path / "results", ["--add", "--results", str(tmp_path / "results")]

    def table(name="cartpole"):
        """Return rows as text, in which NaN equals NaN."""
        return {(run.arm, run.seed): str(run) for run in read_runs(results / f"{name}.csv")}

    monkeypatch.setattr("sys.argv", ["rn-rl", "on", "the", "first"])
    assert toy(tmp_path / "a", "cartpole", "--arms", "ln+rn,none", "--seeds", "1", *adding) == 0
    first = table()
    monkeypatch.setattr("sys.argv", ["rn-rl", "on", "the", "second"])
    assert toy(tmp_path / "b", "cartpole", "--arms", "none,logt", "--seeds", "2", *adding) == 0
    added = [("none", 0), ("none", 1), ("ln+rn", 0), ("logt", 0), ("logt", 1)]
    assert list(table()) == added and first.items() < table().items()
    assert sorted((spec.norm, spec.seed) for spec in specs(tmp_path / "b")) == [
        ("logt", 0),
        ("logt", 1),
        ("none", 1),
    ]
    page = (results / "cartpole.md").read_text()
    assert page.endswith("Made by\n\n```\nrn-rl on the first\nrn-rl on the second\n```\n")
    # a study takes what it shares with the protocol from the protocol's table
    arms = ["--arms", "none,none with warm-up"]
    assert toy(tmp_path / "c", "cartpole", "--warm-up", *arms, "--seeds", "2", *adding) == 0
    assert [spec.norm for spec in specs(tmp_path / "c")] == ["none", "none"]
    study = table("cartpole-warm-up")
    assert study["none", 1] == table()["none", 1] and ("none with warm-up", 1) in study
    assert (
        toy(tmp_path / "d", "cartpole", "--as-published", "--arms", "none", *adding, "--seeds", "1")
        == 0
    )
    assert len(specs(tmp_path / "d")) == 1  # the same name, other settings
    before = (results / "cartpole.csv").read_bytes()
    assert toy(tmp_path / "e", "cartpole", "--arms", "none,logt", "--seeds", "2", *adding) == 0
    assert not specs(tmp_path / "e") and (results / "cartpole.csv").read_bytes() == before


@pytest.mark.slow
def test_what_others_add_while_one_trains_is_kept(tmp_path, monkeypatch):
    adding = ["--seeds", "1", "--add", "--results", str(tmp_path / "results")]
    run_grid = reproduce.run_grid
    others = ["none", "logt"]  # in reverse order of finishing

    def late(grid):
        stopped = run_grid(grid)
        if others:
            assert toy(tmp_path / "b", "cartpole", "--arms", others.pop(), *adding) == 0
        return stopped

    monkeypatch.setattr(reproduce, "run_grid", late)
    assert toy(tmp_path / "a", "cartpole", "--arms", "none,ln", *adding) == 0
    table = read_runs(tmp_path / "results" / "cartpole.csv")
    assert [(run.arm, run.seed) for run in table] == [("none", 0), ("ln", 0), ("logt", 0)]
    assert not list((tmp_path / "results").glob(".*"))


def test_runs_of_another_length_are_not_mixed(tmp_path, capsys):
    adding = ["--arms", "none", "--seeds", "1", "--add"]
    assert toy(tmp_path, "cartpole", "--huber", *adding) == 0
    assert toy(tmp_path, "cartpole", "--huber", *adding, timesteps=800) == 2
    error = capsys.readouterr().err
    assert "has runs of 700 timesteps, these are of 800 timesteps; expected another" in error


def test_runs_of_other_numbers_of_episodes_are_not_mixed(tmp_path, capsys):
    adding = ["--arms", "none", "--seeds", "1", "--add"]
    assert toy(tmp_path, "cartpole", *adding, "--episodes", "12") == 0
    [run] = read_runs(tmp_path / "cartpole.csv")
    assert run.episodes == 12
    assert toy(tmp_path, "cartpole", *adding, "--episodes", "15") == 2
    error = capsys.readouterr().err
    assert "has runs of 12 episodes, these are of 15 episodes; expected another" in error


@pytest.mark.parametrize(("seeds", "count"), [("50", 10), ("25", 5), ("3", 1)])
def test_donors_serve_the_same_seeds_however_many_are_trained_at_first(
    tmp_path, monkeypatch, seeds, count
):
    """So that --add completes a table whose donors serve equally many seeds."""
    trained = {}

    def cells_of(shared, arm, seeds):
        if arm.name == "ln+yoked":
            trained[arm.norm] = seeds
        return []

    def train_donors(shared, norm, count, console):
        return [Path(f"donor_{i}") for i in range(count)]

    monkeypatch.setattr(reproduce, "cells_of", cells_of)
    monkeypatch.setattr(reproduce, "train_donors", train_donors)
    monkeypatch.setattr(reproduce, "run_grid", lambda grid: False)
    assert toy(tmp_path, "cartpole", "--seeds", seeds, "--arms", "ln+yoked") == 0
    assert len(trained) == count
    for donor in range(count):
        block = range(5 * donor, min(5 * donor + 5, int(seeds)))
        assert trained[f"ln+yoked(donor_{donor})"] == list(block)


def test_a_question_decided_beforehand_takes_no_runs_of_the_table_that_raised_it(tmp_path):
    parts = (1.0,) * PARTS
    old = [Trained("ln", seed, 1_000_000, 1.0, 2.0, "command", parts) for seed in range(3)]
    write_runs(tmp_path / "redbluedoors.csv", old)
    protocol = PROTOCOLS["redbluedoors"]
    config = ReproduceConfig("redbluedoors", preregistered=True, add=True)
    assert not reproduce.kept_runs(config, protocol, tmp_path)
    config = ReproduceConfig("redbluedoors", add=True)
    assert len(reproduce.kept_runs(config, protocol, tmp_path)) == 3
    assert np.isnan(MEASURES["learned"].of(old[0]))


def test_the_published_figures_stand_beside_the_papers_protocol_alone():
    results = [Result(Arm("none", "none"), [])]
    runs = [Trained("none", seed, 90, 1.0, 2.0, "command", (1.0,) * PARTS) for seed in (0, 1)]
    results[0].runs.extend(runs)
    protocol = PROTOCOLS["cartpole"]
    study = paper_and_controls(protocol)
    assert table_of("cartpole", protocol, study, results)[0][-1] == "paper"
    assert table_of("cartpole", protocol.with_huber(), study, results)[0][-1] != "paper"
    popart = Result(Arm("popart", "none", ("policy_kwargs.value_norm=popart",)), runs)
    assert "published code" in costs(protocol, results)
    assert costs(protocol, [popart]).count("published code") == 0


def test_a_table_without_the_last_columns_is_read(tmp_path):
    parts = (1.0,) * PARTS
    runs = [
        Trained("none", 0, 90, 1.0, 2.0, "command", parts, 7, 0.25, 0.0, -3.0, 0.5),
        Trained("none", 1, 90, 1.0, 2.0, "command", parts),
    ]
    path = tmp_path / "runs.csv"
    write_runs(path, runs)
    assert [str(run) for run in read_runs(path)] == [str(run) for run in runs]  # NaN equals NaN
    rows = [line.split(",") for line in path.read_text().splitlines()]
    for columns, episodes in ((-4, [7, None]), (-5, [None, None])):  # as earlier versions wrote it
        path.write_text("".join(",".join(row[:columns]) + "\n" for row in rows))
        assert [run.episodes for run in read_runs(path)] == episodes


def test_the_preregistered_study_is_the_one_on_its_page():
    page = (Path(__file__).parents[2] / "docs" / "results" / "preregistration.md").read_text()
    study = preregistered(PROTOCOLS["redbluedoors"])
    rows = dict(re.findall(r"^\| ([a-z ]+) \| (.*) \|$", page, re.M))
    assert all(f"`{arm.name}`" in rows["arms"] for arm in study.arms) and len(study.arms) == 6
    assert rows["seeds"].startswith(f"{study.seeds[0]} to {study.seeds[-1]} for every arm")
    assert rows["evaluations"] == (
        f"{study.evaluations} during a run, of {study.eval_episodes} episodes each; "
        f"{study.final_episodes} episodes with the last policy"
    )
    assert rows["first endpoint"].startswith(MEASURES[study.measures[0]].about)
    assert rows["second endpoint"] == MEASURES[study.measures[1]].about.replace(
        "returns above", "returns more than"
    )
    first = [f"`{x}` against `{y}`" for x, y in study.questions[:1]]
    assert all(question in rows["first questions"] for question in first)


@pytest.mark.slow
def test_the_preregistered_question_is_answered_by_the_evaluation_curve(tmp_path, monkeypatch):
    def small(protocol):
        return replace(preregistered(protocol), evaluations=3, eval_episodes=2, final_episodes=2)

    monkeypatch.setitem(STUDIES, "preregistered", small)
    arms = "ln,ln+rn(half_life=50),ln+yoked(half_life=50)"
    arguments = ["--preregistered", "--seeds", "2", "--arms", arms]
    assert toy(tmp_path, "redbluedoors", *arguments, timesteps=4096) == 0
    page = (tmp_path / "redbluedoors-preregistered.md").read_text()
    assert (
        "| arm | seeds | area under the curve | 95% interval | share of seeds above 0.8 |" in page
    )
    assert "by the area under the evaluation curve" in page and "by the share of seeds" in page
    found = {(spec.norm.split("(")[0], spec.seed) for spec in specs(tmp_path)}
    assert found == {
        *(("ln", seed) for seed in (1000, 1001)),
        *(("ln+rn", seed) for seed in (1000, 1001, 1_000_000)),  # one donor serves three seeds
        *(("ln+yoked", seed) for seed in (1000, 1001)),
    }
    with (tmp_path / "redbluedoors-preregistered-answers.csv").open() as stream:
        answers = list(csv.DictReader(stream))
    assert [(row["arm"], row["compared_with"]) for row in answers] == 2 * [
        ("ln+rn(half_life=50)", "ln"),
        ("ln+rn(half_life=50)", "ln+yoked(half_life=50)"),
    ]
    for run in read_runs(tmp_path / "redbluedoors-preregistered.csv"):
        [folder] = [
            f
            for f in find_runs(tmp_path)
            if (spec := Run(f).read_spec()).seed == run.seed
            and spec.norm.split("(")[0] == run.arm.split("(")[0]
        ]
        with np.load(folder / "evaluations.npz") as stored:
            steps, means = stored["timesteps"], stored["results"].mean(1)
        area = np.trapezoid(means, steps) / (steps[-1] - steps[0])
        assert len(steps) == 3 and run.area == pytest.approx(area)
        assert run.final == json.loads((folder / "final.json").read_text())["mean_return"]


@pytest.mark.slow
def test_redbluedoors_with_memory(tmp_path):
    arguments = ["--seeds", "1", "--recurrent", "--arms", "rn"]
    assert toy(tmp_path, "redbluedoors", *arguments, timesteps=2048) == 0
    assert "with memory (an LSTM)" in (tmp_path / "redbluedoors-recurrent.md").read_text()
    assert [spec.algo for spec in specs(tmp_path)] == ["ppo_lstm"]


def test_an_arm_is_found_however_it_is_spelled():
    study = paper_and_controls(PROTOCOLS["cartpole"])
    assert find_arm(study, "LN+ramp(5,5000)").name == "ln+ramp(5, 5000)"
    assert find_arm(study, "rms").norm == "rms"
    assert find_arms(study, "RN") == (find_arm(study, "rn"),)
    grid = STUDIES["learning-rates"](PROTOCOLS["cartpole"])
    assert [arm.name for arm in find_arms(grid, "rn")] == [f"rn at {rate}" for rate in RATES]
    assert find_arms(grid, "rn at 1e-3") == (find_arm(grid, "rn at 1e-3"),)
    with pytest.raises(UserError, match="unknown normalizer 'lm'"):
        find_arm(study, "lm")


def test_answers_are_in_a_table_with_raw_and_corrected_p(tmp_path):
    """``rn`` and ``logt`` do the same; the margin is a tenth of the larger effect, 100."""
    rng = np.random.default_rng(0)
    protocol = PROTOCOLS["cartpole"]
    study = paper_and_controls(protocol)
    results = []
    for arm, level in (("none", 100), ("ln", 101), ("rn", 199), ("logt", 200)):
        last = level + 5 * rng.standard_normal(40)
        last += level - last.mean()
        runs = [Trained(arm, i, 700, x, 1.0, "c", (x,) * PARTS, 30) for i, x in enumerate(last)]
        results.append(Result(find_arm(study, arm), runs))
    found = Reproduction("cartpole", protocol, study, results)
    write_reproduction(found, tmp_path / "page", Console(quiet=True))
    with (tmp_path / "page-answers.csv").open() as stream:
        rows = {(row["arm"], row["compared_with"]): row for row in csv.DictReader(stream)}
    assert [*rows] == [("ln", "none"), ("rn", "none"), ("logt", "none"), ("rn", "logt")]
    assert {pair: row["verdict"] for pair, row in rows.items()} == {
        ("ln", "none"): "cannot tell",
        ("rn", "none"): "better",
        ("logt", "none"): "better",
        ("rn", "logt"): "equivalent",
    }
    same = rows["rn", "logt"]
    assert float(same["margin"]) == pytest.approx(10)
    assert float(same["mean_difference"]) == pytest.approx(-1)
    smallest = rows["rn", "none"]
    assert float(smallest["p_corrected"]) == pytest.approx(4 * float(smallest["p"]))  # of four
    assert rows["ln", "none"]["margin"] == ""
    page = (tmp_path / "page.md").read_text()
    assert "rn is equivalent to logt with rndqn on CartPole-v1" in page
    assert "a tenth of the effect against none" in page


def test_the_best_rate_of_a_grid_is_named_and_so_is_an_edge(tmp_path):
    protocol = PROTOCOLS["cartpole"]
    study = learning_rates(protocol)
    assert {arm.set for arm in study.arms if arm.norm == "rn"} == {
        (f"learning_rate={rate}",) for rate in RATES
    }
    levels = {"none": (10, 30, 20), "ln": (30, 20, 10)}
    results = []
    for norm, values in levels.items():
        for rate, level in zip(("1e-4", "1e-3", "1e-2"), values, strict=True):
            name = f"{norm} at {rate}"
            runs = [Trained(name, i, 9, level, 1.0, "c", (level,) * PARTS, 30) for i in range(2)]
            results.append(Result(find_arm(study, name), runs))
    found = Reproduction("cartpole", protocol, study, results)
    write_reproduction(found, tmp_path / "page", Console(quiet=True))
    told = "Best learning rates: none 1e-3 (30.0 [30.0, 30.0]); ln 1e-4 (30.0 [30.0, 30.0], at the edge"
    assert told in (tmp_path / "page.md").read_text()


def test_a_picture_of_runs_that_have_no_common_part(tmp_path):
    """One run ended its episodes early, the other late."""
    curves = np.full((2, PARTS), np.nan)
    curves[0, :9] = curves[1, 10:] = 1.0
    runs = [Trained("none", i, 100, 1.0 + i, np.nan, "", tuple(curves[i])) for i in range(2)]
    result = Result(Arm("none", "none"), runs)
    study = paper_and_controls(PROTOCOLS["cartpole"])
    found = Reproduction("cartpole", PROTOCOLS["cartpole"], study, [result])
    write_reproduction(found, tmp_path / "some name", Console(quiet=True))
    assert "Cost" not in (tmp_path / "some name.md").read_text()
    assert "<svg" in (tmp_path / "some name.svg").read_text()


def test_the_clock_begins_anew_at_a_resume(tmp_path):
    rows = "".join(f"1,10,{t}\n" for t in (100, 900, 50, 70))
    (tmp_path / "0.monitor.csv").write_text('#{"t_start": 0}\nr,l,t\n' + rows)
    assert read_seconds(Run(tmp_path), 2) == (900 + 70) / 2


def test_a_curve_has_the_mean_of_the_episodes_that_ended_in_each_part():
    found = curve(np.array([10, 20, 60, 100]), np.array([1.0, 3.0, 5.0, 7.0]), 100)
    assert len(found) == PARTS
    assert found[[2, 4, 12, 19]].tolist() == [1, 3, 5, 7] and np.isnan(found).sum() == PARTS - 4


def test_the_docs_have_the_table_of_the_results():
    root = Path(__file__).parents[2]
    readme = (root / "docs/results/reproduction.md").read_text()
    block = readme.split("<!-- reproduce -->\n")[1].split("\n<!-- /reproduce -->")[0]
    assert block == readme_block(root / "results")


def test_a_readme_is_written_from_the_tables(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- reproduce -->\nold\n<!-- /reproduce -->\nafter\n")
    tables = {"cartpole": ("none", "rn", "logt"), "lunarlander": ("none", "rn")}
    (tmp_path / "runs").mkdir()
    for what, arms in tables.items():
        runs = [
            Trained(arm, seed, 700, 20.0 + 3 * i + seed, 1.0, "c", (20.0,) * PARTS)
            for i, arm in enumerate(arms)
            for seed in range(2)
        ]
        write_runs(tmp_path / "runs" / f"{what}.csv", runs)
        if what == "cartpole":
            write_runs(tmp_path / "runs" / f"{what}-huber.csv", runs)
    docs = ["docs", "reproduction", "--results", str(tmp_path / "runs"), "--readme"]
    assert benchmark([*docs, str(tmp_path / "nowhere.md")]) == 2
    assert benchmark([*docs, str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    columns = "cartpole | cartpole, paper | lunarlander | lunarlander, paper | cartpole, SB3's DQN"
    assert f"| arm | {columns} |" in text
    assert "| is it better? | cartpole | lunarlander | cartpole, SB3's DQN |" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    cells = {row[0]: [cell.strip(" |") for cell in row[1:]] for row in rows}
    assert cells["| logt"][2:4] == ["", ""] and cells["| logt"][4]  # it was not run on LunarLander
    assert cells["| rn than logt"][0] and not cells["| rn than logt"][1]
    assert all("p = " in cell for cell in cells["| rn than none"])
    assert "cartpole, SB3's Huber loss, clipped gradients and linear epsilon: 700, 2 seeds." in text
    assert "(cartpole 3, lunarlander 1, cartpole, SB3's DQN 3)" in text
    whole = (tmp_path / "runs" / "cartpole.csv").read_text()
    for damaged in ("a,b\n1,2\n", whole.rstrip()[:-9] + "\n", whole.replace("700", "some"), ""):
        (tmp_path / "cartpole.csv").write_text(damaged)
        with pytest.raises(UserError, match="not a table of 'rn-rl reproduce'"):
            readme_block(tmp_path)
    (tmp_path / "cartpole.csv").unlink()
    with pytest.raises(UserError, match=r"no cartpole\.csv or lunarlander\.csv or redbl"):
        readme_block(tmp_path)


def test_the_table_on_record_is_that_of_a_rerun(tmp_path):
    """Two seeds of an arm, the first 200 of their 2,000 episodes: all that a few seconds can repeat.

    Parts on record are means of 100 episodes each. Other machines may round differently, but hardly
    within the first 2,000 timesteps.
    """
    pytest.importorskip("envpool")
    assert (
        toy(
            tmp_path,
            "cartpole",
            "--arms",
            "none",
            "--seeds",
            "2",
            "--episodes",
            "200",
            timesteps=10**6,
        )
        == 0
    )
    recorded = {run.seed: run for run in read_runs(RESULTS / "cartpole.csv") if run.arm == "none"}
    again = read_runs(tmp_path / "cartpole.csv")
    assert len(again) == 2
    for run in again:
        parts = np.reshape(run.parts, (2, 10)).mean(1)
        np.testing.assert_allclose(parts, recorded[run.seed].parts[:2], atol=0.02)
