"""RN and RLN as published, against numbers of the published code."""

import copy
import inspect
import json
import math
import pickle
from pathlib import Path

import pytest
import torch

from rn_rl.errors import UserError
from rn_rl.normalization import (
    PublishedRegularityNorm,
    RegularityNorm,
    make_normalizers,
    observation_weights,
    observed_acting,
)
from rn_rl.normalization.published import COUNT, LOG_MASS, MEAN, STD

GOLDEN = json.loads((Path(__file__).parents[1] / "data/regularity_golden.json").read_text())
STATE_NAMES = ["running_state", "pending_sums"]
AXIS = {"rn": "layer", "rln": "neuron"}


def build(method, how):
    if how == "class":
        return RegularityNorm(4, axis=AXIS[method], commit="forward")
    [norm] = make_normalizers(f"{method}-paper", 4)
    return norm


def error(ours, golden):
    """Largest deviation over the largest absolute value of the golden array."""
    golden = torch.as_tensor(golden, dtype=torch.float64)
    return ((ours.double() - golden).abs().max() / golden.abs().max()).item()


@pytest.mark.parametrize("how", ["class", "registry"])
@pytest.mark.parametrize("method", ["rn", "rln"])
def test_the_published_numbers_are_reproduced(method, how):
    norm = build(method, how)
    assert [step["train"] for step in GOLDEN[method]].count(True) == 4
    for step in GOLDEN[method]:
        x = torch.tensor(step["x"], requires_grad=True)
        y = norm.train(step["train"])(x)
        w = torch.linspace(-1, 1, 20).reshape(5, 4)
        [gradient] = torch.autograd.grad((w * y).sum(), x)
        assert error(y, step["y"]) <= 5e-5
        assert error(gradient, step["grad_of_sum_w_y"]) <= 5e-5
        state = norm.running_state
        comp = torch.tensor(step["comp"]).reshape(-1)
        assert state.shape[1] == len(comp) == (1 if method == "rn" else 4)
        assert error(state[MEAN], step["mean"]) <= 5e-5
        assert error(state[STD], step["std"]) <= 5e-5
        assert error(state[LOG_MASS], comp) <= 5e-5
        assert (state[COUNT] == step["count"]).all()


@pytest.mark.parametrize(
    "duplicate", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
@pytest.mark.parametrize(
    "norm",
    [
        RegularityNorm(4, commit="forward"),
        RegularityNorm(4, "neuron", None, "forward"),
        make_normalizers("rln-paper", 4)[0],
    ],
)
def test_commit_forward_gives_the_published_class(norm, duplicate):
    found = duplicate(norm)
    assert type(found) is PublishedRegularityNorm and isinstance(found, RegularityNorm)
    assert found.commit_on == "forward" and list(found.state_dict()) == STATE_NAMES
    assert repr(found) == f"PublishedRegularityNorm(4, axis={norm.axis})"


def test_the_default_is_not_the_published_class():
    norm = RegularityNorm(4, "neuron", None, "phase")
    assert type(norm) is RegularityNorm and list(norm.state_dict()) == STATE_NAMES
    assert list(inspect.signature(RegularityNorm).parameters)[3:] == ["commit", "eps"]


@pytest.mark.parametrize(
    ("base", "commit"), [(RegularityNorm, "forward"), (PublishedRegularityNorm, "phase")]
)
def test_a_class_of_ones_own_takes_the_commit_of_its_base(base, commit):
    own = type("Own", (base,), {})
    assert isinstance(own(4), base)
    with pytest.raises(UserError, match=f"commit='{commit}': Own has commit='{base.commit_on}'"):
        own(4, commit=commit)


@pytest.mark.parametrize("name", ["rn-paper", "rln-paper"])
def test_state_moves_in_training_forwards_and_is_detached(name):
    [norm] = make_normalizers(name, 4)
    before = norm.running_state.clone()
    norm.train()(torch.randn(5, 4, requires_grad=True))
    assert not torch.equal(norm.running_state, before)
    assert not norm.running_state.requires_grad


@pytest.mark.parametrize("name", ["rn-paper", "rln-paper"])
def test_gradient_is_of_the_state_before_it_moved_in_double_precision_too(name):
    gradients = []
    x = torch.randn(5, 4)
    for dtype in (torch.float32, torch.float64):
        [norm] = make_normalizers(name, 4)
        norm.train()(x.flip(0))
        z = x.to(dtype).requires_grad_()
        gradients += torch.autograd.grad(norm(z).square().sum(), z)
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["rn-paper", "rln-paper"])
def test_evaluation_moves_no_state(name):
    [norm] = make_normalizers(name, 4)
    norm.train()(torch.randn(5, 4))
    before = norm.eval().running_state.clone()
    norm(torch.randn(7, 4))
    assert torch.equal(norm.running_state, before)


def test_gain_on_stationary_data_is_log_t():
    [norm] = make_normalizers("rn-paper", 64)
    x = torch.randn(512, 64)  # so many that the initial mass of 1 is nothing beside theirs
    for t in range(1, 11):
        y = norm.train()(x)
        assert (y / x).mean().item() == pytest.approx(math.log(t), abs=1e-3)


@pytest.mark.parametrize("name", ["rn-paper", "rln-paper"])
def test_output_depends_on_the_batch_which_is_why_ours_departs(name):
    [norm] = make_normalizers(name, 4)
    x = torch.randn(64, 4)
    for _ in range(3):
        norm.train()(x)
    norm.eval()
    alone = torch.cat([norm(row[None]) for row in x])
    assert ((alone - norm(x)).abs() > 0.5 * norm(x).abs()).all()


@pytest.mark.parametrize("name", ["rn-paper", "rln-paper"])
@pytest.mark.parametrize("x", [torch.ones(5, 4), torch.zeros(1, 4), torch.randn(1, 4)])
def test_constants_and_single_rows_stay_finite(name, x):
    [norm] = make_normalizers(name, 4)
    for training in (True, True, True, False):
        assert norm.train(training)(x).isfinite().all()
        assert norm.running_state.isfinite().all()


def test_there_is_no_frozen_gain():
    [norm] = make_normalizers("rln-paper", 4)
    assert norm.gain.shape == (4,) and norm.gain.isnan().all()


@pytest.mark.parametrize("name", ["rn-paper", "rln-paper"])
def test_acting_is_observed_where_it_is_asked_for(name):
    learning, acting = (make_normalizers(name, 4)[0] for _ in range(2))
    acting.eval()
    for x in torch.randn(3, 1, 4):
        y = learning.train()(x)
        before = acting.running_state.clone()
        acting(x)
        assert torch.equal(acting.running_state, before)
        with observed_acting(acting):
            assert torch.equal(acting(x), y)
        assert torch.equal(acting.running_state, learning.running_state)
    assert not acting.training and not acting.acting


def test_acting_is_never_observed_by_those_that_obey_the_phase_rule():
    norm = RegularityNorm(4).eval()
    before = norm.running_state.clone()
    with observed_acting(norm):
        norm(torch.randn(8, 4))
        assert torch.equal(norm.running_state, before)
    assert not norm.pending_sums.any() and "acting" not in vars(norm)


@pytest.mark.parametrize("name", ["rn-paper", "rln-paper", "brn"])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 2), (1, 4)])
def test_rows_of_no_weight_have_no_part_in_what_others_become(name, shape):
    """Weight 0 marks padding; other weights count 1, since the published code has no weights."""
    alone, padded = (make_normalizers(name, 4)[0].train() for _ in range(2))
    for _ in range(3):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        padding = 100 * torch.randn(2, *shape[1:], dtype=torch.float64)
        expected = alone(x)
        weights = torch.cat((torch.ones(1), torch.zeros(2), torch.full((len(x) - 1,), 3.0)))
        with observation_weights(padded, weights):
            found = padded(torch.cat((x[:1], padding, x[1:])))
        found = torch.cat((found[:1], found[3:]))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        if name != "brn":  # whose state follows the weights
            state = padded.running_state
            torch.testing.assert_close(state, alone.running_state, rtol=1e-12, atol=1e-12)
        ours, theirs = (torch.autograd.grad((y**3).sum(), x)[0] for y in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["rn-paper", "rln-paper"])
@pytest.mark.parametrize("bad", ["nan", "inf", "empty"])
def test_a_batch_without_numbers_does_not_enter_the_state(name, bad):
    [norm] = make_normalizers(name, 8)
    norm.train()(torch.randn(16, 8))
    before = norm.running_state.clone()
    batch = torch.randn(0 if bad == "empty" else 16, 8)
    if bad != "empty":
        batch[3, 2] = float(bad)
    norm(batch)
    assert torch.equal(norm.running_state, before)
    assert norm(torch.randn(16, 8)).isfinite().all()
    assert not torch.equal(norm.running_state, before)
