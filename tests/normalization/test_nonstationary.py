"""With a half-life, the gain returns to its steady value after a jump of the input."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rn_rl.normalization import make_normalizers
from rn_rl.normalization.functional import MOST_GAIN, least_gain

FEATURES = 8


@pytest.mark.parametrize("half_life", [20, 50])
@pytest.mark.parametrize("name", ["rn", "rln", "rsn", "sn"])
def test_the_gain_is_steady_5_half_lives_after_a_jump(name, half_life):
    [norm] = make_normalizers(f"{name}({half_life})", FEATURES)
    steady = -math.log(1 - 2 ** (-1 / half_life))
    for scale in (1, 10, 1):  # of mean and deviation alike
        errors = []
        for _ in range(5 * half_life):
            norm.train()(scale * (torch.randn(64, FEATURES) + 1))
            errors.append((norm.eval().gain / steady - 1).abs())
        assert (errors[-1] < 0.15).all()
        if scale == 10:
            assert (errors[0] > 0.15).all()  # else there was nothing to come back from


@pytest.mark.parametrize(
    "name", ["rn", "rln", "rsn", "sn", "rn(half_life=3)", "rln(half_life=0.05)"]
)
@given(st.lists(st.tuples(st.floats(-1e15, 1e15), st.floats(0, 1e15)), min_size=3, max_size=8))
@example([(0.0, 1.0), (40.0, 1.0), (0.0, 1.0), (0.0, 1.0)])  # the second phase has no density
@example([(10.0**k, 1.0) for k in range(8)])
@example([(0.0, 0.0), (0.0, 0.0), (0.0, 5e-324)])
@settings(max_examples=40, deadline=None)
def test_no_sequence_of_phases_leaves_the_range_of_gains(name, phases):
    [norm] = make_normalizers(name, FEATURES)
    least = least_gain(getattr(norm, "decay", 1.0))
    for mean, scale in phases:
        x = (scale * torch.randn(16, FEATURES, dtype=torch.float64) + mean).clamp(-1e15, 1e15)
        norm.train()(x)
        norm.eval()
        assert ((norm.gain >= least) & (norm.gain <= MOST_GAIN)).all()
        ones = torch.ones(1, FEATURES)
        for probe in (x, ones.double(), ones):
            seen = probe.abs() > 1e-290  # the gain times less is below the smallest float
            ratios = norm(probe)[seen] / probe[seen]
            assert (ratios >= least * (1 - 1e-6)).all() and (ratios <= MOST_GAIN * (1 + 1e-6)).all()


def test_after_a_jump_the_gain_is_low_for_one_phase_and_then_grows_again():
    [norm] = make_normalizers("rn", FEATURES)
    gains = []
    for mean in (0, 40, 0, 0, 0):
        norm.train()(torch.randn(64, FEATURES) + mean)
        gains.append(norm.eval().gain.item())
    assert gains[:3] == pytest.approx([1, 1, 0.1], abs=1e-12)
    assert 0.4 < gains[3] < gains[4] < 1.4
