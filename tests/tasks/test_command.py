"""``rn-rl task``: resumes, refuses in one line, and writes what its files say."""

import csv
import json
import math
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.statistics import bootstrap_interval, paired_difference
from rn_rl.tasks.config import TaskConfig
from rn_rl.tasks.registry import TASKS, find_task
from rn_rl.tasks.results import Results
from rn_rl.tasks.run import make_jobs, run_task
from rn_rl.tasks.store import Run, Store

ROOT = Path(__file__).parents[2]
TOY = ["task", "imbalanced", "--toy", "--quiet", "--norms", "none,rn,rn@4", "--out"]


def config(out, **changes):
    words = {"norms": "none,rn,rn@4", "toy": True, "quiet": True, "out": out}
    return TaskConfig(task="imbalanced", **(words | changes))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Folder of a finished toy run."""
    out = tmp_path_factory.mktemp("toy")
    run_task(config(out))
    return out


def lines_of(out):
    return (out / "imbalanced-toy.jsonl").read_text().splitlines()


def without_time(line):
    return {k: v for k, v in json.loads(line).items() if k != "seconds"}


def copied(done, out, lines):
    out.mkdir(exist_ok=True)
    (out / "imbalanced-toy.jsonl").write_bytes(b"".join(line.encode() + b"\n" for line in lines))
    return out / "imbalanced-toy.jsonl"


def test_every_arm_setting_and_seed_has_a_line_and_a_row(done):
    lines = [json.loads(line) for line in lines_of(done)]
    assert [(x["arm"], x["seed"], x["commit_every"]) for x in lines] == [
        (arm, seed, steps)
        for seed in (0, 1)
        for arm, steps in (("none", 1), ("rn", 1), ("rn@4", 4))
    ]
    with (done / "imbalanced-toy.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    lines.sort(key=lambda x: (["none", "rn", "rn@4"].index(x["arm"]), x["seed"]))
    assert [(row["arm"], int(row["seed"])) for row in rows] == [
        (x["arm"], x["seed"]) for x in lines
    ]
    assert [float(row["error_128"]) for row in rows] == [x["metrics"]["error_128"] for x in lines]
    page = (done / "imbalanced-toy.md").read_text()
    assert "| rn@4 | 2 |" in page and "numbers mean nothing" in page
    for picture in done.glob("*.svg"):
        assert f"]({picture.name})" in page and picture.read_text().startswith("<svg")


def test_a_finished_command_trains_nothing_again(done, monkeypatch):
    before = lines_of(done)
    monkeypatch.setattr("rn_rl.tasks.run.train", None)  # a training would fail
    run_task(config(done))
    assert lines_of(done) == before


def test_a_killed_run_goes_on_after_the_last_whole_line(done, tmp_path):
    lines = lines_of(done)
    path = copied(done, tmp_path, lines[:3])
    with path.open("ab") as stream:
        stream.write(lines[3].encode()[:70])  # the process was killed within the fourth line
    run_task(config(tmp_path))
    assert list(map(without_time, lines_of(tmp_path))) == list(map(without_time, lines))


def test_other_steps_of_a_phase_and_other_protocols_are_other_runs(done, tmp_path):
    copied(done, tmp_path, lines_of(done))
    run_task(config(tmp_path, norms="rn", commit_every="epoch"))
    assert [json.loads(line)["commit_every"] for line in lines_of(tmp_path)[6:]] == [None, None]


@pytest.mark.slow
def test_a_pool_of_processes_equals_one_process(done, tmp_path):
    run_task(config(tmp_path, jobs=2))
    ours, theirs = (
        sorted(map(json.dumps, map(without_time, lines_of(out)))) for out in (done, tmp_path)
    )
    assert ours == theirs


@pytest.mark.slow
def test_a_process_that_was_killed_leaves_whole_runs(tmp_path):
    """SIGKILL in the middle; the same command then ends with the lines of one that was not killed."""
    words = [sys.executable, "-m", "rn_rl", *TOY, str(tmp_path), "--seeds", "6"]
    process = subprocess.Popen(words, cwd=ROOT)
    path = tmp_path / "imbalanced-toy.jsonl"
    while not path.exists() or path.stat().st_size < 1000:
        assert process.poll() is None
    process.kill()
    process.wait()
    assert main(words[3:]) == 0
    whole = tmp_path / "whole"
    assert main([*TOY, str(whole), "--seeds", "6"]) == 0
    assert sorted(map(json.dumps, map(without_time, lines_of(tmp_path)))) == sorted(
        map(json.dumps, map(without_time, lines_of(whole)))
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2"),
        ("[]", "expected arm, setting"),
        ('{"arm": "rn"}', "expected arm, setting"),
        ("null", "expected arm, setting"),
    ],
)
def test_a_foreign_line_is_refused_in_one_line(done, tmp_path, capsys, line, told):
    copied(done, tmp_path, [lines_of(done)[0], line])
    assert main([*TOY, str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error and "Traceback" not in error


def test_values_of_another_kind_are_refused(done, tmp_path):
    good = json.loads(lines_of(done)[0])
    for name, value in (("seed", True), ("metrics", {"error": "low"}), ("curves", []), ("arm", 3)):
        path = copied(done, tmp_path, [json.dumps(good | {name: value})])
        with pytest.raises(UserError, match="no run of 'rn-rl task'"):
            Store(path).read()


def test_a_full_disk_is_one_line_and_keeps_what_was_written(done, tmp_path, capsys):
    path = copied(done, tmp_path, lines_of(done)[:2])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))
    try:
        assert main([*TOY, str(tmp_path)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{path}: File too large" in error
    assert path.read_bytes().startswith(before) and len(Store(path).read()) == 2


def test_two_commands_do_not_write_one_file(done, tmp_path, capsys):
    path = copied(done, tmp_path, lines_of(done))
    with Store(path).locked():
        assert main([*TOY, str(tmp_path)]) == 2
    assert "another command writes it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["imbalancd"], "Did you mean 'imbalanced'"),
        (["imbalanced", "--norms", "none,rnn"], "Did you mean 'rn'"),
        (["imbalanced", "--norms", "rn@0"], "after @, such as rn@10"),
        (["imbalanced", "--norms", "rn@x"], "after @, such as rn@10"),
        (["imbalanced", "--settings", "n=11"], "unknown setting 'n=11'"),
        (["recurrent", "--settings", "same"], "expected INPUT/PLACE/STATE"),
        (["recurrent", "--settings", "same/after/steps"], "Did you mean 'same/after/step'"),
        (["imbalanced", "--seeds", "0"], "--seeds 0: expected at least 1"),
        (["imbalanced", "--jobs", "0"], "--jobs 0: expected at least 1"),
        (["imbalanced", "--commit-every", "0"], "--commit-every '0': expected"),
        (["imbalanced", "--commit-every", "often"], "--commit-every 'often': expected"),
        (["imbalanced", "--norms", "ln+sn(prior=td)"], "a task has none; expected sn"),
        (["recurrent", "--norms", "sn(prior=td)"], "a task has none; expected rn"),
        (["recurrent", "--norms", "none,sn"], "arm 'sn': sn needs a prior, which task recurrent"),
        (["handwriting", "--norms", "ln+sn(half_life=9)@2"], "so it would be rn; expected rn"),
        (["imbalanced", "--seed", "-1"], "--seed -1: expected 0 to 2,000,000,000"),
        (["babi", "--seed", "5000000000"], "--seed 5000000000: expected 0 to 2,000,000,000"),
        (["babi", "--norms", "none,degree@5"], "arm 'degree@5': degree has no phases to commit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(words, told, tmp_path, capsys):
    assert main(["task", *words, "--toy", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error


@pytest.mark.parametrize("name", TASKS)
def test_every_task_fills_the_interface(name):
    task = find_task(name)
    assert task.name == name and task.title and task.metrics
    for arm in (*task.arms, *task.toy_arms):
        assert task.check_arm(arm) == arm  # canonical spelling: the files have it
    for setting in (*task.settings, *task.toy_settings):
        assert task.check_setting(setting) == setting
    for setting in task.settings:
        for arm, values in task.published(setting).items():
            assert arm in task.arms and values.keys() <= {metric.key for metric in task.metrics}


@pytest.mark.parametrize("name", TASKS)
def test_the_protocol_of_shipped_data_is_the_one_on_record(name):
    """The protocol is the key of finished runs: if it changed, results on record would not be found."""
    page = (ROOT / f"results/tasks/{name}.md").read_text()
    assert f"\n{find_task(name).protocol(None, toy=False)}\n" in page


def test_jobs_are_seed_by_seed_and_an_arm_with_steps_keeps_them(tmp_path):
    jobs = make_jobs(find_task("imbalanced"), config(tmp_path, seed=3, commit_every="7"))
    assert [(j.seed, j.arm, j.commit_every) for j in jobs[:4]] == [
        (3, "none", 7),
        (3, "rn", 7),
        (3, "rn@4", 4),
        (4, "none", 7),
    ]


def test_intervals_and_paired_differences_are_those_of_the_definitions():
    rng = np.random.default_rng(0)
    scores = {arm: rng.normal(50, 5, 6) for arm in ("none", "rn@2", "logt@2", "logt")}
    runs = [
        Run(arm, "n=9", seed, 1, "", 0.0, {"error_128": float(value)}, {})
        for arm, values in scores.items()
        for seed, value in enumerate(values)
    ]
    results = Results(find_task("imbalanced"), runs[:-1], scores, ["n=9", "n=7"])
    assert results.settings == ["n=9"] and results.arms == list(scores)
    found = results.estimate("rn@2", "n=9", "error_128")
    assert (found.low, found.high) == bootstrap_interval(scores["rn@2"])
    d = scores["rn@2"] - scores["none"]
    half = stats.t.ppf(0.975, 5) * d.std(ddof=1) / math.sqrt(6)
    found = results.difference("rn@2", "none", "n=9", "error_128")
    assert np.allclose(
        (found.value, found.low, found.high), (d.mean(), d.mean() - half, d.mean() + half)
    )
    assert results.reference("rn@2", "logt") == "logt@2" and results.reference("rn@2", "ln") == "ln"
    pairs = results.difference("rn@2", "logt", "n=9", "error_128")  # one seed of logt is missing
    assert pairs.value == pytest.approx((scores["rn@2"] - scores["logt"])[:5].mean())
    assert results.difference("rn@2", "ln", "n=9", "error_128") is None


def test_a_paired_difference_of_few_or_equal_pairs():
    assert np.isnan(paired_difference(np.ones(1), np.zeros(1))[1:]).all()
    assert paired_difference(np.arange(3) + 2, np.arange(3)) == (2, 2, 2)


def test_numbers_that_json_lacks_survive(tmp_path):
    run = Run(
        "rn", "n=9", 0, None, "p", 1.0, {"a": math.nan}, {"b": [[math.inf, -math.inf], [1.5]]}
    )
    store = Store(tmp_path / "x.jsonl")
    store.append(run)
    store.append(run)
    found = store.read()
    assert len(found) == 2 and math.isnan(found[0].metrics["a"])
    assert found[0].curves == run.curves and found[0].key == run.key
