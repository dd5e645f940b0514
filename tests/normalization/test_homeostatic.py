"""Homeostatic scaling against its rule in NumPy; the activity reaches its target."""

import numpy as np
import pytest
import torch

from rn_rl.errors import UserError
from rn_rl.normalization import make_normalizers
from rn_rl.normalization.homeostatic import GAIN, PHASES, TRACE

FEATURES = 8


@pytest.mark.parametrize(
    ("spec", "rate", "target", "momentum"),
    [("hs", 0.01, 0.4, 0.99), ("hs(0.5, 0.7, 0.6)", 0.5, 0.7, 0.6), ("hs(2, 3, 0)", 2, 3, 0)],
)
def test_state_and_output_follow_the_method(spec, rate, target, momentum, moving, learn_phase):
    [norm] = make_normalizers(spec, FEATURES)
    probe = np.random.default_rng(9).normal(1, 2, (32, FEATURES))
    trace, gain = None, np.ones(FEATURES)
    for t, x in enumerate(moving(12)):
        learn_phase(norm, x)
        activity = np.maximum(gain * x, 0).mean(0)
        trace = activity if t == 0 else momentum * trace + (1 - momentum) * activity
        gain = gain * np.exp(rate * np.clip((target - trace) / target, -1, 1))
        gain = np.clip(gain, 0.1, 10)
        np.testing.assert_allclose(norm.running_state[TRACE], trace, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(norm.running_state[GAIN], gain, rtol=1e-10)
        np.testing.assert_allclose(norm.gain, gain, rtol=1e-10)
        assert (norm.running_state[PHASES] == t + 1).all()
        np.testing.assert_allclose(norm(torch.from_numpy(probe)), gain * probe, rtol=1e-10)


def test_activity_reaches_the_target_and_stays():
    [norm] = make_normalizers("hs(0.1, 0.4, 0.9)", FEATURES)
    scale = torch.logspace(-0.5, 0.5, FEATURES)
    for _ in range(400):
        x = torch.randn(200, FEATURES) * scale
        norm.train()(x)
        norm.eval()
    activity = norm(torch.randn(50_000, FEATURES) * scale).relu().mean(0)
    torch.testing.assert_close(activity, torch.full((FEATURES,), 0.4), rtol=0.1, atol=0)


@pytest.mark.parametrize(("value", "bound"), [(-1.0, 10), (100.0, 0.1)])
def test_the_gain_of_a_silent_and_of_a_loud_unit_stops_at_a_bound(value, bound):
    [norm] = make_normalizers("hs(1)", FEATURES)
    for _ in range(10):
        norm.train()(torch.full((4, FEATURES), value))
        norm.eval()
    assert (norm.gain == bound).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("rate=0", "hs rate=0: expected a finite number above 0"),
        ("target=-1", "hs target=-1: expected a finite number above 0"),
        ("rate=1e999", "hs rate=inf: expected a finite number above 0"),
        ("momentum=1", "hs momentum=1: expected a number from 0 to below 1"),
        ("momentum=-0.1", "hs momentum=-0.1: expected a number from 0 to below 1"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        make_normalizers(f"hs({arguments})", FEATURES)
