"""Controls follow the number of phases and nothing else."""

from itertools import pairwise

import pytest
import torch

from rn_rl.errors import UserError
from rn_rl.normalization import make_normalizers

CONTROLS = ["logt", "ramp(5, 10)", "gain(2)"]


def gains(spec, phases, scale=1.0, batches=1):
    [norm] = make_normalizers(spec, 4)
    found = [norm.gain.item()]
    for _ in range(phases):
        norm.train()
        for _ in range(batches):
            norm(scale * torch.randn(6, 4))
        found.append(norm.eval().gain.item())
    return found


@pytest.mark.parametrize("spec", CONTROLS)
def test_gain_knows_nothing_of_the_activations_nor_of_the_number_of_batches(spec):
    assert gains(spec, 15) == gains(spec, 15, scale=1e3, batches=3)


def test_logt_is_what_rn_does_on_stationary_data():
    [logt], [rn] = make_normalizers("logt", 4), make_normalizers("rn", 4)
    x = torch.randn(30, 4, dtype=torch.float64)  # the state takes elements as they come
    for _ in range(20):
        for norm in (logt, rn):
            norm.train()(x)
            norm.eval()
        torch.testing.assert_close(logt.gain, rn.gain, rtol=1e-9, atol=0)


def test_ramp_rises_linearly_and_then_stays():
    found = gains("ramp(to=5, over=10)", 15)
    steps = [b - a for a, b in pairwise(found)]
    assert found[0] == pytest.approx(0.1)
    assert steps == pytest.approx([0.49] * 10 + [0] * 5)


def test_ramp_may_fall():
    assert gains("ramp(to=0, over=2)", 3) == pytest.approx([0.1, 0.05, 0, 0])


def test_gain_is_constant():
    assert gains("gain(-2.5)", 3) == [-2.5] * 4


@pytest.mark.parametrize("spec", CONTROLS)
def test_output_is_the_input_times_the_gain(spec):
    [norm] = make_normalizers(spec, 4)
    for _ in range(4):
        norm.train()(torch.randn(6, 4))
        norm.eval()
    x = torch.randn(6, 4, 2, requires_grad=True)
    y = norm(x)
    [gradient] = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, x * norm.gain.float())
    torch.testing.assert_close(gradient, norm.gain.float().expand_as(x))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ramp(5, 0)", "ramp over=0: expected a number of phases above 0"),
        ("ramp(over=-3)", "ramp over=-3: expected a number of phases above 0"),
        ("ramp(1e999)", "ramp to=inf: expected a finite gain"),
        ("gain(1e999)", "gain c=inf: expected a finite number"),
    ],
)
def test_arguments_out_of_range_are_named(spec, message):
    with pytest.raises(UserError, match=message):
        make_normalizers(spec, 4)


@pytest.mark.parametrize(
    ("spec", "shown"), [("logt", "logt"), ("ramp", "ramp to=5 over=5000"), ("gain", "gain c=3")]
)
def test_they_print_what_they_are(spec, shown):
    assert repr(make_normalizers(spec, 4)[0]) == f"ScheduleNorm({shown})"
