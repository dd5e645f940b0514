"""Benchmark on changing data: its measurements, and the docs that contain them."""

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import nonstationary
from benchmarks.harness import read_lines
from benchmarks.nonstationary import (
    HALF_LIVES,
    JUMPING,
    JUMPS,
    NonstationaryConfig,
    jump,
    readme_text,
    run_nonstationary,
    steady_gain,
    summarize_tracking,
    verdict,
    watched_agent,
)
from rn_rl.errors import UserError
from rn_rl.normalization.functional import COUNT, MEAN, PHASES, step_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results/nonstationary.jsonl"


def test_the_docs_have_the_tables_of_the_recorded_runs():
    block = (
        (ROOT / "docs/concepts/non-stationary.md").read_text().split("<!-- nonstationary -->\n")[1]
    )
    assert block.split("\n<!-- /nonstationary -->")[0] == readme_text(read_lines(RESULTS))


def test_the_record_has_every_jump_and_at_least_three_seeds():
    rows = read_lines(RESULTS)
    jumps = [(r["norm"], r["half_life"], r["case"]) for r in rows if r["part"] == "jump"]
    assert sorted(map(str, jumps)) == sorted(
        str((norm, half_life, case))
        for norm in JUMPING
        for half_life in HALF_LIVES
        for case in JUMPS
    )
    assert len({row["seed"] for row in rows if row["part"] == "tracking"}) >= 3


@pytest.mark.parametrize("case", JUMPS)
@pytest.mark.parametrize("half_life", [20, 50])
@pytest.mark.parametrize("norm", JUMPING)
def test_the_gain_is_steady_again_five_half_lives_after_a_tenfold_jump(norm, half_life, case):
    row = jump(norm, half_life, case)
    steady = math.log(1 / (1 - 2 ** (-1 / half_life)))
    assert row["before"] == pytest.approx(steady, rel=0.15)
    assert row["after"] == pytest.approx(steady, rel=0.15)


def test_the_recorded_gains_with_a_half_life_of_200_are_steady_again_too():
    rows = [r for r in read_lines(RESULTS) if r["part"] == "jump" and r["half_life"] == 200]
    assert len(rows) == len(JUMPING) * len(JUMPS)
    for row in rows:
        assert row["after"] == pytest.approx(math.log(1 / (1 - 2 ** (-1 / 200))), rel=0.15)


@pytest.mark.parametrize("norm", JUMPING)
def test_a_jump_shows_while_it_is_new(norm):
    row = jump(norm, 20, "mean up")
    seen_at_once = norm == "rsn"  # the gains of rn and rln are those of the phase before
    assert (row["first"] > 3 * row["steady"]) == seen_at_once
    assert row["second"] > 3 * row["steady"]


@pytest.mark.parametrize("norm", JUMPING)
def test_without_a_half_life_the_gain_is_on_the_documented_ramp_before_a_jump(norm, monkeypatch):
    monkeypatch.setattr(nonstationary, "SPAN", 50)
    row = jump(norm, None, "scale up")
    assert row["before"] == pytest.approx(math.log(498 + math.e - 1), rel=0.01)
    assert row["steady"] == math.log(749 + math.e - 1)


def test_the_steady_gain_is_the_sum_of_a_geometric_series():
    for half_life in (1, 20, 200):
        mass = sum(2 ** (-k / half_life) for k in range(60 * half_life))
        assert steady_gain(half_life, 0) == pytest.approx(math.log(mass))


@pytest.fixture(scope="module")
def watched():
    return watched_agent(seed=0, timesteps=400)


def test_a_shadow_like_the_normalizer_itself_holds_the_same_bits(watched):
    _, norms = watched
    assert len(norms) == 2
    for norm in norms:
        plain = norm.get_submodule("shadows.plain")
        assert norm.running_state[PHASES] > 50
        assert torch.equal(plain.running_state, norm.running_state)


def test_shadows_weigh_by_age_and_forget_as_they_are_named(watched):
    model, norms = watched
    step = step_of(model.batch_size)  # without weights every second sample is observed
    assert step == 2
    for norm in norms:
        shadows = dict(norm.get_submodule("shadows").named_children())
        counts = {name: float(m.running_state[COUNT]) for name, m in shadows.items()}
        means = {name: float(m.running_state[MEAN]) for name, m in shadows.items()}
        assert counts["half_life=50"] < counts["half_life=200"] < counts["half_life=1000"]
        for aged, whole in (
            ("age_half_life=1000", "plain"),
            ("age_half_life=10000", "plain"),
            ("half_life=200, age_half_life=1000", "half_life=200"),
        ):  # with weights a batch counts as many samples as it has, whatever their ages
            assert counts[aged] == pytest.approx(step * counts[whole], rel=1e-9)
            assert means[aged] != pytest.approx(means[whole], rel=1e-6)


def test_the_weights_of_a_shadow_are_those_of_its_half_life(watched):
    model, _ = watched
    memory = model.replay_buffer
    memory._get_samples(memory.pos - 1 - (ages := torch.tensor([0, 50, 300]).numpy()))
    expected = 2.0 ** (-torch.from_numpy(ages).double() / 40)
    assert torch.allclose(nonstationary.age_weights(memory, 40), expected / expected.mean())


def test_shadows_change_nothing_that_the_agent_learns(watched, monkeypatch):
    model, _ = watched
    monkeypatch.setattr(nonstationary, "attach_shadows", lambda norm, memory: None)
    alone, _ = watched_agent(seed=0, timesteps=400)
    state = model.policy.state_dict()
    for name, value in alone.policy.state_dict().items():
        assert torch.equal(state[name], value), name


def test_a_stopped_benchmark_runs_only_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(nonstationary, "HALF_LIVES", (5,))
    monkeypatch.setattr(nonstationary, "JUMPING", ("rn",))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- nonstationary -->\n<!-- /nonstationary -->\n")
    config = NonstationaryConfig(
        seeds=1, timesteps=60, episodes=1, results=tmp_path / "r.jsonl", json=True
    )
    run_nonstationary(config)
    first = read_lines(config.results)
    assert [row["part"] for row in first] == ["jump"] * 4 + ["tracking"]
    config.seeds, config.readme = 2, readme
    capsys.readouterr()
    run_nonstationary(config)
    rows = read_lines(config.results)
    assert rows[:5] == first and len(rows) == 6
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["case"] for line in lines[:4]] == [f"jump/{c}/rn(half_life=5)" for c in JUMPS]
    assert [line["case"] for line in lines[4:]] == [f"tracking/{n}" for n in nonstationary.SHADOWS]
    for line in lines[4:]:
        assert len(line["each"]) == 2 and line["low"] <= line["value"] <= line["high"]
    assert "seeds 0, 1" in readme.read_text()


def recorded(seed, **kl):
    return {"part": "tracking", "seed": seed, "kl": {k: list(v) for k, v in kl.items()}}


def test_a_verdict_follows_the_paired_differences():
    rows = [
        recorded(0, plain=(1, 3), near=(1, 1), far=(3, 3), same=(1, 2)),
        recorded(1, plain=(4, 4), near=(2, 4), far=(5, 5), same=(4, 6)),
    ]
    lines = {line["case"].removeprefix("tracking/"): line for line in summarize_tracking(rows)}
    assert lines["plain"]["difference"] == 0 and lines["plain"]["each"] == [2, 4]
    assert lines["near"]["difference"] == -1 and lines["near"]["layers"] == [1.5, 2.5]
    assert verdict([*lines.values()]) == (
        "closer than the plain state: near; farther than the plain state: far; "
        "not told apart from it: same"
    )


@pytest.mark.parametrize("option", ["seeds", "timesteps", "episodes"])
def test_a_number_below_one_is_named(option):
    with pytest.raises(UserError, match=f"--{option} 0: expected at least 1"):
        run_nonstationary(NonstationaryConfig(**{option: 0}))
