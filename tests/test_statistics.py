"""Statistics of many runs against plain loops over their definitions."""

import itertools

import numpy as np
import pytest
from scipy import stats

from rn_rl import statistics


@pytest.fixture
def tasks():
    """Three tasks with 12 runs each, of two algorithms; some returns are equal."""
    rng = np.random.default_rng(7)
    x = [np.round(rng.normal(loc, 1, 12), 1) for loc in (0.4, 0.9, 1.4)]
    y = [np.round(rng.normal(loc, 1, 9), 1) for loc in (0.1, 1.0, 1.1)]
    return x, y


def test_figures_follow_their_definitions(tasks):
    x, y = tasks
    runs = np.stack(x, 1)  # (runs, tasks), as the paper has it
    assert statistics.mean(*x) == pytest.approx(runs.mean(0).mean(), abs=1e-12)
    middle = np.sort(runs.flatten())[9:-9]  # 36 runs: a quarter off at both ends
    assert statistics.interquartile_mean(*x) == pytest.approx(middle.mean(), abs=1e-12)
    gap = 1 - np.mean([min(score, 1) for score in runs.flatten()])
    assert statistics.optimality_gap(*x) == pytest.approx(gap, abs=1e-12)
    better = [
        np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(mine, theirs)])
        for mine, theirs in zip(x, y, strict=True)
    ]
    found = statistics.probability_of_improvement(*x, *y)
    assert found == pytest.approx(np.mean(better), abs=1e-12)
    thresholds = np.linspace(-1, 3, 9)
    share = [np.mean(runs > threshold) for threshold in thresholds]
    np.testing.assert_allclose(statistics.performance_profile(*x, thresholds=thresholds), share)


def test_a_stack_of_resamples_gives_each_ones_figure(tasks):
    x, y = tasks
    rng = np.random.default_rng(0)
    stacks = [task[rng.integers(0, len(task), (5, len(task)))] for task in (*x, *y)]
    for statistic in (
        statistics.mean,
        statistics.interquartile_mean,
        statistics.optimality_gap,
        statistics.probability_of_improvement,
        statistics.spread,
    ):
        together = statistic(*stacks, axis=-1)
        one_by_one = [statistic(*(stack[i] for stack in stacks)) for i in range(5)]
        np.testing.assert_allclose(together, one_by_one, atol=1e-12)


def test_the_difference_of_interquartile_means_and_its_interval():
    rng = np.random.default_rng(5)
    x, y = rng.normal(3, 1, 16), rng.normal(1, 2, 20)
    middle = [np.sort(v)[len(v) // 4 : len(v) - len(v) // 4].mean() for v in (x, y)]
    found = statistics.difference_of_interquartile_means(x, y)
    assert found == pytest.approx(middle[0] - middle[1], abs=1e-12)
    # each method's runs are resampled by themselves
    drawn = [
        np.sort(v[rng.integers(0, len(v), (4000, len(v)))])[:, len(v) // 4 : len(v) - len(v) // 4]
        for v in (x, y)
    ]
    expected = np.quantile(drawn[0].mean(1) - drawn[1].mean(1), (0.025, 0.975))
    bounds = statistics.interval(statistics.difference_of_interquartile_means, x, y)
    np.testing.assert_allclose(bounds, expected, atol=0.1)
    one = statistics.interval(statistics.difference_of_interquartile_means, x[:1], y)
    assert np.isnan(one).all()


def test_an_interval_is_seeded_and_covers_at_its_level():
    rng = np.random.default_rng(3)
    samples = rng.normal(2, 1, (300, 2, 20))
    found = [
        statistics.interval(statistics.mean, *sample, resamples=500, seed=1) for sample in samples
    ]
    covered = np.mean([low <= 2 <= high for low, high in found])
    assert 0.89 < covered < 0.98  # 95%, less what a percentile bootstrap of 20 loses
    again = statistics.interval(statistics.mean, *samples[0], resamples=500, seed=1)
    assert again == found[0]
    assert statistics.interval(statistics.mean, *samples[0], resamples=500, seed=2) != found[0]


def test_resampling_stays_within_tasks():
    """Tasks on different scales: resampling across them would give too wide an interval."""
    low, high = statistics.interval(statistics.mean, np.full(5, 0.0), np.full(5, 100.0))
    assert (low, high) == (50.0, 50.0)


def test_one_run_has_no_interval():
    assert np.isnan(statistics.interval(statistics.mean, np.array([3.0]))).all()
    assert np.isnan(statistics.bands(np.ones((1, 4)))).all()


def test_bands_contain_the_mean_and_narrow_with_runs():
    rng = np.random.default_rng(5)
    few, many = rng.normal(size=(10, 6)), rng.normal(size=(160, 6))
    widths = []
    for rows in (few, many):
        low, high = statistics.bands(rows)
        assert ((low <= rows.mean(0)) & (rows.mean(0) <= high)).all()
        widths.append((high - low).mean())
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.35)


def test_profile_bands_contain_the_profile(tasks):
    x, _ = tasks
    thresholds = np.linspace(-1, 3, 30)
    low, high = statistics.profile_bands(*x, thresholds=thresholds)
    share = statistics.performance_profile(*x, thresholds=thresholds)
    assert ((low <= share + 1e-12) & (share - 1e-12 <= high)).all()
    assert (np.diff(low) <= 1e-12).all() and (np.diff(high) <= 1e-12).all()


def test_holm_corrects_as_by_hand():
    """0.01 x 4, 0.02 x 3, 0.03 x 2, 0.5 x 1; never smaller than the one before."""
    assert statistics.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_holm_gives_one_false_alarm_in_twenty_families():
    rng = np.random.default_rng(11)
    alarms = 0
    for _ in range(300):
        base, *arms = rng.normal(size=(6, 15))
        p = statistics.holm([statistics.p_value(arm, base) for arm in arms])
        alarms += min(p) < 0.05
    assert stats.binomtest(alarms, 300, 0.05, alternative="greater").pvalue > 0.01


def test_p_value_of_equal_runs_is_one():
    assert statistics.p_value(np.full(4, 500.0), np.full(6, 500.0)) == 1.0


def test_equivalence_is_welchs_test_twice(tasks):
    (x, *_), (y, *_) = tasks
    each = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    error = np.sqrt(sum(each))
    freedom = sum(each) ** 2 / (each[0] ** 2 / (len(x) - 1) + each[1] ** 2 / (len(y) - 1))
    difference = x.mean() - y.mean()
    for margin in (0.1, 0.7, 2.0):
        below = stats.t.cdf((difference - margin) / error, freedom)
        above = stats.t.sf((difference + margin) / error, freedom)
        found = statistics.equivalence_p(x, y, margin)
        assert found == pytest.approx(max(below, above), rel=1e-9)
        middle, low, high = statistics.difference_of_means(x, y)
        assert middle == pytest.approx(difference)
        half = stats.t.ppf(0.95, freedom) * error
        assert (low, high) == pytest.approx((difference - half, difference + half))
        assert (found < 0.05) == (-margin < low and high < margin)


def test_equivalence_errs_in_one_family_of_twenty_at_the_margin():
    """At a true difference of the margin, it is claimed in 5% of the experiments."""
    rng = np.random.default_rng(3)
    claims = [
        statistics.equivalence_p(rng.normal(1, 1, 30), rng.normal(0, 1, 30), 1.0) < 0.05
        for _ in range(2000)
    ]
    assert np.mean(claims) == pytest.approx(0.05, abs=0.015)


def test_equivalence_of_runs_without_spread():
    assert statistics.equivalence_p(np.full(5, 500.0), np.full(5, 500.0), 1) == 0
    assert statistics.equivalence_p(np.full(5, 500.0), np.full(5, 400.0), 100) == 1
    assert statistics.equivalence_p(np.ones(1), np.ones(5), 1) == 1
    assert statistics.difference_of_means(np.full(5, 3.0), np.full(4, 1.0)) == (2, 2, 2)
    assert np.isnan(statistics.difference_of_means(np.ones(1), np.ones(5))[1])


def test_area_and_steps():
    steps = np.array([10.0, 20.0, 40.0])
    returns = np.array([0.0, 10.0, 10.0])
    assert statistics.area_under_curve(steps, returns) == pytest.approx((50 + 200) / 30)
    assert statistics.area_under_curve(steps[:1], np.array([7.0])) == 7.0
    assert statistics.steps_to_threshold(steps, returns, 10) == 20
    assert statistics.steps_to_threshold(steps, returns, 11) == float("inf")


def test_figures_agree_with_rliable(tasks):
    from rliable import library, metrics

    x, y = tasks
    x, y = [task[:9] for task in x], y  # rliable compares as many runs of both
    mine, theirs = np.stack(x, 1), np.stack(y, 1)  # (runs, tasks)
    for ours, reference in (
        (statistics.mean(*x), metrics.aggregate_mean(mine)),
        (statistics.interquartile_mean(*x), metrics.aggregate_iqm(mine)),
        (statistics.optimality_gap(*x), metrics.aggregate_optimality_gap(mine)),
        (
            statistics.probability_of_improvement(*x, *y),
            metrics.probability_of_improvement(mine, theirs),
        ),
    ):
        assert ours == pytest.approx(reference, abs=1e-6)
    thresholds = np.linspace(-1, 3, 50)
    profile = statistics.performance_profile(*x, thresholds=thresholds)
    theirs_profile = library.score_distributions(mine, thresholds)
    np.testing.assert_allclose(profile, theirs_profile, atol=1e-6)


def test_intervals_agree_with_rliables_up_to_its_random_numbers(tasks):
    """Both resample runs within tasks and take percentiles; 20,000 resamples make the noise small."""
    from rliable import library, metrics

    x, _ = tasks
    np.random.seed(0)  # rliable draws from NumPy's global generator, whatever it is given
    _, found = library.get_interval_estimates(
        {"x": np.stack(x, 1)}, lambda scores: np.array([metrics.aggregate_iqm(scores)]), reps=20_000
    )
    low, high = statistics.interval(statistics.interquartile_mean, *x, resamples=20_000)
    width = high - low
    assert low == pytest.approx(found["x"][0, 0], abs=0.03 * width)
    assert high == pytest.approx(found["x"][1, 0], abs=0.03 * width)
