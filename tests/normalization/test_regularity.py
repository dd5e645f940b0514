"""Regularity normalization: extreme inputs, gradients, precision, arguments."""

import copy

import pytest
import torch

from rn_rl.errors import UserError
from rn_rl.normalization import (
    REGISTRY,
    RegularityNorm,
    make_normalizers,
    sample_gain,
)
from rn_rl.normalization.functional import COUNT, VAR

FEATURES = 8
PHASE_RULE = [row.name for row in REGISTRY.values() if row.phase_rule]
STATEFUL = [name for name in PHASE_RULE if REGISTRY[name].stateful]
OF_ACTIVATIONS = [name for name in STATEFUL if REGISTRY[name].factory is not None]
AXES = ["layer", "neuron", "sample"]


def phase(module, *batches):
    module.train()
    outputs = [module(x) for x in batches]
    module.eval()
    return outputs


def assert_finite(module, *outputs):
    for y in outputs:
        assert y.isfinite().all()
    for key, value in module.state_dict().items():
        assert value.isfinite().all(), key


EDGES = {
    "batch of one": torch.linspace(-1, 1, FEATURES)[None],
    "constant": torch.full((16, FEATURES), 0.3),
    "constant features": torch.linspace(-1, 1, FEATURES).expand(16, FEATURES),
    "zeros": torch.zeros(16, FEATURES),
    "huge": torch.linspace(-1e30, 1e30, 16 * FEATURES).reshape(16, FEATURES),
    "tiny": torch.linspace(-1e-30, 1e-30, 16 * FEATURES).reshape(16, FEATURES),
    "far from the history": torch.linspace(1e4, 2e4, 16 * FEATURES).reshape(16, FEATURES),
    "empty": torch.zeros(0, FEATURES),
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("spec", STATEFUL)
def test_edges_give_finite_outputs_and_state_from_the_first_phase_on(spec, edge, build):
    module = build(spec)
    for _ in range(4):
        assert_finite(module, *phase(module, EDGES[edge]), module(EDGES[edge]))


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("spec", STATEFUL)
def test_edges_after_a_history_give_finite_outputs_gradients_and_state(spec, edge, used):
    module = used(spec)
    x = EDGES[edge].clone().requires_grad_()
    y = module.train()(x)
    [gradient] = torch.autograd.grad(y.sum(), x)
    assert_finite(module.eval(), y, gradient, module(EDGES[edge]))
    assert_finite(module, *phase(module, torch.randn(40, FEATURES)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spec", REGISTRY)
def test_half_precision_stays_finite_and_keeps_its_dtype(spec, dtype, build):
    module = build(spec).to(dtype)
    for t in range(4):
        outputs = phase(module, torch.randn(40, FEATURES, dtype=dtype) + t)
        assert outputs[0].dtype == dtype
        assert_finite(module, *outputs)


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 6e-2)]
)
@pytest.mark.parametrize("spec", REGISTRY)
def test_a_lower_precision_gives_nearly_the_output_of_double(spec, dtype, error, build):
    low, double = build(spec), build(spec).double()
    x = [torch.randn(40, FEATURES) + t for t in range(5)]
    for module, precision in ((double, torch.float64), (low.to(dtype), dtype)):
        for batch in x[:4]:
            phase(module, batch.to(precision))
    expected = double(x[4].double())
    y = low(x[4].to(dtype)).double()
    assert (y - expected).norm() < error * expected.norm()


@pytest.mark.parametrize("axis", AXES)
def test_half_precision_input_gives_the_state_of_the_same_values_in_single(axis):
    low, high = RegularityNorm(FEATURES, axis), RegularityNorm(FEATURES, axis)
    for t in range(3):
        x = (torch.randn(40, FEATURES) + t).half()
        phase(low, x)
        phase(high, x.float())
    assert torch.equal(low.running_state, high.running_state)


@pytest.mark.parametrize("axis", ["layer", "neuron"])
def test_a_batch_outside_the_history_has_a_large_gain(axis):
    norm = RegularityNorm(FEATURES, axis)
    for _ in range(3):
        phase(norm, torch.randn(40, FEATURES))
    phase(norm, torch.randn(40, FEATURES) + 1e3)
    assert (norm.gain == 100).all()
    phase(norm, torch.randn(40, FEATURES))
    assert (norm.gain < 10).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("spec", OF_ACTIVATIONS)
def test_a_batch_that_is_not_finite_is_skipped(spec, bad, used):
    module = used(spec)
    clean = copy.deepcopy(module)
    x, poisoned = torch.randn(40, FEATURES), torch.full((40, FEATURES), bad)
    phase(module, x, poisoned)
    phase(clean, x)
    for key, value in clean.state_dict().items():
        assert torch.equal(module.state_dict()[key], value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("spec", ["rn", "rln", "rsn", "sn", "bn", "brn", "uan", "hs"])
def test_a_phase_without_a_finite_number_changes_no_bit(spec, bad, used):
    module = used(spec)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    phase(module, torch.full((40, FEATURES), bad))
    for key, value in before.items():
        assert torch.equal(module.state_dict()[key], value)


def test_rln_skips_the_features_that_are_not_finite_and_no_other(used):
    [norm], [clean] = used("rln"), used("rln")
    clean.load_state_dict(norm.state_dict())
    before = norm.running_state.clone()
    x = torch.randn(40, FEATURES)
    poisoned = x.clone()
    poisoned[7, 2] = float("nan")
    phase(norm, poisoned)
    phase(clean, x)
    others = torch.arange(FEATURES) != 2
    assert torch.equal(norm.running_state[:, 2], before[:, 2])
    assert torch.equal(norm.running_state[:, others], clean.running_state[:, others])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weighted_batch_that_is_not_finite_is_skipped_too(bad, used):
    norm = used("rn")[0]
    norm.observation_weight = torch.rand(40)
    before = norm.running_state.clone()
    phase(norm, torch.randn(40, FEATURES).index_fill(0, torch.tensor([3]), bad))
    assert torch.equal(norm.running_state, before)


@pytest.mark.parametrize("spec", PHASE_RULE)
def test_gradient_is_right_at_a_frozen_state(spec, used):
    module = used(spec).double()
    x = torch.randn(5, FEATURES, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rsn_learns_in_half_precision(dtype, used):
    x = torch.randn(5, FEATURES).to(dtype).requires_grad_()
    used("rsn")(x).sum().backward()
    assert x.grad.dtype == dtype and x.grad.isfinite().all() and x.grad.any()


@pytest.mark.parametrize("scale", [1, 30, 45, 300])
def test_rsn_in_closed_form_is_rsn_to_the_second_derivative(scale, used):
    """At 45 standard deviations some exponents are cut off, at 300 nearly all."""
    module = used("rsn").double()
    state = module[0].running_state
    x = (scale * torch.randn(40, FEATURES, dtype=torch.float64)).requires_grad_()
    a, b = torch.randn(2, 40, FEATURES, dtype=torch.float64)
    derivatives = []
    for y in (sample_gain.times_sample_gain(x, state), x * sample_gain.sample_gain(x, state)):
        [first] = torch.autograd.grad((a * y).sum(), x, create_graph=True, retain_graph=True)
        [alone] = torch.autograd.grad((a * y).sum(), x, retain_graph=True)
        [second] = torch.autograd.grad((b * first).sum(), x)
        derivatives.append((y, first, alone, second))
    for ours, autograd in zip(*derivatives, strict=True):
        torch.testing.assert_close(ours, autograd, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("axis", AXES)
def test_gradient_flows_through_the_gain_of_rsn_alone(axis):
    norm = RegularityNorm(FEATURES, axis)
    for t in range(4):
        phase(norm, torch.randn(40, FEATURES) + t)
    x = torch.randn(5, FEATURES, requires_grad=True)
    y = norm(x)
    [gradient] = torch.autograd.grad(y.sum(), x)
    through_the_product = (y / x).detach()
    close = torch.isclose(gradient, through_the_product, rtol=1e-4)
    assert close.all() if axis != "sample" else not close.any()


def test_rsn_amplifies_the_sample_that_surprises():
    norm = RegularityNorm(FEATURES, "sample")
    for _ in range(5):
        phase(norm, torch.randn(40, FEATURES))
    x = torch.ones(2, FEATURES)
    x[1] *= 3
    usual, surprising = (norm(x) / x).mean(1)
    assert surprising > usual + 1


@pytest.mark.parametrize("axis", AXES)
def test_variance_has_a_floor_and_the_count_is_in_elements(axis):
    norm = RegularityNorm(FEATURES, axis, eps=0.01)
    for _ in range(2):
        phase(norm, torch.zeros(10, FEATURES))
    assert (norm.running_state[VAR] == 0.01).all()
    assert (norm.running_state[COUNT] == 20 * (1 if axis == "neuron" else FEATURES)).all()


@pytest.mark.parametrize("shape", [(4, FEATURES), (4, FEATURES, 3), (4, FEATURES, 3, 2)])
@pytest.mark.parametrize("axis", AXES)
def test_output_has_the_shape_of_the_input(axis, shape):
    norm = RegularityNorm(FEATURES, axis)
    for _ in range(3):
        assert phase(norm, torch.randn(shape))[0].shape == shape


@pytest.mark.parametrize("commit", ["phase", "forward"])
@pytest.mark.parametrize("shape", [(FEATURES,), (4, FEATURES + 1), (FEATURES, 4), ()])
def test_wrong_input_shapes_are_named(shape, commit):
    with pytest.raises(UserError, match=rf"expected \(batch, {FEATURES}, ...\)") as error:
        RegularityNorm(FEATURES, commit=commit)(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_features": 0}, "num_features=0: expected at least 1"),
        ({"axis": "batch"}, "axis='batch': expected 'layer', 'neuron' or 'sample'"),
        ({"commit": "never"}, "commit='never': expected 'phase' or 'forward'"),
        ({"half_life": 0}, "half_life=0: expected a number of phases above 0, or None"),
        ({"half_life": float("nan")}, "half_life=nan: expected a number of phases above 0"),
        ({"eps": 0}, "eps=0: expected a variance above 0"),
        ({"commit": "forward", "axis": "sample"}, "has no axis='sample'"),
        ({"commit": "forward", "half_life": 2}, "half_life=2"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        RegularityNorm(**{"num_features": FEATURES, **arguments})


def test_it_prints_what_differs_from_the_default():
    assert repr(RegularityNorm(4)) == "RegularityNorm(4, axis=layer)"
    assert "axis=neuron, half_life=3" in repr(RegularityNorm(4, "neuron", 3))


@pytest.mark.parametrize("norm", ["rn", "rln", "rsn", "sn"])
def test_of_a_large_batch_evenly_spaced_samples_are_observed(norm: str):
    [whole], [part], [weighted] = (make_normalizers(norm, 4) for _ in range(3))
    for _ in range(3):
        x, weight = torch.randn(1000, 4, dtype=torch.float64), torch.zeros(1000)
        weight[::16] = 1  # weights say it themselves
        weighted.observation_weight = weight
        for module, rows in ((whole, x), (part, x[::16]), (weighted, x)):
            module.train()(rows)
            module.eval()
        assert torch.equal(whole.running_state, part.running_state)
        torch.testing.assert_close(whole.running_state, weighted.running_state)
    assert whole(x).shape == x.shape


@pytest.mark.parametrize("features", [100, 1024, 12800])
def test_a_sample_of_many_elements_is_coded_by_some_of_them(features: int):
    """The elements that code a sample include every column of an image."""
    [norm] = make_normalizers("rsn", features)
    for _ in range(3):
        norm.train()(torch.randn(20, features))
        norm.eval()
    x = torch.randn(20, features).double()
    some = torch.arange(features)[sample_gain.coded(features)]
    assert 30 < len(some) <= 64
    for width in (16, 20) if features > 1000 and features % 20 == 0 else ():
        assert len((some % width).unique()) == width
    z = (x[:, some] - norm.running_state[0]) / norm.running_state[1].sqrt()
    density = (-(z**2) / 2).exp().mean(1)
    gain = norm.running_state[3] - density.log()
    torch.testing.assert_close(norm(x), x * gain[:, None])


def test_the_gradient_of_rsn_where_some_elements_are_coded():
    [norm] = make_normalizers("rsn", 300)
    for _ in range(3):
        norm.train()(torch.randn(20, 300))
        norm.eval()
    x = torch.randn(3, 300, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm.double(), x)
    assert torch.autograd.gradgradcheck(norm, x)
