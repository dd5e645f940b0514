"""Reports on runs that are not alike: other evaluations, copies, tunings, environments."""

import json

import numpy as np
import pytest

from rn_rl.analysis.summary import Summary, summarize
from rn_rl.cli import main
from rn_rl.experiment.grid.progress import grid_roots, progress_of
from rn_rl.experiment.runs.records import find_runs, read_records
from tests.factories import made_up_run


def summary_of(root, **kwargs) -> Summary:
    records, problems = read_records(find_runs(root))
    return summarize(records, problems, **kwargs)


def curve(evaluations: int, timesteps: int = 50_000) -> np.ndarray:
    """Returns of one and the same agent, which learns, evaluated so often: ``(evaluations, 2)``."""
    steps = np.linspace(0, timesteps, evaluations + 1)[1:]
    return np.sqrt(steps / timesteps)[:, None] * 400 + np.zeros((evaluations, 2))


def finish(run, value: float, timesteps: int = 50_000, episodes: int = 20) -> None:
    final = {"timesteps": timesteps, "mean_return": value, "episodes": episodes}
    run.final_file.write_text(json.dumps(final))


def test_arms_that_were_evaluated_unequally_often_have_areas_of_the_same_timesteps(tmp_path):
    for seed in range(10):
        made_up_run(tmp_path, "none", seed, curve(50) + seed)
        made_up_run(tmp_path, "ln", seed, curve(10) + seed)
    found = summary_of(tmp_path, endpoint="area")
    [compared] = found.comparisons
    assert compared.verdict == "cannot tell"
    fine, coarse = found.tasks[0].arms.values()
    assert fine.span == coarse.span == (5_000, 50_000)
    np.testing.assert_allclose(fine.areas, coarse.areas, rtol=0.01)
    [note] = [each for each in found.notes if "evaluated at the same timesteps" in each]
    assert "areas are of timesteps 5,000 to 50,000" in note


def test_a_curve_that_begins_late_has_no_area(tmp_path):
    for seed in range(3):
        made_up_run(tmp_path, "none", seed, curve(10))
        late = made_up_run(tmp_path, "ln", seed, curve(10))
        stored = dict(np.load(late.evaluations_file))
        np.savez(late.evaluations_file, **{name: rows[7:] for name, rows in stored.items()})
    found = summary_of(tmp_path, endpoint="area")
    assert np.isnan(found.tasks[0].arms["ln"].areas).all()
    assert np.isfinite(found.tasks[0].arms["none"].areas).all()


def test_the_same_training_counts_once_whatever_the_order_of_its_hyperparameters(tmp_path):
    values = {"learning_rate": 0.1, "gamma": 0.9}
    made_up_run(tmp_path, "ln", 0, curve(4), hyperparameters=values)
    made_up_run(tmp_path, "ln", 0, curve(4), hyperparameters=dict(reversed(values.items())))
    found = summary_of(tmp_path)
    assert len(found.tasks[0].arms["ln"].runs) == 1
    assert [problem.counted for problem in found.problems] == [False]


def test_of_copies_of_a_training_the_one_that_got_furthest_counts(tmp_path):
    made_up_run(tmp_path / "backup", "none", 0, curve(4))
    run = made_up_run(tmp_path / "runs", "none", 0, curve(4))
    finish(run, 321.0)
    records, problems = read_records(find_runs(tmp_path))
    assert [record.last_return for record in records] == [321.0]
    assert problems[0].what.endswith(f"as {run.folder}")


def test_two_tunings_of_a_normalizer_are_two_arms(tmp_path):
    for seed in range(3):
        for norm, rates in {"none": [0.1], "ln": [0.1, 0.2]}.items():
            for rate in rates:
                values = {"learning_rate": rate, "policy_kwargs": {"net_arch": [64, 64]}}
                own = ["learning_rate"]
                made_up_run(tmp_path, norm, seed, curve(4), hyperparameters=values, own=own)
    found = summary_of(tmp_path)
    arms = ["none", "ln (learning_rate 0.1)", "ln (learning_rate 0.2)"]
    assert [list(task.arms) for task in found.tasks] == [arms] and len(found.comparisons) == 2
    found = summary_of(tmp_path, baseline="ln")
    assert any("the baseline was tuned in 2 ways" in note for note in found.notes)
    assert not found.comparisons


def test_last_policies_that_were_measured_unequally_are_named(tmp_path):
    for seed in range(3):
        made_up_run(tmp_path, "none", seed, curve(4))
        finish(made_up_run(tmp_path, "ln", seed, curve(4)), 300.0)
    [note] = [each for each in summary_of(tmp_path).notes if "measured unequally" in each]
    assert "2 episodes of the last evaluation while training: none 3" in note
    assert "20 episodes after the training: ln 3" in note


@pytest.mark.parametrize("endpoint", ["last", "area"])
def test_arms_that_diverged_are_not_equivalent(tmp_path, endpoint):
    for norm in ("none", "rn"):
        for seed in range(10):
            run = made_up_run(tmp_path, norm, seed, curve(4)[:1])
            run.evaluations_file.unlink()
            mark = {"timesteps": 0, "what": "weights", "where": "x"}
            run.divergence_file.write_text(json.dumps(mark))
    [compared] = summary_of(tmp_path, margin=10.0, endpoint=endpoint).comparisons
    assert compared.verdict == "cannot tell" and not compared.equal
    assert "margin" not in compared.sentence(1)


def test_runs_that_a_number_of_episodes_ended_have_areas(tmp_path):
    """They end before the timesteps that were planned, at different ones."""
    trained = ["train", "--algo", "dqn", "--env", "CartPole-v1", "--timesteps", "2000", "--quiet"]
    trained += ["--episodes", "12", "--eval-freq", "40", "--eval-episodes", "1"]
    trained += ["--out", str(tmp_path)]
    for norm in ("none", "ln"):
        for seed in (0, 1):
            assert main([*trained, "--norm", norm, "--seed", str(seed)]) == 0
    found = summary_of(tmp_path, endpoint="area")
    assert len(found.comparisons) == 1
    for arm in found.tasks[0].arms.values():
        assert np.isfinite(arm.areas).all()
        assert all(run.trained < 2000 for run in arm.runs)
    assert not any("its evaluations end at" in problem.what for problem in found.problems)


def test_without_a_comparison_the_page_says_why(tmp_path):
    made_up_run(tmp_path, "ln", 0, curve(4))
    assert summary_of(tmp_path).no_comparison() == "there are no runs of the baseline none"
    made_up_run(tmp_path, "none", 0, curve(4), env="Acrobot-v1")
    assert "no run of another normalizer" in summary_of(tmp_path).no_comparison()
    made_up_run(tmp_path, "none", 0, curve(4)).evaluations_file.unlink()
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path), "--out", str(page)]) == 0
    assert "no run of another normalizer has the settings" in page.with_suffix(".md").read_text()


def test_the_scale_of_an_environment_is_not_that_of_one_with_other_arguments(tmp_path):
    for kwargs in ({}, {"max_episode_steps": 50}):
        values = {"learning_rate": 1e-3, "env_kwargs": kwargs}
        made_up_run(tmp_path, "none", 0, curve(4), hyperparameters=values)
    known = {
        bool(task.settings["hyperparameters"].get("env_kwargs")): task.scale.known
        for task in summary_of(tmp_path).tasks
    }
    assert known == {False: True, True: False}


def test_links_are_followed_once(tmp_path):
    made_up_run(tmp_path / "elsewhere", "ln", 0, curve(4))
    made_up_run(tmp_path / "runs", "none", 0, curve(4))
    (tmp_path / "runs" / "ln").symlink_to(tmp_path / "elsewhere" / "ln")
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs")
    assert len(find_runs(tmp_path / "runs")) == 2


def test_the_progress_of_a_run_close_to_the_root_is_known(tmp_path, monkeypatch):
    run = made_up_run(tmp_path, "none", 0, curve(4))
    monkeypatch.chdir(run.folder)
    monkeypatch.setattr("pathlib.Path.absolute", lambda self: type(self)("/runs"))
    assert len(progress_of([run.folder], 0.0, grid_roots(run.folder)).trainings) == 1


def test_the_printed_table_has_the_figure_that_decides(tmp_path, capsys):
    for norm in ("none", "ln"):
        for seed in range(3):
            made_up_run(tmp_path, norm, seed, curve(4))
    command = ["report", str(tmp_path), "--out", str(tmp_path / "page.html"), "--endpoint", "area"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "area under" in printed and "last return, IQM" not in printed
    assert "RuntimeWarning" not in printed


def test_one_constant_arm_is_tested_for_equivalence_without_a_warning(tmp_path):
    for seed in range(4):
        made_up_run(tmp_path, "none", seed, np.full((3, 2), 500.0))
        made_up_run(tmp_path, "ln", seed, np.full((3, 2), 499.0 + seed / 10))
    [compared] = summary_of(tmp_path, margin=5.0).comparisons  # warnings are errors here
    assert compared.p_equivalence < 0.01
